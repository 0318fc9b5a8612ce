"""GeoJSON of a stage's output, written a line a feature.

Convention: GeoJSON puts the longitude first.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from geoloc.core import storage


def point(lat: float, lon: float) -> dict[str, Any]:
    """A place in WGS84 degrees as a geometry."""
    return {"type": "Point", "coordinates": [lon, lat]}


def feature(geometry: dict[str, Any] | None, properties: dict[str, Any]) -> dict[str, Any]:
    """A geometry, or none, with properties."""
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(features: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The text of a FeatureCollection, a line a feature."""
    yield '{"type": "FeatureCollection", "features": ['
    separator = "\n"
    for feature in features:
        yield f"{separator}{json.dumps(feature)}"
        separator = ",\n"
    yield "\n]}\n"


def write_text(uri: str, pieces: Iterable[str]) -> None:
    """Write a text to any URI, whole or not at all; a piece of it is in memory at a time."""
    with tempfile.TemporaryDirectory(prefix="geoloc-geojson-") as work:
        path = Path(work) / "text"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        storage.copy_file(str(path), uri)
