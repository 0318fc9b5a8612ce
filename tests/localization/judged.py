"""Places of made-up photos, of which the surer ones are right more often: what a calibration is fitted to in tests."""

from __future__ import annotations

import numpy as np

from geoloc.localization.calibration_fit import JudgedPlaces
from geoloc.localization.evidence import NAMES

FIRST = np.eye(len(NAMES))[0]  # the feature that tells; the others are noise


def judged(
    count: int,
    seed: int,
    *,
    kind: str = "",
    sure: float = 1.0,
    spacing_m: tuple[float, ...] = (10.0,),
    right: float = 0.75,
) -> JudgedPlaces:
    """`count` rows: right ones are off by metres in proportion to their spacing, wrong ones by kilometres."""
    rng = np.random.default_rng(seed)
    is_right = (rng.uniform(size=count) < right) & (kind == "")
    spacing = rng.choice(spacing_m, count)
    evidence = rng.normal(np.where(is_right, 3.0 * sure, 0.0), 1.0)
    features = rng.normal(0, 0.1, (count, len(NAMES))) + evidence[:, None] * FIRST
    error = np.where(is_right, rng.rayleigh(0.3 * spacing), rng.uniform(200, 4000, count))
    if kind:
        error = np.full(count, np.inf)
    other = rng.normal(-3, 1, (count, 4, 2))
    return JudgedPlaces(
        features=features,
        error_m=error,
        spacing_m=spacing,
        photo=np.arange(count) + seed * 100_000,
        kind=np.full(count, kind, dtype=object),
        other_features=other,
        other_error_m=np.where(rng.uniform(size=(count, 4)) < 0.05, 3.0, 500.0),
        other_evidence=rng.normal(0, 1, (count, 4, len(NAMES))),
        other_spacing_m=np.full((count, 4), 10.0),
    )


def training(count: int = 800, seed: int = 1, **options: object) -> JudgedPlaces:
    """Photos of the area, and as many with their surroundings hidden."""
    return JudgedPlaces.joined(
        [judged(count, seed, **options), judged(count, seed + 1, kind="hidden")]  # type: ignore[arg-type]
    )
