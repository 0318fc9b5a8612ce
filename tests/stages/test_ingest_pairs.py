"""Pairs as Ray work: the pairs that one process with all tiles would find, whatever the parts are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import part_table
from geoloc.core.geodesy import LatLon, LocalFrame
from geoloc.core.part_table import Part, TableManifest
from geoloc.runtime import table_job
from geoloc.sources.pairing import Pairer
from geoloc.stages.ingest_pairs import PairMaker, pair_units, part_boxes

TILE_M, RADIUS_M = 60.0, 20.0


def write(uri: str, kind: str, column: str, where: np.ndarray, rows_per_part: int) -> TableManifest:
    """A table of places float64[2, N], with an image that nothing reads."""
    names = [f"{column[0]}{number:04d}" for number in range(where.shape[1])]
    table = pa.table(
        {
            column: names,
            "lat": pa.array(where[0], from_pandas=True),
            "lon": pa.array(where[1], from_pandas=True),
            "image": [b"x"] * len(names),
        }
    )
    parts = [table.slice(first, rows_per_part) for first in range(0, len(names), rows_per_part)]
    return part_table.write_table(uri, parts, kind=kind, fingerprint=f"{uri} {rows_per_part}")


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("lat", "lon"), [(59.0, 24.0), (-17.0, 179.9999), (89.999, 10.0)])
def test_pairs_of_parts_are_those_of_all_tiles_at_once(lat: float, lon: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    frame = LocalFrame(LatLon(lat, lon))
    tiles = np.stack(frame.to_degrees(*rng.uniform(-700, 700, (2, 400))))
    tiles = tiles[:, np.argsort(tiles[0])]  # as along a curve: a part is a strip
    photos = np.stack(frame.to_degrees(*rng.uniform(-800, 800, (2, 90))))
    photos[:, 7] = np.nan
    uris = [str(tmp_path / name) for name in ("tiles", "queries", "pairs")]
    manifests = [
        write(uris[0], "tiles", "tile_id", tiles, 16), write(uris[1], "queries", "query_id", photos, 20)
    ]  # fmt: skip
    boxes = part_boxes(uris[0], manifests[0])
    assert boxes.shape == (25, 4)
    with part_table.begin(uris[2], "f") as table:
        maker = PairMaker(uris[0], uris[1], TILE_M, RADIUS_M, boxes)
        written, totals = table_job.make_parts(table, pair_units(*manifests), maker, what="pairing")
    ids = [f"t{number:04d}" for number in range(tiles.shape[1])]
    whole = Pairer(ids, tiles[0], tiles[1], tile_m=TILE_M, positive_radius_m=RADIUS_M)
    for number, part in enumerate(written):
        mine = photos[:, number * 20 : number * 20 + 20]
        names = [f"q{number * 20 + place:04d}" for place in range(mine.shape[1])]
        wanted = part_table.encode_parquet(whole.pairs(names, mine[0], mine[1]))
        assert Path(uris[2], part.name).read_bytes() == wanted, "the bytes that one process writes"
    assert not totals
    assert sum(part.rows for part in written) > 30


@pytest.mark.usefixtures("ray_local")
def test_a_task_reads_the_parts_of_tiles_near_its_photos_and_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = np.stack([np.linspace(59.0, 60.0, 200), np.full(200, 24.0)])
    manifests = [
        write(str(tmp_path / "t"), "tiles", "tile_id", tiles, 10),
        write(str(tmp_path / "q"), "queries", "query_id", np.array([[59.5], [24.0]]), 1),
    ]
    boxes = part_boxes(str(tmp_path / "t"), manifests[0])
    read: list[tuple[str, tuple[str, ...]]] = []
    original = part_table.read_columns

    def reading(uri: str, part: Part, columns: list[str]) -> pa.Table:
        read.append((part.name, tuple(columns)))
        return original(uri, part, columns)

    monkeypatch.setattr(part_table, "read_columns", reading)
    maker = PairMaker(str(tmp_path / "t"), str(tmp_path / "q"), TILE_M, RADIUS_M, boxes)
    maker(pair_units(*manifests)[0])
    assert len(read) <= 3
    assert not any("image" in columns for _, columns in read)
