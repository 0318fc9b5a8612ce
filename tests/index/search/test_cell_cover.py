from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import geodesy
from geoloc.index.format.shard import SpatialOrder
from geoloc.index.search.cell_cover import cell_ranges, rows_between
from geoloc.index.search.region import Region, box, circle, polygon


def covered(region: Region, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    cells, ranges = geodesy.cells(lat, lon), cell_ranges(region)
    place = np.searchsorted(ranges[:, 0], cells, side="right") - 1
    return (place >= 0) & (cells <= ranges[np.maximum(place, 0), 1])


@settings(deadline=None)
@given(
    st.floats(-89, 89),
    st.floats(-180, 180),
    st.floats(10, 5e6),
    st.sampled_from(["circle", "box", "polygon"]),
)
def test_the_cells_of_a_region_hold_all_of_its_points(
    lat: float, lon: float, reach_m: float, kind: str
) -> None:
    rng = np.random.default_rng(int(reach_m))
    region: Region = circle(lat, lon, reach_m)
    if kind != "circle":
        frame = region.box()
        region = frame
        if kind == "polygon" and (frame.east - frame.west) % 360 < 170 and frame.west != -180:
            region = polygon(
                [(frame.south, frame.west), (frame.north, frame.east), (frame.north, frame.west)]
            )
    frame = region.box()
    width = (frame.east - frame.west) % 360 or 360.0
    lats = rng.uniform(frame.south, frame.north, 500)
    lons = (frame.west + rng.uniform(0, width, 500) + 180) % 360 - 180
    lats[:4] = [frame.south, frame.south, frame.north, frame.north]
    lons[:4] = [frame.west, frame.east, frame.west, frame.east]
    inside = region.contains(lats, lons)
    assert covered(region, lats[inside], lons[inside]).all()
    ranges = cell_ranges(region)
    assert (ranges[:, 0] <= ranges[:, 1]).all()
    assert (ranges[1:, 0] > ranges[:-1, 1] + 1).all()


def test_few_cells_beyond_a_region_are_looked_into() -> None:
    rng = np.random.default_rng(3)
    lats, lons = rng.uniform(47, 49, 200_000), rng.uniform(10, 13, 200_000)
    for region in (
        circle(48.1, 11.5, 8_000),
        box(48.0, 11.0, 48.3, 11.9),
        polygon([(47.2, 10.2), (48.9, 12.8), (48.9, 12.5)]),  # long and thin: hardly any of its box
    ):
        inside, looked = region.contains(lats, lons).sum(), covered(region, lats, lons).sum()
        assert inside <= looked < 1.7 * inside + 200
        assert len(cell_ranges(region)) < 500


def test_the_antimeridian_belongs_to_both_sides() -> None:
    for region in (box(-1, 179, 1, 180), box(-1, 179.5, 1, -179.5), circle(0, 180, 1000)):
        assert covered(region, np.array([0.0, 0.0]), np.array([180.0, -180.0])).all()


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_rows_of_ranges_are_those_of_their_cells(count: int) -> None:
    rng = np.random.default_rng(count)
    lat, lon = rng.uniform(-10, 10, count), rng.uniform(-10, 10, count)
    cells = geodesy.cells(lat, lon)
    order = np.argsort(cells, kind="stable")
    space = SpatialOrder(cells[order], order.astype(np.uint32))
    ranges = cell_ranges(box(-3, -4, 5, 1))
    wanted = [
        row for row in range(count) if ((ranges[:, 0] <= cells[row]) & (cells[row] <= ranges[:, 1])).any()
    ]
    assert sorted(rows_between(space, ranges).tolist()) == wanted
