"""Photos with what is known about them, and their way through the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from geoloc.core.arrays import BoolArray, Pixels
from geoloc.core.errors import InputError, QueryError
from geoloc.core.photo_facts import NOTHING_SAID, PhotoFacts, check_shape, looks_like_a_circle
from geoloc.core.schemas import VIEWS, usual_fov_deg
from geoloc.geometry.azimuth import keep_shown, shown_columns
from geoloc.index.search.kernels.weighted_scan import bit_weights
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
_STEEPEST_DEG = 60.0  # of a street photo's pitch and roll: beyond, it shows the ground or the sky


Compass = tuple[float, float]
"""A heading and how far it may be off, both in degrees."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo uint8[H, W, 3] and how it was taken; see `photo`.

    heading_deg: of the image centre (for a drone photo: of its top), clockwise from north, None when unknown.
    heading_error_deg: how far the heading may be off, as of a compass; None: it is exact.
    pitch_deg, roll_deg: of a street photo's lens, below the horizon and clockwise; None: level.
    fov_deg: horizontal field of view. extent_m: ground covered by the shorter side of a drone photo.
    assumed: which of view, heading_deg, fov_deg and (drone) extent_m, pitch_deg neither the caller nor the file gave.
    """

    image: Pixels
    view: str
    heading_deg: float | None
    fov_deg: float
    extent_m: float | None
    assumed: tuple[str, ...] = ()
    heading_error_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None

    @property
    def exact_heading_deg(self) -> float | None:
        """The heading that the picture is turned by; None where it is unknown or a compass's."""
        return self.heading_deg if self.heading_error_deg is None else None

    @property
    def compass(self) -> Compass | None:
        """The heading with its largest error, where it has one."""
        if self.heading_deg is None or self.heading_error_deg is None:
            return None
        return self.heading_deg, self.heading_error_deg

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
    heading_error_deg: float | None = None,
    fov_deg: float | None = None,
    extent_m: float | None = None,
    altitude_m: float | None = None,
    pitch_deg: float | None = None,
    roll_deg: float | None = None,
    drone_tags: bool = False,
    file_fov: bool = False,
    facts: PhotoFacts = NOTHING_SAID,
) -> Photo:
    """A checked photo uint8[H, W, 3]; what is None comes from the file's `facts`, else it gets its usual value.

    A drone photo with `altitude_m` (above the ground) or `pitch_deg` (below the horizon, 90 straight down) becomes the
    square of ground about its axis, seen straight down; `extent_m` is then that square's. `drone_tags` takes altitude,
    pitch, yaw and field of view from the file's tags, where the caller gives none; `file_fov` takes the field of view
    of a street photo from the focal length that its file states. `heading_error_deg` is how far `heading_deg` may be
    off: headings within it are searched. `pitch_deg` and the clockwise `roll_deg` of a street photo (`view:
    street`) are how its lens was held.
    The view is that of a drone where `extent_m`, `altitude_m` or `pitch_deg` is given.
    It is a panorama where the file says so (XMP GPano), and where `fov_deg` is 360. With neither, nor an ordinary lens
    in the file, its shape decides (`looks_like_a_circle`). Any other is a street photo. `Photo.assumed` tells what was
    assumed.
    Raises `QueryError` (reason `bad_view`, `bad_heading`, `bad_fov`, `bad_extent`, `bad_aspect`, `bad_altitude`,
    `bad_pitch`, `bad_roll`) for values out of range, and for a panorama whose shape cannot span its field of view.
    """
    if drone_tags and view in (None, "drone") and facts.drone is not None:
        tags = facts.drone
        altitude_m, pitch_deg = _first(altitude_m, tags.altitude_m), _first(pitch_deg, tags.pitch_deg)
        heading_deg, fov_deg = _first(heading_deg, tags.yaw_deg), _first(fov_deg, tags.fov_deg)
    assumed = [] if heading_deg is not None else ["heading_deg"]
    flown = view != "street" and (altitude_m is not None or pitch_deg is not None)
    if view is None:
        view = "drone" if flown else _guess_view(image, fov_deg, extent_m, facts)
        if extent_m is None and not flown and facts.panorama_fov_deg is None:
            assumed.append("view")
    _check_given(view, heading_deg, fov_deg, extent_m)
    _check_compass(heading_deg, heading_error_deg)
    if view == "street":
        _check_lens(pitch_deg, roll_deg)
    if view == "drone" and flown:
        image, covered_m = ground_square(image, altitude_m=altitude_m, pitch_deg=pitch_deg, fov_deg=fov_deg)
        extent_m = _first(extent_m, covered_m)
    if view == "drone":
        missing = {"extent_m": extent_m is None, "pitch_deg": flown and pitch_deg is None}
        assumed += [name for name, lacks in missing.items() if lacks]
    fov_deg = _first(fov_deg, _stated_fov_deg(view, facts, file_fov=file_fov))
    if fov_deg is None:
        fov_deg = usual_fov_deg(view)
        assumed += ["fov_deg"] if view != "drone" else []
    _check_shape(image, view, fov_deg)
    known_deg = None if heading_deg is None else heading_deg % 360.0
    lens = (pitch_deg, roll_deg) if view == "street" else (None, None)
    return Photo(image, view, known_deg, fov_deg, extent_m, tuple(sorted(assumed)), heading_error_deg, *lens)


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


