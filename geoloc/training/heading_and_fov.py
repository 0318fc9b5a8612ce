"""Recall of photos with known or unknown heading and with a whole or a limited field of view.

Unknown headings and limited views follow the protocol of DSM (CVPR 2020). Every panorama is turned by a random
number of columns and keeps its first int(fov / 360 * W) columns. Tiles stay north up, and the seed is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, IntArray, Pixels
from geoloc.evaluation.ranking.ranks import score_ranks
from geoloc.geometry.azimuth import refine_peak, shown_columns, turned_similarity
from geoloc.geometry.panorama import columns_of_view
from geoloc.models.encoder import Encoder
from geoloc.training.pair_store import PairStore, encode_tiles

PROTOCOL_SEED = 2019
_CANDIDATES = 32  # headings per photo where rolling the embedding does not turn the photo
_ROWS = 32  # photos scored at once, to bound the memory


@dataclass(frozen=True)
class Condition:
    """The field of view of the photos in degrees, and whether their heading is known."""

    name: str
    fov_deg: float = 360.0
    heading_known: bool = False


CONDITIONS = (
    Condition("aligned", heading_known=True),
    Condition("360"),
    Condition("180", 180.0),
    Condition("90", 90.0),
    Condition("70", 70.0),
    Condition("180 known", 180.0, heading_known=True),
    Condition("90 known", 90.0, heading_known=True),
)
PROTOCOL = ("aligned", "360", "180", "90", "70")  # the report gives their mean


class ConditionResult(BaseModel):
    """Recall in percent at 1, 5 and 10, and the error of the estimated heading where the heading was unknown.

    The heading's figures count only photos whose own tile came first; None without such photos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: str
    photos: int
    tiles: int
    recall_1: float
    recall_5: float
    recall_10: float
    heading_error_deg: float | None = Field(description="median, degrees")
    within_10_deg: float | None = Field(description="percent of these photos")


@dataclass(frozen=True)
class ProtocolPhotos:
    """Photos of the protocol: canvases uint8[N, H, W, 3], and bool[N, W] which of their columns show the photo.

    heading_deg: float64[N], the heading of the canvas' middle in degrees clockwise from north. A known heading is
    0, because the canvas is turned to north.
    """

    canvases: Pixels
    shown_px: BoolArray
    heading_deg: FloatArray


def protocol_photos(
    panoramas: Pixels, fov_deg: float, *, heading_known: bool, rng: np.random.Generator
) -> ProtocolPhotos:
    """Panoramas uint8[N, H, W, 3] with north in the middle, turned and cut by the protocol.

    The kept columns lie in the middle of a black canvas, as `prepare_panorama` places a photo. With a known
    heading the canvas is then turned so that north is in its middle.
    """
    count, _, width, _ = panoramas.shape
    turns: IntArray = rng.integers(0, width, size=(count,))
    kept = columns_of_view(fov_deg, width)
    left = (width - kept) // 2
    heading = (turns - left) % width
    canvases = np.zeros_like(panoramas)
    shown = np.zeros((count, width), dtype=bool)
    shown[:, left : left + kept] = True
    for row in range(count):
        turn = int(turns[row])
        canvases[row, :, left : left + kept] = np.roll(panoramas[row], -turn, axis=1)[:, :kept]
        if heading_known:
            back = (turn - left) % width
            canvases[row], shown[row] = np.roll(canvases[row], back, axis=1), np.roll(shown[row], back)
    return ProtocolPhotos(canvases, shown, np.zeros(count) if heading_known else heading * (360.0 / width))


def measure_conditions(
    encoder: Encoder,
    store: PairStore,
    conditions: Sequence[Condition] = CONDITIONS,
    *,
    seed: int = PROTOCOL_SEED,
) -> Iterator[ConditionResult]:
    """Recall of a store's photos among its tiles by float embeddings, one condition after the other.

    A tile that is exactly as similar as the right one counts as half before it. Where the embedding has azimuth
    columns, only the columns that a photo shows are compared.
    """
    tiles = encode_tiles(encoder, store).embedding
    for condition in conditions:
        shown = protocol_photos(
            store.panoramas,
            condition.fov_deg,
            heading_known=condition.heading_known,
            rng=np.random.default_rng(seed),
        )
        ranks, estimated = _search(encoder, shown, condition, tiles, store.tile_of)
        yield _result(condition, ranks, estimated, shown.heading_deg, len(tiles))


def _search(
    encoder: Encoder, photos: ProtocolPhotos, condition: Condition, tiles: Float32Array, own: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Rank of the own tile from 1, and the heading estimated against it in degrees; float64[N] each."""
    count = len(photos.canvases)
    ranks, headings = np.empty(count), np.zeros(count)
    for start in range(0, count, _ROWS):
        rows = slice(start, min(start + _ROWS, count))
        scores = _score_headings(
            encoder, photos.canvases[rows], photos.shown_px[rows], tiles, known=condition.heading_known
        )
        ranks[rows] = score_ranks(scores.max(-1), own[rows]).expected_rank()
        of_own = scores[np.arange(len(scores)), own[rows]]
        headings[rows] = refine_peak(of_own)[1] * (360.0 / scores.shape[-1])
    return ranks, headings


def _score_headings(
    encoder: Encoder, canvases: Pixels, shown: BoolArray, tiles: Float32Array, *, known: bool
) -> Float32Array:
    """Cosines float32[Q, T, R] at R headings, one where it is known; by correlation where the model allows."""
    recipe = encoder.recipe.model
    if not recipe.turns_by_rolling:
        candidates = encoder.encode_headings(canvases, "panorama", 1 if known else _CANDIDATES).embedding
        return np.asarray(np.einsum("qrd,td->qtr", candidates, tiles, optimize=True))
    photos = encoder.encode(canvases, "panorama").embedding
    columns = None if shown.all() else shown_columns(torch.from_numpy(shown), recipe.columns)
    scores = turned_similarity(
        torch.from_numpy(photos), torch.from_numpy(tiles), recipe.columns, columns
    ).numpy()
    return scores[..., :1] if known else scores


def _result(
    condition: Condition,
    ranks: FloatArray,
    estimated: FloatArray,
    heading: FloatArray,
    tiles: int,
) -> ConditionResult:
    first = ranks < 2  # tied with one other tile it is still the first: rank 1.5
    error = np.abs((estimated - heading + 180) % 360 - 180)[first]
    known = condition.heading_known or not first.any()
    return ConditionResult(
        condition=condition.name,
        photos=len(ranks),
        tiles=tiles,
        recall_1=_percent(ranks < 2),
        recall_5=_percent(ranks < 6),
        recall_10=_percent(ranks < 11),
        heading_error_deg=None if known else round(float(np.median(error)), 2),
        within_10_deg=None if known else _percent(error <= 10),
    )


def _percent(hits: BoolArray) -> float:
    return round(float(hits.mean() * 100), 2)
