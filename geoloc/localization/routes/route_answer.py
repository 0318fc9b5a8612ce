"""The answer to a route: where the camera is, with what error, and the path that its photos tell of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RoutePosition(BaseModel):
    """Where one photo of a route was taken, by all photos of the route.

    lat, lon: WGS84 degrees, the mean of the heaviest places. radius_m: metres around it that hold 90 % of the
    probability; None where the map holds less. off_map: probability that the photo was not taken on the map. path_id:
    the place of the most likely path, None off the map.
    """

    model_config = ConfigDict(frozen=True)

    lat: float | None
    lon: float | None
    radius_m: float | None
    off_map: float
    path_id: str | None
    path_lat: float | None
    path_lon: float | None


class RouteFix(BaseModel):
    """The positions of a route's photos, the last one the present. `calibrated`: whether the emissions were fitted."""

    model_config = ConfigDict(frozen=True)

    located: bool = Field(
        description="Whether the map holds 90 % of the probability of the present position."
    )
    positions: tuple[RoutePosition, ...]
    calibrated: bool
    snapshot_id: str

    @property
    def present(self) -> RoutePosition:
        """Where the last photo was taken."""
        return self.positions[-1]
