from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import geodesy
from geoloc.core.errors import QueryError
from geoloc.index.format.manifest import Bounds
from geoloc.index.search.region import Outside, Polygon, box, circle, polygon

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@settings(deadline=None)
@given(latitudes, longitudes, st.floats(1, 5e6), st.floats(0, 360), st.floats(0.0, 0.999))
def test_a_circle_lies_in_its_box_and_touches_the_shards_of_its_points(
    lat: float, lon: float, radius_m: float, heading: float, share: float
) -> None:
    region = circle(lat, lon, radius_m)
    point = geodesy.destination(lat, lon, heading, share * radius_m)
    assert region.contains(np.array([point.lat]), np.array([point.lon]))[0]
    assert region.touches(Bounds(south=point.lat, north=point.lat, west=point.lon, east=point.lon))
    beyond = geodesy.destination(lat, lon, heading, 1.01 * radius_m)
    assert not region.contains(np.array([beyond.lat]), np.array([beyond.lon]))[0]


def test_a_circle_around_a_pole_reaches_all_longitudes() -> None:
    region = circle(89.99, 0.0, 10_000.0)
    assert region.contains(np.array([89.95, 89.0]), np.array([180.0, 0.0])).tolist() == [True, False]


def test_a_box_across_the_antimeridian_holds_both_sides() -> None:
    region = box(-20, 179, -10, -179)
    lon = np.array([178.9, 179.0, 180.0, -180.0, -179.0, -178.9, np.nan])
    assert region.contains(np.full(7, -15.0), lon).tolist() == [False, True, True, True, True, False, False]
    assert region.touches(Bounds(south=-16, north=-15, west=-180, east=-179.5))
    assert region.touches(Bounds(south=-16, north=-15, west=179.5, east=180))
    assert not region.touches(Bounds(south=-16, north=-15, west=0, east=10))
    assert not region.touches(Bounds(south=0, north=5, west=179.5, east=180))


@settings(deadline=None)
@given(latitudes, longitudes, st.floats(1, 2e7), st.integers(0, 10_000))
def test_a_circle_measures_along_the_ellipsoid(lat: float, lon: float, radius_m: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Half of the points anywhere, half about the circle's border, where angles alone do not decide.
    heading, reach = rng.uniform(0, 360, 60), radius_m * rng.uniform(0.99, 1.01, 60)
    near = [
        geodesy.destination(lat, lon, a, b) for a, b in zip(heading, np.minimum(reach, 1.9e7), strict=True)
    ]
    lats = np.concatenate([rng.uniform(-90, 90, 60), [point.lat for point in near]])
    lons = np.concatenate([rng.uniform(-180, 180, 60), [point.lon for point in near]])
    distances = geodesy.distance_m(lat, lon, lats, lons)
    assert (circle(lat, lon, radius_m).contains(lats, lons) == (distances <= radius_m)).all()


def inside_by_crossings(corners: list[tuple[float, float]], lat: float, lon: float) -> bool:
    """Whether a ray to the east crosses the ring an odd number of times."""
    crossings = 0
    for (lat_a, lon_a), (lat_b, lon_b) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (lat_a > lat) != (lat_b > lat):
            crossings += lon < lon_a + (lat - lat_a) / (lat_b - lat_a) * (lon_b - lon_a)
    return crossings % 2 == 1


def wrapped(lon: float) -> float:
    return (lon + 180) % 360 - 180


@settings(deadline=None)
@given(st.floats(-60, 60), longitudes, st.integers(3, 12), st.integers(0, 10_000))
def test_a_polygon_holds_what_its_edges_enclose_wherever_it_lies(
    lat: float, lon: float, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # A star around its centre, in longitudes that may leave -180 to 180.
    angle = 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.6, count)) / count
    reach = rng.uniform(2, 20, count)
    ring = [(lat + r * np.sin(a), lon + r * np.cos(a)) for r, a in zip(reach, angle, strict=True)]
    region = polygon([(a, wrapped(o)) for a, o in ring])
    lats, lons = lat + rng.uniform(-22, 22, 200), lon + rng.uniform(-22, 22, 200)
    wanted = [inside_by_crossings(ring, a, o) for a, o in zip(lats, lons, strict=True)]
    got = region.contains(lats, np.array([wrapped(o) for o in lons]))
    assert got.tolist() == wanted
    for a, o in zip(lats[got], lons[got], strict=True):
        assert region.touches(Bounds(south=a, north=a, west=wrapped(o), east=wrapped(o)))
        assert region.box().contains(np.array([a]), np.array([wrapped(o)]))[0]
    assert not region.touches(Bounds(south=-90, north=-85, west=-180, east=180))