def _stated_fov_deg(view: str, facts: PhotoFacts, *, file_fov: bool) -> float | None:
    """The field of view that a photo's file states and that is used for this view."""
    if view == "panorama":
        return facts.panorama_fov_deg
    return facts.lens_fov_deg if view == "street" and file_fov else None


def _check_shape(image: Pixels, view: str, fov_deg: float) -> None:
    try:
        check_shape(view, fov_deg, *image.shape[:2])
    except InputError as error:
        raise QueryError(f"{str(error)[0].upper()}{str(error)[1:]}.", reason=error.reason) from error


def _check_compass(heading_deg: float | None, heading_error_deg: float | None) -> None:
    if heading_error_deg is None:
        return
    if heading_deg is None:
        raise QueryError(
            "heading_error_deg says how far heading_deg may be off; give heading_deg too.",
            reason="bad_heading",
        )
    if not 0.0 < heading_error_deg <= 180.0:
        raise QueryError(
            f"heading_error_deg is {heading_error_deg}; give degrees above 0, up to 180, or leave it out for an exact "
            "heading.",
            reason="bad_heading",
        )


def _check_lens(pitch_deg: float | None, roll_deg: float | None) -> None:
    if pitch_deg is not None and not abs(pitch_deg) <= _STEEPEST_DEG:
        raise QueryError(
            f"pitch_deg is {pitch_deg}; give degrees below the horizon, -{_STEEPEST_DEG:g} to {_STEEPEST_DEG:g} for a "
            "street photo.",
            reason="bad_pitch",
        )
    if roll_deg is not None and not abs(roll_deg) <= _STEEPEST_DEG:
        raise QueryError(
            f"roll_deg is {roll_deg}; give clockwise degrees, -{_STEEPEST_DEG:g} to {_STEEPEST_DEG:g}, of an upright "
            "photo.",
            reason="bad_roll",
        )


def _guess_view(image: Pixels, fov_deg: float | None, extent_m: float | None, facts: PhotoFacts) -> str:
    if extent_m is not None:
        return "drone"
    if facts.panorama_fov_deg is not None or (fov_deg is not None and fov_deg >= 360.0):
        return "panorama"
    if fov_deg is None and not facts.ordinary_lens and looks_like_a_circle(*image.shape[:2]):
        return "panorama"
    return "street"


def groups(photos: Sequence[Photo]) -> dict[tuple[str, bool], list[int]]:
    """Positions of photos that can be encoded together, by (view, heading known); a compass's is not known."""
    found: dict[tuple[str, bool], list[int]] = {}
    for position, one in enumerate(photos):
        found.setdefault((one.view, one.exact_heading_deg is not None), []).append(position)
    return found


