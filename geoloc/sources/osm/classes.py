"""What OSM's tags mean for the 25 classes of the 2.5D maps, with widths of lines and heights of buildings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from geoloc.core.semantics import SemanticClass as Kind

KEYS = frozenset(
    {
        "highway",
        "railway",
        "building",
        "building:part",
        "landuse",
        "leisure",
        "natural",
        "waterway",
        "amenity",
    }
)
"""Tags that something on the map has."""

_LANE_M = 3.2
_LEVEL_M = 3.0
_DEFAULT_LEVELS = 2.0
_ROADS: dict[str, tuple[Kind, float]] = {
    "motorway": (Kind.ROADS_MOTORWAY, 14.0),
    "motorway_link": (Kind.ROADS_MOTORWAY, 7.0),
    "trunk": (Kind.ROADS_TRUNK, 12.0),
    "trunk_link": (Kind.ROADS_TRUNK, 7.0),
    "primary": (Kind.ROADS_PRIMARY, 12.0),
    "primary_link": (Kind.ROADS_PRIMARY, 6.0),
    "secondary": (Kind.ROADS_SECONDARY, 10.0),
    "secondary_link": (Kind.ROADS_SECONDARY, 6.0),
    "tertiary": (Kind.ROADS_TERTIARY, 8.0),
    "tertiary_link": (Kind.ROADS_TERTIARY, 6.0),
    "residential": (Kind.ROADS_RESIDENTIAL, 7.0),
    "living_street": (Kind.ROADS_RESIDENTIAL, 6.0),
    "unclassified": (Kind.ROADS_UNCLASSIFIED, 6.0),
    "service": (Kind.ROADS_SERVICE, 4.0),
    "pedestrian": (Kind.ROADS_PEDESTRIAN, 5.0),
    "track": (Kind.ROADS_TRACK, 3.0),
    "footway": (Kind.PATHS_FOOTWAY, 2.0),
    "path": (Kind.PATHS_FOOTWAY, 1.5),
    "steps": (Kind.PATHS_STEPS, 2.0),
    "cycleway": (Kind.PATHS_CYCLEWAY, 2.0),
    "bridleway": (Kind.PATHS_BRIDLEWAY, 2.0),
    "road": (Kind.ROADS_OTHER, 6.0),
}
_RAILWAYS = ("rail", "tram", "light_rail", "subway", "narrow_gauge", "monorail", "funicular")
_AREAS: dict[str, dict[str, Kind]] = {
    "highway": {
        "pedestrian": Kind.AREAS_PEDESTRIAN,
        "footway": Kind.AREAS_FOOTWAY,
        "service": Kind.AREAS_SERVICE,
    },
    "amenity": {"parking": Kind.AREAS_SERVICE},
    "landuse": {
        "railway": Kind.AREAS_RAILWAYS,
        "forest": Kind.FOREST,
        "reservoir": Kind.WATER,
        "basin": Kind.WATER,
    }
    | dict.fromkeys(
        (
            "grass",
            "meadow",
            "village_green",
            "recreation_ground",
            "orchard",
            "allotments",
            "cemetery",
            "flowerbed",
        ),
        Kind.VEGETATION,
    ),
    "natural": {"wood": Kind.FOREST, "water": Kind.WATER, "beach": Kind.COASTLINES, "sand": Kind.COASTLINES}
    | dict.fromkeys(("scrub", "grassland", "heath", "grass", "shrubbery"), Kind.VEGETATION),
    "leisure": {"swimming_pool": Kind.WATER}
    | dict.fromkeys(("park", "garden", "golf_course", "pitch"), Kind.VEGETATION),
    "waterway": {"riverbank": Kind.WATER, "dock": Kind.WATER},
}
PAINTED = (
    Kind.VEGETATION, Kind.FOREST, Kind.COASTLINES, Kind.WATER, Kind.AREAS_RAILWAYS, Kind.AREAS_PEDESTRIAN,
    Kind.AREAS_FOOTWAY, Kind.AREAS_SERVICE, Kind.PATHS_FOOTWAY, Kind.PATHS_STEPS, Kind.PATHS_BRIDLEWAY,
    Kind.PATHS_CYCLEWAY, Kind.ROADS_TRACK, Kind.ROADS_SERVICE, Kind.ROADS_PEDESTRIAN, Kind.ROADS_OTHER,
    Kind.ROADS_UNCLASSIFIED, Kind.ROADS_RESIDENTIAL, Kind.ROADS_TERTIARY, Kind.ROADS_SECONDARY, Kind.ROADS_PRIMARY,
    Kind.ROADS_TRUNK, Kind.ROADS_MOTORWAY, Kind.RAILWAYS, Kind.BUILDINGS,
)  # fmt: skip
"""Every class once, the lowest first: of classes at one place the last is seen from above."""


def line_class(tags: Mapping[str, str]) -> tuple[Kind, float] | None:
    """Class and width in metres of a line; None for what is not on the map, or lies under the ground."""
    if tags.get("tunnel") in ("yes", "building_passage") or tags.get("area") == "yes":
        return None
    if (road := _ROADS.get(tags.get("highway", ""))) is not None:
        lanes = number(tags.get("lanes"))
        usual = road[1] if lanes is None else max(lanes * _LANE_M, 2.0)
        width = number(tags.get("width"))
        return road[0], usual if width is None else width
    if tags.get("railway") in _RAILWAYS:
        return (Kind.RAILWAYS, 3.0) if tags["railway"] != "subway" else None
    if tags.get("natural") == "coastline":
        return Kind.COASTLINES, 2.0
    return None


def area_class(tags: Mapping[str, str]) -> Kind | None:
    """Class of a surface; None for what is not on the map."""
    if tags.get("building", "no") != "no" or tags.get("building:part", "no") != "no":
        return Kind.BUILDINGS
    for key, kinds in _AREAS.items():
        if (kind := kinds.get(tags.get(key, ""))) is not None and (
            key != "highway" or tags.get("area") == "yes"
        ):
            return kind
    return None


def building_height_m(tags: Mapping[str, str]) -> tuple[float, float]:
    """Heights in metres of a building's walls and of its gable above them.

    `height` is that of the whole building; without it `building:levels` of 3 m count, or two of them. A gable has the
    height of `roof:height`, for roofs that have a ridge.
    """
    gable = number(tags.get("roof:height")) or 0.0
    if tags.get("roof:shape", "flat") not in ("gabled", "hipped", "half-hipped", "gambrel"):
        gable = 0.0
    height = number(tags.get("height"))
    if height is None:
        levels = number(tags.get("building:levels"))
        height = gable + _LEVEL_M * (_DEFAULT_LEVELS if levels is None else levels)
    gable = min(gable, height)
    return max(height - gable, 0.0), gable


def number(text: str | None) -> float | None:
    """A finite number of metres at the beginning of a tag's value (`12`, `12.5 m`, `40'`); None for anything else."""
    if not text:
        return None
    first = text.strip().replace(",", ".")
    feet = first.endswith(("'", "ft"))
    digits = first.removesuffix("ft").removesuffix("'").removesuffix("m").strip()
    try:
        value = float(digits)
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return value * 0.3048 if feet else value
