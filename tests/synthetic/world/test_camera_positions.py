from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.blocks import ASPHALT, BRICK, CLAY, CONCRETE, LAWN, SETTS
from geoloc.synthetic.world.camera_positions import positions_in_tiles, street_positions
from geoloc.synthetic.world.raster import City

STREET = (ASPHALT, BRICK, CLAY, CONCRETE, LAWN, SETTS)
"""Carriageways, lanes and planted medians."""
BOUNDS = (0.0, 0.0, 900.0, 700.0)


def _gaps(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.hypot(*np.moveaxis(points[:, None] - others[None], -1, 0))


def test_spacing_offset_and_bounds_are_kept(city: City) -> None:
    found = street_positions(city.network, BOUNDS, 250, 20.0, 3, offset_m=5.0)
    centres = np.column_stack([found.centre_x, found.centre_y])
    gaps = _gaps(centres, centres) + np.eye(250) * 1e3
    assert gaps.min() >= 20
    away = np.hypot(found.x - found.centre_x, found.y - found.centre_y)
    assert away.max() <= 5
    assert abs(np.mean(away**2) - 12.5) < 2.5  # uniform in the disc, not on its rim or at its centre
    assert centres.min() > 0
    assert (centres < BOUNDS[2:]).all()


def test_distractors_keep_clear_of_the_others(city: City) -> None:
    first = street_positions(city.network, BOUNDS, 100, 20.0, 3)
    taken = np.column_stack([first.centre_x, first.centre_y])
    more = street_positions(city.network, BOUNDS, 150, 15.0, 4, clear_of=taken, clear_m=22.0)
    assert _gaps(np.column_stack([more.centre_x, more.centre_y]), taken).min() >= 22
    own = np.column_stack([more.centre_x, more.centre_y])
    assert (_gaps(own, own) + np.eye(len(own)) * 1e3).min() >= 15


def test_cameras_stand_on_open_streets(city: City) -> None:
    window = city.window((0.0, 0.0, 250.0, 250.0))
    found = street_positions(city.network, (0.0, 0.0, 250.0, 250.0), 40, 15.0, 3)
    r, c = (window.north_px - found.y / 0.4).astype(int), (found.x / 0.4 - window.west_px).astype(int)
    assert np.isin(window.layers.material[r, c], STREET).all()
    assert (window.layers.height_cm[r, c] == 0).all()


def test_more_than_the_streets_hold_is_refused(city: City) -> None:
    with pytest.raises(
        ConfigError, match=r"^Only \d+ of 500 positions fit on the streets at a spacing of 60 m; ask"
    ):
        street_positions(city.network, (0.0, 0.0, 300.0, 300.0), 500, 60.0, 3)


def test_photos_anywhere_stay_in_their_tiles_and_fill_them(city: City) -> None:
    first = street_positions(city.network, BOUNDS, 100, 20.0, 3)
    centres = np.column_stack([first.centre_x, first.centre_y])
    found = positions_in_tiles(city.network, centres, 50.0, 100, 9)
    assert len(found) == 100
    east, north = found.x - found.centre_x, found.y - found.centre_y
    assert max(np.abs(east).max(), np.abs(north).max()) <= 25
    assert (np.hypot(east, north) > 10).mean() > 0.5
