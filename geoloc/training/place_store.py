"""Training by places: tiles and photos with the place that they show, by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import part_table, storage
from geoloc.core.arrays import Float32Array, IntArray, Pixels
from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.models.preprocessing import SMALLEST_EXTENT, input_size
from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_store import MEMORY_LIMIT_BYTES, Opener, in_memory
from geoloc.training.pictures import DroneMaker, PhotoMaker, PictureSet, TileMaker, picture_extent_m

_JUNK = "-1"


@dataclass(frozen=True)
class PlacePictures:
    """The pictures of places in one view: those of place p are `number[start[p] : start[p + 1]]`.

    `start` int64[P + 1], `number` int64[n] (by place, then by name); `rows` int64[n] are the rows of the pictures in
    their table, ascending: number k is the picture at `rows[k]`. `heading_deg` float32[n] by number is 0 for tiles,
    which have north up, and NaN for photos of unknown heading.
    """

    start: IntArray
    number: IntArray
    rows: IntArray
    heading_deg: Float32Array

    def of(self, place: int) -> IntArray:
        """The numbers of a place's pictures, int64[n]."""
        return self.number[self.start[place] : self.start[place + 1]]


@dataclass(frozen=True)
class PlaceIndex:
    """The places of an ingest output that have a tile and photos of every wanted view, without pictures.

    `place_id` string[P] are their names, sorted. `left_out` counts places without a tile or without a wanted view.
    """

    place_id: pa.Array
    tiles: PlacePictures
    photos: Mapping[str, PlacePictures]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.place_id)


@dataclass(frozen=True)
class PlaceStore:
    """Pictures of places: tiles uint8[T, s, s, 3], photos of each view uint8[N, h, w, 3], as the index numbers them."""

    index: PlaceIndex
    tiles: Pixels
    photos: dict[str, Pixels]
    uri: str = ""

    def __len__(self) -> int:
        return len(self.index)


def read_places(uri: str, recipe: Recipe) -> PlaceIndex:
    """The places of the ingest output at `uri` that a recipe can learn from; junk (place_id -1) is none.

    Raises `ArtifactError` for missing tables, `InputError` where no place has a tile and the wanted photos.
    """
    wanted = recipe.training.places.photos if recipe.training.places else {}
    tables = {"aerial": _table(uri, "tiles", "tile_id", None)}
    tables |= {view: _table(uri, "queries", "query_id", view) for view in wanted}
    names = [pc.unique(table["place_id"]) for table in tables.values()]
    every = pc.unique(pa.chunked_array(names, pa.string()))
    place_id = every.filter(_in_all(every, names))
    if not len(place_id):
        raise InputError(
            f"{uri!r} has no place_id with a tile and photos of the views {', '.join(wanted)}; training by places "
            "needs them.",
            reason="no_places",
        )
    place_id = place_id.take(pc.sort_indices(place_id))
    found = {view: _pictures(table, place_id) for view, table in tables.items()}
    return PlaceIndex(
        place_id,
        found["aerial"],
        {view: found[view] for view in wanted},
        len(every) - len(place_id),
    )


def _in_all(names: pa.Array, lists: Sequence[pa.Array]) -> pa.Array:
    """Which of the names stand in each of the lists, bool[n]."""
    kept = pa.array(np.ones(len(names), dtype=bool))
    for each in lists:
        kept = pc.and_(kept, pc.is_in(names, value_set=each))
    return kept


def _table(uri: str, kind: str, key: str, view: str | None) -> pa.Table:
    """Columns row, name, place_id, heading_deg of a table's pictures that show a place; `view` selects queries."""
    columns = [key, "place_id", *([] if view is None else ["view", "heading_deg"])]
    table = part_table.read(storage.join(uri, kind), kind=kind, columns=columns)
    heading = (
        pa.nulls(len(table), pa.float32()) if view is not None else pa.array(np.zeros(len(table), np.float32))
    )
    if view is not None:
        heading = table["heading_deg"].cast(pa.float32())
    shown = pa.table(
        {
            "row": pa.array(np.arange(len(table))),
            "name": table[key],
            "place_id": table["place_id"],
            "heading_deg": heading,
        }
    )
    kept = pc.and_(
        pc.is_valid(table["place_id"]), pc.fill_null(pc.not_equal(table["place_id"], _JUNK), False)
    )
    if view is not None:
        kept = pc.and_(kept, pc.equal(table["view"], view))
    return shown.filter(kept)


