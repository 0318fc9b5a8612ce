"""The library's front door: photos in, fixes out, in a plain Python process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import QueryError
from geoloc.core.images import Picture, decode_picture, read_image_bytes
from geoloc.core.photo_facts import NOTHING_SAID
from geoloc.geometry.street_graph import MappedGraph
from geoloc.index.search.region import Region, circle
from geoloc.localization import fix as reasons
from geoloc.localization.extents import SCALES, at_all_extents, best_extents
from geoloc.localization.fix import Fix
from geoloc.localization.locator import Locator, SearchResult, in_order
from geoloc.localization.query_photos import HEADINGS, Photo, encode_photos, groups, photo
from geoloc.localization.routes.emission import EmissionModel
from geoloc.localization.routes.filter import FilterSettings, FilterState
from geoloc.localization.routes.motion import UNKNOWN, Step, reach_of
from geoloc.localization.routes.ongoing_route import OngoingRoute
from geoloc.localization.routes.route_answer import RouteFix
from geoloc.localization.routes.route_map import RouteMap, emission_of_search

if TYPE_CHECKING:
    from geoloc.models.encoder import Encoder

PhotoLike = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]

ROUTE_MATCHES = 200
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
        asymmetric: bool = True,
    ) -> Localizer:
        """Open the current snapshot of an index, or `snapshot_id`, with its model and its calibration.

        `headings` is how many candidates an unknown heading gets, `scales` how many the unknown ground extent of a
        drone photo gets (1: it is taken to be the model's field), `asymmetric` is that of `Locator`. Raises
        `ArtifactError`, `CorruptArtifact`, `ModelMismatch` or `StorageError` with what is wrong.
        """
        from geoloc.models.encoder import Encoder

        locator = Locator.open(index_uri, snapshot_id, cache_dir=cache_dir, asymmetric=asymmetric)
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
        heading_error_deg: float | None = None,
        fov_deg: float | None = None,
        extent_m: float | None = None,
        altitude_m: float | None = None,
        pitch_deg: float | None = None,
        roll_deg: float | None = None,
        drone_tags: bool = False,
        file_fov: bool = False,
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
        of its centre (for a drone photo: of its top) clockwise from north, None to have it estimated, or of a
        compass that may be off by `heading_error_deg`; `fov_deg` its horizontal field of view. The other facts of the
        camera are those of `geoloc.localization.query_photos.photo`. The position of a drone photo is that of the
        ground in its middle. Without an extent several are tried. `near` (lat, lon) with `within_m` restricts the
        search to a circle, `region` (geoloc.index.search.region) to a circle, a box or a polygon. GPS tags in the file
        are never read.
        A photo is located when the truth lies within `Fix.radius_m` with the promised probability. `min_confidence`
        wants more of each photo; `uncalibrated` wants positions also where nothing is promised.
        Raises `QueryError` or `InputError` for values that are out of range; "not located" is a `Fix`.
        """
        taken = picture(image)
        one = photo(
            taken.pixels,
            view=view,
            heading_deg=heading_deg,
            heading_error_deg=heading_error_deg,
            fov_deg=fov_deg,
            extent_m=extent_m,
            altitude_m=altitude_m,
            pitch_deg=pitch_deg,
            roll_deg=roll_deg,
            drone_tags=drone_tags,
            file_fov=file_fov,
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

    def localize_route(
        self,
        photos: Sequence[Photo],
        steps: Sequence[Step] | None = None,
        *,
        streets: MappedGraph | None = None,
        region: Region | None = None,
        emission: EmissionModel | None = None,
        settings: FilterSettings | None = None,
        k: int = ROUTE_MATCHES,
        rerank: int = ROUTE_MATCHES,
    ) -> RouteFix:
        """Where the ordered photos of one route were taken, each by all of them.

        `steps` say of each photo what is known of the way from the photo before (the first is not used); without, the
        camera moves as its motion usually does. `streets` binds it to a street graph; without, it moves over the tiles.
        `emission` is a model that was fitted to photos of this kind (`fit_route_emission`); without, a usual one holds
        and the answer is not calibrated. The last `settings.lag` photos have positions.
        Raises `QueryError` for no photo, for fewer or more steps than photos, or for an area without tiles.
        """
        if not photos:
            raise QueryError("The route has no photo; give one or more.", reason="no_photo")
        steps = [UNKNOWN] * len(photos) if steps is None else steps
        if len(steps) != len(photos):
            raise QueryError(
                f"The route has {len(photos)} photos and {len(steps)} steps; give a step for each photo.",
                reason="bad_motion",
            )
        route = self.begin_route(steps, streets=streets, region=region, emission=emission, settings=settings)
        route.take(self.search_route_photos(photos, region, k=k, rerank=rerank), steps)
        return route.fix()

    def begin_route(
        self,
        farthest: Sequence[Step] = (),
        *,
        streets: MappedGraph | None = None,
        region: Region | None = None,
        emission: EmissionModel | None = None,
        settings: FilterSettings | None = None,
        continued: FilterState | None = None,
    ) -> OngoingRoute:
        """A route whose photos come bit by bit, by `search_route_photos`; the arguments are those of `localize_route`.

        The map reaches as far as the `farthest` steps. `continued` continues a route of the same map.
        """
        snapshot = self.locator.snapshot
        if streets is None:
            route_map = RouteMap.of_tiles(snapshot, region, reach_m=reach_of(farthest, 200.0))
        else:
            route_map = RouteMap.of_graph(snapshot, streets, region, reach_m=reach_of(farthest, 60.0))
        return OngoingRoute(
            route_map, snapshot.bits, self.snapshot_id,
            emission=emission, settings=settings, continued=continued,
        )  # fmt: skip

    def fit_route_emission(
        self,
        photos: Sequence[Photo],
        lat: FloatArray,
        lon: FloatArray,
        *,
        near_m: float = 25.0,
        region: Region | None = None,
        k: int = ROUTE_MATCHES,
        rerank: int = ROUTE_MATCHES,
    ) -> EmissionModel:
        """The emission model of photos like these, whose positions lat, lon float64[Q] in degrees are known.

        The region, k and rerank must be those of `localize_route`. Raises `InputError` for fewer than 20 photos.
        """
        found = self.search_route_photos(photos, region, k=k, rerank=rerank)
        tiles = len(RouteMap.of_tiles(self.locator.snapshot, region).ids)
        return emission_of_search(found, lat, lon, self.locator.snapshot.bits, tiles=tiles, near_m=near_m)

    def search_route_photos(
        self,
        photos: Sequence[Photo],
        region: Region | None = None,
        *,
        k: int = ROUTE_MATCHES,
        rerank: int = ROUTE_MATCHES,
    ) -> SearchResult:
        """The search of photos of any kinds, in their order, as a route takes them."""
        parts, order = [], []
        for positions in groups(photos).values():
            queries = encode_photos(self.encoder, [photos[p] for p in positions], headings=self.headings)
            parts.append(self.locator.search(queries, k=k, region=region, rerank=rerank))
            order.append(np.asarray(positions, dtype=np.int64))
        return in_order(parts, np.concatenate(order))


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
