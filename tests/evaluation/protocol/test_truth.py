"""Truth from pairs and from coordinates."""

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import geodesy
from geoloc.core.geodesy import distance_m
from geoloc.evaluation.protocol import truth as module
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


@pytest.mark.parametrize("at_once", [3, 1000])
def test_truth_in_pieces_is_that_of_a_plain_loop(monkeypatch, at_once):
    """Ids that the gallery has twice count where they are not removed; the gallery is looked through in pieces."""
    monkeypatch.setattr(module, "_IDS_AT_ONCE", at_once)
    rng = np.random.default_rng(at_once)
    tiles = [f"t{number}" for number in rng.permutation(np.arange(30) % 20)]
    removed = np.array([tiles.index(name) != row and rng.random() < 0.5 for row, name in enumerate(tiles)])
    removed |= np.array([name in tiles[row + 1 :] and rng.random() < 0.5 for row, name in enumerate(tiles)])
    rows = [
        (f"q{rng.integers(0, 9)}", f"t{rng.integers(0, 25)}", rng.choice(["positive", "other"]))
        for _ in range(80)
    ]
    pairs = pa.table(
        dict(zip(("query_id", "tile_id", "relation"), map(list, zip(*rows, strict=True)), strict=True))
    )
    queries = pa.array([f"q{number}" for number in range(7)])
    wanted = set()
    for query, tile, relation in rows:
        there = [row for row, name in enumerate(tiles) if name == tile and not removed[row]]
        if relation == "positive" and int(query[1:]) < 7 and there:
            wanted.add((int(query[1:]), there[0]))
    chunks = pa.chunked_array([pa.array(tiles[:11]), pa.array(tiles[11:])])
    found = truth_from_pairs(queries, pairs, chunks, removed=removed)
    assert list(zip(found.query.tolist(), found.tile.tolist(), strict=True)) == sorted(wanted)
    lat, lon = rng.uniform(59, 59.01, (2, 12))
    tile_lat, tile_lon = rng.uniform(59, 59.01, (2, 40))
    tile_lat[5] = np.nan
    within = truth_within(lat, lon, tile_lat, tile_lon, 300.0)
    metres = np.array([[distance_m(a, b, c, d) for c, d in zip(tile_lat, tile_lon, strict=True)]
                       for a, b in zip(lat, lon, strict=True)])  # fmt: skip
    near = np.argwhere(metres <= 300.0)
    assert len(near) > 5
    np.testing.assert_array_equal(np.stack([within.query, within.tile], axis=1), near)
