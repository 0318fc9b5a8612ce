"""The stage that measures: figures against an independent count, resumption, calibration, the report."""

import json
import re
import shutil

import geopandas
import numpy as np
import pytest
from small_index import build
from small_ingest import part_path

from geoloc.core import part_table, storage
from geoloc.core.errors import ArtifactError, ConfigError, InputError
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.snapshot import Snapshot
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs, run

pytestmark = pytest.mark.usefixtures("ray_local", "parts_here_in_module")  # comparisons are tasks of Ray
CONFIG = EvaluateConfig(code_bits=(64,), rerank=20, report_queries=4)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough queries to calibrate one kind of them."""
    return build(tmp_path_factory.mktemp("many"), count=260, seed=3)


@pytest.fixture(scope="module")
def evaluated(ray_local, parts_here_in_module, many, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("evaluated") / "out")
    return run(CONFIG, EvaluateInputs(index=many.index, queries=many.ingested), output)


def test_recall_is_that_of_a_plain_count(evaluated, many):
    encoded = EncodedTable(storage.join(evaluated.output, "encoded"))
    snapshot = Snapshot.open(many.index)
    gallery = np.concatenate([shard.embeddings for shard in snapshot.shards]).astype(np.float32)
    ids = [name for shard in snapshot.shards for name in shard.tiles()[0].to_pylist()]
    hits = {1: 0, 5: 0, 10: 0}
    for rows, queries in encoded.groups():
        scores = np.einsum("qrd,nd->qrn", queries.embedding, gallery).max(axis=1)
        for row, values in zip(rows, scores, strict=True):
            true = ids.index(encoded.query_ids[int(row)].as_py().replace("query", "tile"))
            rank = int((values > values[true] + 1e-6).sum())
            for k in hits:
                hits[k] += rank < k
    for k, count in hits.items():
        assert evaluated.recall("floats", f"R@{k}") == pytest.approx(100 * count / 260, abs=0.01)


def test_methods_stand_side_by_side_with_chance(evaluated):
    methods = [row.method for row in evaluated.table]
    assert methods == [
        "floats",
        "codes 64, asymmetric",
        "codes 64",
        "codes 64 + re-rank 20",
        "codes 128, asymmetric",
        "codes 128",
        "codes 128 + re-rank 20",
        "chance",
    ]
    assert evaluated.recall("floats") > 50 > 10 * evaluated.recall("chance")
    assert evaluated.recall("codes 128 + re-rank 20") > evaluated.recall("codes 128")
    assert evaluated.recall("chance") == pytest.approx(100 / 260)
    assert evaluated.top_percent_k == 3
    assert set(evaluated.protocols) == {
        "panorama/heading_known",
        "panorama/heading_unknown",
        "drone/heading_known",
        "drone/heading_unknown",
    }
    assert evaluated.findings == []
    with pytest.raises(InputError, match="its rows are floats, codes 64"):
        evaluated.recall("flots")


def test_the_located_position_is_no_worse_than_the_best_match(evaluated):
    assert evaluated.located_error["queries"] == 260
    assert evaluated.located_error["median_m"] <= evaluated.top1_error["median_m"] + 0.5
    assert evaluated.located_error["within_10m"] >= evaluated.top1_error["within_10m"] - 1.0


def test_results_are_geoparquet_and_agree_with_the_summary(evaluated):
    results = storage.join(evaluated.output, "results")
    table = part_table.read(results, kind="results")
    assert table.num_rows == 260
    errors = table["error_m"].to_numpy()
    assert np.median(errors) == pytest.approx(evaluated.located_error["median_m"], abs=1e-6)
    rank = table["rank floats"].to_numpy()
    assert 100 * (rank == 1).mean() == pytest.approx(evaluated.recall("floats"), abs=0.5)
    frame = geopandas.read_parquet(part_path(results, 0))
    assert frame.crs.to_epsg() == 4326 or str(frame.crs).endswith("CRS84")
    assert frame.geometry.iloc[0].x == pytest.approx(table["lon"][0].as_py())


def test_the_report_shows_pictures_and_refers_to_nothing_elsewhere(evaluated):
    html = storage.read_text(storage.join(evaluated.output, "report.html"))
    assert html.count("data:image/jpeg;base64,") >= 4 * 3
    assert html.count("data:image/png;base64,") == 3  # recall, metres, errors
    assert html.count('<div id="map"') == 1
    assert "Best and worst cases" in html
    assert "ties lose" in html
    # The map's own code is left out: tests/evaluation/report looks at what a browser asks for.
    assert not re.findall(r"(?:src|href)=\"(?!data:)", re.sub(r"(?s)<script>.*?</script>", "", html))
    assert "codes 128 + re-rank 20" in html
    assert "not calibrated" in html


def test_a_second_run_is_reused_and_a_different_one_refused(evaluated, many):
    inputs = EvaluateInputs(index=many.index, queries=many.ingested)
    again = run(CONFIG, inputs, evaluated.output)
    assert again.reused
    assert again.table == evaluated.table
    other = CONFIG.model_copy(update={"rerank": 5})
    with pytest.raises(ArtifactError, match="evaluation made from other inputs or settings"):
        run(other, inputs, evaluated.output)


def test_a_killed_run_goes_on_and_gives_the_same(evaluated, many, tmp_path):
    output = str(tmp_path / "out")
    shutil.copytree(evaluated.output, output)
    for name in (
        "metrics.json",
        "report.html",
        f"encoded/{part_path(storage.join(output, 'encoded'), 1).name}",
        "encoded/table.json",
        "results/table.json",
    ):
        storage.delete(storage.join(output, name))
    again = run(CONFIG, EvaluateInputs(index=many.index, queries=many.ingested), output)
    assert not again.reused
    unlike = {"output", "environment"}  # the checkout may have moved on
    assert again.model_dump(exclude=unlike) == evaluated.model_dump(exclude=unlike)


def test_without_a_report_none_is_named(many, evaluated, tmp_path):
    inputs = EvaluateInputs(
        index=many.index, queries=many.ingested, encoded=storage.join(evaluated.output, "encoded")
    )
    result = run(CONFIG.model_copy(update={"report": False}), inputs, str(tmp_path / "plain"))
    assert "report.html" not in result.text()
    assert "metrics.json" in result.text()
    assert not (tmp_path / "plain" / "report.html").exists()
    assert "report.html" in evaluated.text()


def test_photos_without_a_tile_in_the_index_are_counted(many, tmp_path):
    strangers = build(tmp_path / "strangers", count=9, seed=77)
    result = run(
        EvaluateConfig(report=False),
        EvaluateInputs(index=many.index, queries=strangers.ingested),
        str(tmp_path / "o"),
    )
    # The ids exist in both, the pictures do not: the figures must show it and say it.
    assert result.queries == 9
    assert any("no better than chance" in sentence for sentence in result.findings)
    assert json.loads(storage.read_text(str(tmp_path / "o" / "metrics.json")))["findings"] == result.findings


def test_evaluating_on_the_training_data_is_refused(many, tmp_path):
    inputs = EvaluateInputs(index=many.index, queries=many.ingested, trained_on=many.ingested)
    with pytest.raises(InputError, match="were trained on"):
        run(CONFIG, inputs, str(tmp_path / "out"))


def test_code_lengths_that_the_index_does_not_have_are_refused(many, tmp_path):
    config = EvaluateConfig(code_bits=(256,))
    with pytest.raises(ConfigError, match="codes of 128 bits"):
        run(config, EvaluateInputs(index=many.index, queries=many.ingested), str(tmp_path / "out"))
