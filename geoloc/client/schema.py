"""The HTTP interface's models: what a request may say and what answers and errors look like."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoloc.localization.fix import Fix
from geoloc.localization.routes.route_answer import RouteFix

INDEX_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MAX_ROUTE_STATE = 131_072
"""Characters of a route's state at most."""
Number = Annotated[float, Field(allow_inf_nan=False)]


class PhotoFields(BaseModel):
    """What is known of how a photo was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_field_bytes: ClassVar[int] = 16_384
    """Bytes of each field of a form with these fields, but for its images."""

    view: Literal["panorama", "street", "drone"] | None = Field(
        default=None, description="Kind of photo; guessed from its shape when left out."
    )
    heading_deg: Number | None = Field(
        default=None,
        ge=-360,
        le=360,
        description="Heading of the image centre (drone: of its top), clockwise from north; estimated when left out.",
    )
    heading_error_deg: Number | None = Field(
        default=None,
        gt=0,
        le=180,
        description="How far heading_deg may be off, as that of a compass: headings within it are searched.",
    )
    fov_deg: Number | None = Field(default=None, ge=1, le=360, description="Horizontal field of view.")
    pitch_deg: Number | None = Field(
        default=None, ge=-60, le=60, description="How far a street photo looks below the horizon."
    )
    roll_deg: Number | None = Field(
        default=None, ge=-60, le=60, description="How far the camera of a street photo was turned clockwise."
    )
    file_fov: bool = Field(
        default=False, description="Take a street photo's field of view from the focal length in the file."
    )
    extent_m: Number | None = Field(
        default=None, gt=0, le=100_000, description="Ground along the shorter side of a drone photo."
    )

    @model_validator(mode="after")
    def _lens_of_a_street_photo(self) -> Self:
        if (self.pitch_deg is not None or self.roll_deg is not None) and self.view != "street":
            raise ValueError("pitch_deg and roll_deg are of a street photo: give view street too")
        return self


class PhotoAndArea(PhotoFields):
    """A photo, the index that it is looked for in, and where."""

    index: str = Field(
        default="default", pattern=INDEX_NAME, description="Name of the index to search; see /v1/indices."
    )
    lat: Number | None = Field(
        default=None, ge=-90, le=90, description="Centre of the circle to search, WGS84."
    )
    lon: Number | None = Field(
        default=None, ge=-180, le=180, description="Centre of the circle to search, WGS84."
    )
    radius_m: Number | None = Field(
        default=None, gt=0, le=25_000_000, description="Radius of the circle to search."
    )
    bbox: str | None = Field(
        default=None,
        pattern=r"^[^,]{1,30}(,[^,]{1,30}){3}$",
        description="Box to search: west,south,east,north in WGS84 degrees; west beyond east crosses the antimeridian.",
    )
    polygon: str | None = Field(
        default=None, description="Area to search: a GeoJSON Polygon (its text), longitude before latitude."
    )

    @model_validator(mode="after")
    def _whole_region(self) -> Self:
        given = [value is not None for value in (self.lat, self.lon, self.radius_m)]
        if any(given) and not all(given):
            raise ValueError("lat, lon and radius_m belong together: give all three or none")
        if any(given) + (self.bbox is not None) + (self.polygon is not None) > 1:
            raise ValueError("give one area: a circle, a bbox or a polygon")
        return self


class LocalizeParameters(PhotoAndArea):
    """The form fields beside the image; unknown ones are refused."""

    k: int = Field(default=10, ge=1, le=100, description="How many matches to return.")
    rerank: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Nearest codes to order by float embeddings; the service's own number when left out.",
    )
    require_complete: bool = Field(
        default=False, description="Refuse (503) rather than answer when a shard cannot be searched."
    )


class RouteStep(BaseModel):
    """What is known of the way to a photo of a route from the photo before, and of this photo alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    moved_m: Number | None = Field(default=None, ge=0, le=1500, description="Metres travelled.")
    moved_sd_m: Number | None = Field(
        default=None,
        ge=0.01,
        le=500,
        description="Standard deviation of moved_m; a quarter of it when left out.",
    )
    turn_deg: Number | None = Field(
        default=None, ge=-360, le=360, description="Change of the direction of travel, positive to the right."
    )
    course_deg: Number | None = Field(
        default=None, ge=-360, le=360, description="Direction of travel, clockwise from north."
    )
    heading_deg: Number | None = Field(
        default=None,
        ge=-360,
        le=360,
        description="Heading of this photo; goes before the form's heading_deg.",
    )


