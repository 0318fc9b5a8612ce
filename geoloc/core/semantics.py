"""The 25 semantic classes of the 2.5D map data (ZhouMengjie/2-5DMap-Dataset), in their order 0..24.

The order is the file format: a class id is a row of `CLASSES`. Names follow the layers of an OpenStreetMap
export to 3D.
"""

from __future__ import annotations

from enum import IntEnum


class SemanticClass(IntEnum):
    """One class of the map; its value is the id in files and point clouds."""

    AREAS_FOOTWAY = 0
    AREAS_PEDESTRIAN = 1
    AREAS_RAILWAYS = 2
    AREAS_SERVICE = 3
    BUILDINGS = 4
    COASTLINES = 5
    FOREST = 6
    PATHS_CYCLEWAY = 7
    PATHS_FOOTWAY = 8
    PATHS_STEPS = 9
    ROADS_MOTORWAY = 10
    ROADS_PEDESTRIAN = 11
    ROADS_PRIMARY = 12
    ROADS_RESIDENTIAL = 13
    ROADS_SECONDARY = 14
    ROADS_SERVICE = 15
    ROADS_TRUNK = 16
    ROADS_UNCLASSIFIED = 17
    VEGETATION = 18
    WATER = 19
    PATHS_BRIDLEWAY = 20
    RAILWAYS = 21
    ROADS_TERTIARY = 22
    ROADS_TRACK = 23
    ROADS_OTHER = 24

    @property
    def label(self) -> str:
        """The name as the data set writes it, such as `roads_primary`."""
        return self.name.lower()


CLASSES: tuple[str, ...] = tuple(kind.label for kind in SemanticClass)
"""Names by id."""
