from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoloc.core.errors import InputError
from geoloc.core.images import ImageLimits, decode_image, image_format


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
        (b"GIF89a" + bytes(100), "undecodable"),
        (encoded(noise(), "PNG")[:900], "truncated"),
        (encoded(noise(), "JPEG")[:600], "truncated"),
        (encoded(noise(), "TIFF")[:900], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "undecodable"),
        (encoded(noise(20, 90), "PNG"), "too_small"),
        (encoded(np.zeros((33, 8200, 3), np.uint8), "PNG"), "too_large"),
        (encoded(np.zeros((40, 40), np.uint16), "PNG"), "undecodable"),
    ],
)
def test_every_refusal_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_limits_are_checked_before_decoding() -> None:
    bomb = encoded(np.zeros((6000, 6000), np.uint8), "PNG")
    with pytest.raises(InputError, match="6000 x 6000 px") as caught:
        decode_image(bomb)
    assert caught.value.reason == "too_large"
    with pytest.raises(InputError, match="not one of JPEG"):
        decode_image(encoded(noise(), "TIFF"), limits=ImageLimits(formats=("JPEG", "PNG")))


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
    assert reason in {None, "undecodable", "truncated", "too_small", "too_large"}