def test_a_polygon_has_borders_and_holes() -> None:
    region = polygon([(0, 0), (0, 4), (4, 4), (4, 0)], [[(1, 1), (1, 3), (3, 3), (3, 1)]])
    lat, lon = np.array([0.5, 2.0, 1.0, 0.0, 5.0, np.nan]), np.array([0.5, 2.0, 2.0, 4.0, 1.0, 1.0])
    assert region.contains(lat, lon).tolist() == [True, False, True, True, False, False]
    assert not region.touches(Bounds(south=1.5, north=2.5, west=1.5, east=2.5))
    assert Polygon.model_validate_json(region.model_dump_json()) == region


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: circle(95, 0, 10), "lat: Input should be less than or equal to 90"),
        (lambda: circle(0, 0, 0), "radius_m: Input should be greater than 0"),
        (lambda: circle(0, float("nan"), 10), "lon: Input should be"),
        (lambda: polygon([(0, 0), (1, 1)]), "at least 3 items"),
        (lambda: polygon([(0, 0), (1, 1), (0, 1), (1, 0)]), "draw no area (Self-intersection"),
        (lambda: polygon([(0, 0), (1, 1), (2, 2)]), "draw no area"),
        (lambda: polygon([(80, 0), (80, 120), (80, -120)]), "must not go round a pole"),
        (lambda: box(1, 0, 0, 1), "south (1.0) must not be greater than north (0.0)"),
    ],
)
def test_an_impossible_region_is_refused_with_a_sentence(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QueryError) as caught:
        make()
    assert words in str(caught.value)
    assert caught.value.reason == "bad_region"


@settings(deadline=None, max_examples=30)
@given(st.floats(-89, 89), longitudes, st.floats(1, 1e6))
def test_outside_is_everything_that_the_circle_does_not_hold(lat: float, lon: float, radius_m: float) -> None:
    hidden = circle(lat, lon, radius_m)
    rng = np.random.default_rng(0)
    lats = np.concatenate([rng.uniform(-90, 90, 50), lat + rng.normal(0, 0.1, 50).clip(-0.5, 0.5), [np.nan]])
    lons = np.concatenate([rng.uniform(-180, 180, 50), np.full(50, lon), [0.0]])
    inside, outside = hidden.contains(lats, lons), Outside(hidden=hidden).contains(lats, lons)
    np.testing.assert_array_equal(outside[:-1], ~inside[:-1])
    assert not outside[-1]
    assert Outside(hidden=hidden).touches(Bounds(south=lat, west=lon, north=lat, east=lon))


@pytest.mark.parametrize(
    ("west", "east"), [(170.0, 180.0), (-180.0, -170.0), (170.0, -170.0), (-180.0, 180.0)]
)
def test_the_antimeridian_has_two_names_and_one_place(west: float, east: float) -> None:
    region = box(-10, west, 10, east)
    assert region.contains(np.zeros(3), np.array([180.0, -180.0, 0.0])).tolist() == [
        True,
        True,
        west == -180 == -east,
    ]
    for lon in (180.0, -180.0):
        assert region.touches(Bounds(south=0, west=lon, north=1, east=lon))
