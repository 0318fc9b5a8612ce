"""Pixels to JPEG bytes, the same bytes for the same pixels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def encode_jpeg(
    image: npt.NDArray[np.uint8] | Image.Image, quality: int = 92, *, full_colour: bool = True
) -> bytes:
    """JPEG bytes of an RGB picture, uint8[H, W, 3] or Pillow's.

    `full_colour` keeps the colours at full resolution (4:4:4): lane marks and roof edges are a pixel wide.
    """
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, "JPEG", quality=quality, subsampling=0 if full_colour else 2)
    return buffer.getvalue()
