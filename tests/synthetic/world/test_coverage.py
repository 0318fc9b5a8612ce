from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoloc.synthetic.world.coverage import NO_TILE, TileGrid, keep_balanced

GRID = TileGrid(west=-40.0, south=10.0, step_x=20.0, step_y=30.0, columns=5, rows=4)


def test_centres_run_row_by_row_from_the_south_west() -> None:
    x, y = GRID.centres()
    assert (x[0], y[0]) == (-40.0, 10.0)
    assert (x[1], y[1]) == (-20.0, 10.0)
    assert (x[5], y[5]) == (-40.0, 40.0)
    assert len(x) == len(GRID) == 20


@given(st.floats(-70, 70), st.floats(-30, 140))
def test_covering_tiles_are_those_of_brute_force(x: float, y: float) -> None:
    tile_x, tile_y = GRID.centres()
    away_x, away_y = np.abs(tile_x - x) / GRID.step_x, np.abs(tile_y - y) / GRID.step_y
    found = GRID.cover([x], [y])[0]
    positive = {k for k in range(20) if away_x[k] <= 0.5 and away_y[k] <= 0.5}
    shown = {k for k in range(20) if away_x[k] < 1 - 1e-9 and away_y[k] < 1 - 1e-9}
    assert found[0] in positive or (found[0] == NO_TILE and not positive)
    assert shown <= set(found.tolist())
    assert all(k == NO_TILE or (away_x[k] <= 1 and away_y[k] <= 1) for k in found)
    named = [k for k in found.tolist() if k != NO_TILE]
    assert len(named) == len(set(named))
    distance = [np.hypot(away_x[k], away_y[k]) for k in named]
    assert distance == sorted(distance)


def test_inside_the_grid_there_are_one_positive_and_three_semi_positives() -> None:
    found = GRID.cover(np.linspace(-39, 39, 50), np.linspace(11, 99, 50))
    assert found.shape == (50, 4)
    assert (found >= 0).all()


def test_no_tile_is_the_positive_of_too_many() -> None:
    tiles = np.array([4, 4, 1, 4, 1, 9, 4])
    kept = keep_balanced(tiles, 2)
    assert kept.tolist() == [True, True, True, False, True, True, False]
    assert keep_balanced(np.zeros(0, np.int64), 2).tolist() == []
