from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, ConfigError, InputError, ModelMismatch
from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_index import PairIndex, check_pairs, pair_names, read_index, usable_pairs
from geoloc.training.pictures import row_names


def write(uri: str, kind: str, rows: list[dict[str, object]]) -> None:
    schema = {"tiles": schemas.TILES, "queries": schemas.QUERIES, "pairs": schemas.PAIRS}[kind]
    table = schemas.conform(pa.Table.from_pylist(rows), schema)
    half = len(rows) // 2
    place = storage.join(uri, kind)
    part_table.write_table(place, [table[:half], table[half:]], kind=kind, fingerprint=kind)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """Photos of all views, one without a position, in an order of their own; pairs of all relations."""
    uri = str(tmp_path / "mixed")
    views = {"b": "panorama", "a": "street", "d": "drone", "c": "panorama"}
    photos = [
        {"query_id": name, "view": view, "image": b"x", "fov_deg": 360.0}
        | ({} if name == "c" else {"lat": -35.0, "lon": 149.0 + 0.001 * number})
        for number, (name, view) in enumerate(views.items())
    ]
    tiles = [
        {"tile_id": name, "metres_per_pixel": 1.0, "image": b"x", "source": "x"}
        for name in ("t2", "t1", "t3")
    ]
    pairs = [
        {"query_id": query, "tile_id": tile, "relation": relation, "east_m": east, "north_m": -1.0}
        for query, tile, relation, east in [
            ("c", "t1", "positive", 3.0),
            ("a", "t3", "positive", None),
            ("a", "t2", "positive", 2.0),
            ("b", "t1", "positive", 1.0),
            ("b", "t2", "semi_positive", 9.0),
            ("d", "t2", "positive", 9.0),
            ("stranger", "t2", "positive", 9.0),
        ]
    ]
    for kind, rows in (("queries", photos), ("tiles", tiles), ("pairs", pairs)):
        write(uri, kind, rows)
    return uri


def test_pairs_are_joined_by_row(mixed: str) -> None:
    index = read_index(mixed)
    assert index.photo_rows[index.photo].tolist() == [0, 1, 1, 3]  # b, a, a, c
    assert index.tile_rows[index.tile].tolist() == [1, 0, 2, 1]  # t1, t2, t3, t1
    assert index.camera_east_m.tolist() == [1.0, 2.0, 0.0, 3.0]
    assert index.camera_north_m.tolist() == [-1.0] * 4
    assert np.isnan(index.east_m).tolist() == [False, False, False, True]
    assert index.east_m[1] - index.east_m[0] == pytest.approx(91.3, abs=0.3)  # 0.001 degrees at 35 S
    assert pair_names(mixed, index, [3, 0]) == ["c and t1", "b and t1"]
    assert row_names(f"{mixed}/tiles", "tile_id", np.array([2, 0, 2])) == ["t3", "t2", "t3"]


def test_columns_are_mapped_as_they_were_written(mixed: str, tmp_path: Path) -> None:
    index = read_index(mixed)
    index.save(tmp_path / "columns")
    mapped = PairIndex.map(tmp_path / "columns")
    for name in vars(index):
        assert isinstance(getattr(mapped, name), np.memmap)
        np.testing.assert_array_equal(getattr(mapped, name), getattr(index, name))


def test_taking_pairs_takes_the_pictures_that_they_need(mixed: str) -> None:
    some = read_index(mixed).take(np.array([2, 3]))
    assert some.photo.tolist() == [0, 1]
    assert some.photo_rows.tolist() == [1, 3]
    assert some.tile.tolist() == [1, 0]
    assert some.tile_rows.tolist() == [1, 2]


def test_neighbours_of_the_grid_are_50_m_apart(ingested: str) -> None:
    index = read_index(ingested)
    assert len(index) == 80
    assert np.hypot(np.diff(index.east_m[:10]), np.diff(index.north_m[:10])) == pytest.approx(50.0, abs=0.1)


def test_what_cannot_be_trained_on_is_one_sentence(
    ingested: str, tiny: Recipe, mixed: str, tmp_path: Path
) -> None:
    index = read_index(ingested)
    assert check_pairs(ingested, index, tiny) == pytest.approx(40.0)
    with pytest.raises(ConfigError, match=r"has 3 pairs, fewer than a batch \(16\)"):
        check_pairs(ingested, index.take(np.arange(3)), tiny)
    large = tiny.model_copy(update={"model": tiny.model.model_copy(update={"tile_m": 60.0})})
    with pytest.raises(ModelMismatch, match=r"cover 40 m; the model's field of 60 m .* ingest larger tiles"):
        check_pairs(ingested, index, large)
    with pytest.raises(ArtifactError, match="no table at"):
        read_index(str(tmp_path / "nothing"))
    pairs = [{"query_id": "a", "tile_id": "lost", "relation": "positive"}]
    part_table.write_table(
        f"{mixed}/pairs",
        [schemas.conform(pa.Table.from_pylist(pairs), schemas.PAIRS)],
        kind="pairs",
        fingerprint="other",
        overwrite=True,
    )
    with pytest.raises(InputError, match=r"1 pairs of .* not in its tiles table, 'lost' among them"):
        read_index(mixed)


def test_pairs_out_of_reach_are_counted(ingested: str, tiny: Recipe) -> None:
    index = read_index(ingested)
    index.camera_east_m[:34] = 7.0
    assert len(usable_pairs(index, 40.0, tiny)) == 46
    index.camera_east_m[:40] = 7.0
    wanting = tiny.with_overrides(batch_size=48)
    with pytest.raises(
        ConfigError, match=r"has 40 pairs whose field fits on their tile, fewer than a batch \(48\)"
    ):
        check_pairs(ingested, index, wanting)
