from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.distractors import (
    SQUARE_M,
    TILES_PER_SQUARE,
    TileShape,
    distractor_tiles,
    square_bounds,
    square_centres,
    tile_name,
)
from geoloc.synthetic.world.georeference import from_latlon
from geoloc.synthetic.world.raster import City


def test_a_tile_is_the_same_whoever_asks(city: City) -> None:
    whole = distractor_tiles(city, 5, 0, 40, TileShape())
    other = City(seed=11, chunks=3)
    distractor_tiles(other, 6, 0, 1, TileShape())
    part = distractor_tiles(other, 5, 30, 36, TileShape())
    assert part.tile_ids == whole.tile_ids[30:36]
    np.testing.assert_array_equal(part.lat, whole.lat[30:36])
    np.testing.assert_array_equal(np.stack(part.pictures), np.stack(whole.pictures[30:36]))
    assert len({picture.tobytes() for picture in whole.pictures}) == 40
    x, y = from_latlon(whole.lat, whole.lon)
    np.testing.assert_allclose(np.stack([x, y], -1), square_centres(city, 5)[:40], atol=0.01)


def test_squares_lie_side_by_side_below_the_districts(city: City) -> None:
    bounds = np.array([square_bounds(city, square) for square in range(48)])
    assert bounds[:, 3].max() <= -2000
    assert len({tuple(row) for row in bounds}) == 48
    np.testing.assert_array_equal(bounds[:, 2] - bounds[:, 0], SQUARE_M)
    np.testing.assert_array_equal(bounds[:, :2] % SQUARE_M, 0)


def test_centres_are_on_streets_inside_the_square_and_apart(city: City) -> None:
    centres = square_centres(city, 2)
    assert centres.shape == (TILES_PER_SQUARE, 2)
    west, south, east, north = square_bounds(city, 2)
    assert (centres > (west + 100, south + 100)).all()
    assert (centres < (east - 100, north - 50)).all()
    gaps = np.hypot(*np.moveaxis(centres[:400, None] - centres[None, :400], -1, 0)) + np.eye(400) * 1e3
    assert gaps.min() >= 7
    edges = city.network.edges_in((west, south, east, north))
    pieces = np.stack([edges.curve[:, :-1], edges.curve[:, 1:]], 2).reshape(-1, 2, 2)
    middle = pieces.mean(1)
    away = np.hypot(*np.moveaxis(centres[:400, None] - middle[None], -1, 0)).min(1)
    assert (away < 9).mean() > 0.95


def test_names_are_unique_and_tell_no_order(city: City) -> None:
    names = [tile_name(city, index) for index in range(5000)]
    assert len(set(names)) == 5000
    rank = np.argsort(np.argsort(names))
    assert abs(np.corrcoef(rank, np.arange(5000))[0, 1]) < 0.05


def test_other_sizes_show_the_same_ground(city: City) -> None:
    fine = distractor_tiles(city, 5, 0, 2, TileShape(51.2, 128)).pictures[1].astype(float)
    coarse = distractor_tiles(city, 5, 0, 2, TileShape(51.2, 64)).pictures[1].astype(float)
    assert coarse.shape == (64, 64, 3)
    assert np.corrcoef(fine.reshape(64, 2, 64, 2, 3).mean((1, 3)).ravel(), coarse.ravel())[0, 1] > 0.98
    with pytest.raises(ConfigError, match="A tile of 120 m cannot be cut"):
        TileShape(120.0, 128)
