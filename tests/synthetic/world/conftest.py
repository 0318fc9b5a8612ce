"""One small city, rendered once for all tests of this room."""

from __future__ import annotations

import pytest

from geoloc.synthetic.world.raster import City, Window

BOUNDS = (-160.0, -160.0, 416.0, 416.0)


@pytest.fixture(scope="session")
def city() -> City:
    return City(seed=11)


@pytest.fixture(scope="session")
def window(city: City) -> Window:
    """The quarter kilometre around the chunk (0, 0), with more than the viewing range on every side of it."""
    return city.window(BOUNDS)
