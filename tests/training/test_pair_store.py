from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc.core import part_table
from geoloc.core.errors import ArtifactError, ConfigError, InputError, ModelMismatch
from geoloc.core.images import decode_image
from geoloc.recipe.recipe import Recipe
from geoloc.training import pictures as module
from geoloc.training.pair_index import PairIndex, check_pairs, pair_names, read_index
from geoloc.training.pair_store import load_pairs


def test_pairs_are_read_once_and_belong_together(
    ingested: str, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = read_index(ingested)
    assert len(index) == 80
    assert check_pairs(ingested, index, tiny) == pytest.approx(40.0)
    decoded: list[int] = []

    def counted(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return decode_image(data)

    monkeypatch.setattr(module, "decode_image", counted)
    store = load_pairs(ingested, index.take(np.arange(0, 80, 2)), tiny)
    assert len(decoded) == 40 + 40 + 1  # one tile more, for its size
    assert store.tiles.shape == (40, 40, 40, 3)  # 40 m at the model's metre per pixel
    assert store.panoramas.shape == (40, 16, 64, 3)
    assert store.reach_m == pytest.approx(4.0)
    names = pair_names(ingested, store.index, [0, 1, 39])
    assert names == [f"q{row:04d} and t{row:04d}" for row in (0, 2, 78)]
    assert len(set(store.tile_of.tolist())) == 40
    # Neighbours in the 50 m grid of the table are 50 m apart in the metric frame.
    assert np.hypot(np.diff(index.east_m[:10]), np.diff(index.north_m[:10])) == pytest.approx(50.0, abs=0.1)


def test_above_the_memory_limit_the_pictures_lie_in_a_file(ingested: str, tiny: Recipe) -> None:
    index = read_index(ingested).take(np.arange(6))
    inside = load_pairs(ingested, index, tiny)
    outside = load_pairs(ingested, index, tiny, memory_limit_bytes=1000)
    assert isinstance(outside.tiles, np.memmap)
    np.testing.assert_array_equal(outside.tiles, inside.tiles)
    np.testing.assert_array_equal(outside.panoramas, inside.panoramas)


def test_what_cannot_be_trained_on_is_one_sentence(
    ingested: str, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = part_table.read
    index = read_index(ingested)
    with pytest.raises(ConfigError, match=r"has 3 pairs, fewer than a batch \(16\)"):
        check_pairs(ingested, index.take(np.arange(3)), tiny)
    large = tiny.model_copy(update={"model": tiny.model.model_copy(update={"tile_m": 60.0})})
    with pytest.raises(ModelMismatch, match=r"cover 40 m; the model's field of 60 m .* ingest larger tiles"):
        check_pairs(ingested, index, large)
    with pytest.raises(ArtifactError, match="no table at"):
        read_index(str(tmp_path / "nothing"))
    pairs = part_table.read(f"{ingested}/pairs", kind="pairs")
    strange = pairs.set_column(pairs.schema.get_field_index("tile_id"), "tile_id", [["unknown"] * len(pairs)])
    monkeypatch.setattr(
        part_table, "read", lambda uri, **rest: strange if uri.endswith("pairs") else read(uri, **rest)
    )
    with pytest.raises(InputError, match=r"80 pairs of .* 'unknown' among them"):
        read_index(ingested)


def test_cameras_out_of_reach_are_left_out(ingested: str, tiny: Recipe) -> None:
    index = read_index(ingested)
    index.camera_east_m[5] = 7.0  # the field may move 4 m, the camera lies 2 m at most from its centre
    index.camera_east_m[6] = 5.9
    store = load_pairs(ingested, index, tiny)
    assert len(store) == 79
    assert 5 not in store.index.photo_rows
    assert 6 in store.index.photo_rows


def test_too_few_pairs_within_reach_are_refused(ingested: str, tiny: Recipe) -> None:
    index = read_index(ingested)
    index.camera_east_m[:40] = 7.0
    wanting = tiny.with_overrides(steps=None, batch_size=48)
    with pytest.raises(
        ConfigError, match=r"has 40 pairs whose field fits on their tile, fewer than a batch \(48\)"
    ):
        check_pairs(ingested, index, wanting)


def test_an_index_is_the_same_from_its_files(ingested: str, tmp_path: Path) -> None:
    index = read_index(ingested).take(np.array([3, 8, 9]))
    index.save(tmp_path / "columns")
    mapped = PairIndex.map(tmp_path / "columns")
    assert isinstance(mapped.photo, np.memmap)
    for name, values in vars(index).items():
        np.testing.assert_array_equal(getattr(mapped, name), values)
    assert index.photo_rows.tolist() == [3, 8, 9]
    assert index.photo.tolist() == [0, 1, 2]
