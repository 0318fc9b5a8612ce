"""Pictures of the demo's report: the district from above, and a tile as the network sees it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyproj import Transformer
from rasterio.io import MemoryFile

from geoloc.core import storage
from geoloc.core.file_selection import select
from geoloc.core.images import decode_image
from geoloc.demo.service_check import Post
from geoloc.evaluation.report.plots import encode_figure
from geoloc.geometry.polar import aerial_to_polar

_SHEET_PX = 160
_POLAR_PX = (96, 384)  # height, width

Sheet = tuple[npt.NDArray[np.uint8], tuple[float, float, float, float]]


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


def overview(imagery: str, posts: Sequence[Post]) -> bytes:
    """The sheets of a directory side by side with true (dots) and located (crosses) positions, as PNG.

    Convention: the sheets' own projection, north up, east right.
    """
    drawing = Figure(figsize=(9, 9), dpi=100, layout="constrained")
    axes = drawing.add_subplot()
    crs = ""
    for file in select(imagery, (".tif", ".tiff")).files:
        (pixels, extent), crs = _small(storage.read_bytes(file.uri))
        axes.imshow(pixels, extent=extent, interpolation="antialiased")
    axes.autoscale()
    project = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    for post in posts:
        x, y = project(post.true_lon, post.true_lat)
        axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=7)
        if post.lat is not None and post.lon is not None:
            to_x, to_y = project(post.lon, post.lat)
            axes.plot([x, to_x], [y, to_y], "-", color="#e33", linewidth=1)
            axes.plot(to_x, to_y, "x", color="#e33", markersize=6, markeredgewidth=2)
    axes.set(xlabel=f"metres east ({crs})", ylabel="metres north", aspect="equal")
    axes.ticklabel_format(style="plain", useOffset=False)
    return encode_figure(drawing)


def _small(data: bytes) -> tuple[Sheet, str]:
    """A sheet shrunk, with its extent (left, right, bottom, top) and its coordinate system."""
    with MemoryFile(data) as memory, memory.open() as sheet:
        height = max(1, round(_SHEET_PX * sheet.height / max(sheet.height, sheet.width)))
        width = max(1, round(_SHEET_PX * sheet.width / max(sheet.height, sheet.width)))
        pixels = sheet.read([1, 2, 3], out_shape=(3, height, width)).transpose(1, 2, 0)
        bounds = sheet.bounds
        return (pixels, (bounds.left, bounds.right, bounds.bottom, bounds.top)), sheet.crs.to_string()
