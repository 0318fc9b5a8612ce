"""The library's front door: photos in, fixes out, in a plain Python process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from geoloc.core.errors import QueryError
from geoloc.core.images import Picture, decode_picture, read_image_bytes
from geoloc.core.photo_facts import NOTHING_SAID
from geoloc.index.search.region import Region, circle
from geoloc.localization import fix as reasons
from geoloc.localization.extents import SCALES, at_all_extents, best_extents
from geoloc.localization.fix import Fix
from geoloc.localization.locator import Locator
from geoloc.localization.query_photos import HEADINGS, Photo, encode_photos, groups, photo

if TYPE_CHECKING:
    from geoloc.models.encoder import Encoder

PhotoLike = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]

MIN_CONFIDENCE = 0.5  # more likely right than wrong
FEATURELESS_DETAIL = (
    "The photo shows nothing to match: a plain surface (fog, open water, a covered lens) or parallel lines."
)


class Localizer:
    """Locates photos with one index snapshot and the model that lies in it; see `Localizer.open`."""

    def __init__(
        self, locator: Locator, encoder: Encoder, *, headings: int = HEADINGS, scales: int = SCALES
    ) -> None:
        self.locator = locator
        self.encoder = encoder
        self.headings = headings
        self.scales = scales

    @classmethod
    def open(
        cls,
        index_uri: str,
        snapshot_id: str | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        cache_dir: str | None = None,
        headings: int = HEADINGS,
        scales: int = SCALES,
    ) -> Localizer:
        """Open the current snapshot of an index, or `snapshot_id`, with its model and its calibration.

        `headings` is how many candidates an unknown heading gets, `scales` how many the unknown ground extent of a
        drone photo gets (1: it is taken to be the model's field). Raises `ArtifactError`, `CorruptArtifact`,
        `ModelMismatch` or `StorageError` with what is wrong.
        """
        from geoloc.models.encoder import Encoder

        locator = Locator.open(index_uri, snapshot_id, cache_dir=cache_dir)
        encoder = Encoder.open(locator.snapshot.model_uri, device=device, threads=threads)
        return cls(locator, encoder, headings=headings, scales=scales)

    @property
    def snapshot_id(self) -> str:
        """The snapshot that answers."""
        return self.locator.snapshot.snapshot_id

    def localize(
        self,
        image: PhotoLike,
        *,
        view: str | None = None,
        heading_deg: float | None = None,
        fov_deg: float | None = None,
        extent_m: float | None = None,
        altitude_m: float | None = None,
        pitch_deg: float | None = None,
        drone_tags: bool = False,
        near: tuple[float, float] | None = None,
        within_m: float | None = None,
        region: Region | None = None,
        k: int = 10,
        rerank: int = 100,
        min_confidence: float = MIN_CONFIDENCE,
        uncalibrated: bool = False,
    ) -> Fix:
        """Where a photo (a path or URI, image bytes, or pixels uint8[H, W, 3]) was taken.

        `view` is panorama, street or drone (None: guessed, which `Fix.assumed` tells), `heading_deg` the heading
        of its centre (for a drone photo: of its top) clockwise from north, None to have it estimated; `fov_deg`
        its horizontal field of view; `extent_m` the ground along the shorter side of a drone photo, or its
        `altitude_m` above the ground, `pitch_deg` below the horizon and `fov_deg` (`drone_tags`: as the file's tags
        say). The position of a drone photo is that of the ground in its middle. Without an extent several are
        tried. `near` (lat, lon) with `within_m` restricts the search to a circle, `region`
        (geoloc.index.search.region) to a circle, a box or a polygon. GPS tags in the file are never read.
        A photo is located when the truth lies within `Fix.radius_m` with the promised probability. `min_confidence`
        wants more of each photo; `uncalibrated` wants positions also where nothing is promised.
        Raises `QueryError` or `InputError` for values that are out of range; "not located" is a `Fix`.
        """
        taken = picture(image)
        one = photo(
            taken.pixels,
            view=view,
            heading_deg=heading_deg,
            fov_deg=fov_deg,
            extent_m=extent_m,
            altitude_m=altitude_m,
            pitch_deg=pitch_deg,
            drone_tags=drone_tags,
            facts=taken.facts,
        )
        return self.localize_batch(
            [one],
            near=near,
            within_m=within_m,
            region=region,
            k=k,
            rerank=rerank,
            min_confidence=min_confidence,
            uncalibrated=uncalibrated,
        )[0]

    def localize_batch(
        self,
        photos: Sequence[Photo],
        *,
        near: tuple[float, float] | None = None,
        within_m: float | None = None,
        region: Region | None = None,
        k: int = 10,
        rerank: int = 100,
        min_confidence: float = MIN_CONFIDENCE,
        uncalibrated: bool = False,
    ) -> list[Fix]:
        """A fix for each of several photos (`geoloc.localization.query_photos.photo` makes them), in their order."""
        around = region_around(near, within_m)
        if around is not None and region is not None:
            raise QueryError("Give either near and within_m or a region, not both.", reason="bad_region")
        region = region or around
        tried, owners = at_all_extents(photos, self.encoder.recipe.model.tile_m, self.scales)
        fixes: dict[int, Fix] = {}
        for positions in groups(tried).values():
            queries = encode_photos(self.encoder, [tried[p] for p in positions], headings=self.headings)
            answers = self.locator.locate(
                queries,
                k=k,
                region=region,
                rerank=rerank,
                min_confidence=min_confidence,
                uncalibrated=uncalibrated,
            )
            fixes.update(zip(positions, answers, strict=True))
        best = best_extents([fixes[position] for position in range(len(tried))], owners)
        return [answer_for(one, fix) for one, fix in zip(photos, best, strict=True)]


def picture(image: PhotoLike) -> Picture:
    """The picture uint8[H, W, 3] of a path or URI, image bytes or pixels; `InputError` when they are none."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise QueryError(
                f"The array is {image.dtype}{list(image.shape)}; give RGB pixels uint8[H, W, 3].",
                reason="bad_array",
            )
        return Picture(image, NOTHING_SAID)
    return decode_picture(image if isinstance(image, bytes) else read_image_bytes(os.fspath(image)))


