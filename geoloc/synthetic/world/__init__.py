"""The procedural city: the embedded data set with exact truth, deterministic from a seed.

Shared between the views: streets, lots, grounds, buildings, trees, hedges, lamp posts, patches of asphalt, what
road marks there are. Drawn anew for every flight line and every photo: season, sun, exposure, colours, cars, and
which road marks are worn off, pale or repainted. Known gaps to reality: no people or signs, no relief, flat
facades, no building lean in the imagery, no shadows in the photos, one kind of tree.
"""

from __future__ import annotations

from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.camera_positions import Positions, street_positions
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import Style
from geoloc.synthetic.world.view_conditions import Look, flight_look, photo_look

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
