"""Settings and inputs of locating photos, alone or as routes, and how a photo is read by them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.errors import InputError
from geoloc.core.images import decode_picture
from geoloc.localization.extents import SCALES
from geoloc.localization.query_photos import Photo, photo
from geoloc.localization.search_settings import LocatingSettings
from geoloc.sources.folder import ANYWHERE_HELP, FILE_HEADING_HELP, read_photo
from geoloc.stages.localize_inputs import PhotoEntry


class PhotoSettings(BaseModel):
    """What is known of all photos, and where and among how many tiles they are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    view: str | None = Field(
        default=None, description="Kind of photo: panorama, street or drone; guessed when left out."
    )
    heading_deg: float | None = Field(
        default=None,
        description="Heading of the photos' centre, degrees clockwise from north; estimated when left out.",
    )
    heading_error_deg: float | None = Field(
        default=None,
        description="Largest error of known headings, degrees, as of a compass: all headings within it are searched. "
        "Left out, known headings are exact.",
    )
    fov_deg: float | None = Field(default=None, description="Horizontal field of view, degrees.")
    file_fov: bool = Field(
        default=False,
        description="Take the field of view of street photos from the focal length in their files, where it is not "
        "given.",
    )
    extent_m: float | None = Field(
        default=None, description="Ground along the shorter side of drone photos, metres."
    )
    altitude_m: float | None = Field(
        default=None, description="Height of drone photos above the ground, metres; needs fov_deg."
    )
    pitch_deg: float | None = Field(
        default=None,
        description="Pitch of drone photos below the horizon, degrees: 90 is straight down. Slanting photos are "
        "turned to what is seen straight down. With --view street: pitch of the lens.",
    )
    roll_deg: float | None = Field(
        default=None, description="With --view street: clockwise roll of the lens, degrees."
    )
    drone_tags: bool = Field(
        default=False,
        description="Take altitude, pitch, yaw and field of view of drone photos from their files, where they are "
        "not given.",
    )
    scales: int = Field(
        default=SCALES, ge=1, le=32, description="Ground extents to try for a drone photo of unknown extent."
    )
    near_lat: float | None = Field(
        default=None, description="Latitude of the centre of the area to search, WGS84 degrees."
    )
    near_lon: float | None = Field(
        default=None, description="Longitude of the centre of the area to search, WGS84 degrees."
    )
    within_m: float | None = Field(default=None, description="Radius of the area to search, metres.")
    k: int = Field(default=10, ge=1, le=1000, description="Matches to keep of each photo.")

    @property
    def near(self) -> tuple[float, float] | None:
        """The centre of the area to search; `InputError` when half of it is missing."""
        if self.near_lat is None and self.near_lon is None:
            return None
        if self.near_lat is None or self.near_lon is None:
            raise InputError("near_lat and near_lon belong together: give both or none.", reason="bad_region")
        return self.near_lat, self.near_lon


class LocalizeConfig(LocatingSettings, PhotoSettings):
    """Settings of locating photos; the columns of a photo's row go before these."""

    max_bad_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of unusable photos that stops the stage."
    )
    file_heading: bool = Field(default=False, description=FILE_HEADING_HELP)
    photos_anywhere: bool = Field(default=False, description=ANYWHERE_HELP)

    route: bool = Field(
        default=False,
        description="Locate ordered photos of one camera as routes: each photo by all photos of its route. A list has "
        "the columns route_id and step and, where known, moved_m, turn_deg and course_deg. --k, --rerank and "
        "--min-confidence are not used.",
    )
    spacing_m: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="With --route: rough distance between two photos, metres, where the list has no moved_m. Left out, "
        "it is 12 along streets and 20 over tiles.",
    )


class LocalizeInputs(BaseModel):
    """The photos and the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    photos: str = Field(
        description="URI of a photo, of a folder of photos, a glob, or a CSV or GeoJSON with a column `photo`"
        " and, where known, id, view, heading_deg (of drones also yaw_deg), heading_error_deg, fov_deg, extent_m,"
        " altitude_m, pitch_deg, roll_deg."
    )
    streets: str | None = Field(
        default=None,
        description="With --route: URI of the streets, an OSM extract, a CSV or GeoJSON of positions, or AREA.csv "
        "of the 2.5D map data set. Left out, routes go over the tiles of the index.",
    )
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")


class LocalizeResult(BaseModel):
    """Counts of the photos by their result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    snapshot_id: str
    photos: int
    located: int
    not_located: dict[str, int]
    quarantined: dict[str, int]


def read_entry(config: LocalizeConfig, entry: PhotoEntry) -> tuple[Photo, float | None]:
    """The photo of an entry, and the heading that its file states.

    Raises `InputError` or `ArtifactError` for one that cannot be used.
    """
    if entry.problem is not None:
        raise InputError(entry.problem[1], reason=entry.problem[0])
    picture = decode_picture(read_photo(entry.uri))
    stated_deg = picture.facts.panorama_heading_deg
    heading_deg = _first(entry.heading_deg, config.heading_deg, stated_deg if config.file_heading else None)
    error_deg = _first(entry.heading_error_deg, None if heading_deg is None else config.heading_error_deg)
    one = photo(
        picture.pixels,
        view=entry.view or config.view,
        heading_deg=heading_deg,
        heading_error_deg=error_deg,
        fov_deg=_first(entry.fov_deg, config.fov_deg),
        extent_m=_first(entry.extent_m, config.extent_m),
        altitude_m=_first(entry.altitude_m, config.altitude_m),
        pitch_deg=_first(entry.pitch_deg, config.pitch_deg),
        roll_deg=_first(entry.roll_deg, config.roll_deg),
        drone_tags=config.drone_tags,
        file_fov=config.file_fov,
        facts=picture.facts,
    )
    return one, stated_deg


def _first(*values: float | None) -> float | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)
