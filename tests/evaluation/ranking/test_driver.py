"""What the driver of an evaluation holds of its gallery and its queries: a few bytes, at two sizes."""

from __future__ import annotations

import importlib
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import part_table
from geoloc.evaluation.protocol import truth
from geoloc.evaluation.protocol.truth import truth_from_pairs, truth_within
from geoloc.evaluation.ranking.encoded_queries import ENCODED, KIND, EncodedTable
from geoloc.evaluation.ranking.photos_and_tiles import tile_set

BYTES_A_TILE = 24


class MappedShard:
    """A shard whose arrays lie elsewhere, as in a mapped file."""

    def __init__(self, number: int, rows: int) -> None:
        self.first_row = number * rows
        names = np.char.add("tile-", np.arange(self.first_row, self.first_row + rows).astype(str))
        self.tile_ids = pa.array(names, pa.large_string())
        self.lat, self.lon = np.random.default_rng(number).uniform(10, 20, (2, rows))
        self.live_rows = None

    def __len__(self) -> int:
        return len(self.lat)


def held_bytes(tiles: int) -> int:
    """The most that is held, by Python and by Arrow, to open a gallery and to find what is right for two queries."""
    shards: Any = [MappedShard(number, tiles // 4) for number in range(4)]
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    gallery = tile_set(SimpleNamespace(shards=shards), None)  # type: ignore[arg-type]
    lat, lon = gallery.lat[[5, tiles // 2]], gallery.lon[[5, tiles // 2]]
    near = truth_within(lat, lon, gallery.lat, gallery.lon, 1.0)
    pairs = pa.table({"query_id": ["a"], "tile_id": [f"tile-{tiles - 1}"], "relation": ["positive"]})
    right = truth_from_pairs(pa.array(["a"]), pairs, gallery.ids)
    held = pa.total_allocated_bytes() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert near.tile.tolist() == [5, tiles // 2]
    assert right.tile.tolist() == [tiles - 1]
    return held + peak


def test_a_tile_of_the_gallery_costs_the_driver_its_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 and of 400,000 tiles, above what a piece of them takes."""
    importlib.import_module("sklearn.neighbors")  # not while memory is traced
    monkeypatch.setattr(truth, "_IDS_AT_ONCE", 20_000)
    small, large = held_bytes(100_000), held_bytes(400_000)
    assert (large - small) / 300_000 < BYTES_A_TILE


def test_vectors_of_queries_lie_in_a_file_and_stay_what_they_are(tmp_path: Path) -> None:
    rng, count, headings, dim = np.random.default_rng(2), 900, 8, 256
    vectors = rng.normal(size=(count, headings, dim)).astype("<f2")
    codes = rng.integers(0, 256, (count, headings, 8)).astype(np.uint8)
    weights = rng.integers(-127, 128, (count, headings, 64)).astype(np.int8)
    views = rng.choice(["panorama", "street"], count)
    lit = [None if one else (rng.random(dim) < 0.5).tobytes() for one in rng.random(count) < 0.9]
    columns = {
        "query_id": [f"q{number}" for number in range(count)],
        "view": views,
        "heading_deg": [None] * count,
        "lat": rng.uniform(0, 1, count),
        "lon": rng.uniform(0, 1, count),
        "featureless": [False] * count,
        "candidates": [headings] * count,
        "embedding": [each.tobytes() for each in vectors],
        "code": [each.tobytes() for each in codes],
        "weights": [each.tobytes() for each in weights],
        "columns": [dim] * count,
        "lit": lit,
    }
    table = pa.table(columns, schema=ENCODED)
    parts = [table.slice(first, 70) for first in range(0, count, 70)]
    details = {"model_id": "m", "embedding_dim": dim, "bits": 64}
    part_table.write_table(str(tmp_path), parts, kind=KIND, fingerprint="f", details=details)
    tracemalloc.start()
    groups = EncodedTable(str(tmp_path), memory_limit_bytes=1000).groups()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = 4 * vectors.size
    assert held < whole / 4
    assert peak < whole
    unit = vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    assert [queries.view for _, queries in groups] == ["panorama", "street"]
    for rows, queries in groups:
        np.testing.assert_array_equal(rows, np.flatnonzero(views == queries.view))
        np.testing.assert_array_equal(queries.embedding, unit[rows])
        np.testing.assert_array_equal(queries.code, codes[rows])
        np.testing.assert_array_equal(queries.weights, weights[rows])
        assert queries.shown is not None
        for shown, row in zip(queries.shown, rows, strict=True):
            stored = lit[int(row)]
            assert shown.tobytes() == (stored or b"\1" * dim)
