"""Geodesy against formulas that share nothing with it: Vincenty's, Clairaut's, spherical Mercator by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from geoloc.core import geodesy
from geoloc.core.errors import InputError

A_M = 6378137.0
F = 1 / 298.257223563
latitudes = st.floats(-89.9, 89.9)
mercator_latitudes = st.floats(-84.9, 84.9)
longitudes = st.floats(-180, 179.999)


def vincenty(lat1: float, lon1: float, lat2: float, lon2: float) -> tuple[float, float]:
    """Distance in metres and first azimuth in degrees (Vincenty 1975, inverse, on WGS84)."""
    b = A_M * (1 - F)
    u1, u2 = (math.atan((1 - F) * math.tan(math.radians(lat))) for lat in (lat1, lat2))
    difference = spread = math.radians(lon2 - lon1)
    for _ in range(200):
        east = math.cos(u2) * math.sin(spread)
        north = math.cos(u1) * math.sin(u2) - math.sin(u1) * math.cos(u2) * math.cos(spread)
        sin_s = math.hypot(east, north)
        if sin_s == 0:
            return 0.0, 0.0
        cos_s = math.sin(u1) * math.sin(u2) + math.cos(u1) * math.cos(u2) * math.cos(spread)
        sigma = math.atan2(sin_s, cos_s)
        sin_a = math.cos(u1) * math.cos(u2) * math.sin(spread) / sin_s
        cos2_a = 1 - sin_a**2
        cos_2m = cos_s - 2 * math.sin(u1) * math.sin(u2) / cos2_a if cos2_a > 1e-15 else 0.0
        c = F / 16 * cos2_a * (4 + F * (4 - 3 * cos2_a))
        previous, spread = (
            spread,
            difference
            + (1 - c) * F * sin_a * (sigma + c * sin_s * (cos_2m + c * cos_s * (2 * cos_2m**2 - 1))),
        )
        if abs(spread - previous) < 1e-13:
            break
    u_sq = cos2_a * (A_M**2 - b**2) / b**2
    big_a = 1 + u_sq / 16384 * (4096 + u_sq * (-768 + u_sq * (320 - 175 * u_sq)))
    big_b = u_sq / 1024 * (256 + u_sq * (-128 + u_sq * (74 - 47 * u_sq)))
    inner = cos_s * (2 * cos_2m**2 - 1) - big_b / 6 * cos_2m * (4 * sin_s**2 - 3) * (4 * cos_2m**2 - 3)
    delta = big_b * sin_s * (cos_2m + big_b / 4 * inner)
    return b * big_a * (sigma - delta), math.degrees(math.atan2(east, north)) % 360


@given(latitudes, st.floats(-180, 180), st.floats(-40, 40), st.floats(-60, 60))
def test_distance_and_heading_agree_with_vincenty(lat: float, lon: float, north: float, east: float) -> None:
    to_lat = max(-89.9, min(89.9, lat + north))
    expected_m, expected_deg = vincenty(lat, lon, to_lat, lon + east)
    distance = float(geodesy.distance_m(lat, lon, to_lat, lon + east))
    assert distance == pytest.approx(expected_m, abs=2e-3)
    assume(expected_m > 100.0)
    heading = float(geodesy.heading_deg(lat, lon, to_lat, lon + east))
    assert abs((heading - expected_deg + 180) % 360 - 180) < 1e-4


def test_known_lengths() -> None:
    assert float(geodesy.distance_m(0, 0, 0, 1)) == pytest.approx(math.pi / 180 * A_M, abs=1e-6)
    assert float(geodesy.distance_m(0, 0, 90, 0)) == pytest.approx(
        10_001_965.729, abs=1e-3
    )  # WGS84 quarter meridian


def test_headings_are_clockwise_from_north_in_0_to_360() -> None:
    headings = geodesy.heading_deg(0, 0, [1, 0, -1, 0], [0, 1, 0, -1])
    np.testing.assert_allclose(headings, [0, 90, 180, 270], atol=1e-9)


def test_distance_broadcasts_and_crosses_the_antimeridian() -> None:
    matrix = geodesy.distance_m(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(3), np.arange(3.0))
    assert matrix.shape == (2, 3)
    assert float(geodesy.distance_m(0, 179.9, 0, -179.9)) == pytest.approx(
        0.2 * math.pi / 180 * A_M, abs=1e-3
    )


@given(latitudes, longitudes, st.floats(0, 359.99), st.floats(1, 1e6))
def test_destination_is_where_distance_says(lat: float, lon: float, heading: float, metres: float) -> None:
    there = geodesy.destination(lat, lon, heading, metres)
    assert vincenty(lat, lon, *there)[0] == pytest.approx(metres, abs=5e-3)


@settings(max_examples=50)
@given(latitudes, longitudes, st.floats(-20_000, 20_000), st.floats(-20_000, 20_000))
def test_local_frame_goes_there_and_back_and_keeps_distance_and_heading(
    lat: float, lon: float, east: float, north: float
) -> None:
    frame = geodesy.LocalFrame(geodesy.LatLon(lat, lon))
    there = [float(v) for v in frame.to_degrees(east, north)]
    back = [float(v) for v in frame.to_metres(*there)]
    assert back == pytest.approx([east, north], abs=1e-3)
    metres, azimuth = vincenty(lat, lon, *there)
    assert metres == pytest.approx(math.hypot(east, north), abs=1e-2)
    assume(metres > 10)
    assert abs((azimuth - math.degrees(math.atan2(east, north)) + 180) % 360 - 180) < 1e-2


@settings(max_examples=25)
@given(st.floats(-80, 80), longitudes, st.integers(0, 10_000))
def test_local_frame_distances_within_50_km_are_right_to_1_in_100000(
    lat: float, lon: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    angle, reach = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0, 50_000, 2)
    east, north = reach * np.sin(angle), reach * np.cos(angle)
    frame = geodesy.LocalFrame(geodesy.LatLon(lat, lon))
    lats, lons = frame.to_degrees(east, north)
    plane = math.hypot(east[1] - east[0], north[1] - north[0])
    truth = vincenty(lats[0], lons[0], lats[1], lons[1])[0]
    assert plane == pytest.approx(truth, rel=1.2e-5, abs=0.01)


def test_checked_refuses_what_is_not_on_earth() -> None:
    assert geodesy.checked(58, 24) == (58.0, 24.0)
    with pytest.raises(InputError, match=r"The position \(95, 24\) is unusable: lat is 95") as caught:
        geodesy.checked(95, 24)
    assert caught.value.reason == "latitude_out_of_range"


@given(mercator_latitudes, longitudes)
def test_mercator_agrees_with_epsg_3857(lat: float, lon: float) -> None:
    easting, northing = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(lon, lat)
    x, y = geodesy.mercator_xy(lat, lon)
    half = math.pi * A_M
    assert (float(x) * 2 - 1) * half == pytest.approx(easting, abs=1e-3)
    assert (1 - float(y) * 2) * half == pytest.approx(northing, abs=1e-3)


@given(mercator_latitudes, longitudes, st.integers(0, 22))
def test_map_tile_agrees_with_the_textbook_formula_and_its_bounds(lat: float, lon: float, zoom: int) -> None:
    x, y = (int(v) for v in geodesy.map_tile(lat, lon, zoom))
    south, west, north, east = geodesy.map_tile_bounds(x, y, zoom)
    assert south - 1e-9 <= lat <= north + 1e-9
    assert west - 1e-9 <= lon <= east + 1e-9
    column = (lon + 180) / 360 * 2**zoom
    row = (
        (1 - math.log(math.tan(math.radians(lat)) + 1 / math.cos(math.radians(lat))) / math.pi) / 2 * 2**zoom
    )
    assume(min(column % 1, 1 - column % 1, row % 1, 1 - row % 1) > 1e-6)
    assert (x, y) == (int(column), int(row))


def test_map_tiles_at_the_corners_of_the_world() -> None:
    assert [int(v) for v in geodesy.map_tile(90, -180, 3)] == [0, 0]
    assert [int(v) for v in geodesy.map_tile(-90, 179.9999, 3)] == [7, 7]
    assert [int(v) for v in geodesy.map_tile(0, 180, 3)] == [0, 4]  # 180 E is 180 W
    assert geodesy.map_tile_bounds(0, 0, 0) == pytest.approx((-85.0511287798, -180, 85.0511287798, 180))


def test_ground_size_of_a_pixel() -> None:
    assert geodesy.map_metres_per_pixel(0, 0) == pytest.approx(156543.03392804097)
    assert geodesy.map_metres_per_pixel(60, 19) == pytest.approx(156543.03392804097 / 2 / 2**19)


def _interleave(x: int, y: int) -> int:
    return sum((x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1 for bit in range(32))


@given(st.lists(st.tuples(mercator_latitudes, longitudes), min_size=1, max_size=10), st.integers(1, 28))
def test_cells_interleave_the_bits_of_map_tiles(places: list[tuple[float, float]], level: int) -> None:
    lat, lon = np.array(places).T
    columns, rows = geodesy.map_tile(lat, lon, level)
    expected = [_interleave(int(x), int(y)) for x, y in zip(columns, rows, strict=True)]
    assert geodesy.cells(lat, lon, level).tolist() == expected


@given(mercator_latitudes, longitudes, st.integers(1, geodesy.CELL_LEVEL))
def test_shifting_a_cell_goes_up_the_levels(lat: float, lon: float, up: int) -> None:
    cell = geodesy.cells(lat, lon)
    assert int(cell) >> 2 * up == int(geodesy.cells(lat, lon, geodesy.CELL_LEVEL - up))


# PROJ's spherical form takes an arc cosine: near the equator it is itself off by a millimetre, on its own meridian by
# some hundredths of one.
@given(st.floats(10, 70), st.floats(-170, 170), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
@settings(max_examples=50)
def test_the_spherical_transverse_mercator_is_that_of_proj(
    lat_0: float, lon_0: float, up: float, right: float
) -> None:
    frame = geodesy.SphericalTransverseMercator(geodesy.LatLon(lat_0, lon_0))
    sphere = f"+R={A_M} +no_defs"
    # PROJ does not read exponents: lon_0=4e-10 would be 0.
    centre = f"+lat_0={lat_0:.18f} +lon_0={lon_0:.18f}"
    referee = Transformer.from_crs(
        f"+proj=longlat {sphere}", f"+proj=tmerc {centre} {sphere}", always_xy=True
    )
    lat, lon = lat_0 + up, lon_0 + right
    east, north = frame.to_metres(lat, lon)
    assert (float(east), float(north)) == pytest.approx(referee.transform(lon, lat), abs=1e-4)
    assert np.allclose(frame.to_degrees(east, north), (lat, lon), atol=1e-11)


def test_the_spherical_transverse_mercator_is_found_from_its_own_metres() -> None:
    rng = np.random.default_rng(3)
    lat, lon = 40.7 + rng.uniform(-0.05, 0.05, 100), -74 + rng.uniform(-0.05, 0.05, 100)
    frame = geodesy.SphericalTransverseMercator(geodesy.LatLon(40.7424436, -73.9816155))
    found = geodesy.SphericalTransverseMercator.fitted(lat, lon, *frame.to_metres(lat, lon))
    assert found.origin == pytest.approx(frame.origin, abs=1e-12)
