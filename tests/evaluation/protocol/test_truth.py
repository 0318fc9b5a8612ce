"""Truth from pairs and from coordinates."""

import numpy as np
import pyarrow as pa

from geoloc.core import geodesy
from geoloc.evaluation.protocol.truth import truth_from_pairs, truth_within


def test_pairs_become_positions_and_strangers_are_left_out():
    pairs = pa.table(
        {
            "query_id": ["q2", "q1", "q1", "q9", "q1"],
            "tile_id": ["b", "a", "x", "a", "b"],
            "relation": ["positive", "positive", "positive", "positive", "semi_positive"],
        }
    )
    truth = truth_from_pairs(pa.array(["q1", "q2"]), pairs, pa.array(["a", "b"], pa.large_string()))
    assert list(zip(truth.query.tolist(), truth.tile.tolist(), strict=True)) == [(0, 0), (1, 1)]
    both = truth_from_pairs(
        pa.array(["q1", "q2"]), pairs, pa.array(["a", "b"]), relations=("positive", "semi_positive")
    )
    assert both.counts(2).tolist() == [2, 1]


def test_positions_within_a_radius_are_those_by_geodesic_distance():
    rng = np.random.default_rng(0)
    frame = geodesy.LocalFrame(geodesy.LatLon(59.4, 24.7))
    tile_lat, tile_lon = frame.to_degrees(rng.uniform(-200, 200, 300), rng.uniform(-200, 200, 300))
    lat, lon = frame.to_degrees(rng.uniform(-200, 200, 40), rng.uniform(-200, 200, 40))
    lat[3], tile_lat[5] = np.nan, np.nan
    truth = truth_within(lat, lon, tile_lat, tile_lon, 30.0)
    distance = geodesy.distance_m(
        np.nan_to_num(lat)[:, None], lon[:, None], np.nan_to_num(tile_lat)[None], tile_lon[None]
    )
    wanted = np.argwhere((distance <= 30.0) & np.isfinite(lat)[:, None] & np.isfinite(tile_lat)[None])
    assert np.stack([truth.query, truth.tile], axis=1).tolist() == wanted.tolist()
    assert len(wanted) > 20


def test_without_coordinates_nothing_is_true():
    nothing = np.full(3, np.nan)
    assert len(truth_within(nothing, nothing, nothing, nothing, 10.0).query) == 0
