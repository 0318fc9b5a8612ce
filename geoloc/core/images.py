"""Image bytes to pixels: the one decoder of ingest, encode and serve, with limits and a reason for every refusal."""

from __future__ import annotations

import importlib
import importlib.util
import io
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from geoloc.core import storage
from geoloc.core.arrays import Pixels
from geoloc.core.errors import InputError
from geoloc.core.photo_facts import PhotoFacts, photo_facts

_HEIF_EXTRA = "pillow_heif"
_MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("TIFF", b"II*\x00"),
    ("TIFF", b"MM\x00*"),
    ("BigTIFF", b"II+\x00"),
    ("BigTIFF", b"MM\x00+"),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\x00\x00\x00\x0cJXL "),
    ("JPEG 2000", b"\x00\x00\x00\x0cjP  "),
    ("JPEG 2000", b"\xff\x4f\xff\x51"),
    ("GIF", b"GIF8"),
    ("BMP", b"BM"),
    ("PDF", b"%PDF"),
    ("ZIP", b"PK\x03\x04"),
)
# The brands of the ISO container that HEIF and AVIF share; `mif1` and `msf1` are of both.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be; anything outside is refused before its pixels are decoded.

    One setting for ingest, localize and the service. Pictures of more than `kept_pixels` are halved until they have
    no more: JPEG while it is decoded, other formats after, so those may have `max_whole_pixels` at most.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 2**27  # a panorama of 16,384 x 8,192
    max_whole_pixels: int = 50_000_000
    kept_pixels: int = 25_000_000
    min_side_px: int = 32
    max_side_px: int = 16_384
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")


DEFAULT_LIMITS = ImageLimits()
MAX_IMAGE_BYTES = DEFAULT_LIMITS.max_bytes


@dataclass(frozen=True)
class Picture:
    """A decoded picture uint8[H, W, 3], upright, and what its file says of how it was taken."""

    pixels: Pixels
    facts: PhotoFacts


def image_format(data: bytes) -> str | None:
    """Format of image bytes by their first bytes (`JPEG`, `PNG`, `HEIF`, ...), None for what is no picture we know."""
    for name, magic in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    if brands & set(_AVIF_BRANDS):
        return "AVIF"
    return "HEIF" if brands & set(_HEIF_BRANDS) else None


def decode_image(data: bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Decode image bytes to RGB uint8[H, W, 3], turned upright by its EXIF orientation; see `decode_picture`."""
    return decode_picture(data, limits=limits).pixels


def decode_picture(data: bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decode image bytes to RGB uint8[H, W, 3], turned upright by its EXIF orientation, with the file's own facts.

    The first bytes say which format it is, whatever the name. A picture of more than `limits.kept_pixels` comes
    smaller. Raises `InputError` with reason `empty`, `undecodable`, `unsupported_format`, `truncated`, `too_small` or
    `too_large`.
    """
    if not data:
        raise InputError("The image is empty (0 bytes); send the file's bytes.", reason="empty")
    check_bytes(len(data), limits)
    kind = image_format(data)
    _check_format(kind, limits)
    assert kind is not None
    try:
        with warnings.catch_warnings():
            # Bombs are refused by our own limits; of broken metadata only the orientation matters to us.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                _check_size(image.width, image.height, limits, whole=kind != "JPEG")
                return Picture(_pixels(image, limits), photo_facts(image))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"The image is too large: {error}; scale it down.", reason="too_large") from error
    except (OSError, EOFError, SyntaxError, ValueError, RuntimeError) as error:
        raise _explain(error, kind, len(data)) from error


def read_image_bytes(uri: str, *, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of an image file; its size is checked before a byte is read (`InputError`, reason `too_large`)."""
    return storage.read_bytes(uri, limit_bytes=limits.max_bytes)


def check_bytes(size_bytes: int, limits: ImageLimits = DEFAULT_LIMITS) -> None:
    """Raise `InputError` (reason `too_large`) for a file of more bytes than an image may have."""
    if size_bytes > limits.max_bytes:
        raise InputError(
            f"The image has {size_bytes:,} bytes; at most {limits.max_bytes:,} are taken: scale it down.",
            reason="too_large",
        )


def _check_format(kind: str | None, limits: ImageLimits) -> None:
    """Refuse bytes of no accepted format; of those that need a decoder that is not installed, name it."""
    taken = ", ".join(limits.formats)
    if kind is None:
        raise InputError(f"The file is no picture that we know, not one of {taken}.", reason="undecodable")
    if kind == "AVIF" and not features.check("avif"):
        raise InputError(
            "The image is AVIF, which the installed Pillow cannot decode; install Pillow with AVIF or convert it.",
            reason="unsupported_format",
        )
    if kind == "HEIF" and not _heif_ready():
        raise InputError(
            "The image is HEIF (HEIC), as phones write it; install the decoder, `pip install 'geoloc[heif]'`, or "
            "convert it to JPEG.",
            reason="unsupported_format",
        )
    if kind not in limits.formats:
        raise InputError(
            f"The image is {kind}, not one of {taken}; {'unpack' if kind == 'ZIP' else 'convert'} it.",
            reason="unsupported_format",
        )


@lru_cache(maxsize=1)
def _heif_ready() -> bool:
    """Whether the extra `heif` is installed; its decoder is registered then."""
    if importlib.util.find_spec(_HEIF_EXTRA) is None:
        return False
    importlib.import_module(_HEIF_EXTRA).register_heif_opener()
    return True


def _check_size(width: int, height: int, limits: ImageLimits, *, whole: bool) -> None:
    if min(width, height) < limits.min_side_px:
        raise InputError(
            f"The image is {width} x {height} px; the shorter side must have at least {limits.min_side_px} px.",
            reason="too_small",
        )
    most = limits.max_whole_pixels if whole else limits.max_pixels
    if max(width, height) > limits.max_side_px or width * height > most:
        hint = (
            "scale it down, or save it as JPEG"
            if whole and width * height <= limits.max_pixels
            else "scale it down"
        )
        raise InputError(
            f"The image is {width} x {height} px; at most {limits.max_side_px} px a side and {most:,} pixels are "
            f"taken: {hint}.",
            reason="too_large",
        )


def _pixels(image: Image.Image, limits: ImageLimits) -> Pixels:
    factor = 1
    while image.width * image.height > limits.kept_pixels * factor**2:
        factor *= 2
    if factor > 1:  # JPEG is decoded smaller, by up to 8; nothing happens for other formats
        image.draft(None, (-(-image.width // factor), -(-image.height // factor)))
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        raise InputError(
            f"The image has {upright.mode} pixels, not 8 bits a channel; state a scale by converting it first.",
            reason="undecodable",
        )
    colours = upright.convert("RGB")
    while colours.width * colours.height > limits.kept_pixels:
        colours = colours.reduce(2)
    return np.array(colours, dtype=np.uint8)


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
