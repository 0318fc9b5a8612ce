"""What turns matches into a promise: which photos are located, with what radius and what confidence.

One fit for each kind of query. A monotone model gives the odds that the first place is right (`evidence.NAMES`). A
photo whose log odds reach `threshold` is located: the threshold lets few photos of other places through, and only so
many that the promise holds for the rest. The radius falls with the odds; its factor is conformal (Vovk et al. 2005,
split conformal prediction; Mondrian by kind of query and by spacing of tiles). Stored as JSON beside the snapshot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoloc.core import storage
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.localization.cluster import ClusterSettings
from geoloc.localization.monotone import MonotoneModel

FORMAT_VERSION = 2
COVERAGE = 0.9
NAME = "calibration.json"


def query_kind(view: str, heading_known: bool) -> str:
    """Name of a kind of query, from its view and whether its heading is known."""
    return f"{view}/heading_{'known' if heading_known else 'unknown'}"


class RadiusFactor(BaseModel):
    """The conformal factor of photos whose place has tiles at about this spacing, in metres."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_m: float
    factor: float
    photos: int


@dataclass(frozen=True)
class Judgement:
    """What a calibration says of Q places: log odds, whether they are located, radius in metres and confidence."""

    log_odds: FloatArray
    located: BoolArray
    radius_m: FloatArray
    confidence: FloatArray


class KindCalibration(BaseModel):
    """The fit for one kind of query.

    `radius_m` falls along `radius_log_odds`; between its knots the logarithm of the radius is interpolated.
    `confidence` gives the probability that the truth lies within the radius from the log odds, for photos of the
    index's area. `alternative` gives that of a further place from `PlaceEvidence.other`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...]
    odds: MonotoneModel
    threshold: float
    radius_log_odds: tuple[float, ...]
    radius_m: tuple[float, ...]
    factors: tuple[RadiusFactor, ...]
    confidence: MonotoneModel
    alternative: MonotoneModel
    sigma_m: float
    temperature: float
    place_m: float
    fine_m: float | None = None
    fine_temperature: float = ClusterSettings.fine_temperature
    photos: int = Field(description="Photos of known position that were fitted.")
    strangers: dict[str, int] = Field(description="Photos of other places that were fitted, by their kind.")

    def settings(self) -> ClusterSettings:
        """The cluster settings of the fit, with which alone it holds."""
        return ClusterSettings(
            sigma_m=self.sigma_m,
            temperature=self.temperature,
            place_m=self.place_m,
            fine_m=self.fine_m,
            fine_temperature=self.fine_temperature,
        )

    def judge(self, features: FloatArray, spacing_m: FloatArray) -> Judgement:
        """Judge places by features float64[Q, F] of `evidence` and the spacing of their tiles, float64[Q] metres."""
        log_odds = self.odds.log_odds(features)
        radius = np.exp(np.interp(log_odds, self.radius_log_odds, np.log(self.radius_m)))
        radius = radius * self.factor_of(spacing_m)
        confidence = self.confidence.probability(log_odds[:, None])
        return Judgement(log_odds, log_odds >= self.threshold, radius, confidence)

    def factor_of(self, spacing_m: FloatArray) -> FloatArray:
        """The factor float64[Q] of the group with the nearest spacing, as a ratio; spacing_m float64[Q]."""
        known = np.log([group.spacing_m for group in self.factors])
        nearest = np.abs(np.log(np.maximum(spacing_m, 1e-3))[:, None] - known).argmin(axis=1)
        return np.asarray(np.array([group.factor for group in self.factors])[nearest], dtype=np.float64)


class Calibration(BaseModel):
    """All fits of one snapshot, and what they were fitted with: another model or other settings make them stale."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    snapshot_id: str
    model_id: str
    coverage: float = COVERAGE
    rerank: int = Field(description="Codes re-ranked by float embeddings when the fit was made.")
    asymmetric: bool = Field(
        True, description="Whether photos' real numbers were compared with tiles' bits when the fit was made."
    )
    bits: int
    tiles: int = Field(description="Tiles of the index when the fit was made.")
    spacing_m: float | None = Field(description="Median distance of a tile to its nearest neighbour.")
    origin: str | None = Field(
        None,
        description="The snapshot that it was fitted on, when it is another one: carried over or shipped.",
    )
    transferred: bool = Field(
        False, description="Whether it came with the model and saw no photo of this index."
    )
    query_kinds: dict[str, KindCalibration] = Field(description="By `query_kind`.")


def calibration_uri(index_uri: str, snapshot_id: str) -> str:
    """Where the calibration of a snapshot is stored."""
    return storage.join(index_uri, "calibration", f"{snapshot_id}.json")


class OldCalibration(ArtifactError):
    """A calibration of an earlier format, whose numbers do not mean what today's do."""


def load_calibration(index_uri: str, snapshot_id: str) -> Calibration | None:
    """The calibration of a snapshot, None when it was never calibrated.

    Raises `OldCalibration` for one of an earlier format, `CorruptArtifact` for one that cannot be read and
    `ArtifactError` for one of another snapshot.
    """
    uri = calibration_uri(index_uri, snapshot_id)
    if not storage.exists(uri):
        return None
    calibration = read_calibration(uri)
    if calibration.snapshot_id != snapshot_id:
        raise ArtifactError(
            f"{uri!r} belongs to snapshot {calibration.snapshot_id}, not to {snapshot_id}; calibrate again."
        )
    return calibration


def read_calibration(uri: str) -> Calibration:
    """A calibration from its file; raises as `load_calibration`."""
    data = storage.read_bytes(uri)
    try:
        content = json.loads(data)
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version < FORMAT_VERSION:
            raise OldCalibration(
                f"{uri!r} is a calibration of format {version}, whose 90 % radius was cut at a limit; run `geoloc "
                "calibrate` for one of today's."
            )
        return Calibration.model_validate(content)
    except (ValidationError, ValueError) as error:
        raise CorruptArtifact(
            f"{uri!r} is not a calibration of format {FORMAT_VERSION}; delete it and calibrate again."
        ) from error


def save_calibration(index_uri: str, calibration: Calibration) -> str:
    """Store a calibration (replacing an earlier one of the same snapshot); returns its URI."""
    uri = calibration_uri(index_uri, calibration.snapshot_id)
    storage.write_bytes(uri, calibration.model_dump_json(indent=1).encode())
    return uri


def ship_calibration(model_uri: str, calibration: Calibration) -> str:
    """Put a calibration into a model directory, marked as transferred; indexes that are built with it start with it."""
    shipped = calibration.model_copy(update={"transferred": True, "origin": calibration.snapshot_id})
    uri = storage.join(model_uri, NAME)
    storage.write_bytes(uri, shipped.model_dump_json(indent=1).encode())
    return uri
