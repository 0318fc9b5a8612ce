"""The stage with protocols: what the data set asks for, both directions, no coordinates, what metrics.json says."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from small_index import build, write_table

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ConfigError, InputError
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.snapshot import Snapshot
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs, choose_protocol, run

pytestmark = pytest.mark.usefixtures("ray_local", "parts_here_in_module")
COUNT = 24


class Buildings:
    """A miniature of University-1652's tables: 24 tiles of 12 buildings, one of them junk, without coordinates."""

    def __init__(self, root) -> None:
        self.small = build(root, count=COUNT, seed=8, located=False)
        self.place = [f"{number // 2:04d}" for number in range(COUNT)]
        self.place[5] = "-1"
        self.encoded = str(root / "encoded")
        self._rewrite("tiles", schemas.TILES, {"place_id": [*self.place[:-1], None]})
        self._rewrite("queries", schemas.QUERIES, {"place_id": self.place, "heading_deg": [0.0] * COUNT})
        self.note(protocol="university1652-drone-to-satellite")

    def _rewrite(self, kind: str, schema: pa.Schema, columns: dict[str, list[object]]) -> None:
        uri = storage.join(self.small.ingested, kind)
        rows = part_table.read(uri).to_pylist()
        for number, row in enumerate(rows):
            row |= {"lat": None, "lon": None}
            row |= {name: values[number] for name, values in columns.items()}
        shutil.rmtree(uri)
        write_table(uri, kind, schema, rows)

    def note(self, **more: object) -> None:
        content = {
            "name": "miniature",
            "split": "test",
            "fingerprint": "f" * 8,
            "findings": ["Two photos are missing."],
        }
        storage.write_bytes(
            storage.join(self.small.ingested, "dataset.json"), json.dumps(content | more).encode()
        )

    def inputs(self) -> EvaluateInputs:
        return EvaluateInputs(index=self.small.index, queries=self.small.ingested, encoded=self.encoded)


@pytest.fixture(scope="module")
def buildings(ray_local, parts_here_in_module, tmp_path_factory):
    return Buildings(tmp_path_factory.mktemp("buildings"))


def plain_scores(buildings: Buildings) -> np.ndarray:
    """Cosines of every photo with every tile."""
    encoded = EncodedTable(buildings.encoded)
    gallery = np.concatenate([shard.embeddings for shard in Snapshot.open(buildings.small.index).shards])
    out = np.empty((COUNT, COUNT))
    for rows, queries in encoded.groups():
        out[rows] = queries.embedding[:, 0] @ gallery.astype(np.float32).T
    return out


def trapezoid(good: list[bool]) -> float:
    total, found = 0.0, 0
    for row, right in enumerate(good):
        if right:
            total += ((found + 1) / (row + 1) + (found / row if row else 1.0)) / 2 / sum(good)
            found += 1
    return total


@pytest.mark.parametrize("name", ["university1652-drone-to-satellite", "university1652-satellite-to-drone"])
def test_places_without_coordinates_in_both_directions(buildings, name, tmp_path):
    result = run(EvaluateConfig(protocol=name, report_queries=4), buildings.inputs(), str(tmp_path / "out"))
    scores, asking, gallery = plain_scores(buildings), buildings.place, [*buildings.place[:-1], None]
    if name.endswith("satellite-to-drone"):
        scores, asking, gallery = scores.T, gallery, asking
    keep = [item for item, place in enumerate(gallery) if place != "-1"]
    good = [
        [
            gallery[item] == place and place not in (None, "-1")
            for item in sorted(keep, key=lambda item: -line[item])
        ]
        for place, line in zip(asking, scores, strict=True)
    ]
    for k in (1, 5, 10):
        wanted = 100 * np.mean([any(line[:k]) for line in good])
        assert result.recall("floats", f"R@{k}") == pytest.approx(wanted)
    assert result.recall("floats", "AP") == pytest.approx(100 * np.mean([trapezoid(line) for line in good]))
    assert result.recall("floats", "R@1%") == pytest.approx(100 * np.mean([any(line[:1]) for line in good]))
    (direction,) = result.protocol.directions
    assert direction.junk == 1
    assert direction.within == []
    assert direction.best_error == {} == result.top1_error == result.located_error
    assert any("no coordinates" in sentence and "no metres" in sentence for sentence in result.findings)
    assert "Two photos are missing." in result.findings
    assert any("Not comparable with published figures" in sentence for sentence in result.findings)
    html = storage.read_text(storage.join(result.output, "report.html"))
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)
    assert "Best and worst cases" in html
    assert html.count("data:image/png;base64,") == 1  # a curve of recall; nothing in metres
    answers = part_table.read(storage.join(result.output, "results"), kind="results")
    assert answers.num_rows == COUNT
    assert len(result.protocol.directions[0].multi_query) == (2 if name.endswith("to-satellite") else 0)


