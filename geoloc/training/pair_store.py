"""Training pairs in memory: every picture decoded once, tiles kept with their margin, shared by their pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.core import part_table, storage
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.core.geodesy import LatLon, LocalFrame
from geoloc.core.images import decode_image
from geoloc.core.scratch import scratch_array
from geoloc.models.preprocessing import SMALLEST_EXTENT, prepare_panorama, resize
from geoloc.recipe.recipe import Recipe

MEMORY_LIMIT_BYTES = 3 * 2**30  # decoded pictures of one worker; above, they lie in a file on the local disk
_EXTENT_TOLERANCE = 0.01
_SMALLEST_SHARE = 0.5  # of the pairs must fit on their tiles


@dataclass(frozen=True)
class PairIndex:
    """The pairs of an ingest output, without pictures; all arrays have one entry per pair.

    `tile_number` is the same for pairs of one tile, on every worker. `camera_east_m`, `camera_north_m`: camera
    from the tile's centre. `east_m`, `north_m`: camera in one metric frame, NaN where there are no positions.
    """

    query_id: npt.NDArray[np.object_]
    tile_id: npt.NDArray[np.object_]
    tile_number: IntArray
    camera_east_m: FloatArray
    camera_north_m: FloatArray
    east_m: FloatArray
    north_m: FloatArray
    heading_deg: FloatArray
    fov_deg: FloatArray

    def __len__(self) -> int:
        return len(self.query_id)

    def take(self, rows: IntArray) -> PairIndex:
        """The pairs at rows int64[n]."""
        return PairIndex(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class PairStore:
    """Decoded pairs: tiles uint8[T, s, s, 3] at the model's metres per pixel, panoramas uint8[N, h, w, 3].

    `tile_of` int64[N] is each pair's row in `tiles`; `reach_m` is how far the model's field may move from a
    tile's centre before it leaves the picture.
    """

    tiles: npt.NDArray[np.uint8]
    panoramas: npt.NDArray[np.uint8]
    tile_of: IntArray
    index: PairIndex
    reach_m: float

    def __len__(self) -> int:
        return len(self.panoramas)


def read_index(uri: str) -> PairIndex:
    """The positive pairs of the ingest output at `uri`, sorted by query and tile.

    Raises `ArtifactError` for missing tables, `InputError` when no pair is in them.
    """
    columns = ["query_id", "view", "heading_deg", "fov_deg", "lat", "lon"]
    queries = part_table.read(storage.join(uri, "queries"), kind="queries", columns=columns).to_pydict()
    rows = {query_id: row for row, query_id in enumerate(queries["query_id"])}
    pairs = part_table.read(storage.join(uri, "pairs"), kind="pairs").to_pylist()
    wanted = ("panorama", "street")
    kept = [
        pair
        for pair in sorted(pairs, key=lambda pair: (pair["query_id"], pair["tile_id"]))
        if pair["relation"] == "positive"
        and pair["query_id"] in rows
        and queries["view"][rows[pair["query_id"]]] in wanted
    ]
    if not kept:
        raise InputError(f"{uri!r} holds no positive pair of a panorama and a tile; training needs pairs.")
    return _index(kept, queries, np.array([rows[pair["query_id"]] for pair in kept]))


def _index(pairs: Sequence[Mapping[str, Any]], queries: Mapping[str, list[Any]], rows: IntArray) -> PairIndex:
    def column(name: str) -> FloatArray:
        return np.array(queries[name], dtype=np.float64)[rows]  # None becomes NaN

    def of_pairs(name: str) -> FloatArray:
        return np.array([pair[name] or 0.0 for pair in pairs], dtype=np.float64)

    lat, lon = column("lat"), column("lon")
    east = north = np.full(len(pairs), np.nan)
    if np.isfinite(lat).any():
        frame = LocalFrame(LatLon(float(np.nanmean(lat)), float(np.nanmean(lon))))
        east, north = frame.to_metres(lat, lon)
    tile_id = np.array([pair["tile_id"] for pair in pairs], dtype=object)
    return PairIndex(
        query_id=np.array([pair["query_id"] for pair in pairs], dtype=object),
        tile_id=tile_id,
        tile_number=np.unique(tile_id.astype(str), return_inverse=True)[1].astype(np.int64),
        camera_east_m=of_pairs("east_m"),
        camera_north_m=of_pairs("north_m"),
        east_m=east,
        north_m=north,
        heading_deg=column("heading_deg"),
        fov_deg=column("fov_deg"),
    )


def check_pairs(uri: str, index: PairIndex, recipe: Recipe) -> float:
    """Refuse pairs that cannot train a recipe; returns the extent of the tiles in metres.

    Raises `ConfigError` when fewer pairs than a batch can be used, `InputError` when their tiles are missing,
    `ModelMismatch` when the tiles are too small for the recipe's field and offset.
    """
    if len(index) < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {len(index)} pairs, fewer than a batch ({recipe.training.batch_size}); lower "
            "training.batch_size or give more pairs."
        )
    extent_m = _first_extent_m(uri, index)
    offset_m = recipe.training.augmentation.offset_m
    fitting = int(_within_reach(index, _reach_m(extent_m, recipe), offset_m).sum())
    usable = fitting / len(index)
    if extent_m < SMALLEST_EXTENT * recipe.model.tile_m or usable < _SMALLEST_SHARE:
        raise ModelMismatch(
            f"The tiles in {uri!r} cover {extent_m:g} m; the model's field of {recipe.model.tile_m:g} m within "
            f"{offset_m:g} m of the cameras fits on them for {usable:.0%} of the pairs: ingest larger tiles."
        )
    if fitting < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {fitting} pairs whose field fits on their tile, fewer than a batch "
            f"({recipe.training.batch_size}); lower training.batch_size or give more pairs."
        )
    return extent_m


def usable_pairs(uri: str, index: PairIndex, recipe: Recipe) -> PairIndex:
    """The pairs whose camera has a crop of its tile within `offset_m`.

    All workers share out these, so that their shares are equal: a worker with fewer pairs than the others would give
    smaller batches, which cannot be gathered.
    """
    reach_m = _reach_m(_first_extent_m(uri, index), recipe)
    return index.take(np.flatnonzero(_within_reach(index, reach_m, recipe.training.augmentation.offset_m)))


def _first_extent_m(uri: str, index: PairIndex) -> float:
    """Metres that the first tile of the pairs covers; `InputError` when none is there."""
    wanted = set(_tile_rows(index))
    first = next(pictures(storage.join(uri, "tiles"), "tiles", "tile_id", wanted), None)
    if first is None:
        raise InputError(f"The tiles of the pairs in {uri!r} are not in its tiles table; run ingest again.")
    return _extent_m(first)


def load_pairs(
    uri: str, index: PairIndex, recipe: Recipe, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
) -> PairStore:
    """Decode the pictures of `index` from the ingest output at `uri`, part by part, each picture once.

    Pairs whose camera has no crop of its tile within `offset_m` are left out. Memory: the decoded pictures up
    to `memory_limit_bytes`, beyond that a file in the local temporary directory; plus one part of the tables.
    Raises what `check_pairs` raises, and `InputError` for pictures that are missing or cannot be decoded.
    """
    extent_m = _first_extent_m(uri, index)
    reach_m = _reach_m(extent_m, recipe)
    usable = _within_reach(index, reach_m, recipe.training.augmentation.offset_m)
    index = index.take(np.flatnonzero(usable))
    tile_rows = _tile_rows(index)
    side = max(recipe.model.tile_px, round(extent_m / recipe.model.metres_per_pixel))
    height, width = recipe.model.panorama_px
    tiles = picture_array((len(tile_rows), side, side, 3), memory_limit_bytes // 2)
    panoramas = picture_array((len(index), height, width, 3), memory_limit_bytes // 2)
    fill_tiles(uri, tiles, tile_rows, extent_m, side)
    _fill_panoramas(uri, panoramas, index, recipe)
    tile_of = np.array([tile_rows[name] for name in index.tile_id], dtype=np.int64)
    return PairStore(tiles, panoramas, tile_of, index, reach_m)


def _reach_m(extent_m: float, recipe: Recipe) -> float:
    return max(0.0, (extent_m - recipe.model.tile_m) / 2)


def _tile_rows(index: PairIndex) -> dict[str, int]:
    return {str(name): row for row, name in enumerate(sorted(set(index.tile_id)))}


def _within_reach(index: PairIndex, reach_m: float, offset_m: float) -> BoolArray:
    """Pairs for which some crop centre inside the tile's margin lies within `offset_m` of the camera."""
    beyond_east = np.maximum(np.abs(index.camera_east_m) - reach_m, 0.0)
    beyond_north = np.maximum(np.abs(index.camera_north_m) - reach_m, 0.0)
    # A little slack: data sets whose tiles have exactly the model's field and the camera in the middle.
    return np.asarray(np.hypot(beyond_east, beyond_north) <= offset_m + 1e-6)


