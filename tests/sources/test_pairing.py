from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.geodesy import LatLon, LocalFrame, distance_m
from geoloc.sources.pairing import Pairer, near_boxes, near_points


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.floats(-80, 80), st.floats(-180, 180))
def test_pairs_agree_with_a_plain_loop(seed: int, lat: float, lon: float) -> None:
    rng = np.random.default_rng(seed)
    frame = LocalFrame(LatLon(lat, lon))
    tiles = frame.to_degrees(*rng.uniform(-95, 95, (2, 16)))
    photos = frame.to_degrees(*rng.uniform(-140, 140, (2, 25)))
    tile_ids, query_ids = [f"t{i}" for i in range(16)], [f"q{i}" for i in range(25)]
    pairer = Pairer(tile_ids, *tiles, tile_m=60.0, positive_radius_m=20.0)
    rows = pairer.pairs(query_ids, *photos).to_pylist()
    found = {(row["query_id"], row["tile_id"]): row for row in rows}
    assert len(found) == len(rows)
    offsets = [
        LocalFrame(LatLon(float(tile_lat), float(tile_lon))).to_metres(*photos)
        for tile_lat, tile_lon in zip(*tiles, strict=True)
    ]
    for q in range(25):
        metres = distance_m(tiles[0], tiles[1], photos[0][q], photos[1][q])
        nearest = int(np.argmin(metres))
        for t in range(16):
            east, north = (float(metres_of[q]) for metres_of in offsets[t])
            positive = t == nearest and metres[t] <= 20.0
            contains = max(abs(east), abs(north)) <= 30.0
            row = found.get((f"q{q}", f"t{t}"))
            if positive or contains:
                assert row is not None
                assert row["relation"] == ("positive" if positive else "semi_positive")
                assert abs(row["east_m"] - east) < 1e-3
                assert abs(row["north_m"] - north) < 1e-3
            else:
                assert row is None


def test_photos_without_a_position_have_no_pairs() -> None:
    pairer = Pairer(["a"], np.array([1.0]), np.array([2.0]), tile_m=50, positive_radius_m=20)
    assert pairer.pairs(["q"], np.array([np.nan]), np.array([2.0])).num_rows == 0
    assert (
        Pairer([], np.zeros(0), np.zeros(0), tile_m=50, positive_radius_m=20)
        .pairs(["q"], np.array([1.0]), np.array([2.0]))
        .num_rows
        == 0
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.one_of(st.floats(-89.9, 89.9), st.sampled_from([-90.0, 90.0])),
    st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 179.9999])),
)
def test_no_box_with_a_near_tile_is_left_out(seed: int, lat: float, lon: float) -> None:
    """Boxes of tiles around any place on Earth, also across 180 degrees and at the poles."""
    rng = np.random.default_rng(seed)
    frame = LocalFrame(LatLon(lat, lon))
    tiles = [
        frame.to_degrees(*(rng.uniform(-2000, 2000, (2, 1)) + rng.uniform(-40, 40, (2, 5))))
        for _ in range(20)
    ]
    boxes = np.array([[a.min(), a.max(), b.min(), b.max()] for a, b in tiles])
    photos = frame.to_degrees(*rng.uniform(-2000, 2000, (2, 30)))
    photos[0][0] = np.nan
    chosen = near_boxes(boxes, *photos, 60.0)
    for box, (tile_lat, tile_lon) in zip(chosen, tiles, strict=True):
        near = near_points(tile_lat, tile_lon, *photos, 60.0)
        metres = distance_m(tile_lat[:, None], tile_lon[:, None], photos[0][1:], photos[1][1:])
        assert (near == (metres.min(axis=1) <= 60.0)).all()
        assert box or not near.any()
    if abs(lat) < 80:
        assert chosen.sum() < 20


def test_nothing_is_near_to_nothing() -> None:
    nowhere, one = np.zeros(0), np.zeros(1)
    assert not near_points(one, one, nowhere, nowhere, 1e9).any()
    assert not near_boxes(np.array([[0.0, 1.0, 0.0, 1.0]]), nowhere, nowhere, 1e9).any()
    assert not near_points(np.array([np.nan]), one, one, one, 1e9).any()
