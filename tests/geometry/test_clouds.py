"""Clouds against brute force: crops, poses, farthest points, one-hot classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geoloc.core.errors import InputError
from geoloc.geometry.aerial import look_down
from geoloc.geometry.clouds import (
    cloud_features,
    cloud_rows,
    crop_cloud,
    farthest_points,
    first_inside,
    place_clouds,
    sample_cloud,
)


def random_cloud(rng: np.random.Generator, count: int, half_m: float = 100.0) -> np.ndarray:
    places = rng.uniform(-half_m, half_m, (count, 2))
    return np.column_stack([places, rng.uniform(0, 30, count), rng.integers(0, 25, count)]).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_farthest_points_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-6, 7, (60, 3)).astype(np.float32)  # whole numbers: distances are exact, with ties
    taken = [7]
    while len(taken) < 25:
        nearest = [min(math.dist(p, points[t]) ** 2 for t in taken) for p in points]
        taken.append(int(np.argmax(np.round(nearest, 6))))
    assert farthest_points(points, 25, first=7).tolist() == taken
    assert farthest_points(points, 11, first=7).tolist() == taken[:11]


def test_a_sample_does_not_depend_on_the_order_and_repeats_what_is_too_few() -> None:
    rng = np.random.default_rng(3)
    points = random_cloud(rng, 400)
    shuffled = points[rng.permutation(400)]
    assert np.array_equal(sample_cloud(points, 50), sample_cloud(shuffled, 50))
    few = sample_cloud(points[:3], 8)
    assert few.shape == (8, 4)
    assert {tuple(row) for row in few} == {tuple(row) for row in points[:3]}
    assert np.array_equal(few[:3], few[3:6])
    with pytest.raises(InputError, match="no points"):
        sample_cloud(points[:0], 8)


def test_a_sample_is_spread_better_than_chance() -> None:
    points = random_cloud(np.random.default_rng(4), 2000)
    taken, others = sample_cloud(points, 64)[:, :3], points[:64, :3]

    def least(rows: np.ndarray) -> float:
        apart = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
        return float(apart[~np.eye(len(rows), dtype=bool)].min())

    assert least(taken) > 3 * least(others)


def test_a_crop_keeps_exactly_what_lies_in_the_square() -> None:
    points = random_cloud(np.random.default_rng(5), 500)
    expected = [row for row in points.tolist() if abs(row[0]) <= 76 and abs(row[1]) <= 76]
    assert crop_cloud(points, 76.0).tolist() == expected


def test_clouds_are_placed_point_by_point() -> None:
    rng = np.random.default_rng(6)
    clouds = np.stack([random_cloud(rng, 30) for _ in range(5)])
    east, north = rng.uniform(-9, 9, 5), rng.uniform(-9, 9, 5)
    heading, scale = rng.uniform(0, 360, 5), rng.uniform(0.8, 1.2, 5)
    mirrored = np.array([True, False, True, False, True])
    placed = place_clouds(
        torch.from_numpy(clouds).double(),
        east_m=torch.from_numpy(east),
        north_m=torch.from_numpy(north),
        heading_deg=torch.from_numpy(heading),
        scale=torch.from_numpy(scale),
        mirrored=torch.from_numpy(mirrored),
    ).numpy()
    for b in range(5):
        for p in range(30):
            # The bearing and distance of the point from the view's centre, then turned by the heading.
            de, dn = clouds[b, p, 0] - east[b], clouds[b, p, 1] - north[b]
            bearing, distance = math.atan2(de, dn) - math.radians(heading[b]), math.hypot(de, dn) / scale[b]
            right, forward = distance * math.sin(bearing), distance * math.cos(bearing)
            assert placed[b, p, 0] == pytest.approx(-right if mirrored[b] else right, abs=1e-4)
            assert placed[b, p, 1] == pytest.approx(forward, abs=1e-4)
            assert placed[b, p, 2:].tolist() == clouds[b, p, 2:].tolist()


def test_a_cloud_moves_as_its_picture_does() -> None:
    """A bright pixel of a picture and the point at its place stay together under every pose."""
    side = 41
    rng = np.random.default_rng(7)
    for _ in range(20):
        pose = {
            "heading_deg": torch.tensor([float(rng.uniform(0, 360))]),
            "mirrored": torch.tensor([bool(rng.integers(2))]),
            "scale": torch.tensor([float(rng.uniform(0.8, 1.3))]),
        }
        row, column = (int(v) for v in rng.integers(14, 27, 2))
        image = torch.zeros(1, 1, side, side)
        image[0, 0, row, column] = 1.0
        shift = torch.tensor([2.0]), torch.tensor([-3.0])
        seen = look_down(image, side_px=side, east_px=shift[0], north_px=shift[1], **pose)[0, 0]
        weights = seen / seen.sum()
        offset = torch.arange(side) - (side - 1) / 2
        right, forward = float((weights.sum(0) * offset).sum()), float(-(weights.sum(1) * offset).sum())
        middle = (side - 1) / 2
        cloud = torch.tensor([[[column - middle, middle - row, 5.0, 4.0]]])
        placed = place_clouds(cloud, east_m=shift[0], north_m=shift[1], **pose)[0, 0]
        assert float(placed[0]) == pytest.approx(right, abs=0.35)
        assert float(placed[1]) == pytest.approx(forward, abs=0.35)


def test_the_first_inside_are_taken_in_order() -> None:
    rng = np.random.default_rng(8)
    clouds = np.stack([random_cloud(rng, 40), random_cloud(rng, 40), random_cloud(rng, 40) + 500])
    keep = rng.uniform(size=(3, 40)) < 0.7
    taken = first_inside(torch.from_numpy(clouds), 60.0, 12, torch.from_numpy(keep)).numpy()
    for b in range(2):
        inside = [
            row
            for row, kept in zip(clouds[b].tolist(), keep[b], strict=True)
            if kept and max(abs(row[0]), abs(row[1])) <= 60
        ]
        assert taken[b].tolist() == [inside[k % len(inside)] for k in range(12)]
    assert taken[2].tolist() == clouds[2, :12].tolist()  # nothing inside


def test_features_are_coordinates_of_the_field_and_one_hot_classes() -> None:
    clouds = torch.from_numpy(np.stack([random_cloud(np.random.default_rng(9), 10, 76.0)]))
    features = cloud_features(clouds, 76.0)
    assert features.shape == (1, 28, 10)
    assert float(features[:, :2].abs().max()) <= 1.0
    for p in range(10):
        assert features[0, 3:, p].nonzero().flatten().tolist() == [int(clouds[0, p, 3])]
    assert cloud_features(clouds, 76.0, semantics=False).shape == (1, 3, 10)


@pytest.mark.parametrize(
    "flat", [[1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 25.0], [0.0, 0.0, 1.0, -1.0], [float("nan"), 0.0, 1.0, 4.0]]
)
def test_rows_that_are_no_points_are_refused(flat: list[float]) -> None:
    with pytest.raises(InputError):
        cloud_rows(np.array(flat, np.float32))
