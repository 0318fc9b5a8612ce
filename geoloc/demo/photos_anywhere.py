"""How far photos anywhere on the street are located, for the kinds of photos that people take.

The photos are panoramas of the simulator. Each is asked whole, with its heading and without, and as a level view of
70 degrees in a direction that a seed draws: with a compass, with a circle to search in, and with neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from geoloc.core import part_table
from geoloc.core.arrays import Pixels
from geoloc.core.geodesy import destination, distance_m
from geoloc.core.images import decode_image
from geoloc.core.progress import track
from geoloc.geometry.perspective import level_view
from geoloc.localization.localizer import Localizer
from geoloc.localization.query_photos import Photo, photo
from geoloc.synthetic.stages.city import CityConfig

_VIEW_PX = (160, 120)


@dataclass(frozen=True)
class Look:
    """A kind of photo, and what is known about it.

    fov_deg: None, the whole circle. heading_error_deg: 0, the heading is known; None, it is unknown.
    within_m: radius of the circle to search, whose centre is up to half of it from the truth; None: everywhere.
    """

    name: str
    fov_deg: float | None = None
    heading_error_deg: float | None = None
    within_m: float | None = None


LOOKS = (
    Look("panorama, north known", heading_error_deg=0.0),
    Look("panorama, heading unknown"),
    Look("70 degrees, compass of 20 degrees, 500 m", 70.0, 20.0, 500.0),
    Look("70 degrees, compass of 20 degrees", 70.0, 20.0),
    Look("70 degrees, heading unknown, 500 m", 70.0, None, 500.0),
    Look("70 degrees, heading unknown", 70.0),
)


class Figures(BaseModel):
    """What was measured with one kind of photo; shares are of all photos, that of `inside` of the located ones.

    Distances are those of the first hypothesis, located or not; `inside` is how many lie within their radius.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    photos: int
    tiles: int
    within_10m: float
    within_25m: float
    median_m: float
    located: float
    inside: float | None

    def text(self) -> str:
        """One line."""
        inside = "" if self.inside is None else f", of them {self.inside:.1%} within their radius"
        return (
            f"{self.name}: {self.within_10m:.1%} within 10 m, {self.within_25m:.1%} within 25 m, "
            f"median {self.median_m:,.1f} m; {self.located:.1%} located{inside}"
            f" ({self.photos:,} photos, {self.tiles:,} tiles)"
        )


@dataclass(frozen=True)
class _Answer:
    """The error of the first hypothesis (infinite without one), and of a located photo its radius; metres."""

    error_m: float
    radius_m: float | None


def measure_anywhere(index: str, queries: str, *, seed: int = 0) -> list[Figures]:
    """Locate the panoramas of the table `queries` in an index, in every look."""
    localizer = Localizer.open(index)
    rows = [row for batch in part_table.iterate(queries, kind="queries") for row in batch.to_pylist()]
    figures = []
    for look in LOOKS:
        draw = np.random.default_rng(seed)
        seen = track(rows, total=len(rows), what=look.name, unit="photos")
        answers = [_answer(localizer, row, look, draw) for row in seen]
        figures.append(_figures(look.name, answers, localizer.locator.snapshot.count))
    return figures


def _answer(localizer: Localizer, row: dict[str, Any], look: Look, draw: np.random.Generator) -> _Answer:
    """What the index says to one photo."""
    azimuth_deg, off, turn = (
        draw.uniform(-180.0, 180.0),
        np.sqrt(draw.uniform()) / 2,
        draw.uniform(0.0, 360.0),
    )
    compass = draw.uniform(-1.0, 1.0)
    one = _taken(decode_image(row["image"]), row["heading_deg"], look, azimuth_deg, compass)
    near = None
    if look.within_m is not None:
        near = destination(row["lat"], row["lon"], turn, off * look.within_m)
    fix = localizer.localize_batch([one], near=near, within_m=look.within_m)[0]
    if not fix.hypotheses:
        return _Answer(float("inf"), None)
    first = fix.hypotheses[0]
    error_m = float(distance_m(row["lat"], row["lon"], first.lat, first.lon))
    return _Answer(error_m, fix.radius_m if fix.located else None)


def _taken(panorama: Pixels, heading_deg: float, look: Look, azimuth_deg: float, compass: float) -> Photo:
    """The photo of a look, with what is known about it; `compass` in -1..1 is its error in units of the largest."""
    image, heading, view = panorama, heading_deg, "panorama"
    if look.fov_deg is not None:
        camera, (width, height) = CityConfig().camera(), _VIEW_PX
        image = level_view(
            panorama,
            (camera.bottom_deg, camera.top_deg),
            azimuth_deg=azimuth_deg,
            fov_deg=look.fov_deg,
            width=width,
            height=height,
        )
        heading, view = heading_deg + azimuth_deg, "street"
    error_deg = look.heading_error_deg
    return photo(
        image,
        view=view,
        fov_deg=look.fov_deg or 360.0,
        heading_deg=None if error_deg is None else (heading + compass * error_deg) % 360.0,
        heading_error_deg=error_deg or None,
    )


def _figures(name: str, answers: Sequence[_Answer], tiles: int) -> Figures:
    errors_m = np.array([answer.error_m for answer in answers])
    located = [answer for answer in answers if answer.radius_m is not None]
    inside = sum(answer.error_m <= answer.radius_m for answer in located if answer.radius_m is not None)
    return Figures(
        name=name,
        photos=len(answers),
        tiles=tiles,
        within_10m=float((errors_m <= 10).mean()),
        within_25m=float((errors_m <= 25).mean()),
        median_m=float(np.median(errors_m)),
        located=len(located) / len(answers),
        inside=inside / len(located) if located else None,
    )
