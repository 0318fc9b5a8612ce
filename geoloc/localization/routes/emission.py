"""What a photo says of every place: its similarities become likelihoods, calibrated on photos of known place.

The probability of a place given one photo is a softmax of its similarities over a temperature, mixed with a share of
photos that say nothing:

    p(place | photo) = (1 - outlier) softmax(similarity / temperature) + outlier / P

Its ratio to 1 / P is the likelihood of the photo at the place, against a place drawn at random. Both constants are
fitted by maximum likelihood, as in the scaling of temperatures (Guo et al., ICML 2017). A similarity is anything that
grows with likeness: a cosine, minus Hamming bits, or that of a Euclidean distance (`similarity_of_distance`).
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from sklearn.linear_model import LogisticRegression

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.localization.routes.kernels import Evidence, softmax_total

_LEAST_PHOTOS = 20
_MOST_LOG = 600.0  # of a likelihood, so that it stays a number
_LEAST_DISTANCE = 1e-6  # of embeddings: what is nearer is the same


def similarity_of_distance(distance: FloatArray) -> FloatArray:
    """Similarities float64[...] from Euclidean distances float64[...] of embeddings: -2 log(distance), elementwise.

    Photos err by different amounts, and nobody knows by how much one did. With a normal error of n dimensions and an
    unknown scale (Jeffreys' prior), the likelihood of a place falls as distance^-n. So the temperature is about 2 / n,
    alike for easy and for hard photos; that of a squared distance is right for photos of one scale alone.
    """
    return np.asarray(-2.0 * np.log(np.maximum(distance, _LEAST_DISTANCE)))


class EmissionModel(BaseModel):
    """The constants of the module's formula.

    weight: exponent of the likelihoods, below 1 where photos of a route err together. Log odds that a photo was taken
    on the map are outside_slope * best similarity + outside_intercept; with a slope of 0 the photo says nothing about
    that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    outlier: float = Field(default=0.05, ge=0, le=1)
    weight: float = Field(default=1.0, gt=0, le=1)
    outside_slope: float = Field(default=0.0, ge=0)
    outside_intercept: float = 0.0

    def evidence(
        self, similarity: FloatArray, places: IntArray | None = None, *, count: int | None = None
    ) -> Evidence:
        """The evidence of a photo from similarities float64[K] of places int64[K] (None: of all places in order).

        `count` is the number of places of the map, K where left out. Without any similarity the photo says nothing.
        """
        count = len(similarity) if count is None else count
        if not len(similarity):
            return Evidence(np.zeros(0), np.zeros(0, np.int64), False, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0)
        similarity = np.ascontiguousarray(similarity, np.float64)
        all_places = places is None
        if places is None:
            places = np.zeros(0, np.int64)
        else:
            order = np.argsort(places, kind="stable")
            places, similarity = places[order].astype(np.int64, copy=False), similarity[order]
        top, rate = float(similarity.max()), 1.0 / self.temperature
        gain = (1.0 - self.outlier) * count / softmax_total(similarity, top, rate)
        outside = 1.0
        if self.outside_slope > 0:
            odds = self.outside_slope * top + self.outside_intercept
            outside = float(np.exp(np.clip(-self.weight * odds, -_MOST_LOG, _MOST_LOG)))
        others = self.outlier**self.weight
        return Evidence(
            similarity, places, all_places, top, rate, gain, self.outlier, self.weight, others, outside
        )


def fit_emission(
    similarity: FloatArray,
    truth: IntArray,
    *,
    count: int | None = None,
    without_truth: FloatArray | None = None,
) -> EmissionModel:
    """Fit to similarities float64[Q, P] of photos whose columns are known: int64[Q], -1 where none is right.

    `count` is the number of places of the map, P where left out: the columns may be the best matches alone.

    `without_truth` float64[Q'] are best similarities of photos that were not taken on the map, or with the places
    around them hidden: they fit the odds of being on the map. Raises `InputError` for fewer than 20 photos.
    """
    count = similarity.shape[1] if count is None else count
    if len(similarity) < _LEAST_PHOTOS:
        raise InputError(
            f"{len(similarity)} photos of known place fit no emission model; give {_LEAST_PHOTOS} or more."
        )
    own = similarity[np.arange(len(truth)), truth]
    compared = np.where(similarity > -1e8, similarity, np.nan)  # less is padding
    scale = max(float(np.nanmedian(np.nanstd(compared, axis=1))), 1e-9)

    def loss(parameters: FloatArray) -> float:
        temperature, outlier = scale * np.exp(parameters[0]), expit(parameters[1])
        share = np.where(
            truth >= 0, np.exp(own / temperature - logsumexp(similarity / temperature, axis=1)), 0.0
        )
        return -float(np.log((1.0 - outlier) * share + outlier / count + 1e-300).mean())

    starts = [np.array([t, o]) for t in (-2.0, -1.0, 0.0) for o in (-3.0, -1.0)]
    best = min((minimize(loss, start, method="Nelder-Mead") for start in starts), key=lambda found: found.fun)
    slope, intercept = 0.0, 0.0
    if without_truth is not None and len(without_truth) >= _LEAST_PHOTOS:
        slope, intercept = _fit_outside(similarity.max(axis=1), without_truth)
    return EmissionModel(
        temperature=scale * float(np.exp(best.x[0])),
        outlier=float(np.clip(expit(best.x[1]), 1e-6, 1.0)),
        outside_slope=slope,
        outside_intercept=intercept,
    )


def _fit_outside(inside: FloatArray, outside: FloatArray) -> tuple[float, float]:
    """Log odds of a photo on the map over its best similarity, both kinds weighing the same: slope and intercept."""
    best = np.concatenate([inside, outside])
    middle, spread = best.mean(), max(float(best.std()), 1e-9)
    label = np.repeat([1, 0], [len(inside), len(outside)])
    model = LogisticRegression(class_weight="balanced").fit(((best - middle) / spread)[:, None], label)
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        return 0.0, 0.0
    return slope, float(model.intercept_[0]) - slope * middle