_STEPS = Field(
    default=None,
    max_length=16_000,
    description="JSON list with an object for each image: moved_m, moved_sd_m, turn_deg, course_deg, heading_deg, each "
    "of which may be left out.",
)


class BeginRoute(PhotoAndArea):
    """The form fields beside the ordered images of a route; its places are the tiles of the area."""

    steps: str | None = _STEPS
    polygon: str | None = Field(
        default=None,
        max_length=16_000,
        description="Area to search: a GeoJSON Polygon (its text), longitude before latitude.",
    )


class ContinueRoute(PhotoFields):
    """The form fields beside the next images of a route."""

    max_field_bytes: ClassVar[int] = MAX_ROUTE_STATE

    state: str = Field(max_length=MAX_ROUTE_STATE, description="`state` of the answer before.")
    steps: str | None = _STEPS


class JsonRequest(LocalizeParameters):
    """The same as a JSON document: the image in base64, a polygon as an object."""

    image: str = Field(description="The image file in base64; its first bytes say which format it is.")
    polygon: dict[str, Any] | str | None = Field(  # type: ignore[assignment]
        default=None, description="Area to search: a GeoJSON Polygon, longitude before latitude."
    )


class Problem(BaseModel):
    """An error, as `application/problem+json` (RFC 9457). `reason` is a short code, `detail` a sentence."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str
    request_id: str


class LocalizeAnswer(Fix):
    """A fix and how it came about. Everything in it was computed from the one snapshot that it names."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    request_id: str
    index: str = Field(default="default", description="Name of the index that was searched.")
    model_id: str
    shards_answered: int = Field(
        description="Shards that were searched: fewer than `shards_total` where some are damaged."
    )
    shards_total: int = Field(description="Shards of the snapshot.")
    timings_ms: dict[str, float] = Field(
        description="Milliseconds by step, waits included: decode, encode, search, locate, total."
    )


class RouteAnswer(RouteFix):
    """Where the last photos of a route were taken, by all of its photos so far."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    photos: int = Field(description="Photos of the route so far.")
    state: str = Field(description="What continues the route: opaque, and sent back with the next photos.")
    request_id: str
    index: str = Field(default="default", description="Name of the index that was searched.")
    model_id: str
    shards_answered: int = Field(description="Shards that were searched.")
    shards_total: int = Field(description="Shards of the snapshot.")
    timings_ms: dict[str, float] = Field(description="Milliseconds by step.")


class SnapshotFacts(BaseModel):
    """A snapshot that is served."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    snapshot_id: str
    model_id: str
    tiles: int
    bits: int
    shards: int
    located: bool = Field(description="Whether the tiles have coordinates, so that photos can be located.")
    calibrated: bool = Field(description="Whether answers carry radius and confidence.")


class ServedSnapshot(SnapshotFacts):
    """An index of the service with its snapshot, compared over all replicas."""

    name: str
    bounds: dict[str, float] | None = Field(description="south, west, north, east of the tiles' centres.")
    broken_shards: int = Field(description="Shards that cannot be searched, in the replica that lacks most.")
    encoders: str = Field(description="Replicas that hold the model, of all: 2/2.")
    searchers: str = Field(description="Replicas that hold the snapshot, of all: 2/2.")


class Health(SnapshotFacts):
    """What is being served, once it is: the default index, and all of them with their replicas compared."""

    status: Literal["ready"] = "ready"
    indices: tuple[ServedSnapshot, ...] = ()


class IndexFacts(BaseModel):
    """An index of the service and the snapshot that requests are answered from."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    snapshot_id: str
    model_id: str
    tiles: int
    bits: int
    shards: int
    located: bool
    bounds: dict[str, float] | None = Field(description="south, west, north, east of the tiles' centres.")


class ReloadRequest(BaseModel):
    """Which snapshot to serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{32}$", description="Id of the snapshot; null: the current one."
    )


class BatchAnswer(BaseModel):
    """One entry for each photo, in their order: its answer, or the problem that it met."""

    answers: list[LocalizeAnswer | Problem]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"
