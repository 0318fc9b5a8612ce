"""The answer to one photo: a position that keeps a promise, or the places where the photo may have been taken.

The words mean the same everywhere (library, tables, HTTP, pages): `PROMISE` is the sentence.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# Why nothing was located: machine-readable, beside the sentence in `Fix.detail`.
NO_TILE_IN_REGION = "no_tile_in_region"
NO_COORDINATES = "index_without_coordinates"
EMPTY_INDEX = "empty_index"
FEATURELESS = "featureless_image"
AMBIGUOUS = "ambiguous"
UNCALIBRATED = "uncalibrated"

PROMISE = (
    "A photo is located when the truth lies within radius_m with the promised probability (90 %), confidence is the "
    "probability that the truth of this photo lies within radius_m, and a photo for which nothing can be promised is "
    "not located and gets hypotheses with weights."
)


class Match(BaseModel):
    """One aerial tile that looks like the photo."""

    model_config = ConfigDict(frozen=True)

    tile_id: str
    lat: float | None = Field(description="Latitude of the tile's centre, WGS84 degrees.")
    lon: float | None = Field(description="Longitude of the tile's centre, WGS84 degrees.")
    distance_bits: int | None = Field(description="Bits in which the codes of photo and tile differ.")
    similarity: float | None = Field(description="Cosine of the float embeddings, where they were compared.")
    in_cluster: bool = Field(description="Whether the position was computed from this tile.")


class Hypothesis(BaseModel):
    """A place where the photo may have been taken: matches that lie together.

    `heading_deg` is clockwise from north, that of the place's best tile.
    """

    model_config = ConfigDict(frozen=True)

    lat: float = Field(description="Latitude of the place, WGS84 degrees.")
    lon: float = Field(description="Longitude of the place, WGS84 degrees.")
    radius_m: float | None = Field(
        default=None, description="Radius that the weight speaks of; None where nothing is calibrated."
    )
    weight: float = Field(
        description="Calibrated: the probability that the truth lies within radius_m of the place. Uncalibrated: the "
        "share of the matches' evidence, which is no probability."
    )
    heading_deg: float | None = None
    tiles: int = Field(description="How many of the compared tiles lie in the place.")


class Fix(BaseModel):
    """The position of a photo, or the reason why there is none.

    A photo is located when the truth lies within `radius_m` with the promised probability (90 %). `confidence` is the
    probability that the truth of this photo lies within `radius_m`. What cannot promise that is not located; its
    `hypotheses` are the places that come into question, the heaviest first. A located photo's position is its first
    hypothesis. Where the kind of query has no calibration, `calibrated` is false, and the photo is located only if
    the caller wants uncalibrated positions; it then has neither radius nor confidence.

    `lat`, `lon` are WGS84 degrees. `heading_deg` is clockwise from north: as the query gives it, else the best
    candidate. `view` and `fov_deg` are those that the photo was taken for; `assumed` names what neither the query nor
    the file gave.
    """

    model_config = ConfigDict(frozen=True)

    located: bool
    reason: str | None = Field(default=None, description="Short code of why nothing was located.")
    detail: str | None = Field(default=None, description="The same in a sentence.")
    lat: float | None = None
    lon: float | None = None
    radius_m: float | None = Field(
        default=None, description="Metres within which the truth lies with the promised probability (90 %)."
    )
    confidence: float | None = Field(
        default=None, description="Probability that the truth of this photo lies within radius_m."
    )
    calibrated: bool = Field(
        default=False,
        description="Whether this kind of query has a calibration, without which nothing is promised.",
    )
    notes: tuple[str, ...] = Field(
        default=(), description="Sentences about the calibration: what changed since it was fitted."
    )
    hypotheses: tuple[Hypothesis, ...] = Field(
        default=(), description="Places where the photo may have been taken, the heaviest first."
    )
    heading_deg: float | None = None
    view: str | None = Field(default=None, description="The kind of photo that the answer assumes.")
    fov_deg: float | None = Field(default=None, description="The horizontal field of view that it assumes.")
    assumed: tuple[str, ...] = Field(
        default=(),
        description="Which of view, heading_deg and fov_deg nobody gave: guessed, estimated or usual.",
    )
    snapshot_id: str
    matches: tuple[Match, ...] = ()

    def row(self, query_id: str) -> dict[str, Any]:
        """The fix as a row of the `FIXES` table (its geometry column is filled by `with_geometry`)."""
        fields = self.model_dump(exclude={"detail"})
        nested = {
            name: [one.model_dump() for one in getattr(self, name)] for name in ("matches", "hypotheses")
        }
        return {"query_id": query_id, **fields, **nested}
