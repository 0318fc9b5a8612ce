from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geoloc.geometry.aerial import look_down
from geoloc.geometry.orientation import (
    aerial_orientation,
    ground_orientation,
    polar_orientation,
)
from geoloc.geometry.panorama import turn_panorama
from geoloc.geometry.polar import aerial_to_polar


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same_yaw(first: torch.Tensor, second: torch.Tensor, atol: float = 1e-6) -> None:
    """Yaws in units of pi are equal on the circle."""
    assert ((first - second + 1) % 2 - 1).abs().max() < atol


def test_the_published_ground_map() -> None:
    maps = ground_orientation(224, 1232, sampling="paper")[0].double().numpy() * math.pi
    np.testing.assert_allclose(maps[0, 7], np.linspace(-math.pi, math.pi, 1232), atol=1e-6)
    rows = (np.arange(224) - 111.5) * (2 * math.pi / 1231)
    np.testing.assert_allclose(maps[1, :, 5], rows, atol=1e-6)
    assert maps[1, 0, 0] == pytest.approx(-0.56911, abs=1e-5)  # negative at the top


def test_centred_maps_have_the_published_elevations_too() -> None:
    """The published rows are centres of rows, whichever way columns are sampled."""
    centred, paper = (ground_orientation(224, 1232, sampling=name)[0, 1] for name in ("centred", "paper"))
    torch.testing.assert_close(centred, paper)
    half = ground_orientation(112, 616)[0, 1, :, 0].double().numpy() * math.pi
    np.testing.assert_allclose(half, (np.arange(112) - 55.5) * 2 * (2 * math.pi / 1231), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 20), (16, 33)])
def test_ground_maps_of_any_size_and_range_by_the_formula(height: int, width: int) -> None:
    low, high, fov, heading = -42.0, 32.0, 120.0, 200.0
    maps = ground_orientation(
        height, width, elevation_deg=(low, high), fov_deg=fov, yaw_deg=degrees(heading)
    )[0]
    for i in range(height):
        for j in range(width):
            yaw = heading + fov * ((j + 0.5) / width - 0.5)
            yaw = (yaw + 180) % 360 - 180
            elevation = high - (high - low) * (i + 0.5) / height
            assert float(maps[0, i, j]) == pytest.approx(yaw / 180, abs=1e-6)
            assert float(maps[1, i, j]) == pytest.approx(-elevation / 180, abs=1e-6)


@pytest.mark.parametrize("side", [1, 2, 9, 10])
def test_aerial_maps_of_any_size_by_the_formula(side: int) -> None:
    maps = aerial_orientation(side)[0]
    for i in range(side):
        for j in range(side):
            right, ahead = j - (side - 1) / 2, (side - 1) / 2 - i
            expected = math.atan2(right, ahead) / math.pi if right or ahead else 0.0
            assert float(maps[0, i, j]) == pytest.approx(expected, abs=1e-6)
            radius = math.hypot(right, ahead) / (side / 2)
            assert float(maps[1, i, j]) == pytest.approx(2 * (radius - 0.5), abs=1e-6)


def test_aerial_directions() -> None:
    yaw = aerial_orientation(11)[0, 0]
    assert [round(float(yaw[place]), 4) for place in ((0, 5), (5, 10), (5, 0))] == [0.0, 0.5, -0.5]
    assert abs(float(yaw[10, 5])) == pytest.approx(1.0)


def test_a_turned_panorama_has_its_map_turned() -> None:
    base = ground_orientation(4, 16)
    turned = ground_orientation(4, 16, yaw_deg=degrees(360 / 16 * 5))
    rolled = turn_panorama(base.permute(0, 2, 3, 1), torch.tensor([5])).permute(0, 3, 1, 2)
    torch.testing.assert_close(turned, rolled)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("side", [8, 9])
def test_a_rotated_tile_has_its_map_rotated(turns: int, side: int) -> None:
    base = aerial_orientation(side)
    rotated = torch.rot90(base, turns, dims=(2, 3))  # what lay at heading 90 * turns comes to the top
    made = aerial_orientation(side, yaw_deg=degrees(90.0 * turns))
    centre = torch.zeros(side, side, dtype=torch.bool)
    if side % 2:
        centre[side // 2, side // 2] = True  # no direction of its own
    same_yaw(made[0, 0][~centre], rotated[0, 0][~centre])
    torch.testing.assert_close(made[:, 1], rotated[:, 1])
    image = torch.rand(1, 1, side, side, dtype=torch.float64)
    turned = look_down(image, side_px=side, heading_deg=degrees(90.0 * turns))
    torch.testing.assert_close(turned, torch.rot90(image, turns, dims=(2, 3)))  # the picture moves alike


def test_crops_keep_their_values() -> None:
    full = ground_orientation(8, 16, elevation_deg=(-40, 40))
    part = ground_orientation(4, 4, elevation_deg=(-30, 10), fov_deg=90.0, yaw_deg=degrees(90.0))
    torch.testing.assert_close(part, full[:, :, 3:7, 10:14])
    whole = aerial_orientation(16)
    middle = aerial_orientation(8, scale=degrees(0.5))
    torch.testing.assert_close(middle, whole[:, :, 4:12, 4:12])


def mirror_orientation(maps: torch.Tensor) -> torch.Tensor:
    """Maps of pictures that were mirrored left to right together with the other view."""
    flipped = maps.flip(-1)
    return torch.cat([-flipped[:, :1], flipped[:, 1:]], dim=1)


def test_a_mirrored_world_has_the_standard_maps() -> None:
    for maps in (ground_orientation(4, 10), aerial_orientation(8), polar_orientation(4, 10)):
        mirrored = mirror_orientation(maps)
        same_yaw(mirrored[:, 0], maps[:, 0])
        torch.testing.assert_close(mirrored[:, 1], maps[:, 1])
    ahead = degrees(50.0)
    torch.testing.assert_close(
        mirror_orientation(ground_orientation(4, 10, yaw_deg=ahead)),
        ground_orientation(4, 10, yaw_deg=-ahead),
    )


def test_polar_maps_are_the_polar_image_of_the_aerial_maps() -> None:
    side = 400
    aerial = aerial_orientation(side).double()
    yaw = aerial[:, :1] * math.pi
    vector = torch.cat([torch.sin(yaw), torch.cos(yaw), aerial[:, 1:]], dim=1)
    polar = aerial_to_polar(vector, height_px=8, width_px=16)
    maps = polar_orientation(8, 16)
    same_yaw(torch.atan2(polar[:, 0], polar[:, 1]) / math.pi, maps[:, 0], atol=2e-3)
    torch.testing.assert_close(polar[:, 2].float(), maps[:, 1], atol=5e-3, rtol=0)
    dense = polar_orientation(8, 16, radial_power=1.5, yaw_deg=degrees(90.0))
    torch.testing.assert_close(dense[0, 0, 0], maps[0, 0, 0].roll(-4), atol=1e-6, rtol=0)
    assert float(dense[0, 1, 0, 0]) == pytest.approx(2 * ((7.5 / 8) ** 1.5 - 0.5))


def test_one_direction_has_one_yaw_in_both_views() -> None:
    ground, polar = ground_orientation(6, 24)[0, 0], polar_orientation(6, 24)[0, 0]
    torch.testing.assert_close(ground[0], polar[0])
