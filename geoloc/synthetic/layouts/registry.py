"""The layouts by name, and one set of settings for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geoloc.synthetic.layouts import cvact, cvusa, map25d, university1652, vigor
from geoloc.synthetic.layouts.cities import VIGOR_CITIES
from geoloc.synthetic.layouts.spread import shares
from geoloc.synthetic.layouts.view_images import Export


@dataclass(frozen=True)
class ExportSettings:
    """Size and content of an export.

    places: photos (VIGOR), pairs (CVUSA, CVACT), buildings (University-1652) or panoramas (2.5D) in all, split
    as published (with small numbers no 2.5D area holds less than a twelfth); None: the published number.
    scale: of the published picture sizes; what they show is the same. masked_gallery: University-1652's own tiles
    lie masked among the distractors too.
    """

    seed: int = 7
    places: int | None = None
    scale: float = 1.0
    cities: tuple[str, ...] | None = None
    missing_share: float = 0.0
    distractors: int | None = None
    drone_views: int = university1652.DRONE_VIEWS
    masked_gallery: bool = False
    photo_epoch: int = 0
    imagery_epoch: int = 0

    def px(self, size: int) -> int:
        """A published size in pixels, scaled, even."""
        return max(8, 2 * round(size * self.scale / 2))


def plan_layout(name: str, settings: ExportSettings) -> Export:
    """The plan of a data set in one of `LAYOUTS`; `ConfigError` where the settings do not fit it."""
    return LAYOUTS[name](settings)


def _cvusa(settings: ExportSettings) -> Export:
    train, validation = _split(settings.places, cvusa.PUBLISHED)
    return cvusa.plan(cvusa.CvusaSpec(
        settings.seed, train, validation, settings.px(cvusa.TILE_PX), settings.px(cvusa.PANORAMA_PX[0]),
        settings.photo_epoch, settings.imagery_epoch,
    ))  # fmt: skip


def _cvact(settings: ExportSettings) -> Export:
    train, validation, test = cvact.PUBLISHED
    if settings.places is not None:
        train, test = shares(settings.places, (train, test), least=4)
        validation = max(2, round(test * cvact.PUBLISHED[1] / cvact.PUBLISHED[2]))
    return cvact.plan(cvact.CvactSpec(
        settings.seed, train, validation, test, settings.missing_share, settings.px(cvact.TILE_PX),
        settings.px(cvact.PANORAMA_HEIGHT_PX), settings.photo_epoch, settings.imagery_epoch,
    ))  # fmt: skip


def _vigor(settings: ExportSettings) -> Export:
    cities = settings.cities or VIGOR_CITIES
    photos = (
        vigor.PUBLISHED_PHOTOS // 4 if settings.places is None else max(2, settings.places // len(cities))
    )
    return vigor.plan(vigor.VigorSpec(
        settings.seed, photos, cities, settings.px(vigor.TILE_PX), settings.px(vigor.PANORAMA_HEIGHT_PX),
        settings.photo_epoch, settings.imagery_epoch,
    ))  # fmt: skip


def _university1652(settings: ExportSettings) -> Export:
    train, test, extra = _split(settings.places, university1652.PUBLISHED)
    distractors = (
        university1652.PUBLISHED_DISTRACTORS if settings.distractors is None else settings.distractors
    )
    return university1652.plan(university1652.UniversitySpec(
        settings.seed, train, test, extra, distractors, settings.drone_views, settings.px(university1652.SIZE_PX),
        settings.masked_gallery, settings.photo_epoch, settings.imagery_epoch,
    ))  # fmt: skip


def _map25d(settings: ExportSettings) -> Export:
    counts = [area.published for area in map25d.AREAS]
    if settings.places is not None:
        counts = list(shares(settings.places, tuple(counts), least=max(2, settings.places // 12)))
    return map25d.plan(map25d.MapSpec(
        settings.seed, tuple(counts), settings.px(map25d.TILE_PX), settings.px(map25d.PANORAMA_HEIGHT_PX),
        settings.photo_epoch,
    ))  # fmt: skip


def _split(places: int | None, published: tuple[int, ...]) -> tuple[int, ...]:
    return published if places is None else shares(places, published, least=2)


LAYOUTS: dict[str, Callable[[ExportSettings], Export]] = {
    "cvusa": _cvusa, "cvact": _cvact, "vigor": _vigor, "university1652": _university1652, "map25d": _map25d,
}  # fmt: skip
