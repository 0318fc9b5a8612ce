"""Uploads that a service meets sooner or later, each with the status and the reason that it is to get.

None as a reason means that the file is a photo like any other, however odd, and is answered.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, PngImagePlugin
from small_index import texture

Hostile = tuple[str, bytes, int, str | None]
UNSUPPORTED = "unsupported_media_type"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def photo(width: int = 128, height: int = 64) -> Image.Image:
    return Image.fromarray(texture(5, 128)).resize((width, height))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, before: bytes = b"", rows: bytes
) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + png_chunk(b"IEND", b"")


def small_png(before: bytes) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in texture(5, 64))
    return png(64, 64, before=before, rows=rows)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header promises other pixels than it has."""
    data = bytearray(saved(photo(), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def with_comment(comment: bytes) -> bytes:
    data = saved(photo(), "JPEG")
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def with_segments(count: int) -> bytes:
    data = saved(photo(), "JPEG")
    return data[:2] + count * (b"\xff\xed" + struct.pack(">H", 60_002) + b"x" * 60_000) + data[2:]


def exif(**tags: object) -> bytes:
    exif = Image.Exif()
    if "orientation" in tags:
        exif[0x0112] = tags["orientation"]
    if "gps" in tags:
        exif.get_ifd(0x8825).update({1: "N", 2: (12.0, 0.0, 0.0), 3: "E", 4: (77.0, 0.0, 0.0)})
    return exif.tobytes()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(texture(seed, 64)) for seed in range(4)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def _of_other_formats() -> Iterator[Hostile]:
    starts = {
        "text": b"just text",
        "html": b"<!doctype html><script>alert(1)</script>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
        "pdf": b"%PDF-1.7 " + b"\0" * 500,
        "fits": b"SIMPLE  =                    T" + b" " * 500,
        "psd": b"8BPS\0\1" + b"\0" * 500,
        "icon": b"\0\0\1\0\1\0" + b"\0" * 500,
        "tiff": b"II*\0" + b"\0" * 500,
        "big-endian tiff": b"MM\0*" + b"\0" * 500,
        "bigtiff": b"II+\0" + b"\0" * 500,
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 500,
        "jpeg xl": b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 500,
        "video": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0" * 500,
        "program": b"\x7fELF\2\1\1" + b"\0" * 500,
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "zip": b"PK\3\4" + b"\0" * 500,
    }
    for name, data in starts.items():
        yield name, data, 415, UNSUPPORTED
    yield "gif", saved(photo(), "GIF"), 415, UNSUPPORTED
    yield "bmp", saved(photo(), "BMP"), 415, UNSUPPORTED


def _broken() -> Iterator[Hostile]:
    jpeg, portable, web = (saved(photo(), kind) for kind in ("JPEG", "PNG", "WEBP"))
    flipped = bytearray(portable)
    flipped[40] ^= 0xFF
    yield "empty", b"", 422, "empty"
    yield "jpeg cut", jpeg[: len(jpeg) // 2], 422, "truncated"
    yield "png cut", portable[:200], 422, "truncated"
    yield "webp cut", web[: len(web) // 2], 422, "undecodable"
    yield "jpeg of zeros", b"\xff\xd8\xff" + b"\0" * 500, 422, "undecodable"
    yield "png of zeros", b"\x89PNG\r\n\x1a\n" + b"\0" * 500, 422, "undecodable"
    yield "webp of zeros", b"RIFF\0\2\0\0WEBP" + b"\0" * 500, 422, "undecodable"
    yield "avif of zeros", b"\0\0\0\x18ftypavif" + b"\0" * 500, 422, "undecodable"
    yield "heif of zeros", b"\0\0\0\x18ftypheic" + b"\0" * 500, 422, "undecodable"
    yield "png with a wrong checksum", bytes(flipped), 422, "undecodable"
    yield "16 bit grey", saved(Image.fromarray(np.zeros((64, 64), np.uint16)), "PNG"), 422, "undecodable"


def _of_bad_sizes() -> Iterator[Hostile]:
    one_row = b"\0" * 1000
    yield "bomb of 3.6 billion pixels", png(60_000, 60_000, rows=one_row), 422, "too_large"
    yield "bomb of 64 million pixels", png(8_000, 8_000, rows=one_row), 422, "too_large"
    yield "greatest png header", png(2**31 - 1, 2**31 - 1, rows=one_row), 422, "too_large"
    yield "jpeg header of 65535 x 65535", jpeg_of_size(65_535, 65_535), 422, "too_large"
    yield "long side", png(20_000, 40, rows=one_row), 422, "too_large"
    yield "one pixel", saved(photo(1, 1), "JPEG"), 422, "too_small"
    yield "thin", png(1, 40_000, rows=one_row), 422, "too_small"
    yield "no pixels", png(0, 64, rows=one_row), 422, "undecodable"
    yield "small", saved(photo(31, 31), "PNG"), 422, "too_small"
    plain = Image.new("RGB", (5_000, 5_000), (90, 120, 40))
    yield "25 million pixels in bytes", saved(plain, "WEBP", lossless=True), 200, None
    rows = (b"\0" + b"\0" * 875) * 7_000
    yield "49 million pixels of one bit", png(7_000, 7_000, depth=1, colour=0, rows=rows), 200, None


def _with_metadata() -> Iterator[Hostile]:
    bomb = zlib.compress(b"\0" * (200 * 2**20), 9)
    yield "profile of 200 MiB", small_png(png_chunk(b"iCCP", b"p\0\0" + bomb)), 422, "undecodable"
    yield "text of 200 MiB", small_png(png_chunk(b"zTXt", b"t\0\0" + bomb)), 422, "undecodable"
    yield "20,000 texts", small_png(20_000 * png_chunk(b"tEXt", b"k\0v")), 200, None
    yield "gps", saved(photo(), "JPEG", exif=exif(gps=True)), 200, None
    yield "orientation", saved(photo(), "JPEG", exif=exif(orientation=6)), 200, None
    yield "orientation out of range", saved(photo(), "JPEG", exif=exif(orientation=77)), 200, None
    yield "broken exif", saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), 200, None
    yield "six megabytes of segments", with_segments(100), 200, None
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<GPano:FullPanoWidthPixels>1e999</GPano:FullPanoWidthPixels>")
    yield "absurd panorama tags", saved(photo(), "PNG", pnginfo=info), 200, None


def _odd_but_right() -> Iterator[Hostile]:
    picture = photo()
    yield "jpeg that is a zip too", saved(picture, "JPEG") + b"PK\3\4" + b"\0" * 500, 200, None
    yield "jpeg with a page inside", with_comment(b"<script>alert(1)</script>"), 200, None
    yield "animated png", animated("PNG"), 200, None
    yield "animated webp", animated("WEBP"), 200, None
    yield "two pictures in one", saved(picture, "MPO", save_all=True, append_images=[picture]), 200, None
    yield "cmyk", saved(picture.convert("CMYK"), "JPEG"), 200, None
    yield "grey jpeg", saved(picture.convert("L"), "JPEG"), 200, None
    yield "one bit", saved(picture.convert("1"), "PNG"), 200, None
    yield "palette with transparency", saved(picture.convert("P"), "PNG", transparency=3), 200, None
    yield "alpha", saved(picture.convert("RGBA"), "PNG"), 200, None
    yield "progressive", saved(picture, "JPEG", progressive=True), 200, None
    yield "avif", saved(picture, "AVIF"), 200, None


def hostile_files() -> list[Hostile]:
    """(name, bytes, status, reason) of each."""
    groups: list[Callable[[], Iterator[Hostile]]] = [
        _of_other_formats,
        _broken,
        _of_bad_sizes,
        _with_metadata,
        _odd_but_right,
    ]
    return [one for group in groups for one in group()]
