"""The bench on galleries too small to say anything about speed: what it compares, checks and prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from index.building import random_tiles

from geoloc.bench import scans
from geoloc.bench.galleries import open_gallery, random_codes, write_gallery
from geoloc.bench.measure import Bar, Spread, interleave
from geoloc.bench.search import SearchBench, run
from geoloc.cli import main
from geoloc.core import part_table, schemas
from geoloc.core.errors import ConfigError
from geoloc.index.search.kernels.scan_kernel import NumpyKernel


@pytest.fixture
def codes_uri(tmp_path: Path) -> str:
    """A codes table of 60 tiles."""
    import pyarrow as pa

    tiles = random_tiles(60, bits=64, dim=None)
    columns = {
        "tile_id": tiles.ids,
        "lat": tiles.lat,
        "lon": tiles.lon,
        "cell": np.zeros(60, np.int64),
        "code": pa.array([code.tobytes() for code in tiles.codes], pa.binary(8)),
        "model_id": ["m"] * 60,
    }
    uri = str(tmp_path / "codes")
    table = pa.table(columns, schema=schemas.codes_schema(8, None))
    part_table.write_table(uri, [table], kind="codes", fingerprint="test")
    return uri


@pytest.mark.usefixtures("ray_local")
def test_the_report_has_every_part_and_every_bar(
    tmp_path: Path, codes_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "bench search --sizes 300 3000 --bits 64 --batches 1 256 --rounds 2 --k 5 --threads 2"
    words += f" --parts scan open lists --codes {codes_uri} --output {tmp_path / 'report.json'}"
    assert main(words.split()) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(scan["tiles"], scan["batch"]) for scan in report["scans"]] == [
        (300, 1),
        (300, 256),
        (3000, 1),
        (3000, 256),
    ]
    assert {len(times) for scan in report["scans"] for times in scan["seconds"].values()} == {2}
    assert {lists["codes"] for lists in report["lists"]} == {"generated, without structure", codes_uri}
    for words in (
        "ours / reading the codes",
        "tuned FAISS / ours, transposed",
        "opening a shard",
        "scan time",
        "recall@1",
    ):
        assert words in text
    assert len(report["bars"]) == 2 * 3 + 2 * 2 + 2 + 2
    # All lists probed (there are fewer than 64) find everything.
    assert [lists["recall_at_10"] for lists in report["lists"] if lists["probes"] == 64][-1] == 1.0


def test_a_bar_says_by_how_much_it_was_missed() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.min, spread.median, spread.max) == (1.0, 2.0, 3.0)
    assert Bar(what="w", value=spread, limit=2.0, at_most=True).line().endswith("bar <= 2x  met")
    assert Bar(what="w", value=spread, limit=2.5, at_most=False).line().endswith("bar >= 2.5x  missed by 20%")
    assert Bar(what="w", value=spread, limit=1.6, at_most=True, unit=" ms").line().endswith("missed by 25%")


def test_variants_take_turns() -> None:
    order: list[str] = []
    seconds = interleave({name: lambda name=name: order.append(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert [len(seconds[name]) for name in "abc"] == [3, 3, 3]


@pytest.mark.parametrize("wrong", ["distance", "tile"])
def test_an_answer_that_differs_ends_the_bench(tmp_path: Path, wrong: str) -> None:
    class Wrong(NumpyKernel):
        def nearest(self, codes, queries, k, live=None):  # type: ignore[no-untyped-def]
            distances, rows = super().nearest(codes, queries, k, live)
            return (distances + 1, rows) if wrong == "distance" else (distances, (rows + 1) % len(codes))

    entry = write_gallery(tmp_path / "g", random_codes(200, 64, 0))
    shard = open_gallery(tmp_path / "g", entry, 64)
    with pytest.raises(scans.AnswersDiffer, match="distances" if wrong == "distance" else "tiles"):
        scans.compare_scans(
            shard, random_codes(3, 64, 1), 4, kernel=Wrong(), threads=1, rounds=1, usearch=False
        )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_default_measures_all_parts(tmp_path: Path) -> None:
    report = run(SearchBench(sizes=[100_000], rounds=1, build_tiles=40_000), str(tmp_path / "report.json"))
    assert report.build[0].shards == 4
    assert [rerank.candidates for rerank in report.rerank] == [100, 1000]
    assert json.loads((tmp_path / "report.json").read_text())["machine"] == report.machine


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": [12]}, "multiples of 8"),
        ({"sizes": [3]}, "numbers of 10 or more"),
        ({"batches": []}, "batches is"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(SearchBench.model_validate(settings))
