from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from geoloc.core import images
from geoloc.core.errors import InputError
from geoloc.core.images import ImageLimits, decode_image, image_format, read_image_bytes


def noise(height: int = 40, width: int = 48) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(image: npt.NDArray[np.uint8], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_formats(kind: str) -> None:
    data = encoded(noise(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert image_format(data) == kind
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8
    if kind == "JPEG":
        assert decoded.shape == (40, 48, 3)
    else:
        np.testing.assert_array_equal(decoded, noise())


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    data = encoded(noise(), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data), np.rot90(noise(), -1))


def test_grey_palette_and_alpha_become_rgb() -> None:
    grey = decode_image(encoded(noise()[..., 0], "PNG"))
    np.testing.assert_array_equal(grey, np.repeat(noise()[..., :1], 3, axis=2))
    alpha = np.dstack([noise(), np.full((40, 48), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(alpha, "PNG")), noise())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "undecodable"),
        (b"GIF89a" + bytes(100), "unsupported_format"),
        (b"\xff\x0a" + bytes(100), "unsupported_format"),  # JPEG XL
        (b"\x00\x00\x00\x0cjP  " + bytes(100), "unsupported_format"),
        (encoded(noise(), "PNG")[:900], "truncated"),
        (encoded(noise(), "JPEG")[:600], "truncated"),
        (encoded(noise(), "TIFF")[:900], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "undecodable"),
        (encoded(noise(20, 90), "PNG"), "too_small"),
        (encoded(np.zeros((33, 16_400, 3), np.uint8), "PNG"), "too_large"),
        (encoded(np.zeros((40, 40), np.uint16), "PNG"), "undecodable"),
    ],
)
def test_every_refusal_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_limits_are_checked_before_decoding() -> None:
    bomb = encoded(np.zeros((7200, 7200), np.uint8), "PNG")
    with pytest.raises(
        InputError, match=r"7200 x 7200 px; .* 50,000,000 pixels .* or save it as JPEG"
    ) as caught:
        decode_image(bomb)
    assert caught.value.reason == "too_large"
    with pytest.raises(InputError, match="not one of JPEG"):
        decode_image(encoded(noise(), "TIFF"), limits=ImageLimits(formats=("JPEG", "PNG")))


def jpeg(width: int, height: int, **options: object) -> bytes:
    """A large JPEG that grows brighter to the right, quickly made."""
    row = np.linspace(20, 235, width).astype(np.uint8)
    image = Image.fromarray(row[None].repeat(8, 0)).resize((width, height)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "kept"),
    [((8192, 4096), (4096, 2048)), ((8000, 6000), (4000, 3000)), ((12_000, 9000), (3000, 2250))],
)
def test_large_photos_are_decoded_smaller(size: tuple[int, int], kept: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: brighter to the left
    for options, first, last in (({}, 20, 235), ({"exif": exif}, 235, 20)):
        pixels = decode_image(jpeg(*size, **options))
        assert pixels.shape == (kept[1], kept[0], 3)
        assert np.abs(pixels[5, [0, -1]].astype(int) - [[first] * 3, [last] * 3]).max() <= 3


def test_other_formats_are_made_smaller_after_they_were_decoded() -> None:
    small = ImageLimits(kept_pixels=1000, min_side_px=8)
    pixels = decode_image(encoded(noise(), "PNG"), limits=small)
    assert pixels.shape == (20, 24, 3)
    expected = noise().reshape(20, 2, 24, 2, 3).astype(float).mean((1, 3))
    assert np.abs(pixels - expected).max() <= 0.5
    assert decode_image(encoded(noise(), "JPEG"), limits=small).shape == (20, 24, 3)


def test_a_file_is_refused_by_its_size_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    with pytest.raises(InputError, match=r"3,221,225,472 bytes; at most 67,108,864 are read") as caught:
        read_image_bytes(str(path))
    assert caught.value.reason == "too_large"


def heif_header(brand: bytes, *others: bytes) -> bytes:
    box = brand + bytes(4) + b"".join(others)
    return (len(box) + 8).to_bytes(4, "big") + b"ftyp" + box + bytes(60)


def test_phone_formats_are_known_by_their_brands() -> None:
    assert image_format(heif_header(b"heic", b"mif1")) == "HEIF"
    assert image_format(heif_header(b"mif1", b"heic")) == "HEIF"
    assert image_format(heif_header(b"mif1", b"avif", b"miaf")) == "AVIF"
    assert image_format(heif_header(b"avif")) == "AVIF"
    assert image_format(heif_header(b"isom", b"mp41")) is None  # a film


@pytest.mark.skipif(not features.check("avif"), reason="the installed Pillow has no AVIF")
def test_avif_is_read() -> None:
    assert (
        np.abs(decode_image(encoded(noise(64, 96) // 8 + 100, "AVIF", quality=95)).astype(int) - 115).max()
        < 40
    )


def test_heif_is_read_with_its_extra_and_refused_with_advice_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    smooth = np.full((64, 96, 3), 120, np.uint8)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(buffer, quality=90)
    data = buffer.getvalue()
    assert image_format(data) == "HEIF"
    assert np.abs(decode_image(data).astype(int) - 120).max() <= 3
    with pytest.raises(InputError) as broken:
        decode_image(data[:300])
    assert broken.value.reason in ("undecodable", "truncated")
    monkeypatch.setattr(images, "_heif_ready", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'geoloc\[heif\]'") as caught:
        decode_image(data)
    assert caught.value.reason == "unsupported_format"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_end_in_another_exception(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]))
    blob = bytearray(encoded(noise(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(blob)))
    reason = None
    try:
        decode_image(bytes(blob[:cut]))
    except InputError as error:
        reason = error.reason
    assert reason in {None, "undecodable", "unsupported_format", "truncated", "too_small", "too_large"}
