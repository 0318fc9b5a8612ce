"""The files that the world would deliver: GeoTIFF sheets, JPEG photos and their CSV tables."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from geoloc.synthetic.world.aerial import SHADOW_RANGE_M, render_aerial
from geoloc.synthetic.world.camera import Camera, jpeg, jpeg_quality
from geoloc.synthetic.world.districts import Photo, Sheet
from geoloc.synthetic.world.georeference import (
    CRS,
    ORIGIN_EASTING_M,
    ORIGIN_NORTHING_M,
    convergence_deg,
    to_latlon,
)
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.route_photos import DistrictRoutes
from geoloc.synthetic.world.style import VIEW_RANGE_M
from geoloc.synthetic.world.view_conditions import flight_look, photo_look

_FLIGHT_M = 1024.0
_LEG_M = 4096.0
PHOTO_COLUMNS = ("photo", "lat", "lon", "heading_deg", "fov_deg", "view")
TILE_COLUMNS = ("tile_id", "lat", "lon")
ROUTE_COLUMNS = ("photo", "route_id", "step", "moved_m", "turn_deg", "fov_deg", "view", "lat", "lon")
STREET_COLUMNS = ("id", "lat", "lon", "neighbours")


def sheet_name(sheet: Sheet) -> str:
    """File name of a sheet."""
    return f"sheet_{sheet.row:02d}_{sheet.column:02d}.tif"


def work_bounds(sheet: Sheet) -> Bounds:
    """The area that a sheet and the photos in it show, with the margin for shadows."""
    margin = max(VIEW_RANGE_M, SHADOW_RANGE_M)
    west, south, east, north = sheet.bounds
    return west - margin, south - margin, east + margin, north + margin


def render_sheet(city: City, sheet: Sheet, metres_per_pixel: float, window: Window | None = None) -> bytes:
    """A sheet of imagery as the bytes of a tiled, JPEG-compressed GeoTIFF in UTM zone 26 N.

    Flight lines run east and west every 1,024 m in legs of 4,096 m, each with its own sun and season; sheets
    of one leg fit without a seam. Every epoch of the city is flown anew.

    Convention: north up, east right, pixel (0, 0) at the sheet's north-west corner.
    """
    look = flight_look(
        city.seed + 1000 * city.epoch, int(sheet.bounds[1] // _FLIGHT_M), int(sheet.bounds[0] // _LEG_M)
    )
    image = render_aerial(city, sheet.bounds, metres_per_pixel, look, window=window)
    west, north = ORIGIN_EASTING_M + sheet.bounds[0], ORIGIN_NORTHING_M + sheet.bounds[3]
    transform = rasterio.Affine(metres_per_pixel, 0.0, west, 0.0, -metres_per_pixel, north)
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "height": image.shape[0], "width": image.shape[1],
        "crs": CRS, "transform": transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 88, "interleave": "pixel",
    }  # fmt: skip
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as target:
            target.write(np.moveaxis(image, -1, 0))
            target.colorinterp = [rasterio.enums.ColorInterp[c] for c in ("red", "green", "blue")]
        return bytes(memory.read())


def render_photo(city: City, photo: Photo, camera: Camera, window: Window | None = None) -> bytes:
    """A street photo as JPEG bytes, with a look of its own.

    Convention: as `render_panorama`; the photo's heading is from grid north.
    """
    look = photo_look(city.seed, *photo.key)
    picture = render_panorama(
        city, (photo.x, photo.y), look, camera, heading_deg=photo.heading_deg, window=window
    )
    return jpeg(picture, jpeg_quality(look.seed))


def photos_csv(photos: Sequence[Photo]) -> bytes:
    """The table of photos: file name, position, heading of the centre column, field of view.

    Convention: WGS84 degrees; headings clockwise from TRUE north: the grid heading plus the grid convergence.
    """
    x, y = np.array([p.x for p in photos]), np.array([p.y for p in photos])
    lat, lon = to_latlon(x, y)
    heading = (np.array([p.heading_deg for p in photos]) + convergence_deg(x, y)) % 360
    rows = (
        (photo.name, f"{lat[k]:.8f}", f"{lon[k]:.8f}", f"{heading[k]:.4f}", "360", "panorama")
        for k, photo in enumerate(photos)
    )
    return _csv(PHOTO_COLUMNS, rows)


def tiles_csv(tiles: Sequence[tuple[str, float, float]]) -> bytes:
    """The table of tile centres: id and WGS84 degrees.

    Convention: order latitude, longitude.
    """
    lat, lon = to_latlon([t[1] for t in tiles], [t[2] for t in tiles])
    return _csv(TILE_COLUMNS, ((tile[0], f"{lat[k]:.8f}", f"{lon[k]:.8f}") for k, tile in enumerate(tiles)))


def route_tables(routes: DistrictRoutes, fov_deg: float) -> dict[str, bytes]:
    """The tables of a district's routes by file name.

    photos.csv: photos in order, with the way to each by the odometer; the heading stays untold. truth.csv: headings.
    streets.csv: places of the street graph and their neighbours.

    Convention: WGS84 degrees; headings clockwise from TRUE north; a positive turn is to the right.
    """
    photos, streets = routes.photos, routes.streets
    x, y = np.array([p.x for p in photos]), np.array([p.y for p in photos])
    lat, lon = to_latlon(x, y)
    heading = (np.array([p.heading_deg for p in photos]) + convergence_deg(x, y)) % 360
    rows = (
        (p.name, p.route_id, str(p.step), _cell(p.moved_m), _cell(p.turn_deg), f"{fov_deg:g}", "street",
         f"{lat[k]:.8f}", f"{lon[k]:.8f}")
        for k, p in enumerate(photos)
    )  # fmt: skip
    truth = ((p.name, p.route_id, str(p.step), f"{heading[k]:.4f}") for k, p in enumerate(photos))
    node_lat, node_lon = to_latlon(streets.x, streets.y)
    places = (
        (str(k), f"{node_lat[k]:.8f}", f"{node_lon[k]:.8f}", ";".join(map(str, streets.neighbours(k))))
        for k in range(len(streets))
    )
    return {
        "photos.csv": _csv(ROUTE_COLUMNS, rows),
        "truth.csv": _csv(("photo", "route_id", "step", "heading_deg"), truth),
        "streets.csv": _csv(STREET_COLUMNS, places),
    }


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue().encode()
