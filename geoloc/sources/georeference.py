"""Where a sheet lies: its CRS and transform, also from ground control points, and axes that go round the Earth."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyproj

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError

Affine = tuple[float, float, float, float, float, float]
_MOST_GCP_ERROR_PX = 1.0  # of an affine fit; beyond, the sheet is bent and has to be warped


@lru_cache(maxsize=64)
def wgs84_transformer(crs_wkt: str) -> pyproj.Transformer:
    """Longitude, latitude of WGS84 to x, y of a CRS."""
    return pyproj.Transformer.from_crs("EPSG:4326", pyproj.CRS.from_wkt(crs_wkt), always_xy=True)


@lru_cache(maxsize=64)
def longitude_period(crs_wkt: str) -> float:
    """How far x goes in one turn around the Earth, in units of the CRS; 0 where x does not go round.

    It does in geographic CRS and in cylindrical projections such as mercator: there x grows evenly with the
    longitude, alike at all latitudes, but for the jump at the seam.
    """
    crs = pyproj.CRS.from_wkt(crs_wkt)
    geodetic = crs.geodetic_crs
    if geodetic is None:
        return 0.0
    # Within the CRS's own datum, so that no datum shift blurs the steps; its unit need not be the degree.
    turn = 2 * np.pi / geodetic.axis_info[0].unit_conversion_factor
    if crs.is_geographic:
        return float(turn)
    transformer = pyproj.Transformer.from_crs(geodetic, crs, always_xy=True)
    lon = (np.arange(-179.5, 180.0) / 360.0) * turn
    steps = []
    for lat in (0.0, turn / 8):
        x, y = transformer.transform(lon, np.full_like(lon, lat))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return 0.0
        step = np.diff(np.asarray(x))
        usual = float(np.median(step))
        if np.ptp(y) > 1e-6 * abs(usual):
            return 0.0
        if np.count_nonzero(np.abs(step - usual) > 1e-9 * abs(usual)) > 1:  # the seam is one jump
            return 0.0
        steps.append(usual)
    return 360.0 * abs(steps[0]) if np.isclose(steps[0], steps[1], rtol=1e-9) else 0.0


def georeference(uri: str, source: Any) -> tuple[str, Affine]:
    """The CRS (WKT) and the pixel-to-CRS transform of an open sheet, as GDAL gives them.

    A sheet with ground control points and no transform is placed by them where they fit one. Raises `InputError`
    with what to do for a sheet that has no place on Earth.
    """
    transform = source.transform
    placed = not transform.is_identity and abs(transform.determinant) > 0
    if not placed and source.gcps[0]:
        crs, to_world = _fitted(uri, *source.gcps)
    elif not placed:
        raise _without_transform(uri, source)
    else:
        crs = source.crs
        to_world = (transform.a, transform.b, transform.c, transform.d, transform.e, transform.f)
    if crs is None:
        raise InputError(
            f"{uri!r} has no coordinate reference system; set it with `gdal_edit.py -a_srs EPSG:<code>`.",
            reason="no_crs",
        )
    crs_wkt = crs.to_wkt()
    try:
        wgs84_transformer(crs_wkt)
        longitude_period(crs_wkt)
    except pyproj.exceptions.ProjError as error:
        raise InputError(
            f"{uri!r}: its coordinate reference system has no relation to WGS84; assign a geographic or "
            "projected one.",
            reason="no_crs",
        ) from error
    _check_latitudes(uri, crs_wkt, to_world, source.width, source.height)
    return crs_wkt, to_world


def _without_transform(uri: str, source: Any) -> InputError:
    name = uri.rsplit("/", 1)[-1]
    if source.rpcs is not None:
        problem = "has only rational polynomial coefficients (RPC), which need the terrain's height"
        advice = (
            f"orthorectify it: `gdalwarp -rpc -to RPC_DEM=<elevation.tif> -t_srs EPSG:<code> {name} out.tif`"
        )
    else:
        problem = "has no geotransform, so its pixels have no place"
        advice = (
            "georeference it with `gdal_edit.py -a_ullr <left> <top> <right> <bottom> -a_srs EPSG:<code> "
            f"{name}`, or put its world file (.tfw) beside it"
        )
    return InputError(f"{uri!r} {problem}; {advice}.", reason="no_transform")


def _fitted(uri: str, points: Any, crs: Any) -> tuple[Any, Affine]:
    """The affine transform nearest to ground control points; `InputError` when it misses one by over a pixel."""
    pixel = np.array([(point.col, point.row, 1.0) for point in points])
    world = np.array([(point.x, point.y) for point in points])
    offset, size = world.mean(axis=0), np.ptp(world, axis=0).max() or 1.0
    solution, _, rank, _ = np.linalg.lstsq(pixel, (world - offset) / size, rcond=None)
    advice = f"warp it: `gdalwarp -tps -t_srs EPSG:<code> {uri.rsplit('/', 1)[-1]} out.tif`"
    if rank < 3 or abs(np.linalg.det(solution[:2])) < 1e-15:
        raise InputError(
            f"{uri!r} has {len(points)} ground control points, which place no plane; give three or more that lie "
            "on no line.",
            reason="no_transform",
        )
    error_px = _misfit_px(solution, pixel, (world - offset) / size)
    if error_px > _MOST_GCP_ERROR_PX:
        raise InputError(
            f"{uri!r} has ground control points and no transform, and a plane misses them by up to {error_px:.1f} "
            f"pixels (limit {_MOST_GCP_ERROR_PX:g}); {advice}.",
            reason="no_transform",
        )
    (a, d), (b, e), (c, f) = (solution * size).tolist()
    return crs, (a, b, c + float(offset[0]), d, e, f + float(offset[1]))


def _misfit_px(solution: FloatArray, pixel: FloatArray, world: FloatArray) -> float:
    """How far points [N, 3] lie from those that the fit [3, 2] takes to their world position [N, 2], in pixels."""
    away = (world - solution[2]) @ np.linalg.inv(solution[:2]) - pixel[:, :2]
    return float(np.hypot(away[:, 0], away[:, 1]).max())


def _check_latitudes(uri: str, crs_wkt: str, to_world: Affine, width: int, height: int) -> None:
    """Refuse a sheet in degrees whose latitudes lie beyond the poles: its axes are swapped, or it is in metres."""
    crs = pyproj.CRS.from_wkt(crs_wkt)
    if not crs.is_geographic:
        return
    quarter = np.pi / 2 / crs.axis_info[0].unit_conversion_factor
    _, _, _, d, e, f = to_world
    corners = [d * column + e * row + f for column in (0, width) for row in (0, height)]
    slack = abs(d) + abs(e)  # grids that are registered to pixel centres end half a pixel beyond the pole
    if max(corners) <= quarter + slack and min(corners) >= -quarter - slack:
        return
    far = max(corners, key=abs)
    raise InputError(
        f"{uri!r} is in degrees ({crs.name}), but its y goes to {far:,.6g}, beyond the pole; either its axes are "
        "swapped (x is the longitude, y the latitude) or its coordinates are of another system: set the right one with "
        "`gdal_edit.py -a_ullr` or `-a_srs`.",
        reason="bad_transform",
    )
