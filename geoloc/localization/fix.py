"""The answer to one photo: a position, how sure it is, and the tiles that it rests on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from geoloc.index.search.matches import Comparison

# Why nothing was located: machine-readable, beside the sentence in `Fix.detail`.
NO_TILE_IN_REGION = "no_tile_in_region"
NO_COORDINATES = "index_without_coordinates"
EMPTY_INDEX = "empty_index"
FEATURELESS = "featureless_image"
AMBIGUOUS = "ambiguous"


class Match(BaseModel):
    """One aerial tile that looks like the photo."""

    model_config = ConfigDict(frozen=True)

    tile_id: str
    lat: float | None = Field(description="Latitude of the tile's centre, WGS84 degrees.")
    lon: float | None = Field(description="Longitude of the tile's centre, WGS84 degrees.")
    distance_bits: int | None = Field(description="Bits in which the codes of photo and tile differ.")
    similarity: float | None = Field(
        description="Cosine of the float embeddings, or its estimate from the photo's logits; see ordered_by."
    )
    in_cluster: bool = Field(description="Whether the position was computed from this tile.")


class Fix(BaseModel):
    """The position of a photo, or the reason why there is none.

    `lat`, `lon` are WGS84 degrees. `radius_m` is the calibrated 90 % radius and `confidence` the calibrated
    probability that the truth lies inside it; both are None for an index that was never calibrated.
    `heading_deg` is clockwise from north: as the query gives it, else the best candidate. `view` and `fov_deg` are
    those that the photo was taken for; `assumed` names what neither the query nor the file gave.
    """

    model_config = ConfigDict(frozen=True)

    located: bool
    reason: str | None = Field(default=None, description="Short code of why nothing was located.")
    detail: str | None = Field(default=None, description="The same in a sentence.")
    lat: float | None = None
    lon: float | None = None
    radius_m: float | None = None
    confidence: float | None = None
    heading_deg: float | None = None
    view: str | None = Field(default=None, description="The kind of photo that the answer assumes.")
    fov_deg: float | None = Field(default=None, description="The horizontal field of view that it assumes.")
    assumed: tuple[str, ...] = Field(
        default=(),
        description="Which of view, heading_deg and fov_deg nobody gave: guessed, estimated or usual.",
    )
    snapshot_id: str
    ordered_by: Comparison = Field(
        default="codes",
        description="What ordered the matches: embeddings, the photo's logits against the tiles' bits, or codes.",
    )
    matches: tuple[Match, ...] = ()

    def row(self, query_id: str) -> dict[str, Any]:
        """The fix as a row of the `FIXES` table (its geometry column is filled by `with_geometry`)."""
        fields = self.model_dump(exclude={"detail"})
        return {"query_id": query_id, **fields, "matches": [match.model_dump() for match in self.matches]}
