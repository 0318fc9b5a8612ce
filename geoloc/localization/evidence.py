"""What speaks for a place of a photo: features that grow with the evidence, each of them by construction.

No feature depends on how many tiles the index has, apart from the similarity itself: they compare the place with the
tiles outside of it, with a sample of the gallery, and with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.localization.cluster import ClusterSettings
from geoloc.localization.hypotheses import Places

NAMES = (
    "similarity",  # of the best tile of the place
    "gallery",  # the same in standard deviations of the photo's similarity to random tiles of the gallery
    "margin",  # to the best tile outside of the place
    "contrast",  # the margin in units of how the tiles outside spread
    "mass",  # log odds of the place among all compared tiles, by their softmax weights
    "support",  # share of the place among the ten best tiles
    "code_margin",  # share of the bits by which the place's nearest code is nearer than those outside
    "tightness",  # minus the spread of the place's tiles about its middle, as a share of its reach
    "heading",  # how well the headings of the place's tiles agree, 1 where the heading is known
)
_BEST = 10
_SMALLEST_SPREAD = 1e-3
_METRES_PER_DEGREE = geodesy.EQUATOR_M / 360.0


@dataclass(frozen=True)
class Compared:
    """The compared tiles of Q queries, best first.

    similarity, lat, lon, heading_deg: float64[Q, K], NaN for padding. distance: float64[Q, K], the share of bits in
    which the codes differ. sample: float64[Q, S], similarities to random tiles of the gallery.
    """

    similarity: FloatArray
    lat: FloatArray
    lon: FloatArray
    heading_deg: FloatArray
    distance: FloatArray
    sample: FloatArray


@dataclass(frozen=True)
class PlaceEvidence:
    """What speaks for each of the H places of Q queries.

    features: float64[Q, H, F], see `NAMES`. spacing_m: float64[Q, H], from the best tile of a place to the nearest
    other one. other: float64[Q, H, 2], a place beside the first: the logarithm of the ratio of their shares, and the
    difference of the similarities of their best tiles. NaN where there is no place.
    """

    features: FloatArray
    spacing_m: FloatArray
    other: FloatArray


def evidence_of(compared: Compared, places: Places, settings: ClusterSettings) -> PlaceEvidence:
    """The evidence for every place of every query."""
    every = range(places.width)
    features = np.stack(
        [evidence(compared, places.member[:, one], settings.temperature, settings.place_m) for one in every],
        axis=1,
    )
    spacing = np.stack(
        [_spacing_m(compared, places.member[:, one], settings.place_m) for one in every], axis=1
    )
    ratio = np.log((places.share + 1e-9) / (places.share[:, :1] + 1e-9))
    other = np.stack([ratio, features[:, :, 0] - features[:, :1, 0]], axis=2)
    return PlaceEvidence(features, spacing, np.where(np.isfinite(features[:, :, :1]), other, np.nan))


def _spacing_m(compared: Compared, member: BoolArray, place_m: float) -> FloatArray:
    """Metres from the best tile of a place to the nearest other one; `place_m` where it has a single tile."""
    east, north = _plane(compared, member)
    first = member.argmax(axis=1)[:, None]
    off = np.hypot(
        east - np.take_along_axis(east, first, axis=1), north - np.take_along_axis(north, first, axis=1)
    )
    other = member & (np.arange(member.shape[1]) != first)
    return np.asarray(np.where(other, off, place_m).min(axis=1, initial=place_m))


def evidence(compared: Compared, member: BoolArray, temperature: float, place_m: float) -> FloatArray:
    """Features float64[Q, F] of a place of each query, whose tiles are `member` bool[Q, K]; see `NAMES`.

    Rows without a place have NaN. `temperature` is that of the softmax over similarities.
    """
    there = np.isfinite(compared.similarity)
    inside, outside = member & there, ~member & there
    value = np.where(there, compared.similarity, -np.inf)
    best = np.where(inside, value, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(there, value, np.inf).min(axis=1, initial=np.inf)
    # Where no tile outside was compared, the best of them is at most as similar as the last one that was.
    rival = np.where(outside, value, -np.inf).max(axis=1, initial=-np.inf)
    rival = np.where(np.isfinite(rival), rival, lowest)
    margin = best - rival
    weights = np.where(
        there, np.exp((value - np.where(np.isfinite(best), best, 0.0)[:, None]) / temperature), 0.0
    )
    mine, other = (weights * inside).sum(axis=1), (weights * outside).sum(axis=1)
    columns = [
        best,
        (best - compared.sample.mean(axis=1)) / (compared.sample.std(axis=1) + _SMALLEST_SPREAD),
        margin,
        margin / (_spread(value, outside) + _SMALLEST_SPREAD),
        np.log((mine + 1e-6) / (other + 1e-6)),
        (inside[:, :_BEST]).sum(axis=1) / np.maximum(there[:, :_BEST].sum(axis=1), 1),
        _code_margin(compared.distance, inside, outside),
        -_place_spread(compared, inside, weights) / place_m,
        _heading_agreement(compared.heading_deg, inside, weights),
    ]
    found = np.stack(columns, axis=1)
    return np.where((inside.any(axis=1) & np.isfinite(best))[:, None], found, np.nan)


def _spread(value: FloatArray, outside: BoolArray) -> FloatArray:
    """How far the tiles outside lie apart in similarity: the mean distance of the others from their best."""
    count = outside.sum(axis=1)
    top = np.where(outside, value, -np.inf).max(axis=1, initial=-np.inf)
    gap = np.where(outside, top[:, None] - np.where(outside, value, 0.0), 0.0)
    return np.asarray(gap.sum(axis=1) / np.maximum(count - 1, 1))


def _code_margin(distance: FloatArray, inside: BoolArray, outside: BoolArray) -> FloatArray:
    mine = np.where(inside, distance, np.inf).min(axis=1, initial=np.inf)
    other = np.where(outside, distance, -np.inf)
    farthest = np.where(inside | outside, distance, -np.inf).max(axis=1, initial=-np.inf)
    near = np.where(outside, distance, np.inf).min(axis=1, initial=np.inf)
    near = np.where(np.isfinite(other).any(axis=1), near, farthest)
    return np.asarray(np.where(np.isfinite(mine) & np.isfinite(near), near - mine, 0.0))


def _place_spread(compared: Compared, inside: BoolArray, weights: FloatArray) -> FloatArray:
    """Metres from the weighted middle of a place to its tiles, root mean square."""
    east, north = _plane(compared, inside)
    share = weights * inside
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
    middle_east, middle_north = (share * east).sum(axis=1), (share * north).sum(axis=1)
    squares = (east - middle_east[:, None]) ** 2 + (north - middle_north[:, None]) ** 2
    return np.asarray(np.sqrt((share * squares).sum(axis=1)))


def _plane(compared: Compared, inside: BoolArray) -> tuple[FloatArray, FloatArray]:
    """East and north in metres of a place's tiles from its first one, float64[Q, K]; 0 for other tiles.

    Convention: a plane about the first tile, true within half a percent.
    """
    first = inside.argmax(axis=1)[:, None]
    known = inside & np.isfinite(compared.lat) & np.isfinite(compared.lon)
    lat, lon = np.where(known, compared.lat, 0.0), np.where(known, compared.lon, 0.0)
    at_lat, at_lon = np.take_along_axis(lat, first, axis=1), np.take_along_axis(lon, first, axis=1)
    north = (lat - at_lat) * _METRES_PER_DEGREE
    east = ((lon - at_lon + 180.0) % 360.0 - 180.0) * _METRES_PER_DEGREE * np.cos(np.radians(at_lat))
    return np.where(known, east, 0.0), np.where(known, north, 0.0)


def _heading_agreement(heading_deg: FloatArray, inside: BoolArray, weights: FloatArray) -> FloatArray:
    """Length of the mean direction of a place's tiles, 0 (they disagree) to 1."""
    known = inside & np.isfinite(heading_deg)
    angle = np.radians(np.where(known, heading_deg, 0.0))
    share = np.where(known, weights, 0.0)
    total = np.maximum(share.sum(axis=1), 1e-300)
    east, north = (share * np.sin(angle)).sum(axis=1) / total, (share * np.cos(angle)).sum(axis=1) / total
    return np.asarray(np.where(known.any(axis=1), np.hypot(east, north), 1.0))
