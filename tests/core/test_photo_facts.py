"""What files say of how a photo was taken."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from geoloc.core.errors import InputError
from geoloc.core.images import decode_picture
from geoloc.core.photo_facts import NOTHING_SAID, PhotoFacts, check_shape

_SPHERE = "xmlns:GPano='http://ns.google.com/photos/1.0/panorama/'"


def saved(kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 128, 3), 90, np.uint8)).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def xmp(attributes: str = "", elements: str = "") -> bytes:
    return (
        f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description {_SPHERE} {attributes}>{elements}"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_photo_sphere_tells_its_field_of_view(kind: str) -> None:
    for data, fov_deg in {
        xmp('GPano:ProjectionType="equirectangular"'): 360.0,
        xmp(
            "GPano:ProjectionType='equirectangular' GPano:FullPanoWidthPixels='8000' "
            "GPano:CroppedAreaImageWidthPixels='2000'"
        ): 90.0,
        xmp(
            elements="<GPano:ProjectionType>cylindrical</GPano:ProjectionType>"
            "<GPano:FullPanoWidthPixels>8000</GPano:FullPanoWidthPixels>"
            "<GPano:CroppedAreaImageWidthPixels>6000</GPano:CroppedAreaImageWidthPixels>"
        ): 270.0,
        xmp("GPano:FullPanoWidthPixels='0' GPano:CroppedAreaImageWidthPixels='none'"): 360.0,
        xmp("GPano:PoseHeadingDegrees='90'"): None,
        b"<broken GPano:ProjectionType=": None,
    }.items():
        assert decode_picture(saved(kind, xmp=data)).facts == PhotoFacts(fov_deg), data
    assert decode_picture(saved(kind)).facts == NOTHING_SAID


def test_a_photo_sphere_tells_the_heading_of_what_was_kept_of_it() -> None:
    sphere = "GPano:ProjectionType='equirectangular' GPano:PoseHeadingDegrees='{}' "
    crop = "GPano:FullPanoWidthPixels='8000' GPano:CroppedAreaImageWidthPixels='2000' "
    for attributes, heading_deg in {
        sphere.format("123.5"): 123.5,
        sphere.format("-10"): 350.0,
        sphere.format("nan"): None,
        sphere.format("north"): None,
        sphere.format("90")
        + crop
        + "GPano:CroppedAreaLeftPixels='0'": 315.0,  # 1000 of 8000 is 135 left of 4000
        sphere.format("90") + crop + "GPano:CroppedAreaLeftPixels='3000'": 90.0,
        sphere.format("90") + crop: 90.0,
    }.items():
        facts = decode_picture(saved(xmp=xmp(attributes))).facts
        assert facts.panorama_heading_deg == heading_deg, attributes


def test_a_lens_is_no_full_circle_unless_the_file_is_a_photo_sphere() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    facts = decode_picture(saved(exif=exif)).facts
    assert facts.ordinary_lens
    assert facts.panorama_fov_deg is None
    sphere = xmp("GPano:ProjectionType='equirectangular'")
    assert decode_picture(saved(exif=exif, xmp=sphere)).facts == PhotoFacts(360.0)


def test_a_focal_length_gives_the_field_of_view_of_the_upright_photo() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    # 26 mm on film of 36 x 24 mm: 79.5 degrees along the diagonal, which is 128 x 64 px here.
    half_diagonal = math.tan(math.radians(79.52 / 2))
    across = 2 * math.degrees(math.atan(half_diagonal * 128 / math.hypot(128, 64)))
    assert decode_picture(saved(exif=exif)).facts.lens_fov_deg == pytest.approx(across, abs=0.05)
    exif[0x0112] = 6  # on its side: seen upright it is 64 px wide
    upright = 2 * math.degrees(math.atan(half_diagonal * 64 / math.hypot(128, 64)))
    assert decode_picture(saved(exif=exif)).facts.lens_fov_deg == pytest.approx(upright, abs=0.05)
    assert decode_picture(saved()).facts.lens_fov_deg is None


def test_shapes_that_cannot_span_their_field_of_view() -> None:
    for view, fov_deg, height, width in (
        ("panorama", 360.0, 100, 200),
        ("panorama", 360.0, 100, 190),
        ("panorama", 180.0, 100, 100),
        ("street", 70.0, 100, 100),
        ("drone", 360.0, 100, 100),
    ):
        check_shape(view, fov_deg, height, width)
    for width in (178, 3300):
        with pytest.raises(InputError, match=r"1\.90 to 32 times as wide as high; if it is no panorama"):
            check_shape("panorama", 360.0, 100, width)


def test_what_a_drone_writes_of_its_flight() -> None:
    flight = (
        'drone-dji:GpsLatitude="-35.1" drone-dji:RelativeAltitude="+99.80" drone-dji:GimbalPitchDegree="-62.50" '
        'drone-dji:GimbalYawDegree="-17.20"'
    )
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 24
    facts = decode_picture(saved(xmp=xmp(flight), exif=exif)).facts
    assert facts.drone is not None
    assert (facts.drone.altitude_m, facts.drone.pitch_deg, facts.drone.yaw_deg) == (99.8, 62.5, -17.2)
    # 24 mm on film of 36 x 24 mm: the diagonal sees 84.06 degrees, the side of a picture of 2 : 1 somewhat less.
    assert facts.drone.fov_deg == pytest.approx(
        2 * np.degrees(np.arctan(43.2666 * 2 / 5**0.5 / 48)), abs=1e-3
    )
    upwards = decode_picture(saved(xmp=xmp('drone-dji:GimbalPitchDegree="+20.00"'))).facts.drone
    assert upwards is not None
    assert upwards.pitch_deg == 0.0
    elements = (
        "<drone-dji:RelativeAltitude>50</drone-dji:RelativeAltitude><drone-dji:GimbalPitchDegree>x</drone-dji:"
        "GimbalPitchDegree>"
    )
    found = decode_picture(saved(xmp=xmp(elements=elements))).facts.drone
    assert found is not None
    assert (found.altitude_m, found.pitch_deg, found.yaw_deg, found.fov_deg) == (50.0, None, None, None)
    assert decode_picture(saved()).facts.drone is None
