"""Fitting a kind of query: the odds of a right place, the threshold of "not here", the conformal radius.

Learns from photos of known position, from the same photos with their surroundings hidden from the search, and from
strangers: photos of other places and pictures of no place. Scores are cross-fitted in folds of photos, so that no
photo has a part in its score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.errors import GeolocError
from geoloc.localization.calibration import COVERAGE, KindCalibration, RadiusFactor
from geoloc.localization.cluster import ClusterSettings
from geoloc.localization.evidence import NAMES
from geoloc.localization.monotone import MonotoneModel, fit_monotone

MIN_PHOTOS = 60
FALSE_ACCEPTS = 0.03
_FOLDS = 5
_GROUP = 40  # photos from which a quantile of the radius is read
_MOST_GROUPS = 8
_SMALLEST_M = 0.1
_ERRORS_M = (1.0, 100.0)  # settings are not chosen by errors below and beyond


class NotEnoughQueries(GeolocError):
    """Too few photos of known position to calibrate with, or too few of them right."""


@dataclass(frozen=True)
class JudgedPlaces:
    """Places that are fitted, one row each: N first places.

    features: float64[N, F]. error_m: float64[N], from the truth to the place, infinite for photos of other places.
    spacing_m: float64[N]. photo: int64[N], rows of one photo share a fold. kind: object[N], "" for photos of the
    index's area, else the kind of stranger. Those of the further places, NaN without one: other_features
    float64[N, H, 2], other_error_m float64[N, H], other_evidence float64[N, H, F], other_spacing_m float64[N, H].
    """

    features: FloatArray
    error_m: FloatArray
    spacing_m: FloatArray
    photo: IntArray
    kind: np.ndarray[tuple[int], np.dtype[np.object_]]
    other_features: FloatArray
    other_error_m: FloatArray
    other_evidence: FloatArray
    other_spacing_m: FloatArray

    @property
    def here(self) -> BoolArray:
        """Which rows are photos of the index's area, with its tiles in the search: bool[N]."""
        return np.asarray(self.kind == "", dtype=np.bool_)

    def rows(self, chosen: BoolArray) -> JudgedPlaces:
        """The chosen rows bool[N]."""
        return JudgedPlaces(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    @classmethod
    def joined(cls, parts: Iterable[JudgedPlaces]) -> JudgedPlaces:
        """The rows of several parts, one below the other."""
        parts = list(parts)
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in cls.__dataclass_fields__
            }
        )


def fit_kind(
    places: JudgedPlaces, settings: ClusterSettings, *, false_accepts: float = FALSE_ACCEPTS
) -> KindCalibration:
    """Fit one kind of query; `false_accepts` is the share of every kind of stranger that may be located.

    Raises `NotEnoughQueries` below 60 photos of the index's area, or where no threshold keeps the promise.
    """
    here = places.here
    count = int(here.sum())
    if count < MIN_PHOTOS:
        raise NotEnoughQueries(
            f"Calibration has {count} photos of known position in the index's area, it needs {MIN_PHOTOS}; give more."
        )
    right = here & (places.error_m <= settings.place_m)
    if right.sum() < MIN_PHOTOS // 2 or right.all():
        raise NotEnoughQueries(
            f"Of {count} photos of known position {int(right.sum())} are right, and {int((~right).sum())} places are "
            f"wrong; a fit needs {MIN_PHOTOS // 2} right ones and some that are wrong."
        )
    odds = _fit_odds(places.features, right)
    scores = _cross_fitted(places, right)
    threshold = _threshold(places, scores, settings.place_m, false_accepts)
    located = here & (scores >= threshold)
    knots, radius = _radius_curve(scores[located & right], places.error_m[located & right])
    shape = np.exp(np.interp(scores, knots, np.log(radius)))
    error_m = np.maximum(places.error_m, _SMALLEST_M)
    factors = _factors(error_m[located] / shape[located], right[located], places.spacing_m[located])
    draft = KindCalibration(
        features=NAMES,
        odds=odds,
        threshold=threshold,
        radius_log_odds=tuple(knots.tolist()),
        radius_m=tuple(radius.tolist()),
        factors=factors,
        confidence=MonotoneModel(knots=((0.0,),), heights=((0.0,),), intercept=0.0),
        alternative=MonotoneModel(knots=((0.0,), (0.0,)), heights=((0.0,), (0.0,)), intercept=0.0),
        sigma_m=settings.sigma_m,
        temperature=settings.temperature,
        place_m=settings.place_m,
        fine_m=settings.fine_m,
        fine_temperature=settings.fine_temperature,
        photos=count,
        strangers={str(name): int((places.kind == name).sum()) for name in np.unique(places.kind[~here])},
    )
    inside = places.error_m <= shape * draft.factor_of(places.spacing_m)
    return draft.model_copy(
        update={
            "confidence": fit_monotone(scores[here][:, None], inside[here]),
            "alternative": _fit_alternative(draft, places.rows(here)),
        }
    )


def _fit_odds(features: FloatArray, right: BoolArray) -> MonotoneModel:
    """Right places weigh as much as all others together."""
    share = max(right.mean(), 1e-3)
    weights = np.where(right, 0.5 / share, 0.5 / max(1 - share, 1e-3))
    return fit_monotone(features, right, weights)


def _cross_fitted(places: JudgedPlaces, right: BoolArray) -> FloatArray:
    _, photo = np.unique(places.photo, return_inverse=True)
    fold = np.random.default_rng(0).permutation(photo.max() + 1)[photo] % _FOLDS
    scores = np.empty(len(right))
    for number in range(_FOLDS):
        held = fold == number
        scores[held] = _fit_odds(places.features[~held], right[~held]).log_odds(places.features[held])
    return scores


