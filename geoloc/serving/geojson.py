"""An answer as GeoJSON (RFC 7946): the fix, then its matches, as points that any map shows.

Convention: longitude before latitude, here alone.
"""

from __future__ import annotations

from typing import Any

from geoloc.client.schema import LocalizeAnswer

GEOJSON = "application/geo+json"


def as_geojson(answer: LocalizeAnswer) -> dict[str, Any]:
    """A FeatureCollection; the first feature is the fix, without geometry where nothing was located."""
    document = answer.model_dump(mode="json")
    matches = document.pop("matches")
    features = [_feature("fix", document)]
    features += [_feature("match", match | {"rank": rank}) for rank, match in enumerate(matches, start=1)]
    return {"type": "FeatureCollection", "features": features}


def _feature(kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    lat, lon = facts.get("lat"), facts.get("lon")
    geometry = None if lat is None or lon is None else {"type": "Point", "coordinates": [lon, lat]}
    properties = {name: value for name, value in facts.items() if name not in ("lat", "lon")}
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **properties}}
