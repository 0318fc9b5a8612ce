"""How accuracy depends on the area that is searched: circles that hold the truth, and the whole index.

    python studies/search_area/measure.py --index my-index --photos tables/queries --plot search_area.png

The centre of a circle is up to half of its radius from the truth, as a phone's or a person's idea of the place is. The
photos are panoramas with a known heading. The text and the figures are in docs/scale.md. JSON goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from geoloc.demo.photos_anywhere import Figures, Look, measure_anywhere

RADII_M = (100.0, 200.0, 500.0, 1000.0, 2000.0, None)
KINDS = {
    "panorama, north known": Look("", heading_error_deg=0.0),
    "panorama, heading unknown": Look(""),
    "70 degrees, compass of 20 degrees": Look("", 70.0, 20.0),
    "70 degrees, heading unknown": Look("", 70.0),
}


def looks() -> list[Look]:
    """Every kind of photo with every radius."""
    return [
        Look(
            f"{kind}, {'everywhere' if radius is None else f'{radius:g} m'}",
            look.fov_deg,
            look.heading_error_deg,
            radius,
        )
        for kind, look in KINDS.items()
        for radius in RADII_M
    ]


def plot(figures: Sequence[Figures], path: str) -> None:
    """A line for each kind of photo: share within 25 m against the radius of the circle."""
    page = Figure(figsize=(7, 3.6), layout="constrained")
    axes = page.add_subplot()
    places = range(len(RADII_M))
    for number, kind in enumerate(KINDS):
        lines = figures[number * len(RADII_M) : (number + 1) * len(RADII_M)]
        axes.plot(places, [100 * line.within_25m for line in lines], marker="o", label=kind)
    axes.set_xticks(places, ["everywhere" if radius is None else f"{radius:g} m" for radius in RADII_M])
    axes.set_ylim(0, 100)
    axes.set_xlabel("radius of the circle that is searched")
    axes.set_ylabel("photos within 25 m, percent")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    page.savefig(path, dpi=100)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", required=True, help="index of the area")
    parser.add_argument("--photos", required=True, help="queries table of panoramas of known position")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    given = parser.parse_args()
    figures: list[Figures] = measure_anywhere(given.index, given.photos, looks())
    rows: list[dict[str, Any]] = [line.model_dump() for line in figures]
    json.dump(rows, sys.stdout, indent=1)
    if given.plot:
        plot(figures, str(given.plot))


if __name__ == "__main__":
    main()
