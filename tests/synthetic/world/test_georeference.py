from __future__ import annotations

import numpy as np
import pyproj
from hypothesis import given
from hypothesis import strategies as st

from geoloc.synthetic.world.georeference import convergence_deg, from_latlon, to_latlon

metres = st.floats(-20_000, 20_000)


@given(metres, metres)
def test_degrees_and_metres_round_trip(x: float, y: float) -> None:
    np.testing.assert_allclose(from_latlon(*to_latlon(x, y)), [x, y], atol=1e-4)


def test_the_city_floats_in_the_north_atlantic() -> None:
    lat, lon = to_latlon(0.0, 0.0)
    assert 44.5 < lat < 45.5
    assert -27.5 < lon < -26.5


@given(metres, metres)
def test_convergence_is_the_true_heading_of_grid_north(x: float, y: float) -> None:
    lat, lon = to_latlon([x, x], [y, y + 10])
    heading, _, distance = pyproj.Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])
    assert abs(heading - float(convergence_deg(x, y))) < 1e-3
    assert abs(distance - 10) < 0.01  # the grid's scale is within 0.04 % of true metres
