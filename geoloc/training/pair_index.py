"""The pairs of an ingest output by number: columns of numbers alone, which a worker maps from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import part_table, storage
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.core.geodesy import LatLon, LocalFrame
from geoloc.models.preprocessing import SMALLEST_EXTENT
from geoloc.recipe.recipe import Recipe
from geoloc.training.pictures import picture_extent_m, row_names

_VIEWS = ("panorama", "street")
_SMALLEST_SHARE = 0.5  # of the pairs must fit on their tiles
_NAMED = 3  # pairs that an error names


@dataclass(frozen=True)
class PairIndex:
    """The pairs of an ingest output, without pictures and names.

    `photo`, `tile` int64[N] number each pair's pictures; `photo_rows` int64[Q], `tile_rows` int64[T] are the rows of
    these pictures in the tables queries and tiles, ascending. `camera_east_m`, `camera_north_m` float64[N]: camera
    from the tile's centre. `east_m`, `north_m` float64[N]: camera in one metric frame, NaN where there are no
    positions. The arrays may be mapped from files.
    """

    photo: IntArray
    tile: IntArray
    camera_east_m: FloatArray
    camera_north_m: FloatArray
    east_m: FloatArray
    north_m: FloatArray
    photo_rows: IntArray
    tile_rows: IntArray

    def __len__(self) -> int:
        return len(self.photo)

    def take(self, rows: IntArray) -> PairIndex:
        """The pairs at rows int64[n], with the pictures that they need."""
        photo_rows, photo = np.unique(self.photo_rows[self.photo[rows]], return_inverse=True)
        tile_rows, tile = np.unique(self.tile_rows[self.tile[rows]], return_inverse=True)
        picked = self.pick(rows)
        return replace(picked, photo=photo, tile=tile, photo_rows=photo_rows, tile_rows=tile_rows)

    def pick(self, rows: IntArray) -> PairIndex:
        """The pairs at rows int64[n], with all pictures."""
        of_pairs = ("photo", "tile", "camera_east_m", "camera_north_m", "east_m", "north_m")
        return replace(self, **{name: getattr(self, name)[rows] for name in of_pairs})

    @property
    def has_positions(self) -> bool:
        """Whether the cameras of some pairs are known."""
        return bool(np.isfinite(self.east_m).any())

    def same_place(self, rows: IntArray, others: IntArray, distance_m: float) -> BoolArray:
        """bool[...]: whether pairs at rows and others int64[...] (broadcast) show one place, so are no negatives.

        They do when they share a tile or a photo, or when their cameras are nearer than `distance_m`.
        """
        east = self.east_m[rows] - self.east_m[others]
        north = self.north_m[rows] - self.north_m[others]
        near = east * east + north * north < distance_m**2
        shared = (self.tile[rows] == self.tile[others]) | (self.photo[rows] == self.photo[others])
        return np.asarray(near | shared)

    def save(self, folder: Path) -> None:
        """Write one .npy file for each column into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def map(cls, folder: Path) -> PairIndex:
        """The index that `save` wrote, its columns mapped: a process holds what it touches."""
        return cls(
            **{
                field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
                for field in fields(cls)
            }
        )


def read_index(uri: str) -> PairIndex:
    """The positive pairs of the ingest output at `uri`, in the order of the photos and tiles in their tables.

    Memory: the names of the tables as Arrow columns while they are joined, then 48 bytes a pair. Raises `ArtifactError`
    for missing tables, `InputError` when no pair is in them or the tile of a pair is missing.
    """
    columns = ["query_id", "view", "lat", "lon"]
    queries = part_table.read(storage.join(uri, "queries"), kind="queries", columns=columns)
    tiles = part_table.read(storage.join(uri, "tiles"), kind="tiles", columns=["tile_id"])
    pairs = part_table.read(storage.join(uri, "pairs"), kind="pairs")
    photo_row = _places_of(pairs["query_id"], queries["query_id"])
    of_view = pc.is_in(queries["view"], value_set=pa.array(_VIEWS)).to_numpy()
    kept = pc.equal(pairs["relation"], "positive").to_numpy() & (photo_row >= 0)
    kept[kept] = of_view[photo_row[kept]]
    if not kept.any():
        raise InputError(f"{uri!r} holds no positive pair of a panorama and a tile; training needs pairs.")
    pairs, photo_row = pairs.filter(pa.array(kept)), photo_row[kept]
    tile_row = _places_of(pairs["tile_id"], tiles["tile_id"])
    if (missing := int((tile_row < 0).sum())) > 0:
        example = pairs["tile_id"][int(np.argmin(tile_row))].as_py()
        raise InputError(
            f"{missing} pairs of {uri!r} name a tile that is not in its tiles table, {example!r} among them; run "
            "ingest again."
        )
    order = np.lexsort((tile_row, photo_row))
    return _numbered(pairs, queries, photo_row[order], tile_row[order], order)