def test_the_data_set_names_its_protocol_and_the_user_may_name_another(buildings, tmp_path):
    chosen = choose_protocol(None, buildings.small.ingested)
    assert chosen.id == "university1652-drone-to-satellite@1"
    assert choose_protocol("cvusa@1", buildings.small.ingested).name == "cvusa"
    assert choose_protocol(None, str(tmp_path)).id == "tiles@1"
    with pytest.raises(ConfigError, match="did you mean 'cvact-test-5m'"):
        choose_protocol("cvact-test-5", buildings.small.ingested)
    with pytest.raises(ConfigError, match="This geoloc has cvusa@1, not cvusa@2"):
        choose_protocol("cvusa@2", buildings.small.ingested)


@pytest.fixture(scope="module")
def both_ways(buildings, tmp_path_factory):
    config = EvaluateConfig(protocol="cvusa", top_percent="floor", report_queries=3)
    return run(config, buildings.inputs(), str(tmp_path_factory.mktemp("both") / "out"))


def test_paired_data_are_measured_in_both_directions(buildings, both_ways):
    scores = plain_scores(buildings)
    forward, backward = both_ways.protocol.directions
    for table, lines in ((forward.table, scores), (backward.table, scores.T)):
        ranks = [int((line > line[row] + 1e-6).sum()) for row, line in enumerate(lines)]
        for k in (1, 5, 10):
            assert table[0].recall[f"R@{k}"] == pytest.approx(100 * np.mean([rank < k for rank in ranks]))
    assert [one.direction for one in (forward, backward)] == ["photos to tiles", "tiles to photos"]
    assert (
        part_table.read(storage.join(both_ways.output, "results-2"), kind="results")["query_id"][0].as_py()
        == "tile-0000"
    )


def test_metrics_say_what_was_measured_on_what_and_where(buildings, both_ways):
    said = json.loads(storage.read_text(storage.join(both_ways.output, "metrics.json")))
    assert said["protocol"]["id"] == "cvusa@1"
    assert said["protocol"]["changed"] == ["1 % is floor instead of int_plus_one"]
    assert "exactly one right tile" in said["protocol"]["definition"]
    rules = {row["rule"]: row["k"] for row in said["protocol"]["directions"][0]["top_percent"]}
    assert rules == {
        "int_plus_one": 1, "float_strict": 1, "floor": 1, "round_plus_one": 1, "max_round_plus_one": 2, "fixed_89": 89,
    }  # fmt: skip
    data = said["data"]
    assert data["snapshot"] == said["snapshot_id"]
    assert data["dataset"] == {"name": "miniature", "split": "test", "fingerprint": "f" * 8}
    sums = [
        part.sha256
        for part in part_table.read_manifest(storage.join(buildings.small.ingested, "pairs")).parts
    ]
    assert data["pairs"] == storage.sha256_bytes("\n".join(sums).encode())
    assert said["recipe"]["name"] == "small"
    assert said["environment"]["cores"] >= 1
    assert said["environment"]["versions"]["numpy"] == np.__version__


def test_codes_show_what_ties_are_worth(both_ways):
    row = next(row for row in both_ways.table if row.method == "codes 128")
    for name, value in row.recall.items():
        assert row.pessimistic[name] <= value <= row.optimistic[name]
    text = both_ways.text()
    assert "Protocol cvusa@1." in text
    assert "Not as the protocol says: 1 % is floor" in text
    assert text.count("chance") == 2


def test_pairs_of_another_data_set_are_refused(buildings, tmp_path):
    strange = str(tmp_path / "strange")
    for kind in ("tiles", "queries"):
        shutil.copytree(storage.join(buildings.small.ingested, kind), f"{strange}/{kind}")
    rows = [{"query_id": "stranger", "tile_id": "tile-0000", "relation": "positive"}]
    write_table(f"{strange}/pairs", "pairs", schemas.PAIRS, rows)
    inputs = EvaluateInputs(index=buildings.small.index, queries=strange, encoded=buildings.encoded)
    with pytest.raises(InputError, match="None of 24 queries has a right answer"):
        run(EvaluateConfig(protocol="cvusa"), inputs, str(tmp_path / "out"))
