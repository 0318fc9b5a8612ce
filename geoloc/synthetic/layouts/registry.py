"""The layouts by name, and one set of wishes for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geoloc.synthetic.layouts import cvact, cvusa, map25d, university1652, vigor
from geoloc.synthetic.layouts.cities import VIGOR_CITIES
from geoloc.synthetic.layouts.spread import shares
from geoloc.synthetic.layouts.view_images import Export


@dataclass(frozen=True)
class Wishes:
    """What an export is to hold.

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


def plan_layout(name: str, wishes: Wishes) -> Export:
    """The plan of a data set in one of `LAYOUTS`; `ConfigError` where the wishes do not fit it."""
    return LAYOUTS[name](wishes)


def _cvusa(wishes: Wishes) -> Export:
    train, validation = _split(wishes.places, cvusa.PUBLISHED)
    return cvusa.plan(cvusa.CvusaSpec(
        wishes.seed, train, validation, wishes.px(cvusa.TILE_PX), wishes.px(cvusa.PANORAMA_PX[0]),
        wishes.photo_epoch, wishes.imagery_epoch,
    ))  # fmt: skip


def _cvact(wishes: Wishes) -> Export:
    train, validation, test = cvact.PUBLISHED
    if wishes.places is not None:
        train, test = shares(wishes.places, (train, test), least=4)
        validation = max(2, round(test * cvact.PUBLISHED[1] / cvact.PUBLISHED[2]))
    return cvact.plan(cvact.CvactSpec(
        wishes.seed, train, validation, test, wishes.missing_share, wishes.px(cvact.TILE_PX),
        wishes.px(cvact.PANORAMA_HEIGHT_PX), wishes.photo_epoch, wishes.imagery_epoch,
    ))  # fmt: skip


def _vigor(wishes: Wishes) -> Export:
    cities = wishes.cities or VIGOR_CITIES
    photos = vigor.PUBLISHED_PHOTOS // 4 if wishes.places is None else max(2, wishes.places // len(cities))
    return vigor.plan(vigor.VigorSpec(
        wishes.seed, photos, cities, wishes.px(vigor.TILE_PX), wishes.px(vigor.PANORAMA_HEIGHT_PX),
        wishes.photo_epoch, wishes.imagery_epoch,
    ))  # fmt: skip


def _university1652(wishes: Wishes) -> Export:
    train, test, extra = _split(wishes.places, university1652.PUBLISHED)
    distractors = university1652.PUBLISHED_DISTRACTORS if wishes.distractors is None else wishes.distractors
    return university1652.plan(university1652.UniversitySpec(
        wishes.seed, train, test, extra, distractors, wishes.drone_views, wishes.px(university1652.SIZE_PX),
        wishes.masked_gallery, wishes.photo_epoch, wishes.imagery_epoch,
    ))  # fmt: skip


def _map25d(wishes: Wishes) -> Export:
    counts = [area.published for area in map25d.AREAS]
    if wishes.places is not None:
        counts = list(shares(wishes.places, tuple(counts), least=max(2, wishes.places // 12)))
    return map25d.plan(map25d.MapSpec(
        wishes.seed, tuple(counts), wishes.px(map25d.TILE_PX), wishes.px(map25d.PANORAMA_HEIGHT_PX),
        wishes.photo_epoch,
    ))  # fmt: skip


def _split(places: int | None, published: tuple[int, ...]) -> tuple[int, ...]:
    return published if places is None else shares(places, published, least=2)


LAYOUTS: dict[str, Callable[[Wishes], Export]] = {
    "cvusa": _cvusa, "cvact": _cvact, "vigor": _vigor, "university1652": _university1652, "map25d": _map25d,
}  # fmt: skip
