from __future__ import annotations

import pytest
import torch

from geoloc.geometry.polar import aerial_to_polar
from geoloc.geometry.warp import affine_grid, control_points, pixel_grid, sample
from geoloc.models.views.spatial_transformers import AffineView, ComposedView, SplineView

SIDE = 64
VIEWS = [
    AffineView(height_px=SIDE, width_px=SIDE),
    ComposedView(height_px=SIDE, width_px=SIDE),
    SplineView(height_px=SIDE, width_px=SIDE),
]


def squares(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recipe", VIEWS, ids=lambda recipe: recipe.kind)
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_starts_as_the_identity(recipe: AffineView, training: bool) -> None:
    torch.manual_seed(0)
    transformer = recipe.build(SIDE).train(training)
    images = squares()
    with torch.no_grad():
        torch.testing.assert_close(transformer(images), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [AffineView, ComposedView, SplineView])
def test_another_size_is_the_whole_square_resampled(kind: type[AffineView]) -> None:
    torch.manual_seed(0)
    transformer = kind(height_px=16, width_px=48).build(SIDE).eval()
    images = squares()
    with torch.no_grad():
        got = transformer(images)
    expected = torch.nn.functional.interpolate(images, (16, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [AffineView, SplineView])
def test_an_affine_map_given_to_the_last_layer_is_done_exactly(kind: type[AffineView]) -> None:
    torch.manual_seed(0)
    transformer = kind(height_px=20, width_px=30).build(SIDE).eval()
    matrix = torch.tensor([[0.6, -0.3, 0.15], [0.2, 0.7, -0.1]])
    points = control_points().float()
    numbers = matrix if kind is AffineView else points @ matrix[:, :2].T + matrix[:, 2]
    with torch.no_grad():
        transformer.localise.out.bias.copy_(numbers.flatten())
        got = transformer(squares())
    expected = sample(squares(), affine_grid(matrix.expand(2, -1, -1), 20, 30))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", VIEWS, ids=lambda recipe: recipe.kind)
def test_the_grid_says_where_the_output_is_taken_from(recipe: AffineView) -> None:
    torch.manual_seed(0)
    transformer = recipe.build(SIDE).eval()
    # A picture whose colours are its places; bilinear sampling of them is exact inside.
    images = torch.zeros(2, 3, SIDE, SIDE)
    images[:, :2] = pixel_grid(SIDE, SIDE).permute(2, 0, 1).float()
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith(
                "localise.out.bias"
            ):  # towards the middle, turned a little, so that nothing is outside
                places = parameter.view(-1, 2) if recipe.kind == "tps" else parameter.view(2, 3)
                places.mul_(0.7).add_(0.03 * torch.randn(places.shape))
        seen, grid = transformer(images)[:, :2].permute(0, 2, 3, 1), transformer.grid(images)
    assert (grid - pixel_grid(SIDE, SIDE).float()).abs().max() > 0.2
    inside = (grid.abs() < 0.95).all(-1)
    assert inside.float().mean() > 0.9
    torch.testing.assert_close(seen[inside], grid[inside], atol=1e-4, rtol=0)


def test_a_polar_start_is_near_the_polar_image() -> None:
    torch.manual_seed(0)
    polar = SplineView(height_px=16, width_px=64, start="polar").build(SIDE).eval()
    plain = SplineView(height_px=16, width_px=64).build(SIDE).eval()
    x, y = torch.linspace(-2, 2, SIDE), torch.linspace(-2, 2, SIDE)[:, None]
    smooth = (0.5 + 0.25 * torch.sin(x + 0.3) + 0.25 * torch.cos(1.5 * y)).expand(1, 3, SIDE, SIDE)
    wanted = aerial_to_polar(smooth, height_px=16, width_px=64)
    with torch.no_grad():
        near, far = (polar(smooth) - wanted).abs().mean(), (plain(smooth) - wanted).abs().mean()
    assert near < 0.2 * far


@pytest.mark.parametrize("recipe", VIEWS, ids=lambda recipe: recipe.kind)
def test_a_step_down_the_gradient_of_all_weights_comes_nearer(recipe: AffineView) -> None:
    torch.manual_seed(0)
    transformer = recipe.build(SIDE)
    x, y = torch.linspace(-2, 2, SIDE), torch.linspace(-2, 2, SIDE)[:, None]
    images = torch.stack([(torch.sin(2 * x + k) + torch.cos(y - k)).expand(3, -1, -1) for k in range(4)])
    wanted = images.roll(-6, -1)

    def distance() -> torch.Tensor:
        return (transformer(images) - wanted)[..., 8:-8].square().mean()

    before = distance()
    before.backward()
    with torch.no_grad():
        for parameter in transformer.parameters():
            assert parameter.grad is not None
        last = transformer.get_submodule("steps.4" if recipe.kind == "composed" else "").localise.out
        assert last.weight.grad.abs().max() > 0  # a picture of its own can have a transform of its own
        last.bias -= 0.02 * last.bias.grad / last.bias.grad.norm()
        assert distance() < 0.98 * before


def test_state_holds_no_constants() -> None:
    names = SplineView(height_px=8, width_px=8).build(SIDE).state_dict()
    assert not [name for name in names if "operator" in name]
