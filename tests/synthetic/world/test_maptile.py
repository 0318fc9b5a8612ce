from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.core.semantics import SemanticClass
from geoloc.synthetic.world.buildings import corners
from geoloc.synthetic.world.maptile import _HOUSE, _HOUSE_LINE, _ROADS, _SYMBOLS, _WATER, render_map
from geoloc.synthetic.world.raster import City, Window
from synthetic.world.truth import in_map

CENTRE = (20.0, 220.0)


def is_ink(picture: np.ndarray, *inks: tuple[int, int, int], slack: int = 4) -> np.ndarray:
    """Pixels of one of the inks: bool[...]."""
    apart = [np.abs(picture.astype(int) - ink).max(-1) for ink in inks]
    return np.asarray(np.min(apart, 0) <= slack)


def test_buildings_are_drawn_within_a_pixel_and_a_half_of_their_corners(city: City, window: Window) -> None:
    """Points 1.5 pixels inside each corner are house, those as far outside a free-standing corner are not."""
    side, size = 120.0, 512
    picture = render_map(city, *CENTRE, side_m=side, size_px=size)
    house = is_ink(
        picture, _HOUSE, _HOUSE_LINE, (204, 191, 182), *_SYMBOLS, (255, 255, 255)
    )  # and half a line
    table = window.table
    step = 1.5 * side / size
    inner = table.copy()
    inner["half_u"] -= step
    inner["half_v"] -= step
    place = in_map(corners(inner), *CENTRE, side_m=side, size_px=size)
    assert place.inside.sum() > 40
    assert house[place.row[place.inside].astype(int), place.column[place.inside].astype(int)].mean() > 0.97
    outer = table.copy()
    outer["half_u"] += step
    outer["half_v"] += step
    spots = corners(outer).reshape(-1, 2)
    free = np.ones(len(spots), bool)
    for row in table:
        u = (spots[:, 0] - row["x"]) * row["cos"] + (spots[:, 1] - row["y"]) * row["sin"]
        v = (spots[:, 1] - row["y"]) * row["cos"] - (spots[:, 0] - row["x"]) * row["sin"]
        free &= (np.abs(u) > row["half_u"] + 0.9 * step) | (np.abs(v) > row["half_v"] + 0.9 * step)
    place = in_map(spots, *CENTRE, side_m=side, size_px=size)
    shown = place.inside & free
    at = picture[place.row[shown].astype(int), place.column[shown].astype(int)]
    assert shown.sum() > 20
    assert is_ink(at, _HOUSE, slack=2).mean() < 0.05


def test_streets_have_the_ink_of_their_class_on_their_middle_line(city: City, window: Window) -> None:
    side, size = 400.0, 400
    picture = render_map(city, 120.0, 120.0, side_m=side, size_px=size)
    wide = window.edges.half_width_m > 7
    assert wide.any()
    place = in_map(window.edges.curve[wide][:, 5:12], 120.0, 120.0, side_m=side, size_px=size)
    at = picture[place.row[place.inside].astype(int), place.column[place.inside].astype(int)]
    assert len(at) > 10
    assert is_ink(at, _ROADS[SemanticClass.ROADS_PRIMARY][0]).mean() > 0.95


def test_water_is_where_the_imagery_has_it(city: City) -> None:
    """The map's river and the 0.4 m layer of materials agree within a pixel of 1 m, and nowhere else is water."""
    for x, y in ((700.0, 380.0), (400.0, 250.0), (950.0, 500.0)):
        picture = render_map(city, x, y, side_m=200.0, size_px=200)
        blue = is_ink(picture, _WATER)
        if blue.mean() > 0.05:
            break
    assert blue.mean() > 0.05
    window = city.window((x - 100, y - 100, x + 100, y + 100))
    r, c = np.nonzero(blue[5:-5, 5:-5])
    spot = ((r + 5.5) * 2.5).astype(int), ((c + 5.5) * 2.5).astype(int)
    wet = np.isin(window.layers.material[spot], (6, 7))
    assert wet.mean() > 0.93


def test_tiles_join_without_a_seam_and_do_not_depend_on_order(city: City) -> None:
    whole = render_map(city, 64.0, 192.0, side_m=128.0, size_px=256).astype(int)
    other = City(seed=11)
    parts = [
        [render_map(other, 64.0 + dx, 192.0 + dy, side_m=64.0, size_px=128) for dx in (-32.0, 32.0)]
        for dy in (32.0, -32.0)
    ]
    joined = np.concatenate([np.concatenate(row, 1) for row in parts])
    assert (np.abs(joined - whole).max(-1) > 12).mean() < 0.03  # vertices fall on whole pixels of the canvas
    np.testing.assert_array_equal(parts[0][1], render_map(city, 96.0, 224.0, side_m=64.0, size_px=128))


def test_edges_are_antialiased(city: City) -> None:
    picture = render_map(city, *CENTRE, side_m=100.0, size_px=128)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 60


@pytest.mark.parametrize(("side", "size"), [(0.0, 64), (100.0, 0), (float("nan"), 64)])
def test_a_map_without_area_is_refused(city: City, side: float, size: int) -> None:
    with pytest.raises(ConfigError, match="has no area; give sizes above 0"):
        render_map(city, 0.0, 0.0, side_m=side, size_px=size)
