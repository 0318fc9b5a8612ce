"""What a calibration says of the places of an answer, and whether it still holds for the index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core import storage
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import CorruptArtifact
from geoloc.index.format.manifest import Manifest, read_manifest
from geoloc.index.maintenance.inspect import IndexDescription, describe
from geoloc.localization.calibration import (
    NAME,
    Calibration,
    KindCalibration,
    OldCalibration,
    load_calibration,
    read_calibration,
)
from geoloc.localization.evidence import PlaceEvidence
from geoloc.localization.hypotheses import Places

REFIT = "run `geoloc calibrate` to fit it again."
_SPACING_CHANGE = 1.2
_TILES_CHANGE = 1.5


@dataclass(frozen=True)
class JudgedAnswers:
    """located: bool[Q]. radius_m, weight: float64[Q, H], of every place; the first weight is the confidence."""

    located: BoolArray
    radius_m: FloatArray
    weight: FloatArray


def judge_places(fit: KindCalibration, places: Places, evidence: PlaceEvidence) -> JudgedAnswers:
    """Radius and weight of every place; the weights of a query sum to 1 at most, the rest lies elsewhere."""
    every = [fit.judge(evidence.features[:, one], evidence.spacing_m[:, one]) for one in range(places.width)]
    there = np.isfinite(evidence.features[:, :, 0])
    first = np.where(there[:, 0], every[0].confidence, 0.0)
    weight = np.zeros(there.shape)
    for one in range(1, places.width):
        weight[:, one] = np.where(there[:, one], fit.alternative.probability(evidence.other[:, one]), 0.0)
    total, left = weight.sum(axis=1), 1.0 - first
    weight *= np.minimum(1.0, left / np.maximum(total, 1e-12))[:, None]
    weight[:, 0] = first
    return JudgedAnswers(
        located=every[0].located & there[:, 0],
        radius_m=np.stack([one.radius_m for one in every], axis=1),
        weight=weight,
    )


def shipped_calibration(index_uri: str, manifest: Manifest) -> Calibration | None:
    """The calibration that came with a snapshot's model, None without one; raises as `read_calibration`."""
    if all(file.name != NAME for file in manifest.model.files):
        return None
    return read_calibration(storage.join(index_uri, manifest.model.directory, NAME))


def stale_notes(
    calibration: Calibration, snapshot_id: str, manifest: Manifest, spacing_m: float | None
) -> tuple[str, ...]:
    """Sentences about what is not as it was when the calibration was fitted; empty where all is.

    `spacing_m` is the median distance of the index's tiles to their neighbours, None where it is not known.
    """
    notes = []
    model_id = manifest.model.model_id
    if calibration.model_id != model_id:
        notes.append(
            f"The calibration belongs to model {calibration.model_id}, the index to {model_id}, so it is not used; "
            f"{REFIT}"
        )
    if calibration.transferred:
        notes.append(f"The calibration came with the model and saw no photo of this index; {REFIT}")
    elif calibration.origin not in (None, snapshot_id):
        notes.append(
            f"The calibration was fitted on snapshot {calibration.origin}, tiles were added or removed since; {REFIT}"
        )
    if calibration.bits != manifest.bits:
        notes.append(
            f"The calibration was fitted with codes of {calibration.bits} bits, the index has {manifest.bits}; {REFIT}"
        )
    if not _within(manifest.count, calibration.tiles, _TILES_CHANGE):
        notes.append(
            f"The calibration was fitted on {calibration.tiles:,} tiles, the index has {manifest.count:,}; {REFIT}"
        )
    fitted_m = calibration.spacing_m
    if spacing_m and fitted_m and not _within(spacing_m, fitted_m, _SPACING_CHANGE):
        notes.append(
            f"The calibration was fitted on tiles every {fitted_m:.1f} m, the index has them every {spacing_m:.1f} m; "
            f"{REFIT}"
        )
    return tuple(notes)


def _within(one: float, other: float, factor: float) -> bool:
    return max(one, other) <= factor * max(min(one, other), 1e-9)


class CalibratedIndex(IndexDescription):
    """An index in short, and what its calibration is: kinds of query that it covers, and what changed since the fit."""

    calibrated_kinds: list[str]
    calibration_notes: list[str]


def describe_index(index_uri: str) -> CalibratedIndex:
    """Describe an index with its calibration. Raises as `geoloc.index.maintenance.inspect.describe`."""
    found = describe(index_uri)
    manifest = read_manifest(found.index_uri, found.snapshot_id)
    kinds: list[str] = []
    notes: tuple[str, ...] = ()
    try:
        calibration = load_calibration(found.index_uri, found.snapshot_id)
        calibration = calibration or shipped_calibration(found.index_uri, manifest)
    except (CorruptArtifact, OldCalibration) as error:
        notes, calibration = (str(error),), None
    if calibration is not None:
        kinds = sorted(calibration.query_kinds)
        notes = stale_notes(calibration, found.snapshot_id, manifest, None)
    return CalibratedIndex(**found.model_dump(), calibrated_kinds=kinds, calibration_notes=list(notes))
