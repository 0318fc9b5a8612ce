"""Pairs with their pictures: tiles and photos prepared once, each kept once however many pairs share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.core import storage
from geoloc.core.arrays import Float32Array, IntArray, Pixels
from geoloc.core.scratch import scratch_array
from geoloc.models.encoder import Encoded, Encoder
from geoloc.recipe.recipe import Recipe
from geoloc.training.cloud_store import load_clouds
from geoloc.training.pair_index import PairIndex, reach_m, tile_extent_m, usable_pairs
from geoloc.training.pictures import PhotoMaker, PictureSet, TileMaker, row_names

MEMORY_LIMIT_BYTES = 3 * 2**30  # decoded pictures in memory; above, they lie in a file on the local disk
_SMALLEST_SAVING = 0.1  # of a tile's area: less is not worth another resampling

Opener = Callable[[Sequence[PictureSet]], list[Pixels]]
"""Gives the pictures of each set as an array, filled."""


@dataclass(frozen=True)
class PairStore:
    """Pairs by number with their pictures.

    `tiles` uint8[T, s, s, 3] at the model's metres per pixel, `photos` uint8[Q, h, w, 3]: those that `index.tile` and
    `index.photo` number. `reach_m` is how far the model's field may move from a tile's centre before it leaves the
    picture. `uri` is the ingest output, for names in messages. `clouds` float32[T, pool, 4] are the tiles' points,
    where the model takes them.
    """

    tiles: Pixels
    photos: Pixels
    index: PairIndex
    reach_m: float
    uri: str = ""
    clouds: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def tile_of(self) -> IntArray:
        """Each pair's row in `tiles`, int64[N]."""
        return self.index.tile

    @property
    def panoramas(self) -> Pixels:
        """The photo of each pair, uint8[N, h, w, 3]; a copy where pairs share photos, for small stores."""
        photo = self.index.photo
        if len(photo) == len(self.photos) and np.array_equal(photo, np.arange(len(photo))):
            return self.photos
        return self.photos[photo]


def load_pairs(
    uri: str, index: PairIndex, recipe: Recipe, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
) -> PairStore:
    """The pairs of `index` with their pictures, prepared in this process; for measurements.

    Pairs whose camera has no crop of its tile within `offset_m` are left out. Memory: the pictures up to
    `memory_limit_bytes`, beyond that a file in the local temporary directory; plus one part of the tables. Raises
    `ModelMismatch` for tiles of several extents, and `InputError` for pictures that cannot be decoded.
    """
    extent_m = tile_extent_m(uri, index)
    return open_pairs(
        uri, usable_pairs(index, extent_m, recipe), extent_m, recipe, in_memory(memory_limit_bytes)
    )


def encode_tiles(encoder: Encoder, store: PairStore, rows: IntArray | None = None) -> Encoded:
    """A store's tiles through a trained model, north up, with their points where the model takes them.

    `rows` int64[n] chooses tiles; None takes all.
    """
    chosen = slice(None) if rows is None else rows
    extent_m = store.tiles.shape[1] * encoder.recipe.model.metres_per_pixel
    clouds = None
    if encoder.takes_clouds and store.clouds is not None:
        clouds = encoder.prepare_clouds(list(store.clouds[chosen]))
    prepared = encoder.prepare(list(store.tiles[chosen]), "aerial", extent_m=extent_m)
    return encoder.encode(prepared, "aerial", clouds)


def in_memory(limit_bytes: int) -> Opener:
    """Fills arrays in this process, in memory up to a limit and beyond it in a temporary file."""

    def fill(sets: Sequence[PictureSet]) -> list[Pixels]:
        arrays = [scratch_array(each.shape, np.uint8, limit_bytes // len(sets)) for each in sets]
        for each, array in zip(sets, arrays, strict=True):
            each.fill(array)
        return arrays

    return fill


def open_pairs(
    uri: str, index: PairIndex, extent_m: float, recipe: Recipe, open_pictures: Opener
) -> PairStore:
    """The usable pairs of `index` with the pictures that `open_pictures` gives."""
    tiles, photos = open_pictures(picture_sets(uri, index, extent_m, recipe))
    reach = reach_m(extent_m, recipe)
    clouds = None
    if recipe.model.cloud is not None:
        names = row_names(storage.join(uri, "tiles"), "tile_id", index.tile_rows)
        numbers = {name: number for number, name in enumerate(names)}
        clouds = load_clouds(uri, numbers, recipe, reach_m=reach, limit_bytes=MEMORY_LIMIT_BYTES // 2)
    return PairStore(tiles, photos, index, reach, uri, clouds)


def picture_sets(uri: str, index: PairIndex, extent_m: float, recipe: Recipe) -> list[PictureSet]:
    """The pictures that training by these pairs needs: tiles, cut to what a step can reach, and photos."""
    whole_px = max(recipe.model.tile_px, round(extent_m / recipe.model.metres_per_pixel))
    side_px = _kept_px(whole_px, index, recipe)
    tiles = TileMaker(extent_m, whole_px, side_px)
    return [
        PictureSet("tiles", storage.join(uri, "tiles"), index.tile_rows, (side_px, side_px), tiles),
        PictureSet(
            "photos",
            storage.join(uri, "queries"),
            index.photo_rows,
            recipe.model.panorama_px,
            PhotoMaker(recipe.model),
        ),
    ]


def _kept_px(whole_px: int, index: PairIndex, recipe: Recipe) -> int:
    """Pixels of a tile of `whole_px` that a step can look at, about its middle: all of them where that saves little."""
    if recipe.model.view.learned:
        return whole_px  # what it looks at is learned
    reached_px = 2 * math.ceil(reached_m(index, recipe) / recipe.model.metres_per_pixel)
    kept_px = min(whole_px, max(recipe.model.tile_px, reached_px))
    kept_px += (whole_px - kept_px) % 2  # the same centre
    return whole_px if (kept_px / whole_px) ** 2 > 1 - _SMALLEST_SAVING else kept_px


def reached_m(index: PairIndex, recipe: Recipe) -> float:
    """How far from the centre of its tile, in east or north, a step of training can look, in metres.

    The view's centre lies within `offset_m` of the camera, a drone look within `aerial_shift_m` of that centre. A
    turned square reaches as far as its diagonal; a drone look is scaled. Two pixels are for interpolation.
    """
    augmentation = recipe.training.augmentation
    centre_m = augmentation.offset_m
    if len(index):
        centre_m += float(max(np.abs(index.camera_east_m).max(), np.abs(index.camera_north_m).max()))
    view = recipe.model.view
    half_m = recipe.model.tile_m / 2 * (1.0 if view.starts_polar else math.sqrt(2))
    if recipe.loss.aerial_weight > 0:
        centre_m += augmentation.aerial_shift_m
        half_m *= max(1.0, augmentation.aerial_scale)
    return centre_m + half_m + 2 * recipe.model.metres_per_pixel
