"""The map of a report: where photos were taken and where they were located, on Leaflet, all of it inside the page.

It works from a file without a network: Leaflet, the script, the positions and a picture of the ground are in the page.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.leaflet import leaflet_file

_MOST_TILES = 10_000
_MOST_PHOTOS = 5_000
# Greatest error in metres, colour (of Matplotlib's viridis, which is told apart without red and green).
_CLASSES = ((5.0, "#fde725"), (25.0, "#5ec962"), (100.0, "#21918c"), (float("inf"), "#440154"))
_UNLOCATED = "#fff"
_NONE = np.empty(0)


@dataclass(frozen=True)
class GroundPicture:
    """An encoded picture of the ground in web mercator: its media type, and its bounds in WGS84 degrees."""

    data: bytes
    media_type: str
    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True)
class MapPositions:
    """True and estimated positions of photos float64[Q] and those of tiles float64[N]: WGS84 degrees.

    error_m float64[Q] in metres; NaN where unknown, estimates and errors also where nothing was located. `names` are
    of the photos, or empty.
    """

    true_lat: FloatArray
    true_lon: FloatArray
    lat: FloatArray
    lon: FloatArray
    error_m: FloatArray
    gallery_lat: FloatArray = field(default_factory=lambda: _NONE)
    gallery_lon: FloatArray = field(default_factory=lambda: _NONE)
    names: Sequence[str] = ()


def position_map(positions: MapPositions, picture: GroundPicture | None = None) -> str:
    """The map as HTML, for a page that has no other; empty where no photo has a position.

    At most 5,000 photos and 10,000 tiles are drawn, evenly chosen.
    """
    shown = _evenly(np.isfinite(positions.true_lat), _MOST_PHOTOS)
    if not len(shown):
        return ""
    facts = {
        "photos": [_photo(positions, row) for row in shown.tolist()],
        "gallery": _places(positions.gallery_lat, positions.gallery_lon),
        "classes": [{"most_m": min(most_m, 1e12), "colour": colour} for most_m, colour in _CLASSES],
        "unlocated": _UNLOCATED,
        "picture": picture and _overlay(picture),
    }
    own = resources.files("geoloc.evaluation.report").joinpath("position_map.js").read_text()
    text = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")  # so that no name ends the script
    return (
        f"<style>{leaflet_file('leaflet.css').decode()}"
        "#map { height: 40rem; max-width: 44rem; background: #e8e8e8; border: 1px solid #bbb }"
        ".key span { display: inline-block; width: .8em; height: .8em; border-radius: 50%; border: 1px solid #888; "
        "margin: 0 .3em 0 1em }</style>"
        f'<div id="map" role="application" aria-label="Map of the photos"></div>{_key()}'
        f'<script type="application/json" id="map-facts">{text}</script>'
        f"<script>{leaflet_file('leaflet.js').decode()}</script><script>{own}</script>"
    )


def _key() -> str:
    """What the colours mean."""
    entries = [
        (colour, f"up to {most_m:g} m off" if np.isfinite(most_m) else "further")
        for most_m, colour in _CLASSES
    ]
    entries.append((_UNLOCATED, "not located"))
    words = "".join(
        f'<span style="background:{colour}"></span>{html.escape(text)}' for colour, text in entries
    )
    return (
        f'<p class="key">Photos where they were taken:{words}. A line leads to where a photo was located.</p>'
    )


def _photo(positions: MapPositions, row: int) -> dict[str, object]:
    error_m, lat, lon = (float(values[row]) for values in (positions.error_m, positions.lat, positions.lon))
    located = bool(np.isfinite(error_m))
    return {
        "at": [round(float(positions.true_lat[row]), 6), round(float(positions.true_lon[row]), 6)],
        "to": [round(lat, 6), round(lon, 6)] if located and np.isfinite(lat) else None,
        "error_m": round(error_m, 1) if located else None,
        "name": positions.names[row] if positions.names else "",
    }


def _places(lat: FloatArray, lon: FloatArray) -> list[list[float]]:
    shown = _evenly(np.isfinite(lat), _MOST_TILES)
    return [[round(float(lat[row]), 6), round(float(lon[row]), 6)] for row in shown]


def _evenly(known: BoolArray, most: int) -> IntArray:
    """Numbers of the known rows, at most so many, evenly chosen."""
    rows = np.flatnonzero(known)
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def _overlay(picture: GroundPicture) -> dict[str, object]:
    source = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
    bounds = [[picture.south, picture.west], [picture.north, picture.east]]
    return {"source": source, "bounds": bounds}