def picture_array(shape: tuple[int, ...], limit_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros uint8[shape] in memory, or beyond `limit_bytes` in a file of the local temporary directory."""
    zeros: npt.NDArray[np.uint8] = scratch_array(shape, np.uint8, limit_bytes)
    return zeros


def pictures(uri: str, kind: str, key: str, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table with pictures whose key is wanted, one part in memory at a time; also how large they show."""
    columns = [key, "image", "metres_per_pixel" if kind == "tiles" else "fov_deg"]
    for table in part_table.iterate(uri, kind=kind, columns=columns):
        mask = pa.array([name in wanted for name in table[key].to_pylist()], pa.bool_())
        for batch in table.filter(mask).to_batches(max_chunksize=64):
            yield from batch.to_pylist()


def _extent_m(row: Mapping[str, Any]) -> float:
    return float(min(decode_image(row["image"]).shape[:2]) * row["metres_per_pixel"])


def fill_tiles(
    uri: str, tiles: npt.NDArray[np.uint8], rows: Mapping[str, int], extent_m: float, side: int
) -> None:
    """Decode the tiles named in `rows` (tile_id: row) into uint8[T, side, side, 3]; all must cover `extent_m`.

    Raises `InputError` for tiles that are missing, `ModelMismatch` for tiles of another extent.
    """
    missing = set(rows)
    for row in pictures(storage.join(uri, "tiles"), "tiles", "tile_id", set(rows)):
        image = decode_image(row["image"])
        covered = min(image.shape[:2]) * row["metres_per_pixel"]
        if image.shape[0] != image.shape[1] or abs(covered / extent_m - 1) > _EXTENT_TOLERANCE:
            raise ModelMismatch(
                f"Tile {row['tile_id']!r} is {image.shape[1]} x {image.shape[0]} px and covers {covered:g} m, others "
                f"{extent_m:g} m; ingest all tiles with one size."
            )
        tiles[rows[row["tile_id"]]] = resize(image, side, side)
        missing.discard(row["tile_id"])
    if missing:
        raise InputError(
            f"{len(missing)} tiles of the pairs are not in the tiles table of {uri!r}, {min(missing)!r} among them; "
            "run ingest again."
        )


def _fill_panoramas(uri: str, panoramas: npt.NDArray[np.uint8], index: PairIndex, recipe: Recipe) -> None:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(index.query_id):
        rows.setdefault(str(name), []).append(row)
    for picture in pictures(storage.join(uri, "queries"), "queries", "query_id", set(rows)):
        places = rows[picture["query_id"]]
        heading = index.heading_deg[places[0]]
        panoramas[places] = prepare_panorama(
            decode_image(picture["image"]),
            recipe.model,
            fov_deg=float(index.fov_deg[places[0]]),
            heading_deg=None if np.isnan(heading) else float(heading),
        )
