from __future__ import annotations

import numpy as np
import pytest
from pyproj import Geod, Transformer

from geoloc.core import geodesy
from geoloc.synthetic.layouts.cvact import _LAT, _LON
from geoloc.synthetic.layouts.placement import Placement, mercator_metres_per_pixel, sphere_at, utm_at
from geoloc.synthetic.world import georeference

GEOD = Geod(ellps="WGS84")
X, Y = np.array([0.0, 500.0, 4000.0]), np.array([0.0, 2500.0, -300.0])
PLACES = [Placement(), utm_at(47.59, -27.03, zone=26), utm_at(_LAT, _LON, zone=55, south=True)]


def test_the_default_place_is_the_citys_own() -> None:
    assert np.allclose(Placement().to_latlon(X, Y), georeference.to_latlon(X, Y), atol=1e-11)
    assert np.allclose(Placement().convergence_deg(X, Y), georeference.convergence_deg(X, Y))


@pytest.mark.parametrize("place", [*PLACES, sphere_at(40.7424436, -73.9816155)])
def test_degrees_and_metres_are_inverse(place: Placement) -> None:
    back = place.from_latlon(*place.to_latlon(X, Y))
    assert np.allclose(back, (X, Y), atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_distances_and_directions_are_those_of_the_ellipsoid(place: Placement) -> None:
    lat, lon = place.to_latlon(X, Y)
    azimuth, _, metres = GEOD.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
    assert np.hypot(X[1:], Y[1:]) == pytest.approx(metres, rel=7e-4)
    grid = np.degrees(np.arctan2(X[1:], Y[1:]))
    assert (grid + place.convergence_deg(0.0, 0.0) - azimuth + 180) % 360 == pytest.approx(
        [180, 180], abs=0.03
    )


@pytest.mark.parametrize("place", PLACES)
def test_grid_north_is_true_north_nearby(place: Placement) -> None:
    assert np.abs(place.convergence_deg(X, Y)).max() < 0.1


def test_cvact_is_at_sea_in_canberras_zone_and_exact_in_it() -> None:
    place = PLACES[2]
    easting, northing = place.to_projected(X, Y)
    assert np.hypot(easting - easting[0], northing - northing[0]) == pytest.approx(np.hypot(X, Y))
    lon, lat = Transformer.from_crs("EPSG:32755", "EPSG:4326", always_xy=True).transform(easting, northing)
    assert np.allclose((lat, lon), place.to_latlon(X, Y), atol=1e-9)
    assert -36.5 < lat[0] < -36.4
    assert 150.1 < lon[0] < 150.4


def test_the_sphere_is_the_published_projection() -> None:
    place = sphere_at(40.7424436, -73.9816155)
    assert place.to_latlon(0.0, 0.0) == pytest.approx((40.7424436, -73.9816155))
    # A row of the published wallstreet5kU.csv and the same row of wallstreet5kU_xy.csv, whose y is negated.
    x, y = place.from_latlon(40.705532, -74.013574)
    assert (float(x), float(-y)) == pytest.approx((-2696.9177239123287, 4108.489988861912), abs=1e-6)


def test_a_mercator_pixel_is_as_wide_as_the_ellipsoid_says() -> None:
    degrees = 360 / (256 * 2**20)
    for lat in (37.8, 47.6, -36.5):
        _, _, metres = GEOD.inv(0.0, lat, degrees, lat)
        assert mercator_metres_per_pixel(lat, 20) == pytest.approx(metres, rel=1e-6)
        assert mercator_metres_per_pixel(lat, 20) == pytest.approx(
            geodesy.map_metres_per_pixel(lat, 20), rel=4e-3
        )
