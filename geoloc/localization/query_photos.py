"""Photos with what is known about them, and their way through the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageFilter

from geoloc.core.arrays import BoolArray, Pixels
from geoloc.core.errors import InputError, QueryError
from geoloc.core.photo_facts import MOST_ASPECT, NOTHING_SAID, PhotoFacts, check_shape, least_aspect
from geoloc.core.schemas import VIEWS, usual_fov_deg
from geoloc.geometry.azimuth import keep_shown, shown_columns
from geoloc.geometry.panorama import shown_pixels
from geoloc.localization.drone_photos import ground_square
from geoloc.localization.locator import EncodedQueries
from geoloc.models.hash_encoders.encoder import pack_codes
from geoloc.recipe.recipe import ModelRecipe

if TYPE_CHECKING:
    from geoloc.models.encoder import Encoder

HEADINGS = 32  # candidates for an unknown heading: 11.25 degrees apart
_FEATURELESS_STD = 2.5  # grey levels of 255: below lies sensor noise, not content
_ONE_DIRECTION = 0.02  # of the gradients' power: below, nothing but parallel lines is shown
_SAMPLE_PX = 256


@dataclass(frozen=True)
class Photo:
    """A decoded photo uint8[H, W, 3] and how it was taken; see `photo`.

    heading_deg: of the image centre (for a drone photo: of its top), clockwise from north, None when unknown.
    fov_deg: horizontal field of view. extent_m: ground covered by the shorter side of a drone photo.
    assumed: which of view, heading_deg, fov_deg and (drone) extent_m neither the caller nor the file gave.
    """

    image: Pixels
    view: str
    heading_deg: float | None
    fov_deg: float
    extent_m: float | None
    assumed: tuple[str, ...] = ()

    @property
    def featureless(self) -> bool:
        """Whether the picture shows nothing but a plain surface (fog, open water, a lens cap) or parallel lines."""
        step = max(1, max(self.image.shape[:2]) // _SAMPLE_PX)
        grey = self.image[::step, ::step].mean(axis=2)
        return float(grey.std()) < _FEATURELESS_STD or _one_direction(self.image, step)


def _one_direction(image: Pixels, step: int) -> bool:
    """Whether all edges of a picture uint8[H, W, 3] run one way: the smaller eigenvalue of their structure tensor."""
    small = Image.fromarray(image).convert("L").reduce(step).filter(ImageFilter.BoxBlur(1))
    down, across = np.gradient(np.asarray(small, dtype=np.float64))
    mixed = float((across * down).mean())
    tensor = np.array([[float((across**2).mean()), mixed], [mixed, float((down**2).mean())]])
    weak, strong = np.linalg.eigvalsh(tensor)
    return bool(weak < _ONE_DIRECTION * strong)


def photo(
    image: Pixels,
    *,
    view: str | None = None,
    heading_deg: float | None = None,
    fov_deg: float | None = None,
    extent_m: float | None = None,
    altitude_m: float | None = None,
    pitch_deg: float | None = None,
    drone_tags: bool = False,
    facts: PhotoFacts = NOTHING_SAID,
) -> Photo:
    """A checked photo uint8[H, W, 3]; what is None comes from the file's `facts`, else it gets its usual value.

    A drone photo with `altitude_m` (above the ground) or `pitch_deg` (below the horizon, 90 straight down) becomes the
    square of ground about its axis, seen straight down; `extent_m` is then that square's. `drone_tags` takes altitude,
    pitch, yaw and field of view from the file's tags, where the caller gives none.
    The view is that of a drone where `extent_m`, `altitude_m` or `pitch_deg` is given.
    It is a panorama where the file says so (XMP GPano),
    where `fov_deg` is 360, or where the photo is 1.9 to 32 times as wide as high, `fov_deg` is None and the file names
    no ordinary lens. Any other is a street photo. `Photo.assumed` tells what was assumed.
    Raises `QueryError` (reason `bad_view`, `bad_heading`, `bad_fov`, `bad_extent`, `bad_aspect`, `bad_altitude`,
    `bad_pitch`) for values out of range, and for a panorama whose shape cannot span its field of view.
    """
    if drone_tags and view in (None, "drone") and facts.drone is not None:
        tags = facts.drone
        altitude_m, pitch_deg = _first(altitude_m, tags.altitude_m), _first(pitch_deg, tags.pitch_deg)
        heading_deg, fov_deg = _first(heading_deg, tags.yaw_deg), _first(fov_deg, tags.fov_deg)
    assumed = [] if heading_deg is not None else ["heading_deg"]
    flown = altitude_m is not None or pitch_deg is not None
    if view is None:
        view = "drone" if flown else _guess_view(image, fov_deg, extent_m, facts)
        if extent_m is None and not flown and facts.panorama_fov_deg is None:
            assumed.append("view")
    _check_given(view, heading_deg, fov_deg, extent_m)
    if view == "drone" and flown:
        image, covered_m = ground_square(image, altitude_m=altitude_m, pitch_deg=pitch_deg, fov_deg=fov_deg)
        extent_m = _first(extent_m, covered_m)
    if view == "drone" and extent_m is None:
        assumed.append("extent_m")
    if fov_deg is None and view == "panorama" and facts.panorama_fov_deg is not None:
        fov_deg = facts.panorama_fov_deg
    if fov_deg is None:
        fov_deg = usual_fov_deg(view)
        if view != "drone":
            assumed.append("fov_deg")
    try:
        check_shape(view, fov_deg, *image.shape[:2])
    except InputError as error:
        raise QueryError(f"{str(error)[0].upper()}{str(error)[1:]}.", reason=error.reason) from error
    known_deg = None if heading_deg is None else heading_deg % 360.0
    return Photo(image, view, known_deg, fov_deg, extent_m, tuple(sorted(assumed)))


def _first(given: float | None, other: float | None) -> float | None:
    return other if given is None else given


def _check_given(view: str, heading_deg: float | None, fov_deg: float | None, extent_m: float | None) -> None:
    if view not in VIEWS:
        raise QueryError(f"view is {view!r}; give one of {', '.join(VIEWS)}.", reason="bad_view")
    if heading_deg is not None and not -360.0 <= heading_deg <= 360.0:
        raise QueryError(
            f"heading_deg is {heading_deg}; give degrees clockwise from north, -360 to 360.",
            reason="bad_heading",
        )
    if fov_deg is not None and not 1.0 <= fov_deg <= 360.0:
        raise QueryError(f"fov_deg is {fov_deg}; give 1 to 360 degrees.", reason="bad_fov")
    if extent_m is not None and not (math.isfinite(extent_m) and 0.0 < extent_m <= 100_000.0):
        raise QueryError(
            f"extent_m is {extent_m}; give the metres of ground along the photo's shorter side.",
            reason="bad_extent",
        )


def _guess_view(image: Pixels, fov_deg: float | None, extent_m: float | None, facts: PhotoFacts) -> str:
    if extent_m is not None:
        return "drone"
    if facts.panorama_fov_deg is not None or (fov_deg is not None and fov_deg >= 360.0):
        return "panorama"
    height, width = image.shape[:2]
    circle = least_aspect(360.0) <= width / height <= MOST_ASPECT
    return "panorama" if circle and fov_deg is None and not facts.ordinary_lens else "street"


def groups(photos: Sequence[Photo]) -> dict[tuple[str, bool], list[int]]:
    """Positions of photos that can be encoded together, by (view, heading known)."""
    found: dict[tuple[str, bool], list[int]] = {}
    for position, one in enumerate(photos):
        found.setdefault((one.view, one.heading_deg is not None), []).append(position)
    return found


def encode_photos(encoder: Encoder, photos: Sequence[Photo], *, headings: int = HEADINGS) -> EncodedQueries:
    """Encode photos of one group (see `groups`); `headings` candidates each where the heading is unknown."""
    view, known = photos[0].view, photos[0].heading_deg is not None
    batch = encoder.prepare(
        [one.image for one in photos],
        view,  # type: ignore[arg-type]
        extent_m=[one.extent_m for one in photos],
        fov_deg=[one.fov_deg for one in photos],
        heading_deg=[one.heading_deg for one in photos],
    )
    heading_deg = [one.heading_deg for one in photos] if known else None
    return encode_prepared(
        encoder, batch, view, heading_deg, headings, fov_deg=[one.fov_deg for one in photos]
    )


def encode_prepared(
    encoder: Encoder,
    batch: Pixels,
    view: str,
    heading_deg: Sequence[float | None] | None,
    headings: int = HEADINGS,
    *,
    fov_deg: Sequence[float] | None = None,
) -> EncodedQueries:
    """Encode pictures uint8[N, h, w, 3] of `Encoder.prepare`; `heading_deg` is None where all headings are unknown.

    Panoramas are already turned to north. A drone picture of known heading takes the nearest of `headings`
    candidates. `fov_deg` of ground photos gives the columns that they show (None: all of them).
    """
    known = heading_deg is not None
    given = np.array([np.nan if value is None else value for value in heading_deg or [None] * len(batch)])
    turned = view == "drone" and known and bool(np.any(given % 360.0 != 0.0))
    if known and not turned:
        encoded = encoder.encode(batch, view)  # type: ignore[arg-type]
        embedding, code = encoded.embedding[:, None], encoded.code[:, None]
    else:
        encoded = encoder.encode_headings(batch, view, headings)  # type: ignore[arg-type]
        embedding, code = encoded.embedding, encoded.code
    if turned:
        nearest = np.rint(given / 360.0 * headings).astype(np.int64) % headings
        rows = np.arange(len(batch))
        embedding, code = embedding[rows, nearest][:, None], code[rows, nearest][:, None]
    recipe = encoder.recipe.model
    columns, shown = turning_columns(recipe, view), None
    if columns > 1 and view != "drone" and fov_deg is not None:
        known_deg = [None] * len(batch) if heading_deg is None else heading_deg
        shown = canvas_columns(fov_deg, known_deg, recipe.panorama_px[1], columns)
    if shown is not None and not shown.all():
        embedding, masks = keep_shown(embedding, shown)
        limited = ~masks.all(axis=-1, keepdims=True)
        parts = pack_codes(encoder.logits_of_parts(embedding, masks, view))  # type: ignore[arg-type]
        code = np.where(limited, parts, code)
    return EncodedQueries(embedding, code, given, view, encoder.model_id, columns, shown)


def turning_columns(recipe: ModelRecipe, view: str) -> int:
    """Azimuth columns of an embedding that roll as a photo of this view turns; 1 where turning is no rolling."""
    rolls = view != "drone" or recipe.view.azimuth_columns  # photos from above are converted first
    return recipe.columns if recipe.turns_by_rolling and rolls else 1


def canvas_columns(
    fov_deg: Sequence[float], heading_deg: Sequence[float | None], width_px: int, columns: int
) -> BoolArray | None:
    """Which columns of the model's canvas each photo shows, bool[N, columns]; None where all photos show all.

    `prepare_panorama` lays round(fov / 360 * W) pixel columns about the middle of a canvas of `width_px`, and turns
    it to north where the heading is known.
    """
    if all(fov >= 360.0 for fov in fov_deg):
        return None
    kept = [width_px if fov >= 360.0 else max(1, round(width_px * fov / 360)) for fov in fov_deg]
    first = [
        (width_px - width) // 2 + round((heading or 0.0) / 360 * width_px)
        for width, heading in zip(kept, heading_deg, strict=True)
    ]
    pixels = shown_pixels(torch.tensor(first), torch.tensor(kept), width_px)
    return np.asarray(shown_columns(pixels, columns).numpy())
