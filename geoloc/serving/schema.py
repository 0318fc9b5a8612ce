"""The HTTP interface's models: what a request may say and what answers and errors look like."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoloc.localization.fix import Fix

Number = Annotated[float, Field(allow_inf_nan=False)]


class LocalizeParameters(BaseModel):
    """The form fields beside the image; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    view: Literal["panorama", "street", "drone"] | None = Field(
        default=None, description="Kind of photo; guessed from its shape when left out."
    )
    heading_deg: Number | None = Field(
        default=None,
        ge=-360,
        le=360,
        description="Heading of the image centre (drone: of its top), clockwise from north; estimated when left out.",
    )
    fov_deg: Number | None = Field(default=None, ge=1, le=360, description="Horizontal field of view.")
    extent_m: Number | None = Field(
        default=None, gt=0, le=100_000, description="Ground along the shorter side of a drone photo."
    )
    lat: Number | None = Field(
        default=None, ge=-90, le=90, description="Centre of the area to search, WGS84."
    )
    lon: Number | None = Field(
        default=None, ge=-180, le=180, description="Centre of the area to search, WGS84."
    )
    radius_m: Number | None = Field(
        default=None, gt=0, le=25_000_000, description="Radius of the area to search."
    )
    k: int = Field(default=10, ge=1, le=100, description="How many matches to return.")

    @model_validator(mode="after")
    def _whole_region(self) -> Self:
        given = [value is not None for value in (self.lat, self.lon, self.radius_m)]
        if any(given) and not all(given):
            raise ValueError("lat, lon and radius_m belong together: give all three or none")
        return self


class LocalizeAnswer(Fix):
    """A fix and how it came about. Everything in it was computed from the one snapshot that it names."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    request_id: str
    model_id: str
    shards_answered: int = Field(
        description="Shards that were searched. A service answers from all of them, so this is `shards_total`."
    )
    shards_total: int = Field(description="Shards of the snapshot.")
    timings_ms: dict[str, float] = Field(description="Milliseconds by step: decode, encode, search, total.")


class Health(BaseModel):
    """What is being served, once it is."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    status: Literal["ready"] = "ready"
    snapshot_id: str
    model_id: str
    tiles: int
    bits: int
    shards: int
    located: bool = Field(description="Whether the tiles have coordinates, so that photos can be located.")
    calibrated: bool = Field(description="Whether answers carry radius and confidence.")


class Problem(BaseModel):
    """An error, as `application/problem+json` (RFC 9457). `reason` is a short code, `detail` a sentence."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str
    request_id: str
