"""What the aerial branch of a model sees of a tile, from which places, and how photos score against heading.

Convention: places are those of `geometry.warp`, (x, y) in -1..1 from the outer left (top) edge of the aerial input to
its right (bottom) edge, north up. Headings are degrees clockwise from north.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geoloc.core.arrays import BoolArray, FloatArray, IntArray, Pixels
from geoloc.geometry.aerial import look_down
from geoloc.geometry.azimuth import refine_peak, turned_similarity
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.preprocessing import to_unit
from geoloc.training.heading_and_fov import PROTOCOL_SEED, ProtocolPhotos, protocol_photos
from geoloc.training.pair_store import PairStore, encode_tiles

OTHER_TILES = 100  # that photos are scored against, beside their own
_CANDIDATES = 32  # headings tried where a model does not turn with its picture


@dataclass(frozen=True)
class AerialView:
    """What a model's aerial branch sees of some tiles.

    pictures: uint8[N, h, w, 3]; places: float64[N, h, w, 2], where on the tile each pixel is taken from;
    controls: float64[N, K, 2], where a spline's control points lie, K = 0 without any.
    """

    pictures: Pixels
    places: FloatArray
    controls: FloatArray


@dataclass(frozen=True)
class HeadingScores:
    """Scores of photos of unknown north against heading.

    shown: the photos, and where their middle really looks. own: float64[N, R] cosine with the own tile where the
    photo's middle is taken to look along r * 360 / R degrees; other: the same for the best other tile.
    heading_deg: float64[N], the best heading against the own tile.
    """

    shown: ProtocolPhotos
    own: FloatArray
    other: FloatArray
    heading_deg: FloatArray

    @property
    def own_first(self) -> BoolArray:
        """Whether the own tile has the highest score, bool[N]."""
        return np.asarray(self.own.max(1) > self.other.max(1))


@torch.inference_mode()
def aerial_view(model: GeoLocalizer, tiles: Pixels) -> AerialView:
    """What `model` (in evaluation mode) sees of tiles uint8[N, S, S, 3] at its metres per pixel, unmoved."""
    images = to_unit(torch.from_numpy(np.ascontiguousarray(tiles)))
    seen = model.convert_view(images)
    side = model.recipe.tile_px
    square = images if images.shape[-1] == side else look_down(images, side_px=side)
    places, controls = model.transformer.grid(square), model.transformer.control_places(square)
    pictures = (seen.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return AerialView(pictures, places.double().numpy(), controls.double().numpy())


def score_headings(encoder: Encoder, store: PairStore, rows: IntArray) -> HeadingScores:
    """Photos of a store turned at random, scored at every heading against their own and `OTHER_TILES` of its tiles.

    `rows` int64[N]. For models whose embedding keeps azimuth columns; at 32 headings where it does not turn by rolling.
    """
    recipe = encoder.recipe.model
    shown = protocol_photos(
        store.panoramas[rows], 360.0, heading_known=False, rng=np.random.default_rng(PROTOCOL_SEED)
    )
    evenly = np.linspace(0, len(store.tiles) - 1, min(OTHER_TILES, len(store.tiles))).astype(np.int64)
    gallery = np.union1d(evenly, store.tile_of[rows])
    tiles = encode_tiles(encoder, store, gallery).embedding
    if recipe.turns_by_rolling:
        photos = encoder.encode(shown.canvases, "panorama").embedding
        scores = turned_similarity(torch.from_numpy(photos), torch.from_numpy(tiles), recipe.columns).numpy()
    else:
        photos = encoder.encode_headings(shown.canvases, "panorama", _CANDIDATES).embedding
        scores = np.einsum("qrd,td->qtr", photos, tiles, optimize=True)
    right = np.searchsorted(gallery, store.tile_of[rows])
    own = scores[np.arange(len(rows)), right].astype(np.float64)
    peaks = scores.max(-1)
    peaks[np.arange(len(rows)), right] = -np.inf
    other = scores[np.arange(len(rows)), peaks.argmax(1)].astype(np.float64)
    heading = refine_peak(own)[1] * (360.0 / scores.shape[-1])
    return HeadingScores(shown, own, other, heading)
