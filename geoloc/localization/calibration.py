"""From raw results to honest numbers: a radius that holds 90 % of the truths and the probability that it does.

Fitted on held-out queries of known position, one fit for each kind of query (view, heading known or not): a
logistic regression turns the features of a result into a score, the 90 % radius is an isotonic function of the
score, and so is the share of truths inside. Stored as JSON beside the snapshot that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoloc.core import storage
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import ArtifactError, CorruptArtifact, GeolocError
from geoloc.localization.cluster import FEATURES, ClusterSettings

FORMAT_VERSION = 1
COVERAGE = 0.9
SMALLEST_RADIUS_M = 2.0
MIN_QUERIES = 60
_GROUP = 20
_MAX_GROUPS = 12
_FOLDS = 5


class NotEnoughQueries(GeolocError):
    """Too few held-out queries to calibrate with."""


def query_kind(view: str, heading_known: bool) -> str:
    """Name of a kind of query, from its view and whether its heading is known."""
    return f"{view}/heading_{'known' if heading_known else 'unknown'}"


class KindCalibration(BaseModel):
    """The fit for one kind of query.

    A result's features, standardised by `mean` and `scale`, give score = coefficients . features + intercept.
    `radius_m` falls and `confidence` grows along `score_knots`; between knots both are interpolated. Radii stop
    at `radius_limit_m`: beyond, only the confidence tells how poor a result is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    score_knots: tuple[float, ...]
    radius_m: tuple[float, ...]
    confidence: tuple[float, ...]
    radius_limit_m: float
    sigma_m: float
    temperature: float
    queries: int = Field(description="Held-out queries of the fit.")

    def settings(self) -> ClusterSettings:
        """The cluster settings of the fit, with which alone it holds."""
        return ClusterSettings(sigma_m=self.sigma_m, temperature=self.temperature)

    def apply(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(radius_m, confidence) float64[Q] for features float64[Q, F] of `cluster.FEATURES`."""
        score = _standardised(features, np.array(self.mean), np.array(self.scale)) @ np.array(
            self.coefficients
        )
        score = score + self.intercept
        return np.interp(score, self.score_knots, self.radius_m), np.interp(
            score, self.score_knots, self.confidence
        )


class Calibration(BaseModel):
    """All fits of one snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True)

    format_version: int = FORMAT_VERSION
    snapshot_id: str
    coverage: float = COVERAGE
    rerank: int = Field(description="Codes re-ranked by float embeddings when the fit was made.")
    carried_from: str | None = Field(
        None, description="The snapshot that it was fitted on, when tiles were added or removed since."
    )
    query_kinds: dict[str, KindCalibration] = Field(
        validation_alias="protocols", serialization_alias="protocols", description="By `query_kind`."
    )


def calibration_uri(index_uri: str, snapshot_id: str) -> str:
    """Where the calibration of a snapshot is stored."""
    return storage.join(index_uri, "calibration", f"{snapshot_id}.json")


def load_calibration(index_uri: str, snapshot_id: str) -> Calibration | None:
    """The calibration of a snapshot, None when it was never calibrated; `CorruptArtifact` when unreadable."""
    uri = calibration_uri(index_uri, snapshot_id)
    if not storage.exists(uri):
        return None
    try:
        calibration = Calibration.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise CorruptArtifact(
            f"{uri!r} is not a calibration of format {FORMAT_VERSION}; delete it and calibrate again."
        ) from error
    if calibration.snapshot_id != snapshot_id:
        raise ArtifactError(
            f"{uri!r} belongs to snapshot {calibration.snapshot_id}, not to {snapshot_id}; calibrate again."
        )
    return calibration


def save_calibration(index_uri: str, calibration: Calibration) -> str:
    """Store a calibration (replacing an earlier one of the same snapshot); returns its URI."""
    uri = calibration_uri(index_uri, calibration.snapshot_id)
    storage.write_bytes(uri, calibration.model_dump_json(indent=1, by_alias=True).encode())
    return uri


