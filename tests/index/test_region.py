from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc import geodesy
from geoloc.errors import QueryError
from geoloc.index.manifest import Bounds
from geoloc.index.region import box, circle

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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: circle(95, 0, 10), "lat: Input should be less than or equal to 90"),
        (lambda: circle(0, 0, 0), "radius_m: Input should be greater than 0"),
        (lambda: circle(0, float("nan"), 10), "lon: Input should be"),
        (lambda: box(1, 0, 0, 1), "south (1.0) must not be greater than north (0.0)"),
    ],
)
def test_an_impossible_region_is_refused_with_a_sentence(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QueryError) as caught:
        make()
    assert words in str(caught.value)
    assert caught.value.reason == "bad_region"
