"""Training by places: tiles and photos with the place_id that they show, decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoloc.core import part_table, storage
from geoloc.core.arrays import IntArray
from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.core.images import decode_image
from geoloc.models.preprocessing import SMALLEST_EXTENT, input_size, prepare_aerial, prepare_panorama
from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_store import MEMORY_LIMIT_BYTES, fill_tiles, picture_array, pictures

_JUNK = "-1"


@dataclass(frozen=True)
class PlaceIndex:
    """The places of an ingest output that have a tile and photos of every wanted view, without pictures.

    `place_id` are their names, sorted. `tiles` and `photos[view]` name the pictures of each place, sorted.
    `number` int64[P] is each place's number among all places of training. `left_out` counts places without a tile or
    without a wanted view.
    """

    place_id: tuple[str, ...]
    tiles: tuple[tuple[str, ...], ...]
    photos: Mapping[str, tuple[tuple[str, ...], ...]]
    number: IntArray
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.place_id)

    def take(self, rows: IntArray) -> PlaceIndex:
        """The places at rows int64[n]."""
        return PlaceIndex(
            tuple(self.place_id[row] for row in rows),
            tuple(self.tiles[row] for row in rows),
            {view: tuple(named[row] for row in rows) for view, named in self.photos.items()},
            self.number[rows],
            self.left_out,
        )


@dataclass(frozen=True)
class PlaceStore:
    """Decoded pictures of places: tiles uint8[T, s, s, 3], photos of each view uint8[N, h, w, 3].

    `tile_rows[place]` and `photo_rows[view][place]` int64[n] are the rows of a place's pictures. `headings_deg[view]`
    float32[N] is 0 for tiles, which have north up, and NaN for photos of unknown heading.
    """

    index: PlaceIndex
    tiles: npt.NDArray[np.uint8]
    tile_rows: list[IntArray]
    photos: dict[str, npt.NDArray[np.uint8]]
    photo_rows: dict[str, list[IntArray]]
    headings_deg: dict[str, npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.index)


def read_places(uri: str, recipe: Recipe) -> PlaceIndex:
    """The places of the ingest output at `uri` that a recipe can learn from; junk (place_id -1) is none.

    Raises `ArtifactError` for missing tables, `InputError` where no place has a tile and the wanted photos.
    """
    wanted = recipe.training.places.photos if recipe.training.places else {}
    tiles = _by_place(uri, "tiles", "tile_id", None)
    photos = {view: _by_place(uri, "queries", "query_id", view) for view in wanted}
    every = set(tiles).union(*photos.values()) - {_JUNK}
    usable = sorted(every.intersection(tiles, *photos.values()))
    if not usable:
        raise InputError(
            f"{uri!r} has no place_id with a tile and photos of the views {', '.join(wanted)}; training by places "
            "needs them.",
            reason="no_places",
        )
    return PlaceIndex(
        tuple(usable),
        tuple(tuple(tiles[place]) for place in usable),
        {view: tuple(tuple(named[place]) for place in usable) for view, named in photos.items()},
        np.arange(len(usable), dtype=np.int64),
        len(every) - len(usable),
    )


def _by_place(uri: str, kind: str, key: str, view: str | None) -> dict[str, list[str]]:
    """Names of the pictures of a table by their place, sorted; `view` selects queries."""
    columns = [key, "place_id", *([] if view is None else ["view"])]
    table = part_table.read(storage.join(uri, kind), kind=kind, columns=columns).to_pydict()
    views = table.get("view", [None] * len(table[key]))
    found: dict[str, list[str]] = {}
    for name, place, seen in sorted(zip(table[key], table["place_id"], views, strict=True)):
        if place is not None and seen == view:
            found.setdefault(str(place), []).append(str(name))
    return found


def check_places(uri: str, index: PlaceIndex, recipe: Recipe) -> float:
    """Refuse places that cannot train a recipe; returns the extent of the tiles in metres.

    Raises `ConfigError` when there are fewer places than a batch, `ModelMismatch` when the tiles are too small.
    """
    if len(index) < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {len(index)} places, fewer than a batch ({recipe.training.batch_size}); lower "
            "training.batch_size or give more places."
        )
    return _extent_m(uri, index, recipe)


def _extent_m(uri: str, index: PlaceIndex, recipe: Recipe) -> float:
    """Metres that the tiles cover, read off the first one; refuses tiles below the recipe's field."""
    first = next(pictures(storage.join(uri, "tiles"), "tiles", "tile_id", set(index.tiles[0])), None)
    if first is None:
        raise InputError(f"The tiles of the places in {uri!r} are not in its tiles table; run ingest again.")
    extent_m = float(min(decode_image(first["image"]).shape[:2]) * first["metres_per_pixel"])
    if extent_m < SMALLEST_EXTENT * recipe.model.tile_m:
        raise ModelMismatch(
            f"The tiles in {uri!r} cover {extent_m:g} m, the recipe's field is {recipe.model.tile_m:g} m; use larger "
            "tiles or lower model.tile_m."
        )
    return extent_m


