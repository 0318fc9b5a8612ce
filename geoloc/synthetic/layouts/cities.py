"""The cities of the layouts: official names, each with a seed, a style and a latitude of its own."""

from __future__ import annotations

from dataclasses import replace

from geoloc.synthetic.layouts.placement import Placement, utm_at
from geoloc.synthetic.layouts.view_images import CitySource
from geoloc.synthetic.world.noise import hash_int
from geoloc.synthetic.world.style import Style

_PLAIN = Style()
GRID = replace(_PLAIN, block_m=104.0, line_jitter=0.06, node_jitter_m=2.0, warp_m=16.0, warp_scale_m=900.0,
               closed_street_share=0.04, avenue_share=0.12, quarter_limits=(0.22, 0.34, 0.60),
               palette="stucco")  # fmt: skip
OLD_TOWN = replace(_PLAIN, block_m=76.0, line_jitter=0.3, node_jitter_m=10.0, warp_m=64.0, warp_scale_m=380.0,
                   closed_street_share=0.2, pavement_m=2.0, quarter_limits=(0.12, 0.30, 0.94),
                   palette="stucco")  # fmt: skip
SUBURB = replace(_PLAIN, block_m=112.0, warp_m=80.0, quarter_limits=(0.14, 0.74, 0.92), park_share=0.1)
INDUSTRY = replace(_PLAIN, block_m=124.0, line_jitter=0.14, warp_m=40.0, quarter_limits=(0.48, 0.64, 0.82),
                   parking_share=0.09, park_share=0.04)  # fmt: skip
STYLES = {"plain": _PLAIN, "grid": GRID, "old_town": OLD_TOWN, "suburb": SUBURB, "industry": INDUSTRY}

_OCEAN_ZONE, _OCEAN_LON = 26, -27.03
_VIGOR = {
    "NewYork": ("grid", 40.74), "Seattle": ("suburb", 47.59), "SanFrancisco": ("old_town", 37.77),
    "Chicago": ("industry", 41.88),
}  # fmt: skip


def vigor_city(name: str, seed: int) -> CitySource:
    """One of VIGOR's four cities: its style, and the latitude of its namesake in the open Atlantic.

    The latitude is real because the metres of a pixel of web imagery, which readers look up by the city's name,
    follow from it; the longitude is 27 W, where there is only sea.
    """
    style, lat = _VIGOR[name]
    number = list(_VIGOR).index(name)
    return CitySource(name, city_seed(seed, number), STYLES[style], utm_at(lat, _OCEAN_LON, zone=_OCEAN_ZONE))


def plain_city(seed: int, placement: Placement | None = None, name: str = "city") -> CitySource:
    """The default city."""
    return CitySource(name, city_seed(seed, 8), STYLES["plain"], placement or Placement())


def city_seed(seed: int, number: int) -> int:
    """The seed of one of the cities of an export: another for every number."""
    return hash_int(seed, 800, number) % 2**31


VIGOR_CITIES = tuple(_VIGOR)
