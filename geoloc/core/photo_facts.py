"""What a photo's file and shape say of how it was taken: a panorama's field of view, a lens, a drone, proportions.

GPS positions and the compass heading of EXIF are never read: the first would tell what is to be found, and the
second is off by tens of degrees, or 0 where a camera has no compass. The heading of a panorama (GPano) is told, and
used where a user asks for it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from geoloc.core.errors import InputError

_EXIF_IFD, _FOCAL_LENGTH_35MM, _ORIENTATION = 0x8769, 0xA405, 0x0112
_MOST_XMP_BYTES = 2**20
# Attributes and elements of the Photo Sphere XMP namespace, which cameras and stitchers write.
_ATTRIBUTE = re.compile(rb"GPano:(\w+)\s*=\s*[\"']([^\"']{1,40})[\"']")
_ELEMENT = re.compile(rb"<GPano:(\w+)[^<>]*>([^<]{1,40})</GPano:")
_CROP = ("FullPanoWidthPixels", "CroppedAreaLeftPixels", "CroppedAreaImageWidthPixels")
_ASPECT_SLACK = 0.95  # stitchers crop a few rows more or less
MOST_ASPECT = 32.0
# Widths by height of pictures without facts that are taken for a full circle: whole spheres, and cuts of 120 degrees
# from top to bottom or less. Between them lie 19.5:9 and 21:9 of phones and wide screens.
_SPHERE_ASPECT, _CUT_ASPECT = 2.05, 3.0


# Attributes and elements that DJI's drones write, and others after them.
_DRONE_TAG = re.compile(rb"drone-dji:(\w+)(?:\s*=\s*[\"']|\s*>)([^\"'<]{1,40})[\"'<]")
_DIAGONAL_35MM = math.hypot(36.0, 24.0)


@dataclass(frozen=True)
class DroneTags:
    """What a drone wrote of its flight: metres above its start, the camera's pitch and yaw, its field of view.

    Convention: pitch_deg is below the horizon, 90 straight down; yaw_deg is clockwise from north. None: not written.
    """

    altitude_m: float | None = None
    pitch_deg: float | None = None
    yaw_deg: float | None = None
    fov_deg: float | None = None


@dataclass(frozen=True)
class PhotoFacts:
    """What a photo's file says: the azimuths that a panorama spans (None: no panorama), and whether a lens took it.

    `panorama_heading_deg` is the heading of the panorama's centre column, clockwise from north, None where the file
    states none. `ordinary_lens` is True where the file states a focal length as of a 35 mm camera and is no panorama.
    `lens_fov_deg` is the horizontal field of view of that focal length; it is used only where the caller allows it.
    `drone` is used only where the caller allows it: drones take heights from their start and yaws from a compass.
    """

    panorama_fov_deg: float | None = None
    ordinary_lens: bool = False
    drone: DroneTags | None = None
    panorama_heading_deg: float | None = None
    lens_fov_deg: float | None = None


NOTHING_SAID = PhotoFacts()


def photo_facts(image: Image.Image) -> PhotoFacts:
    """The facts in an open image's XMP (GPano) and EXIF; broken metadata says nothing."""
    xmp = image.info.get("xmp", b"")
    data = (xmp if isinstance(xmp, bytes) else str(xmp).encode())[:_MOST_XMP_BYTES]
    tags = _gpano(data)
    if tags:
        return PhotoFacts(panorama_fov_deg=_spanned_deg(tags), panorama_heading_deg=_heading_deg(tags))
    try:
        focal = image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_35MM)
    except (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return NOTHING_SAID
    focal_mm = float(focal) if isinstance(focal, int | float) and focal > 0 else None
    fov_deg = None if focal_mm is None else _lens_fov_deg(focal_mm, *_upright_size(image))
    return PhotoFacts(
        ordinary_lens=focal_mm is not None, drone=_drone_tags(data, fov_deg), lens_fov_deg=fov_deg
    )


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the photo is seen: orientations 5 to 8 of EXIF lie on their side."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


def _lens_fov_deg(focal_mm: float, width_px: int, height_px: int) -> float:
    """Horizontal field of view, degrees, of a focal length as of 35 mm film, which holds for the diagonal."""
    across_mm = _DIAGONAL_35MM * width_px / math.hypot(width_px, height_px)
    return math.degrees(2 * math.atan(across_mm / 2 / focal_mm))


def _drone_tags(data: bytes, fov_deg: float | None) -> DroneTags | None:
    """The tags of a drone's flight, and its camera's field of view; None for a photo of no drone."""
    texts = {name: value.decode("ascii", "replace") for name, value in _DRONE_TAG.findall(data)}
    if not texts:
        return None
    pitch = _number(texts, b"GimbalPitchDegree")
    return DroneTags(
        altitude_m=_number(texts, b"RelativeAltitude"),
        pitch_deg=None if pitch is None else max(0.0, -pitch),  # a camera that looks up shows no ground
        yaw_deg=_number(texts, b"GimbalYawDegree"),
        fov_deg=fov_deg,
    )


def _number(texts: Mapping[bytes, str], name: bytes) -> float | None:
    try:
        value = float(texts[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _gpano(xmp: bytes) -> dict[str, str]:
    """The GPano tags by name, where they describe a panorama."""
    found = {**dict(_ELEMENT.findall(xmp)), **dict(_ATTRIBUTE.findall(xmp))}
    tags = {name.decode(): value.decode("ascii", "replace").strip() for name, value in found.items()}
    projection = tags.get("ProjectionType", "").lower()
    return tags if projection in ("equirectangular", "cylindrical") or "FullPanoWidthPixels" in tags else {}


def _spanned_deg(tags: dict[str, str]) -> float:
    """The azimuths of the part that was kept of a full circle; 360 where the tags leave it open."""
    try:
        whole, kept = float(tags["FullPanoWidthPixels"]), float(tags["CroppedAreaImageWidthPixels"])
    except (KeyError, ValueError):
        return 360.0
    return 360.0 * kept / whole if 0 < kept <= whole else 360.0


def _heading_deg(tags: dict[str, str]) -> float | None:
    """The heading of the centre of the part that was kept; None where the tags state none.

    Convention: PoseHeadingDegrees is of the centre of the full circle, clockwise from north.
    """
    try:
        pose_deg = float(tags["PoseHeadingDegrees"])
    except (KeyError, ValueError):
        return None
    try:
        whole, left, kept = (float(tags[name]) for name in _CROP)
        turned_deg = 360.0 * ((left + kept / 2) / whole - 0.5)
    except (KeyError, ValueError, ZeroDivisionError):
        turned_deg = 0.0
    heading_deg = (pose_deg + turned_deg) % 360.0
    return heading_deg if math.isfinite(heading_deg) else None


def least_aspect(fov_deg: float) -> float:
    """The least width by height of a panorama: it shows at most 180 degrees from top to bottom, at one scale."""
    return fov_deg / 180.0 * _ASPECT_SLACK


def looks_like_a_circle(height: int, width: int) -> bool:
    """Whether a picture of pixels [height, width], about which nothing is known, is taken for a full circle."""
    aspect = width / height
    return least_aspect(360.0) <= aspect <= _SPHERE_ASPECT or _CUT_ASPECT <= aspect <= MOST_ASPECT


def check_shape(view: str, fov_deg: float, height: int, width: int) -> None:
    """Raise `InputError` for a panorama whose pixels [height, width] cannot span its field of view."""
    if view == "panorama" and not least_aspect(fov_deg) <= width / height <= MOST_ASPECT:
        raise InputError(
            f"the photo has {width} x {height} px; a panorama of {fov_deg:g} degrees is {least_aspect(fov_deg):.2f} to "
            f"{MOST_ASPECT:g} times as wide as high; if it is no panorama, say view street, if it shows a part of the "
            "circle, say fov_deg",
            reason="bad_aspect",
        )
