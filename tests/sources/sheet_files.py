"""Synthetic sheets for tests: a picture painted by ground position, written as a GeoTIFF in any CRS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rasterio
from affine import Affine
from pyproj import Transformer

from geoloc.sources.centres import Centres

Painter = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def write_sheet(
    path: Path, image: npt.NDArray[Any], transform: Affine | None, crs: str | None, **profile: Any
) -> str:
    """Write bands [C, H, W] losslessly; `mask` bool[H, W] becomes an internal mask."""
    mask = profile.pop("mask", None)
    options: dict[str, Any] = {
        "driver": "GTiff",
        "count": image.shape[0],
        "height": image.shape[1],
        "width": image.shape[2],
        "dtype": image.dtype,
        **profile,
    }
    if transform is not None:
        options["transform"] = transform
    if crs is not None:
        options["crs"] = crs
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as sheet:
        sheet.write(image)
        if mask is not None:
            sheet.write_mask(mask)
    return str(path)


def painted(
    path: Path, painter: Painter, transform: Affine, size: tuple[int, int], crs: str, **profile: Any
) -> str:
    """A sheet of (width, height) whose pixels are `painter(lat, lon)` [3, H, W] at their centres."""
    width, height = size
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    image = np.clip(np.rint(painter(lat, lon)), 0, 255).astype(np.uint8)
    return write_sheet(path, image, transform, crs, **profile)


def sheet_around(
    lat: float, lon: float, crs: str, side_m: float, pixel_m: float, *, turn_deg: float = 0.0
) -> tuple[Affine, tuple[int, int]]:
    """Transform and size of a sheet of about `side_m` centred on a point, in any CRS, turned in its plane."""
    to_crs = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_crs.transform(lon, lat)
    step = 1e-5
    dx = (to_crs.transform(lon + step, lat)[0] - x) / (step * 111_320 * np.cos(np.radians(lat)))
    dy = (to_crs.transform(lon, lat + step)[1] - y) / (step * 111_320)
    pixels = round(side_m / pixel_m)
    transform = (
        Affine.translation(x, y)
        @ Affine.rotation(turn_deg)
        @ Affine.scale(pixel_m * dx, -pixel_m * dy)
        @ Affine.translation(-pixels / 2, -pixels / 2)
    )
    return transform, (pixels, pixels)


def smooth(lat: npt.NDArray[np.float64], lon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Soft waves of 20 to 45 m that tell every place from its surroundings: [3, ...]."""
    north = (lat - 59.0) * 111_320
    east = (lon - 24.0) * 111_320 * np.cos(np.radians(59.0))
    return 127 + 100 * np.stack(
        [np.sin(east / 5.1), np.sin(north / 6.3), np.sin((east + north) / 7.2) * np.cos((east - north) / 4.4)]
    )


def centres_at(tile_ids: list[str], lat: npt.ArrayLike, lon: npt.ArrayLike) -> Centres:
    """Given tile centres."""
    return Centres(
        pa.chunked_array([pa.array(tile_ids)]), np.asarray(lat, np.float64), np.asarray(lon, np.float64), []
    )