def _pictures(table: pa.Table, place_id: pa.Array) -> PlacePictures:
    """The pictures of the given places, with the rows of a table as `_table` gives them."""
    place = pc.index_in(table["place_id"], value_set=place_id)
    table = table.append_column("place", place).filter(pc.is_valid(place))
    rows = table["row"].to_numpy()
    order = pc.sort_indices(table, sort_keys=[("place", "ascending"), ("name", "ascending")]).to_numpy()
    ascending = np.argsort(rows)
    number = np.empty(len(rows), dtype=np.int64)
    number[ascending] = np.arange(len(rows))
    counts = np.bincount(table["place"].to_numpy(), minlength=len(place_id))
    return PlacePictures(
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        number=number[order],
        rows=rows[ascending],
        heading_deg=table["heading_deg"].fill_null(np.nan).to_numpy()[ascending].astype(np.float32),
    )


def check_places(uri: str, index: PlaceIndex, recipe: Recipe) -> float:
    """Refuse places that cannot train a recipe; returns the extent of the tiles in metres.

    Raises `ConfigError` when there are fewer places than a batch, `ModelMismatch` when the tiles are too small.
    """
    if len(index) < recipe.training.batch_size:
        raise ConfigError(
            f"{uri!r} has {len(index)} places, fewer than a batch ({recipe.training.batch_size}); lower "
            "training.batch_size or give more places."
        )
    return places_extent_m(uri, index, recipe)


def places_extent_m(uri: str, index: PlaceIndex, recipe: Recipe) -> float:
    """Metres that the tiles cover, read off the first one; `ModelMismatch` for tiles below the recipe's field."""
    extent_m = picture_extent_m(storage.join(uri, "tiles"), int(index.tiles.rows[0]))
    if extent_m < SMALLEST_EXTENT * recipe.model.tile_m:
        raise ModelMismatch(
            f"The tiles in {uri!r} cover {extent_m:g} m, the recipe's field is {recipe.model.tile_m:g} m; use larger "
            "tiles or lower model.tile_m."
        )
    return extent_m


def load_places(
    uri: str, index: PlaceIndex, recipe: Recipe, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
) -> PlaceStore:
    """The places of `index` with their pictures, prepared in this process; for measurements.

    Memory: the pictures up to `memory_limit_bytes`, beyond that files in the local temporary directory; plus one part
    of the tables. Raises `ModelMismatch` for tiles that are too small or of several extents, and `InputError` for
    pictures that cannot be decoded.
    """
    extent_m = places_extent_m(uri, index, recipe)
    return open_places(uri, index, extent_m, recipe, in_memory(memory_limit_bytes))


def open_places(
    uri: str, index: PlaceIndex, extent_m: float, recipe: Recipe, open_pictures: Opener
) -> PlaceStore:
    """The places of `index` with the pictures that `open_pictures` gives."""
    tiles, *photos = open_pictures(place_picture_sets(uri, index, extent_m, recipe))
    return PlaceStore(index, tiles, dict(zip(index.photos, photos, strict=True)), uri)


def place_picture_sets(uri: str, index: PlaceIndex, extent_m: float, recipe: Recipe) -> list[PictureSet]:
    """The pictures that training by these places needs: tiles, then the photos of each view."""
    model = recipe.model
    side_px = max(model.tile_px, round(extent_m / model.metres_per_pixel))
    tiles = TileMaker(extent_m, side_px, side_px)
    sets = [PictureSet("tiles", storage.join(uri, "tiles"), index.tiles.rows, (side_px, side_px), tiles)]
    for view, of_view in index.photos.items():
        maker = DroneMaker(model) if view == "drone" else PhotoMaker(model, turned=False)
        sets.append(
            PictureSet(view, storage.join(uri, "queries"), of_view.rows, input_size(model, view), maker)
        )
    return sets


def place_names(index: PlaceIndex, rows: IntArray) -> list[str]:
    """The names of the places at rows int64[n]."""
    return [f"place {index.place_id[int(row)].as_py()}" for row in rows]
