"""Pictures of the demo's report: the district from above, and a tile as the network sees it."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import array_bounds, from_bounds
from rasterio.warp import reproject, transform_bounds

from geoloc.core import storage
from geoloc.core.file_selection import select
from geoloc.core.images import decode_image
from geoloc.evaluation.report.position_map import GroundPicture
from geoloc.geometry.polar import aerial_to_polar

_SHEET_PX = 320
_PICTURE_PX = 1400
_MERCATOR = "EPSG:3857"
_POLAR_PX = (96, 384)  # height, width


def polar(tile: bytes) -> bytes:
    """An encoded tile as an encoded polar image.

    Convention: north at the middle column, south at the left edge, the tile's centre at the bottom row.
    """
    pixels = torch.from_numpy(decode_image(tile)).permute(2, 0, 1)[None].float()
    height, width = _POLAR_PX
    seen = aerial_to_polar(pixels, height_px=height, width_px=width)[0].permute(1, 2, 0)
    sink = io.BytesIO()
    Image.fromarray(seen.round().clamp(0, 255).to(torch.uint8).numpy()).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def ground_picture(imagery: str) -> GroundPicture:
    """The sheets of a directory put together in web mercator, as WebP, transparent where there is none.

    Convention: north up, east right; a pixel has the same size everywhere in web mercator.
    """
    sheets = [_small(storage.read_bytes(file.uri)) for file in select(imagery, (".tif", ".tiff")).files]
    corners = [
        transform_bounds(crs, _MERCATOR, *array_bounds(*pixels.shape[1:], place))
        for pixels, place, crs in sheets
    ]
    west, south = (min(one[side] for one in corners) for side in (0, 1))
    east, north = (max(one[side] for one in corners) for side in (2, 3))
    step = max(east - west, north - south) / _PICTURE_PX
    width, height = max(1, round((east - west) / step)), max(1, round((north - south) / step))
    place = from_bounds(west, south, east, north, width, height)
    ground = np.zeros((4, height, width), np.uint8)
    for pixels, own, crs in sheets:
        shown = np.zeros_like(ground)
        opaque = np.concatenate([pixels, np.full_like(pixels[:1], 255)])
        reproject(
            opaque, shown, src_transform=own, src_crs=crs, dst_transform=place, dst_crs=_MERCATOR,
            resampling=Resampling.bilinear,
        )  # fmt: skip
        np.copyto(ground, shown, where=shown[3] > 0)
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(ground.transpose(1, 2, 0))).save(sink, "WEBP", quality=75, method=4)
    west, south, east, north = transform_bounds(_MERCATOR, "EPSG:4326", west, south, east, north)
    return GroundPicture(sink.getvalue(), "image/webp", south, west, north, east)


def _small(data: bytes) -> tuple[npt.NDArray[np.uint8], Affine, str]:
    """(pixels uint8[3, h, w], pixel to projection, coordinate system) of a sheet, shrunk."""
    with MemoryFile(data) as memory, memory.open() as sheet:
        scale = min(1.0, _SHEET_PX / max(sheet.height, sheet.width))
        height, width = max(1, round(scale * sheet.height)), max(1, round(scale * sheet.width))
        pixels = sheet.read([1, 2, 3], out_shape=(3, height, width), resampling=Resampling.average)
        return pixels, from_bounds(*sheet.bounds, width, height), sheet.crs.to_string()
