from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.recipe.training import AugmentationRecipe
from geoloc.training.augment import change_light, draw_drone, draw_light, draw_pairs, in_disc, taken


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_offsets_fill_the_disc_evenly() -> None:
    x, y = in_disc(20000, 5.0, seeded())
    radius = torch.hypot(x, y)
    assert radius.max() <= 5.0
    assert (radius < 2.5).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_the_aerial_centre_stays_near_the_camera_and_on_the_tile() -> None:
    recipe = AugmentationRecipe(offset_m=5.0)
    east, north = torch.linspace(-6, 6, 2000), torch.zeros(2000)
    draw = draw_pairs(east, north, recipe, width_px=64, reach_m=6.0, generator=seeded())
    assert torch.hypot(draw.east_m - east, draw.north_m - north).max() <= 5.0 + 1e-5
    assert draw.east_m.abs().max() == 6.0
    assert 0.45 < draw.mirrored.float().mean() < 0.55
    torch.testing.assert_close(draw.heading_deg, draw.columns * (360 / 64))
    assert set(draw.columns.tolist()) == set(range(64))
    again = draw_pairs(east, north, recipe, width_px=64, reach_m=6.0, generator=seeded())
    torch.testing.assert_close(again.east_m, draw.east_m)


def test_nothing_moves_when_the_recipe_says_so() -> None:
    recipe = AugmentationRecipe(offset_m=0, roll=False, flip=False)
    east, north = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    draw = draw_pairs(east, north, recipe, width_px=64, reach_m=6.0, generator=seeded())
    torch.testing.assert_close(draw.east_m, east)
    torch.testing.assert_close(draw.north_m, north)
    assert not draw.columns.any()
    assert not draw.mirrored.any()


def test_the_drone_look_stays_within_its_limits() -> None:
    recipe = AugmentationRecipe(aerial_scale=1.25, aerial_shift_m=4.0, aerial_turn_deg=6.0)
    zeros = torch.zeros(3000)
    draw = draw_pairs(zeros, zeros, recipe, width_px=64, reach_m=20.0, generator=seeded())
    drone = draw_drone(draw, recipe, reach_m=20.0, generator=seeded(1))
    assert drone.scale is not None
    assert drone.east_m is not None
    assert drone.north_m is not None
    assert drone.heading_deg is not None
    assert 0.8 <= drone.scale.min() < 0.82
    assert 1.22 < drone.scale.max() <= 1.25
    assert torch.hypot(drone.east_m - draw.east_m, drone.north_m - draw.north_m).max() <= 4.0 + 1e-5
    assert 5.5 < (drone.heading_deg - draw.heading_deg).abs().max() <= 6.0 + 1e-4


def test_light_is_the_same_as_one_change_after_the_other() -> None:
    images = torch.rand(5, 3, 16, 20)
    strength, generator = 0.8, seeded(3)
    got = change_light(images, draw_light(5, strength, seeded(3))).numpy()

    def draw(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * torch.rand((5, 1, 1), generator=generator)).numpy()[..., None]

    saturation, contrast, gain = (1 + draw(-a, a) * strength for a in (0.4, 0.3, 0.25))
    gain = gain + 0.08 * strength * torch.randn((5, 3, 1), generator=generator).numpy()[..., None]
    shift = 0.06 * strength * torch.randn((5, 1, 1), generator=generator).numpy()[..., None]
    pixels = images.numpy()
    middle = pixels[:, :, ::4, ::4].mean((2, 3), keepdims=True)

    def saturated(values: np.ndarray) -> np.ndarray:
        grey = values.mean(1, keepdims=True)
        return grey + (values - grey) * saturation

    expected = (saturated(pixels) - saturated(middle)) * contrast + saturated(middle)
    np.testing.assert_allclose(got, expected * gain + shift, atol=1e-5)
    assert draw_light(5, 0.0, seeded()) is None
    torch.testing.assert_close(change_light(images, None), images)


def test_some_panoramas_stay_whole() -> None:
    recipe = AugmentationRecipe(fov_deg=(90, 180), whole=0.25)
    zeros = torch.zeros(4000)
    draw = draw_pairs(zeros, zeros, recipe, width_px=360, reach_m=0.0, generator=seeded(5))
    assert draw.kept is not None
    whole = draw.kept == 360
    assert whole.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert draw.kept[~whole].min() >= 90
    assert draw.kept[~whole].max() <= 180


def test_workers_take_the_rows_of_one_draw() -> None:
    recipe = AugmentationRecipe(fov_deg=(90, 180), turn="any")
    zeros, cpu = torch.zeros(12), torch.device("cpu")
    draw = draw_pairs(zeros, zeros, recipe, width_px=360, reach_m=5.0, generator=seeded())
    light = draw_light(12, 1.0, seeded())
    assert light is not None
    for whole in (draw, light):
        shares = [vars(taken(whole, rows, cpu)) for rows in (slice(0, 5), slice(5, 12))]
        for name, value in vars(whole).items():
            if isinstance(value, torch.Tensor):
                assert len(value) == 12
                torch.testing.assert_close(torch.cat([share[name] for share in shares]), value)
            else:
                assert shares[0][name] == value
    assert taken(None, slice(0, 5), cpu) is None


def test_limited_views_keep_part_of_the_height_and_whole_circles_all() -> None:
    recipe = AugmentationRecipe(fov_deg=(60.0, 120.0), whole=0.5, rows=0.5)
    nowhere = torch.zeros(4000)
    draw = draw_pairs(nowhere, nowhere, recipe, width_px=256, reach_m=6.0, generator=seeded())
    assert draw.kept is not None
    assert draw.top is not None
    assert draw.bottom is not None
    whole = draw.kept == 256
    assert 0.45 < whole.float().mean() < 0.55
    height = draw.bottom - draw.top
    torch.testing.assert_close(height[whole], torch.ones(int(whole.sum())))
    assert 0.5 <= height[~whole].min() < 0.51
    assert height[~whole].max() > 0.99
    assert draw.top.min() >= 0
    assert draw.bottom.max() <= 1.0 + 1e-6
    without = AugmentationRecipe(fov_deg=(60.0, 120.0), whole=0.5)
    same = draw_pairs(nowhere, nowhere, without, width_px=256, reach_m=6.0, generator=seeded())
    torch.testing.assert_close(same.first, draw.first)
    with pytest.raises(ValueError, match="give fov_deg too"):
        AugmentationRecipe(rows=0.5)
