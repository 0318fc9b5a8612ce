from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.core.semantics import SemanticClass
from geoloc.synthetic.world.cloud import point_cloud, roof_height
from geoloc.synthetic.world.raster import City, Window
from synthetic.world.scenes import empty_window, with_building

AREA = (-60.0, 150.0, 100.0, 300.0)


@pytest.fixture(scope="module")
def cloud(city: City, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The area's points in city metres, float64, and their classes."""
    points, classes = point_cloud(city, AREA, points_per_m2=0.4, window=window)
    return points.astype(np.float64) + np.array([AREA[0], AREA[1], 0]), classes


def test_an_area_has_the_same_points_whatever_was_asked_with_it(
    city: City, cloud: tuple[np.ndarray, np.ndarray]
) -> None:
    points, classes = cloud
    part = (-20.0, 180.0, 40.0, 230.0)
    own, kinds = point_cloud(City(seed=11), part, points_per_m2=0.4)
    inside = (
        (points[:, 0] >= part[0])
        & (points[:, 0] < part[2])
        & (points[:, 1] >= part[1])
        & (points[:, 1] < part[3])
    )
    assert len(own) == inside.sum() > 1000
    np.testing.assert_array_equal(kinds, classes[inside])
    np.testing.assert_allclose(own + np.array([part[0], part[1], 0]), points[inside], atol=2e-4)
    again, _ = point_cloud(city, part, points_per_m2=0.4)
    np.testing.assert_array_equal(own, again)
    other, _ = point_cloud(city, part, points_per_m2=0.4, seed=1)
    assert len(other) != len(own) or not np.allclose(other, own)


def test_building_points_lie_on_walls_and_roofs(window: Window, cloud: tuple[np.ndarray, np.ndarray]) -> None:
    points, classes = cloud
    p = points[classes == SemanticClass.BUILDINGS]
    table = window.table
    gap = np.full(len(p), np.inf)
    for row in table:
        u = (p[:, 0] - row["x"]) * row["cos"] + (p[:, 1] - row["y"]) * row["sin"]
        v = (p[:, 1] - row["y"]) * row["cos"] - (p[:, 0] - row["x"]) * row["sin"]
        out = np.maximum(np.abs(u) - row["half_u"], np.abs(v) - row["half_v"])
        roof = roof_height(np.full(len(p), row), p[:, 0], p[:, 1])
        wall = np.where(p[:, 2] <= roof + 0.02, np.abs(out), np.inf)
        cover = np.where(out < 0.8, np.abs(p[:, 2] - roof), np.inf)  # outlines are painted on whole pixels
        gap = np.minimum(gap, np.minimum(wall, cover))
    assert gap.max() < 0.02
    assert (p[:, 2] > 2).mean() > 0.5


def test_street_points_lie_on_their_streets(window: Window, cloud: tuple[np.ndarray, np.ndarray]) -> None:
    points, classes = cloud
    roads = {
        SemanticClass.ROADS_PRIMARY, SemanticClass.ROADS_SECONDARY, SemanticClass.ROADS_TERTIARY,
        SemanticClass.ROADS_RESIDENTIAL, SemanticClass.ROADS_UNCLASSIFIED,
    }  # fmt: skip
    p = points[np.isin(classes, list(roads))]
    assert len(p) > 300
    assert (p[:, 2] == 0).all()
    curve = window.edges.curve
    part = np.linspace(0, 1, 9)[:, None]
    dense = curve[:, :-1, None] * (1 - part) + curve[:, 1:, None] * part
    away = np.full(len(p), np.inf)
    for half, line in zip(window.edges.half_width_m, dense.reshape(len(curve), -1, 2), strict=True):
        away = np.minimum(away, np.hypot(*(p[:, None, :2] - line).T).min(0) - half)
    assert away.max() < 0.9
    foot = points[classes == SemanticClass.PATHS_FOOTWAY]
    assert len(foot) > 50


def test_points_are_as_dense_as_asked_for() -> None:
    """Flat ground, and a box whose walls count by their own area: within 4 standard deviations."""
    city = City(11)
    points, classes = point_cloud(city, (-50.0, -50.0, 50.0, 50.0), points_per_m2=0.3, window=empty_window())
    assert abs(len(points) - 3000) < 60  # one a cell: far less scatter than at random
    assert (classes != SemanticClass.BUILDINGS).all()
    window = with_building(0.0, 0.0, 10.0, 6.0, 20.0, 12.0)
    points, classes = point_cloud(city, (-50.0, -50.0, 50.0, 50.0), points_per_m2=0.3, window=window)
    box = points[classes == SemanticClass.BUILDINGS]
    roof, walls = box[box[:, 2] == 12], box[box[:, 2] < 12]
    assert abs(len(roof) - 0.3 * 240) < 20
    assert abs(len(walls) - 0.3 * 64 * 12) < 40
    hist = np.histogram(walls[:, 2], 4, (0, 12))[0]
    assert hist.min() > 0.6 * hist.max()


def test_a_hidden_wall_has_no_points() -> None:
    window = with_building(0.0, 0.0, 10.0, 6.0, 0.0, 12.0)
    twin = window.table.copy()
    twin["x"], twin["id"] = 20.0, 78
    table = np.concatenate([window.table, twin])
    window.layers.building[:, 350 + 25 : 350 + 75][window.layers.building[:, 325:375] == 0] = 1
    window.layers.height_cm[window.layers.building == 1] = 1200
    pair = type(window)(window.layers, table, window.edges, window.west_px, window.north_px)
    points, classes = point_cloud(City(11), (-50.0, -50.0, 50.0, 50.0), points_per_m2=1.0, window=pair)
    walls = points[(classes == SemanticClass.BUILDINGS) & (points[:, 2] < 11.9)]
    between = np.abs(walls[:, 0] - 60.0) < 0.3
    assert not (between & (np.abs(walls[:, 1] - 50.0) < 5)).any()
    assert len(walls) > 700


def test_trees_give_points_on_their_crowns(window: Window, cloud: tuple[np.ndarray, np.ndarray]) -> None:
    points, classes = cloud
    green = np.isin(classes, (SemanticClass.VEGETATION, SemanticClass.FOREST))
    p = points[green & (points[:, 2] > 2.5)]
    assert len(p) > 40
    c = np.floor(p[:, 0] / 0.4).astype(int) - window.west_px
    r = window.north_px - 1 - np.floor(p[:, 1] / 0.4).astype(int)
    np.testing.assert_allclose(p[:, 2], window.layers.canopy_dm[r, c] / 10, atol=0.02)


@pytest.mark.parametrize(
    ("density", "bounds"), [(0.0, AREA), (-1.0, AREA), (float("nan"), AREA), (0.1, (0.0, 0.0, 0.0, 5.0))]
)
def test_a_cloud_without_points_is_refused(density: float, bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="give a density above 0 and bounds as west, south, east, north"):
        point_cloud(City(11), bounds, points_per_m2=density)
