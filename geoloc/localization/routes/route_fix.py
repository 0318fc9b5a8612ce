"""From a filter to the answer: where the camera is, with what error, and the path that its photos tell of."""

from __future__ import annotations

import numpy as np

from geoloc.core import geodesy
from geoloc.localization.routes.filter import PlacePosterior, RouteFilter
from geoloc.localization.routes.kernels import OFF_MAP
from geoloc.localization.routes.route_answer import RouteFix, RoutePosition
from geoloc.localization.routes.route_map import RouteMap

SHARE = 0.9
_ESTIMATE_M = 30.0  # places around the heaviest one that the position is the mean of


def route_fix(route: RouteFilter, route_map: RouteMap, snapshot_id: str, *, calibrated: bool) -> RouteFix:
    """The answer after the photos that a filter has taken in, up to its lag."""
    positions = tuple(
        _position(posterior, int(place), route_map)
        for posterior, place in zip(route.smoothed(), route.path(), strict=True)
    )
    return RouteFix(
        located=positions[-1].radius_m is not None,
        positions=positions,
        calibrated=calibrated,
        snapshot_id=snapshot_id,
    )


def _position(posterior: PlacePosterior, place: int, route_map: RouteMap) -> RoutePosition:
    on_path = place != OFF_MAP
    path_id = route_map.ids[place] if on_path else None
    path_lat, path_lon = (
        (float(route_map.lat[place]), float(route_map.lon[place])) if on_path else (None, None)
    )
    lat = lon = radius_m = None
    if len(posterior.places):
        lats, lons = route_map.lat[posterior.places], route_map.lon[posterior.places]
        near = geodesy.distance_m(lats, lons, lats[0], lons[0]) <= _ESTIMATE_M
        frame = geodesy.LocalFrame(geodesy.LatLon(float(lats[0]), float(lons[0])))
        east, north = frame.to_metres(lats[near], lons[near])
        share = posterior.weight[near] / posterior.weight[near].sum()
        to_lat, to_lon = frame.to_degrees(share @ east, share @ north)
        lat, lon = float(to_lat), float(to_lon)
        apart = geodesy.distance_m(lats, lons, lat, lon)
        order = np.argsort(apart, kind="stable")
        inside = np.cumsum(posterior.weight[order])
        if inside[-1] >= SHARE:
            radius_m = float(apart[order][np.searchsorted(inside, SHARE - 1e-12)])
    return RoutePosition(
        lat=lat, lon=lon, radius_m=radius_m, off_map=posterior.off_map, path_id=path_id, path_lat=path_lat,
        path_lon=path_lon,
    )  # fmt: skip