def encode_photos(encoder: Encoder, photos: Sequence[Photo], *, headings: int = HEADINGS) -> EncodedQueries:
    """Encode photos of one group (see `groups`); `headings` candidates each where the heading is unknown."""
    view, known = photos[0].view, photos[0].exact_heading_deg is not None
    batch = encoder.prepare(
        [one.image for one in photos],
        view,  # type: ignore[arg-type]
        extent_m=[one.extent_m for one in photos],
        fov_deg=[one.fov_deg for one in photos],
        heading_deg=[one.exact_heading_deg for one in photos],
        pitch_deg=[one.pitch_deg for one in photos],
        roll_deg=[one.roll_deg for one in photos],
    )
    heading_deg = [one.heading_deg for one in photos] if known else None
    return encode_prepared(
        encoder,
        batch,
        view,
        heading_deg,
        headings,
        fov_deg=[one.fov_deg for one in photos],
        compass=[one.compass for one in photos],
    )


def encode_prepared(
    encoder: Encoder,
    batch: Pixels,
    view: str,
    heading_deg: Sequence[float | None] | None,
    headings: int = HEADINGS,
    *,
    fov_deg: Sequence[float] | None = None,
    compass: Sequence[Compass | None] | None = None,
) -> EncodedQueries:
    """Encode pictures uint8[N, h, w, 3] of `Encoder.prepare`; `heading_deg` is None where all headings are unknown.

    Panoramas are already turned to north. A drone picture of known heading takes the nearest of `headings`
    candidates. `fov_deg` of ground photos gives the columns that they show (None: all of them). Where headings are
    unknown, `compass` leaves only those in question that lie within its error (None: all).
    """
    known = heading_deg is not None
    given = np.array([np.nan if value is None else value for value in heading_deg or [None] * len(batch)])
    turned = view == "drone" and known and bool(np.any(given % 360.0 != 0.0))
    if known and not turned:
        encoded = encoder.encode(batch, view)  # type: ignore[arg-type]
        embedding, logits = encoded.embedding[:, None], encoded.logits[:, None]
    else:
        encoded = encoder.encode_headings(batch, view, headings)  # type: ignore[arg-type]
        embedding, logits = encoded.embedding, encoded.logits
    if turned:
        nearest = np.rint(given / 360.0 * headings).astype(np.int64) % headings
        rows = np.arange(len(batch))
        embedding, logits = embedding[rows, nearest][:, None], logits[rows, nearest][:, None]
    recipe = encoder.recipe.model
    columns, shown = turning_columns(recipe, view), None
    if columns > 1 and view != "drone" and fov_deg is not None:
        known_deg = [None] * len(batch) if heading_deg is None else heading_deg
        shown = canvas_columns(fov_deg, known_deg, recipe.panorama_px[1], columns)
    if shown is not None and not shown.all():
        embedding, masks = keep_shown(embedding, shown)
        limited = ~masks.all(axis=-1, keepdims=True)
        logits = np.where(limited, encoder.logits_of_parts(embedding, masks, view), logits)  # type: ignore[arg-type]
    weights = bit_weights(logits)
    sector = None if known or compass is None else sectors(compass, headings)
    return EncodedQueries(
        embedding, pack_codes(logits), given, view, encoder.model_id, columns, shown, weights, sector
    )


def sectors(compass: Sequence[Compass | None], headings: int) -> BoolArray | None:
    """Which of `headings` candidates lie within the error of each compass, bool[N, R]; None where none leaves any out.

    A candidate stands for the headings up to halfway to its neighbours.
    Convention: candidate r looks along r * 360 / R, clockwise from north.
    """
    candidate_deg = np.arange(headings) * 360.0 / headings
    chosen = np.ones((len(compass), headings), dtype=np.bool_)
    for row, one in enumerate(compass):
        if one is not None:
            apart_deg = np.abs((candidate_deg - one[0] + 180.0) % 360.0 - 180.0)
            chosen[row] = apart_deg <= one[1] + 180.0 / headings
    return None if chosen.all() else chosen


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
    import torch

    from geoloc.geometry.panorama import shown_pixels

    kept = [width_px if fov >= 360.0 else max(1, round(width_px * fov / 360)) for fov in fov_deg]
    first = [
        (width_px - width) // 2 + round((heading or 0.0) / 360 * width_px)
        for width, heading in zip(kept, heading_deg, strict=True)
    ]
    pixels = shown_pixels(torch.tensor(first), torch.tensor(kept), width_px)
    return np.asarray(shown_columns(pixels, columns).numpy())