def fit_calibration(
    features: FloatArray, error_m: FloatArray, *, settings: ClusterSettings, radius_limit_m: float
) -> KindCalibration:
    """Fit one kind of query from features float64[Q, F] and true errors float64[Q] in metres.

    Scores are cross-fitted in five folds, so that no query has a part in its score.
    Each group of neighbouring scores gets the conformal 90 % quantile of its errors; isotonic regression makes
    the radius fall and the share inside grow with the score. Raises `NotEnoughQueries` below 60 queries.
    """
    if len(error_m) < MIN_QUERIES:
        raise NotEnoughQueries(
            f"Calibration has {len(error_m)} held-out queries with known positions, it needs {MIN_QUERIES}; "
            "evaluate with more queries or without calibration."
        )
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    inputs = _standardised(features, mean, scale)
    good = error_m <= radius_limit_m
    coefficients, intercept = _logistic(inputs, good)
    scores = _cross_fitted(inputs, good)
    knots, radius, confidence = _curves(scores, error_m, radius_limit_m)
    return KindCalibration(
        features=FEATURES,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        coefficients=tuple(coefficients.tolist()),
        intercept=intercept,
        score_knots=tuple(knots.tolist()),
        radius_m=tuple(radius.tolist()),
        confidence=tuple(confidence.tolist()),
        radius_limit_m=radius_limit_m,
        sigma_m=settings.sigma_m,
        temperature=settings.temperature,
        queries=len(error_m),
    )


def _standardised(features: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    return np.asarray(np.clip((features - mean) / scale, -6.0, 6.0))


def _logistic(inputs: FloatArray, good: BoolArray) -> tuple[FloatArray, float]:
    """Coefficients and intercept; all zero where every result is good or none is."""
    from sklearn.linear_model import LogisticRegression

    if good.all() or not good.any():
        return np.zeros(inputs.shape[1]), 0.0
    model = LogisticRegression(C=1.0, max_iter=500).fit(inputs, good)
    return np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])


def _cross_fitted(inputs: FloatArray, good: BoolArray) -> FloatArray:
    fold = np.random.default_rng(0).permutation(len(inputs)) % _FOLDS
    scores = np.empty(len(inputs))
    for number in range(_FOLDS):
        held = fold == number
        coefficients, intercept = _logistic(inputs[~held], good[~held])
        scores[held] = inputs[held] @ coefficients + intercept
    return scores


def _curves(
    scores: FloatArray, error_m: FloatArray, radius_limit_m: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // _GROUP, 1, _MAX_GROUPS)))
    middle = np.array([scores[group].mean() for group in groups])
    radius = np.array([_conformal(error_m[group]) for group in groups])
    radius = np.clip(radius, SMALLEST_RADIUS_M, radius_limit_m)
    falling = IsotonicRegression(increasing=False).fit_transform(middle, np.log(radius))
    radius = np.minimum(np.exp(np.asarray(falling, dtype=np.float64)), radius_limit_m)
    inside = (error_m <= np.interp(scores, middle, radius)).astype(np.float64)
    # Each group counts a success and a failure more: twenty queries support neither "never" nor "always".
    share = np.array([(inside[group].sum() + 1.0) / (len(group) + 2.0) for group in groups])
    confidence = IsotonicRegression(increasing=True, y_min=0.0, y_max=1.0).fit_transform(middle, share)
    return middle, radius, np.asarray(confidence, dtype=np.float64)


def _conformal(errors: FloatArray) -> float:
    """The 90 % quantile that holds for a new draw from the same errors: order statistic ceil(0.9 (n + 1))."""
    rank = int(np.ceil(COVERAGE * (len(errors) + 1)))
    return float(np.sort(errors)[min(rank, len(errors)) - 1])


def choose_settings(
    candidates: Iterable[ClusterSettings], errors_of: Iterable[FloatArray], tolerance: float = 0.01
) -> ClusterSettings:
    """The cluster settings with the lowest median error; `errors_of` has the errors float64[Q] that each gives.

    Settings within `tolerance` (a share) of the lowest count as equal: then the earlier candidate is kept.
    """
    pairs = [
        (setting, float(np.median(errors))) for setting, errors in zip(candidates, errors_of, strict=True)
    ]
    lowest = min(median for _, median in pairs)
    return next(setting for setting, median in pairs if median <= lowest * (1.0 + tolerance))
