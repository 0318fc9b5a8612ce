"""GeoJSON of a stage's output, written a line a feature.

Convention: GeoJSON puts the longitude first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


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