class DescribedPhoto(Protocol):
    """What an answer repeats of its photo; `Photo` has it, and so has what a service keeps of one."""

    @property
    def view(self) -> str:
        """Kind of photo."""

    @property
    def fov_deg(self) -> float:
        """Horizontal field of view."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """What neither the caller nor the file gave."""

    @property
    def featureless(self) -> bool:
        """Whether the photo shows nothing to match."""


def answer_for(one: DescribedPhoto, fix: Fix) -> Fix:
    """The fix with what the photo was taken for; nothing is located where the photo shows nothing."""
    told = fix.model_copy(update={"view": one.view, "fov_deg": one.fov_deg, "assumed": one.assumed})
    return without_features(told) if one.featureless else told


def region_around(near: tuple[float, float] | None, within_m: float | None) -> Region | None:
    """The circle of a position prior, None without a prior; `QueryError` where its centre or radius is missing."""
    if near is None and within_m is None:
        return None
    if near is None or within_m is None:
        raise QueryError(
            "A prior needs a centre and a radius: give near=(lat, lon) and within_m together.",
            reason="bad_region",
        )
    return circle(near[0], near[1], within_m)


def without_features(fix: Fix) -> Fix:
    """The fix of a photo that shows nothing: not located, its matches kept to be looked at."""
    return fix.model_copy(
        update={
            "located": False,
            "reason": reasons.FEATURELESS,
            "detail": FEATURELESS_DETAIL,
            "lat": None,
            "lon": None,
            "radius_m": None,
            "confidence": None,
            "hypotheses": (),
            "matches": tuple(match.model_copy(update={"in_cluster": False}) for match in fix.matches),
        }
    )
