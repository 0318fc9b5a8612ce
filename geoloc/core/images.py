"""Image bytes to pixels: the one decoder of ingest, encode and serve, with limits and a reason for every refusal."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from geoloc.core.errors import InputError

_MAGIC = (
    ("JPEG", b"\xff\xd8\xff", 0),
    ("PNG", b"\x89PNG\r\n\x1a\n", 0),
    ("WEBP", b"WEBP", 8),
    ("TIFF", b"II*\x00", 0),
    ("TIFF", b"MM\x00*", 0),
)


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be; anything outside is refused before its pixels are decoded."""

    max_pixels: int = 25_000_000
    min_side_px: int = 32
    max_side_px: int = 8192
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF")


DEFAULT_LIMITS = ImageLimits()
MAX_IMAGE_BYTES = 128 * 2**20  # of an encoded picture: more than 25 million pixels need without compression


def image_format(data: bytes) -> str | None:
    """Format of image bytes by their first bytes (`JPEG`, `PNG`, `WEBP`, `TIFF`), None for anything else."""
    for name, magic, start in _MAGIC:
        if data[start : start + len(magic)] == magic and (name != "WEBP" or data[:4] == b"RIFF"):
            return name
    return None


def decode_image(data: bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> npt.NDArray[np.uint8]:
    """Decode image bytes to RGB uint8[H, W, 3], turned upright by its EXIF orientation.

    Raises `InputError` with reason `empty`, `undecodable`, `truncated`, `too_small` or `too_large`.
    """
    if not data:
        raise InputError("The image is empty (0 bytes); send the file's bytes.", reason="empty")
    kind = image_format(data)
    if kind not in limits.formats:
        found = "of an unknown kind" if kind is None else kind
        raise InputError(
            f"The image is {found}, not one of {', '.join(limits.formats)}; convert it.", reason="undecodable"
        )
    try:
        with warnings.catch_warnings():
            # Bombs are refused by our own limits; of broken metadata only the orientation matters to us.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                _check_size(image.width, image.height, limits)
                return _pixels(image)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"The image is too large: {error}; scale it down.", reason="too_large") from error
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise _explain(error, kind, len(data)) from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if min(width, height) < limits.min_side_px:
        raise InputError(
            f"The image is {width} x {height} px; the shorter side must have at least {limits.min_side_px} px.",
            reason="too_small",
        )
    if max(width, height) > limits.max_side_px or width * height > limits.max_pixels:
        raise InputError(
            f"The image is {width} x {height} px; at most {limits.max_side_px} px a side and "
            f"{limits.max_pixels:,} pixels are taken: scale it down.",
            reason="too_large",
        )


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        raise InputError(
            f"The image has {upright.mode} pixels, not 8 bits a channel; state a scale by converting it first.",
            reason="undecodable",
        )
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _explain(error: Exception, kind: str, size_bytes: int) -> InputError:
    if isinstance(error, UnidentifiedImageError):
        # Pillow's own words hold a memory address: quarantine tables would differ from run to run.
        return InputError(f"The {kind} image cannot be decoded: its header is broken.", reason="undecodable")
    marks = ("truncated", "incomplete", "end of", "not enough", "unexpected end", "broken")
    if not any(mark in str(error).lower() for mark in marks):
        return InputError(f"The {kind} image cannot be decoded: {error}.", reason="undecodable")
    return InputError(
        f"The {kind} image is cut off after {size_bytes:,} bytes; send the whole file.", reason="truncated"
    )
