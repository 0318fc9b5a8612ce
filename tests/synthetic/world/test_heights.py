from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.heights import height_raster
from geoloc.synthetic.world.raster import City, Window
from synthetic.world.scenes import with_building
from synthetic.world.truth import in_aerial

BOUNDS = (-24.0, 160.0, 56.0, 240.0)


def test_at_the_citys_own_resolution_it_is_the_layers(city: City, window: Window) -> None:
    raster = height_raster(city, BOUNDS, 0.4)
    top, left = window.north_px - 600, -60 - window.west_px
    box = (slice(top, top + 200), slice(left, left + 200))
    expected = np.maximum(window.layers.height_cm[box] / 100, window.layers.canopy_dm[box] / 10)
    np.testing.assert_allclose(raster, expected, atol=1e-5)
    bare = height_raster(city, BOUNDS, 0.4, trees=False)
    np.testing.assert_allclose(bare, window.layers.height_cm[box] / 100, atol=1e-5)
    assert (bare < raster).any()


def test_coarser_pixels_are_means_and_finer_ones_repeat(city: City, window: Window) -> None:
    fine = height_raster(city, BOUNDS, 0.4, window=window)
    coarse = height_raster(city, BOUNDS, 1.6, window=window)
    np.testing.assert_allclose(coarse, fine.reshape(50, 4, 50, 4).mean((1, 3)), atol=1e-4)
    np.testing.assert_array_equal(height_raster(city, BOUNDS, 0.2, window=window)[::2, ::2], fine)
    odd = height_raster(city, BOUNDS, 0.7)
    assert odd.shape == (114, 114)
    assert abs(odd.mean() - fine.mean()) < 0.1


def test_a_building_lies_where_the_projection_says(city: City) -> None:
    window = with_building(3.0, -5.0, 9.0, 4.0, 30.0, 6.0)
    bounds = (-20.0, -20.0, 20.0, 20.0)
    r, c = np.nonzero(height_raster(city, bounds, 0.5, window=window) > 3)
    place = in_aerial(np.array([3.0, -5.0]), bounds, 0.5)
    np.testing.assert_allclose([c.mean() + 0.5, r.mean() + 0.5], [place.column, place.row], atol=0.6)


@pytest.mark.parametrize("size", [0.0, -1.0, 200.0, float("nan")])
def test_a_raster_without_pixels_is_refused(city: City, size: float) -> None:
    with pytest.raises(ConfigError, match="give a size above 0 and bounds as west, south, east, north"):
        height_raster(city, BOUNDS, size)
