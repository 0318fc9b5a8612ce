"""The procedural city as an OpenStreetMap extract: what a mapper would have drawn of it, as .osm XML.

Buildings are closed ways with `height` and `roof:height`, streets are lines with `width` and sidewalks, trees are nodes
with a crown. All other ground is drawn as areas, taken from the city's raster of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio.features
from rasterio.transform import Affine

from geoloc.core.arrays import FloatArray
from geoloc.core.semantics import SemanticClass as Kind
from geoloc.synthetic.layouts.placement import Placement
from geoloc.synthetic.world.buildings import corners
from geoloc.synthetic.world.classes import ground_classes, road_classes
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.style import PIXEL_M

Tags = Mapping[str, str]
_ROADS = {
    Kind.ROADS_PRIMARY: "primary", Kind.ROADS_SECONDARY: "secondary", Kind.ROADS_TERTIARY: "tertiary",
    Kind.ROADS_RESIDENTIAL: "residential", Kind.ROADS_UNCLASSIFIED: "unclassified",
}  # fmt: skip
_GROUNDS: dict[Kind, Tags] = {
    Kind.AREAS_PEDESTRIAN: {"highway": "pedestrian", "area": "yes"},
    Kind.AREAS_SERVICE: {"highway": "service", "area": "yes"},
    Kind.AREAS_FOOTWAY: {"highway": "footway", "area": "yes"},
    Kind.VEGETATION: {"landuse": "grass"},
    Kind.WATER: {"natural": "water"},
    Kind.COASTLINES: {"natural": "sand"},
}


def osm_xml(city: City, placement: Placement, bounds: Bounds) -> bytes:
    """The map of an area (west, south, east, north in city metres) as the bytes of an .osm file."""
    writer = _OsmWriter(placement)
    window = city.window(bounds)
    edges = window.edges
    for curve, half, kind in zip(edges.curve, edges.half_width_m, road_classes(edges), strict=True):
        width = f"{2 * float(half):.3f}"
        beside = {"sidewalk": "both", "sidewalk:both:width": f"{city.style.pavement_m:.3f}"}
        writer.way(curve, {"highway": _ROADS[Kind(int(kind))], "width": width, **beside})
    _, first = np.unique(window.table["id"], return_index=True)
    table = window.table[first]
    for row, ring in zip(table, corners(table), strict=True):
        whole, gable = float(row["wall_m"] + row["gable_m"]), float(row["gable_m"])
        roof = (
            {"roof:shape": "gabled", "roof:height": f"{gable:.3f}"} if gable > 0 else {"roof:shape": "flat"}
        )
        writer.way(np.concatenate([ring, ring[:1]]), {"building": "yes", "height": f"{whole:.3f}", **roof})
    for i, j in city.network.blocks_in(bounds):
        for x, y, radius, height, _ in city.block(i, j).trees.tolist():
            crown = {"diameter_crown": f"{2 * radius:.3f}", "height": f"{height:.3f}"}
            writer.node(x, y, {"natural": "tree", **crown})
    kinds = ground_classes(city, window)
    corner = Affine(PIXEL_M, 0, window.west_px * PIXEL_M, 0, -PIXEL_M, window.north_px * PIXEL_M)
    for shape, value in rasterio.features.shapes(kinds, transform=corner):
        if (tags := _GROUNDS.get(Kind(int(value)))) is not None:
            writer.area([np.asarray(ring) for ring in shape["coordinates"]], tags)
    return writer.text()


class _OsmWriter:
    """Collects nodes, ways and relations with numbers from 1 on."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._nodes: list[str] = []
        self._known: dict[tuple[float, float], int] = {}
        self._ways: list[str] = []
        self._relations: list[str] = []

    def node(self, x: float, y: float, tags: Tags) -> int:
        """A node at a city point; one without tags is the same for the same point."""
        lat, lon = (float(value) for value in self._placement.to_latlon(x, y))
        key = (round(lat, 8), round(lon, 8))
        if not tags and key in self._known:
            return self._known[key]
        number = len(self._nodes) + 1
        self._nodes.append(f'<node id="{number}" lat="{lat:.8f}" lon="{lon:.8f}">{_tags(tags)}</node>')
        if not tags:
            self._known[key] = number
        return number

    def way(self, points: FloatArray, tags: Tags) -> int:
        """A way through city points float64[N, 2]."""
        refs = "".join(f'<nd ref="{self.node(x, y, {})}"/>' for x, y in points.tolist())
        number = len(self._ways) + 1
        self._ways.append(f'<way id="{number}">{refs}{_tags(tags)}</way>')
        return number

    def area(self, rings: Iterable[FloatArray], tags: Tags) -> None:
        """A multipolygon of an outer ring float64[N, 2] and holes."""
        roles = [
            f'<member type="way" ref="{self.way(ring, {})}" role="{"inner" if number else "outer"}"/>'
            for number, ring in enumerate(rings)
        ]
        whole = {"type": "multipolygon", **tags}
        self._relations.append(
            f'<relation id="{len(self._relations) + 1}">{"".join(roles)}{_tags(whole)}</relation>'
        )

    def text(self) -> bytes:
        """The extract as XML."""
        things = [*self._nodes, *self._ways, *self._relations]
        body = "\n".join(things)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6">\n{body}\n</osm>\n'.encode()


def _tags(tags: Tags) -> str:
    return "".join(f"<tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in tags.items())
