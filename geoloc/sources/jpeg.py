"""Pixels to JPEG bytes, the same bytes for the same pixels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int = 92, *, full_colour: bool = True) -> bytes:
    """JPEG bytes of RGB uint8[H, W, 3].

    `full_colour` keeps the colours at full resolution (4:4:4): lane marks and roof edges are a pixel wide.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0 if full_colour else 2)
    return buffer.getvalue()