def _places_of(names: pa.ChunkedArray, among: pa.ChunkedArray) -> IntArray:
    """Where each of the names stands in another column, int64[n]; -1 where it does not."""
    values = among.cast(pa.large_string()).combine_chunks()
    found = pc.index_in(names.cast(pa.large_string()), value_set=values)
    return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)


def _numbered(
    pairs: pa.Table, queries: pa.Table, photo_row: IntArray, tile_row: IntArray, order: IntArray
) -> PairIndex:
    lat, lon = (_floats(queries[name], np.nan) for name in ("lat", "lon"))
    east = north = np.full(len(lat), np.nan)
    if np.isfinite(lat).any():
        frame = LocalFrame(LatLon(float(np.nanmean(lat)), float(np.nanmean(lon))))
        east, north = frame.to_metres(lat, lon)
        unknown = ~np.isfinite(lat)
        east[unknown] = north[unknown] = np.nan
    photo_rows, photo = np.unique(photo_row, return_inverse=True)
    tile_rows, tile = np.unique(tile_row, return_inverse=True)
    return PairIndex(
        photo=photo,
        tile=tile,
        camera_east_m=_floats(pairs["east_m"], 0.0)[order],
        camera_north_m=_floats(pairs["north_m"], 0.0)[order],
        east_m=east[photo_row],
        north_m=north[photo_row],
        photo_rows=photo_rows,
        tile_rows=tile_rows,
    )


def _floats(column: Any, missing: float) -> FloatArray:
    return np.asarray(column.cast(pa.float64()).fill_null(missing).to_numpy(), dtype=np.float64)


def tile_extent_m(uri: str, index: PairIndex) -> float:
    """Metres that the first tile of the pairs covers."""
    return picture_extent_m(storage.join(uri, "tiles"), int(index.tile_rows[0]))


def reach_m(extent_m: float, recipe: Recipe) -> float:
    """How far the model's field may move from the centre of a tile of `extent_m` before it leaves the picture."""
    return max(0.0, (extent_m - recipe.model.tile_m) / 2)


def within_reach(index: PairIndex, reach: float, offset_m: float) -> BoolArray:
    """bool[N]: pairs for which some crop centre inside the tile's margin lies within `offset_m` of the camera."""
    beyond_east = np.maximum(np.abs(index.camera_east_m) - reach, 0.0)
    beyond_north = np.maximum(np.abs(index.camera_north_m) - reach, 0.0)
    # A little slack: data sets whose tiles have exactly the model's field and the camera in the middle.
    return np.asarray(np.hypot(beyond_east, beyond_north) <= offset_m + 1e-6)


def usable_pairs(index: PairIndex, extent_m: float, recipe: Recipe) -> PairIndex:
    """The pairs whose camera has a crop of its tile within `offset_m`."""
    offset_m = recipe.training.augmentation.offset_m
    usable = within_reach(index, reach_m(extent_m, recipe), offset_m)
    return index if usable.all() else index.take(np.flatnonzero(usable))


def check_pairs(uri: str, index: PairIndex, recipe: Recipe) -> float:
    """Refuse pairs that cannot train a recipe; returns the extent of the tiles in metres.

    Raises `ConfigError` when fewer pairs than a batch can be used, `ModelMismatch` when the tiles are too small for the
    recipe's field and offset.
    """
    extent_m = tile_extent_m(uri, index)
    fitting = int(within_reach(index, reach_m(extent_m, recipe), recipe.training.augmentation.offset_m).sum())
    check_counts(uri, len(index), fitting, extent_m, recipe)
    return extent_m


def check_counts(uri: str, pairs: int, fitting: int, extent_m: float, recipe: Recipe) -> None:
    """The checks of `check_pairs` on `pairs` of which `fitting` have their field on their tile of `extent_m` metres."""
    if pairs < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {pairs} pairs, fewer than a batch ({recipe.training.batch_size}); lower "
            "training.batch_size or give more pairs."
        )
    usable = fitting / pairs
    if extent_m < SMALLEST_EXTENT * recipe.model.tile_m or usable < _SMALLEST_SHARE:
        raise ModelMismatch(
            f"The tiles in {uri!r} cover {extent_m:g} m; the model's field of {recipe.model.tile_m:g} m within "
            f"{recipe.training.augmentation.offset_m:g} m of the cameras fits on them for {usable:.0%} of the pairs: "
            "ingest larger tiles."
        )
    if fitting < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {fitting} pairs whose field fits on their tile, fewer than a batch "
            f"({recipe.training.batch_size}); lower training.batch_size or give more pairs."
        )


def pair_names(uri: str, index: PairIndex, rows: Sequence[int]) -> list[str]:
    """`photo and tile` of some pairs by their names, for messages."""
    wanted = np.asarray(rows[:_NAMED], dtype=np.int64)
    photos = row_names(storage.join(uri, "queries"), "query_id", index.photo_rows[index.photo[wanted]])
    tiles = row_names(storage.join(uri, "tiles"), "tile_id", index.tile_rows[index.tile[wanted]])
    return [f"{photo} and {tile}" for photo, tile in zip(photos, tiles, strict=True)]