def load_places(
    uri: str, index: PlaceIndex, recipe: Recipe, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
) -> PlaceStore:
    """Decode the pictures of `index` from the ingest output at `uri`, part by part, each picture once.

    Memory: the decoded pictures up to `memory_limit_bytes`, beyond that files in the local temporary directory; plus
    one part of the tables. Raises what `check_places` raises, and `InputError` for pictures that cannot be decoded.
    """
    share = memory_limit_bytes // (1 + len(index.photos))
    extent_m = _extent_m(uri, index, recipe)
    side = max(recipe.model.tile_px, round(extent_m / recipe.model.metres_per_pixel))
    names, tile_rows = _rows_of(index.tiles)
    tiles = picture_array((len(names), side, side, 3), share)
    fill_tiles(uri, tiles, names, extent_m, side)
    photos, photo_rows = {}, {}
    headings_deg = {"aerial": np.zeros(len(tiles), dtype=np.float32)}
    for view, named in index.photos.items():
        names, photo_rows[view] = _rows_of(named)
        photos[view] = picture_array((len(names), *input_size(recipe.model, view), 3), share)
        headings_deg[view] = _headings_deg(uri, names)
        _fill_photos(uri, photos[view], names, view, recipe)
    return PlaceStore(index, tiles, tile_rows, photos, photo_rows, headings_deg)


def _headings_deg(uri: str, rows: Mapping[str, int]) -> npt.NDArray[np.float32]:
    """The headings float32[N] of the photos named in `rows`, NaN where they are unknown."""
    found = np.full(len(rows), np.nan, dtype=np.float32)
    table = part_table.read(
        storage.join(uri, "queries"), kind="queries", columns=["query_id", "heading_deg"]
    ).to_pydict()
    for name, heading in zip(table["query_id"], table["heading_deg"], strict=True):
        if name in rows and heading is not None:
            found[rows[name]] = heading
    return found


def _rows_of(named: tuple[tuple[str, ...], ...]) -> tuple[dict[str, int], list[IntArray]]:
    """Row of each picture, and the rows int64[n] of each place."""
    rows = {name: row for row, name in enumerate(name for names in named for name in names)}
    return rows, [np.array([rows[name] for name in names], dtype=np.int64) for names in named]


def _fill_photos(
    uri: str, photos: npt.NDArray[np.uint8], rows: Mapping[str, int], view: str, recipe: Recipe
) -> None:
    missing = set(rows)
    for picture in pictures(storage.join(uri, "queries"), "queries", "query_id", set(rows)):
        image = decode_image(picture["image"])
        if view == "drone":
            # The table has no ground extent of drone photos: a photo is taken to show the model's field.
            prepared = prepare_aerial(image, recipe.model, None)
        else:
            prepared = prepare_panorama(image, recipe.model, fov_deg=picture["fov_deg"])
        photos[rows[picture["query_id"]]] = prepared
        missing.discard(picture["query_id"])
    if missing:
        raise InputError(
            f"{len(missing)} photos of the places are not in the queries table of {uri!r}, {min(missing)!r} among "
            "them; run ingest again."
        )