def _threshold(places: JudgedPlaces, scores: FloatArray, place_m: float, false_accepts: float) -> float:
    """The lowest log odds that keep both promises: few strangers, and a radius for the others.

    Of n strangers of a kind at most floor(false_accepts (n + 1)) - 1 lie above it, so that the next one does with at
    most that probability. Of the photos above it, so many are right that the conformal quantile is the error of a
    right one.
    """
    limits = [np.nextafter(_stranger_limit(scores[places.kind == name], false_accepts), np.inf)
              for name in np.unique(places.kind) if name != ""]  # fmt: skip
    here = places.here
    order = np.argsort(-scores[here], kind="stable")
    right = (places.error_m[here] <= place_m)[order]
    accepted = np.arange(1, len(order) + 1)
    kept = np.ceil(COVERAGE * (accepted + 1)) <= np.cumsum(right)
    kept &= accepted >= _GROUP // 2
    if not kept.any():
        raise NotEnoughQueries(
            f"No part of the {len(order)} photos has {COVERAGE:.0%} right places, so nothing can be promised; this "
            "kind of query stays uncalibrated."
        )
    lowest = float(scores[here][order][np.flatnonzero(kept)[-1]])
    threshold = max([lowest, *limits])
    if (scores[here] >= threshold).sum() < _GROUP // 2:
        raise NotEnoughQueries(
            f"Photos of other places look as good as those of the index's area: fewer than {_GROUP // 2} would be "
            "located; this kind of query stays uncalibrated."
        )
    return float(threshold)


def _stranger_limit(scores: FloatArray, false_accepts: float) -> float:
    allowed = max(0, int(np.floor(false_accepts * (len(scores) + 1))) - 1)
    return float(np.sort(scores)[::-1][min(allowed, len(scores) - 1)])


def _radius_curve(scores: FloatArray, error_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(log odds, radius): the 90 % quantile of groups of neighbouring scores, made to fall."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // _GROUP, 1, _MOST_GROUPS)))
    middle = np.array([scores[group].mean() for group in groups])
    radius = np.array([max(_SMALLEST_M, float(np.quantile(error_m[group], COVERAGE))) for group in groups])
    falling = IsotonicRegression(increasing=False).fit_transform(middle, np.log(radius))
    return middle, np.exp(np.asarray(falling, dtype=np.float64))


def _factors(ratio: FloatArray, right: BoolArray, spacing_m: FloatArray) -> tuple[RadiusFactor, ...]:
    """The conformal quantile of error / radius in groups of like spacing.

    All photos are one group where a group would have too few of them, or too few right ones for its quantile.
    """
    order = np.argsort(spacing_m, kind="stable")
    cuts: list[int] = (np.flatnonzero(np.diff(spacing_m[order]) > 0) + 1).tolist()
    wanted = [round(len(order) * share) for share in (1 / 3, 2 / 3)]
    edges = sorted({min(cuts, key=lambda cut: abs(cut - want)) for want in wanted}) if cuts else []
    groups = [group for group in np.split(order, edges) if len(group)]
    if any(len(group) < 2 * _GROUP or right[group].sum() < _rank(len(group)) for group in groups):
        groups = [order]
    return tuple(
        RadiusFactor(
            spacing_m=float(np.exp(np.log(np.maximum(spacing_m[group], 1e-3)).mean())),
            factor=conformal_quantile(ratio[group]),
            photos=len(group),
        )
        for group in groups
    )


def conformal_quantile(values: FloatArray, coverage: float = COVERAGE) -> float:
    """The value that holds a new draw with probability `coverage`: order statistic ceil(coverage (n + 1)).

    Values float64[n]; the largest one where there are too few of them.
    """
    return float(np.sort(values)[min(_rank(len(values), coverage), len(values)) - 1])


def _rank(count: int, coverage: float = COVERAGE) -> int:
    return int(np.ceil(coverage * (count + 1) - 1e-9))


def _fit_alternative(fit: KindCalibration, places: JudgedPlaces) -> MonotoneModel:
    """The odds that the truth lies within the radius of a further place."""
    there = np.isfinite(places.other_features).all(axis=2)
    radius = fit.judge(places.other_evidence[there], places.other_spacing_m[there]).radius_m
    inside = places.other_error_m[there] <= radius
    if not there.any():
        return MonotoneModel(knots=((0.0,), (0.0,)), heights=((0.0,), (0.0,)), intercept=-5.0)
    return fit_monotone(places.other_features[there], inside)


def choose_settings(
    candidates: Iterable[ClusterSettings], errors_of: Iterable[FloatArray], tolerance: float = 0.01
) -> ClusterSettings:
    """The cluster settings with the lowest mean error; `errors_of` has the errors float64[Q] in metres of each.

    The mean is geometric, of errors between 1 and 100 m: it counts both how many photos are right and how near the
    right ones are. How far a wrong place is away says nothing. Settings within `tolerance` (a share) of the lowest
    count as equal: then the earlier candidate is kept.
    """
    pairs = [
        (setting, float(np.exp(np.log(np.clip(errors, *_ERRORS_M)).mean())))
        for setting, errors in zip(candidates, errors_of, strict=True)
    ]
    lowest = min(mean_m for _, mean_m in pairs)
    return next(setting for setting, mean_m in pairs if mean_m <= lowest * (1.0 + tolerance))
