"""The procedural city: the embedded data set with exact truth, deterministic from a seed.

Shared between the views: streets, lots, grounds, buildings, trees, hedges, lamp posts, patches of asphalt, what
road marks there are. Drawn anew for every flight line and every photo: season, sun, exposure, colours, cars, and
which road marks are worn off, pale or repainted. Known gaps to reality: no people or signs, no relief, flat
facades, no building lean in the imagery, no shadows in the photos, one kind of tree.
"""

from __future__ import annotations

from geoloc.city.aerial import render_aerial
from geoloc.city.camera import Camera
from geoloc.city.looks import Look, flight_look, photo_look
from geoloc.city.panorama import render_panorama
from geoloc.city.positions import Positions, street_positions
from geoloc.city.raster import City, Window
from geoloc.city.style import Style

__all__ = [
    "Camera",
    "City",
    "Look",
    "Positions",
    "Style",
    "Window",
    "flight_look",
    "photo_look",
    "render_aerial",
    "render_panorama",
    "street_positions",
]
