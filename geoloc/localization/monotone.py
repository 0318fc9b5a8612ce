"""A monotone additive logistic model: the log odds are a sum of rising piecewise linear functions, one a feature.

A generalised additive model (Hastie and Tibshirani 1990) whose basis functions are ramps between quantiles and whose
coefficients are not negative, so that more of a feature never lowers the odds. Plain numbers: it is stored as JSON.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from geoloc.core.arrays import BoolArray, FloatArray

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class MonotoneModel(BaseModel):
    """log odds = intercept + sum over features f of interp(x_f; knots[f], heights[f]), heights never falling.

    Outside of its knots a feature counts as at the nearest one; NaN counts as the lowest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    knots: tuple[tuple[float, ...], ...]
    heights: tuple[tuple[float, ...], ...]
    intercept: float

    @model_validator(mode="after")
    def _rising(self) -> MonotoneModel:
        for knots, heights in zip(self.knots, self.heights, strict=True):
            if len(knots) != len(heights) or not knots:
                raise ValueError("a feature needs as many heights as knots")
            if any(b <= a for a, b in pairwise(knots)) or any(b < a for a, b in pairwise(heights)):
                raise ValueError("knots must rise and heights must not fall")
        return self

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Log odds float64[Q] for features float64[Q, F]."""
        total = np.full(len(features), self.intercept)
        for column, knots, heights in zip(features.T, self.knots, self.heights, strict=True):
            total += np.interp(np.where(np.isnan(column), -np.inf, column), knots, heights)
        return total

    def probability(self, features: FloatArray) -> FloatArray:
        """Probabilities float64[Q] for features float64[Q, F]."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.log_odds(features))))


def fit_monotone(
    features: FloatArray, success: BoolArray, weights: FloatArray | None = None, *, ridge: float = 1.0
) -> MonotoneModel:
    """Fit features float64[N, F] to success bool[N], each row counted `weights` float64[N] times (None: once).

    `ridge` is the penalty on squared coefficients, in units of one row: it keeps the odds finite where success and
    failure are apart. Fitted by L-BFGS-B under the bounds that coefficients are not negative.
    """
    from scipy.optimize import minimize

    knots = [_knots(column) for column in features.T]
    basis = np.concatenate(
        [_ramps(column, own) for column, own in zip(features.T, knots, strict=True)], axis=1
    )
    row = np.ones(len(success)) if weights is None else np.asarray(weights, dtype=np.float64)
    sign = np.where(success, 1.0, -1.0)
    rate = float(np.clip((row * success).sum() / row.sum(), 1e-3, 1 - 1e-3))

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        odds = parameters[0] + basis @ parameters[1:]
        value = float((row * np.logaddexp(0.0, -sign * odds)).sum() + ridge * (parameters[1:] ** 2).sum() / 2)
        slope = -row * sign / (1.0 + np.exp(np.clip(sign * odds, -700, 700)))
        gradient = np.concatenate([[slope.sum()], basis.T @ slope + ridge * parameters[1:]])
        return value, gradient

    start = np.concatenate([[np.log(rate / (1 - rate))], np.zeros(basis.shape[1])])
    bounds: list[Any] = [(None, None)] + [(0.0, None)] * basis.shape[1]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 150}).x
    heights, first = [], 1
    for own in knots:
        steps = found[first : first + len(own) - 1]
        heights.append((0.0, *np.cumsum(steps).tolist()))
        first += len(own) - 1
    return MonotoneModel(
        knots=tuple(tuple(own.tolist()) for own in knots), heights=tuple(heights), intercept=float(found[0])
    )


def _knots(column: FloatArray) -> FloatArray:
    """Quantiles of a column without repeats; one knot for a column that is the same everywhere."""
    known = column[np.isfinite(column)]
    if not len(known):
        return np.zeros(1)
    return np.unique(np.quantile(known, _QUANTILES))


def _ramps(column: FloatArray, knots: FloatArray) -> FloatArray:
    """Basis [N, knots - 1]: 0 before an interval, 1 behind it, a line within."""
    value = np.where(np.isnan(column), -np.inf, column)[:, None]
    low, high = knots[None, :-1], knots[None, 1:]
    return np.asarray(np.clip((np.maximum(value, low) - low) / (high - low), 0.0, 1.0))
