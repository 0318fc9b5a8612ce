"""Routes of an evaluation: curves of both algorithms on simulated photos, and their plot."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.route_accuracy import RoutePhotos, route_accuracy
from geoloc.evaluation.report.plots import route_curves
from geoloc.geometry.street_graph import StreetGraph
from tests.localization.routes.small_graphs import grid_graph


def simulated(noise: float, seed: int = 0, side: int = 16) -> RoutePhotos:
    """Places with random embeddings and headings, and photos of them with noise."""
    graph, rng = grid_graph(side), np.random.default_rng(seed)
    graph = StreetGraph(graph.x, graph.y, rng.uniform(0, 360, len(graph)), graph.links)
    tiles = rng.normal(size=(len(graph), 8)).astype("f4")
    return RoutePhotos(graph, (tiles + noise * rng.normal(size=tiles.shape)).astype("f4"), tiles)


def test_photos_without_noise_are_right_at_every_length() -> None:
    found = route_accuracy(simulated(0.0), 3, nodes=8)
    assert found.lengths == tuple(range(1, 9))
    assert set(found.accuracy) == {
        f"{name}{turns}" for name in ("culled 50 %", "best 5,000 kept", "filter") for turns in ("", ", turns")
    }
    assert all(values == (100.0,) * 8 for values in found.accuracy.values())


def test_longer_routes_and_turns_help_and_single_photos_are_those_of_the_distances() -> None:
    data = simulated(0.8)
    found = route_accuracy(data, 15, nodes=8)
    single = (data.distances(np.arange(256)).argmin(axis=1) == np.arange(256)).mean()
    for name in ("culled 50 %", "filter"):
        curve = found.accuracy[name]
        assert curve[0] / 100 == pytest.approx(single, abs=0.4)
        assert curve[-1] > curve[4] - 10
        assert np.mean(found.accuracy[f"{name}, turns"]) >= np.mean(curve) - 3
    # Both know the same of equally noisy photos, so they differ by the chance of fifteen routes.
    assert np.mean(found.accuracy["filter"]) == pytest.approx(np.mean(found.accuracy["culled 50 %"]), abs=6)
    assert 75 < np.mean(found.region_held["filter"]) <= 100
    assert route_accuracy(data, 2, nodes=6) == route_accuracy(data, 2, nodes=6)


def test_few_photos_have_no_routes() -> None:
    with pytest.raises(InputError, match="16 photos have a place and a tile; routes need 200 or more"):
        route_accuracy(simulated(0.0, side=4), 5)


def test_curves_are_drawn() -> None:
    picture = Image.open(
        io.BytesIO(route_curves([1, 2, 3], {"filter": [1, 50, 99], "filter, turns": [2, 60, 99]}))
    )
    alone = Image.open(io.BytesIO(route_curves([1, 2, 3], {"filter": [1, 50, 99]})))
    assert picture.format == alone.format == "PNG"
    assert picture.width > 1.5 * alone.width  # a panel more, with turns
