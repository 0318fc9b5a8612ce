"""Fusions against point-by-point computations, and models with clouds as a whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.geometry.clouds import place_clouds
from geoloc.geometry.warp import pixel_grid
from geoloc.models.clouds.network import PointFeatures
from geoloc.models.encoder import Encoder
from geoloc.models.fusions.network import PointPool, enlarge
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import load_model, save_model
from geoloc.recipe.model import CloudBranch, FusionSection
from geoloc.recipe.recipe import ModelRecipe, Recipe
from geoloc.recipe.registry import registered

FUSIONS = sorted(registered(FusionSection))


def recipe(fusion: str, **model: Any) -> Recipe:
    data = Recipe.load("map25d-small").model_dump(mode="json", exclude_none=True)
    data["model"] |= {
        "tile_px": 32,
        "panorama_px": [16, 64],
        "view": {"kind": "polar", "height_px": 16, "width_px": 64},
        "backbone": {"kind": "plain_cnn", "widths": [8, 16], "strides": [4, 2]},
        "aggregation": {"kind": "column_attention", "columns": 8, "channels": 4},
        "cloud": {
            "points": 48,
            "encoder": {"kind": "pointnet", "widths": [8, 16], "channels": 12},
            "fusion": {"kind": fusion},
        },
        "hash": {"bits": 32, "prefixes": [16, 32]},
    } | model  # fmt: skip
    return Recipe.model_validate(data)


def random_clouds(count: int, points: int = 48, half_m: float = 76.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = (2 * torch.rand(count, points, 3, generator=generator) - 1) * half_m
    return torch.cat([places, torch.randint(0, 25, (count, points, 1), generator=generator).float()], dim=2)


def spread_points(rng: np.random.Generator) -> np.ndarray:
    places, kinds = rng.uniform(-110, 110, (500, 2)), rng.integers(0, 25, 500)
    return np.column_stack([places, rng.uniform(0, 20, 500), kinds]).astype(np.float32)


def model_of(fusion: str, **changes: Any) -> GeoLocalizer:
    torch.manual_seed(1)
    model = GeoLocalizer(recipe(fusion, **changes).model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize("kind", ["none", "polar", "paper"])
def test_places_of_points_and_of_pixels_undo_each_other(kind: str) -> None:
    view = {"kind": "none"} if kind == "none" else {"kind": "polar", "height_px": 16, "width_px": 64}
    if kind == "paper":
        view["sampling"] = "paper"
    built = ModelRecipe.model_validate({"view": view, "panorama_px": [64, 64] if kind == "none" else [16, 64],
        "aggregation": {"kind": "gap"}, "tile_px": 64}).view.build(64)  # fmt: skip
    ground = built.ground_places(7, 12)
    places = built.place_points(ground[..., 0], ground[..., 1], (7, 12))
    pixels = pixel_grid(7, 12)
    apart = (places - pixels).abs()
    apart[..., 0] = torch.minimum(apart[..., 0], 2 - apart[..., 0])  # azimuths of a circle
    shown = ground.norm(dim=-1) > 1e-9  # the centre has no azimuth
    assert float(apart[shown].max()) < 1e-9


def test_points_lie_in_the_picture_where_the_transform_shows_them() -> None:
    """A bright spot of the ground comes to the polar pixel that `place_points` names."""
    view = recipe("2to3").model.view.build(32)
    for east, north in ((9.0, 3.0), (-6.0, 8.0), (2.0, -11.0), (-9.0, -9.0)):
        image = torch.zeros(1, 1, 32, 32)
        rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        image[0, 0] = torch.exp(-((columns - 15.5 - east) ** 2 + (15.5 - rows - north) ** 2) / 4)
        seen = view(image)[0, 0]
        row, column = divmod(int(seen.argmax()), 64)
        place = view.place_points(torch.tensor(east / 16), torch.tensor(north / 16), (16, 64))
        assert (float(place[0]) + 1) / 2 * 64 - 0.5 == pytest.approx(column, abs=1.5)
        assert (float(place[1]) + 1) / 2 * 16 - 0.5 == pytest.approx(row, abs=1.5)


def test_sectors_are_the_maximum_over_the_points_of_an_azimuth() -> None:
    torch.manual_seed(0)
    pool = PointPool(5, 3, 8)
    features, places = torch.rand(2, 5, 40), 2 * torch.rand(2, 3, 40) - 1
    with torch.no_grad():
        pooled = pool(PointFeatures(places, features)).numpy()
        weight, bias = pool.project.weight.numpy(), pool.project.bias.numpy()
    for b in range(2):
        sectors = np.zeros((5, 8))
        for p in range(40):
            bearing = math.degrees(math.atan2(float(places[b, 0, p]), float(places[b, 1, p])))
            column = int((bearing + 180) // 45) % 8
            sectors[:, column] = np.maximum(sectors[:, column], features[b, :, p].numpy())
        for j in range(8):
            around = np.stack([sectors[:, (j + d) % 8] for d in (-1, 0, 1)], axis=1)
            np.testing.assert_allclose(pooled[b, :, j], (weight * around).sum((1, 2)) + bias, atol=1e-5)


def test_an_enlarged_circle_has_no_seam() -> None:
    features = torch.rand(1, 2, 3, 8)
    turned = enlarge(torch.roll(features, 3, dims=-1), 4, circle=True)
    torch.testing.assert_close(turned, torch.roll(enlarge(features, 4, circle=True), 12, dims=-1))


@pytest.mark.parametrize("kind", ["none", "polar"])
def test_pixels_reach_points_and_points_reach_pixels(kind: str) -> None:
    """Both against loops over points and pixels, with random features."""
    changes: dict[str, Any] = {}
    if kind == "none":
        changes = {"view": {"kind": "none"}, "aggregation": {"kind": "gap"}}
    points = PointFeatures(2 * torch.rand(1, 3, 20) - 1, torch.rand(1, 12, 20))
    fusion: Any = model_of("2to3", **changes).cloud.fusion  # type: ignore[union-attr]
    heights, widths = (4, 4) if kind == "none" else (2, 8)
    features = torch.rand(1, 16, heights, widths)
    seen: list[torch.Tensor] = []
    fusion.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        fusion(features, points)
    wide = enlarge(features, fusion.recipe.upsample, circle=kind == "polar")[0].numpy()
    for p in range(20):
        right, forward = (float(points.places[0, k, p]) for k in (0, 1))
        x, y = right, -forward
        if kind == "polar":
            x, y = math.atan2(right, forward) / math.pi, 1 - 2 * math.hypot(right, forward)
        expected = _bilinear(
            wide, (x + 1) / 2 * wide.shape[2] - 0.5, (y + 1) / 2 * wide.shape[1] - 0.5, kind == "polar"
        )
        np.testing.assert_allclose(seen[0][0, :, p].numpy(), expected, atol=1e-5)


def _bilinear(image: np.ndarray, x: float, y: float, circle: bool) -> np.ndarray:
    total = np.zeros(len(image))
    for row, weight_y in ((math.floor(y), 1 - y % 1), (math.floor(y) + 1, y % 1)):
        for column, weight_x in ((math.floor(x), 1 - x % 1), (math.floor(x) + 1, x % 1)):
            at = column % image.shape[2] if circle else column
            if 0 <= row < image.shape[1] and 0 <= at < image.shape[2]:
                total += weight_y * weight_x * image[:, row, at]
    return total


def test_points_reach_pixels_by_distance_on_the_ground() -> None:
    fusion: Any = model_of("3to2").cloud.fusion  # type: ignore[union-attr]
    points = PointFeatures(2 * torch.rand(1, 3, 30) - 1, torch.rand(1, 12, 30))
    seen: list[torch.Tensor] = []
    fusion.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        fusion(torch.rand(1, 16, 2, 8), points)
    around = seen[0][0, 16:].numpy()
    height, width = around.shape[1:]
    places = points.places[0].numpy()
    for row in range(height):
        for column in range(width):
            radius, azimuth = (height - row - 0.5) / height, 2 * math.pi * ((column + 0.5) / width - 0.5)
            centre = radius * math.sin(azimuth), radius * math.cos(azimuth)
            squared = (places[0] - centre[0]) ** 2 + (places[1] - centre[1]) ** 2
            best = np.argsort(squared)[:4]
            weights = 1 / (squared[best] + 1e-4)
            expected = (points.features[0, :, best].numpy() * weights / weights.sum()).sum(1)
            np.testing.assert_allclose(around[:, row, column], expected, atol=1e-4)


def test_sectors_roll_with_the_points() -> None:
    """Points turned by whole columns give an embedding rolled by whole columns, as a panorama's."""
    pool = PointPool(5, 3, 8)
    features, clouds = torch.rand(2, 5, 40), random_clouds(2, 40)
    turned = place_clouds(clouds, heading_deg=torch.tensor([90.0, 225.0]))
    with torch.no_grad():
        upright = pool(PointFeatures(clouds[..., :3].transpose(1, 2), features))
        seen = pool(PointFeatures(turned[..., :3].transpose(1, 2), features))
    for row, columns in enumerate((2, 5)):
        torch.testing.assert_close(seen[row], torch.roll(upright[row], -columns, dims=-1))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_models_with_clouds_encode_as_they_train(fusion: str, tmp_path: Any) -> None:
    made, whole = model_of(fusion), recipe(fusion)
    save_model(made, whole, str(tmp_path))
    model, _, card = load_model(str(tmp_path))
    encoder = Encoder(model, whole, card.model_id)
    assert encoder.takes_clouds
    rng = np.random.default_rng(2)
    points = [spread_points(rng) for _ in range(3)]
    clouds = encoder.prepare_clouds(points)
    assert clouds.shape == (3, 48, 4)
    assert np.abs(clouds[:, :, :2]).max() <= 76
    pictures = encoder.prepare(
        [rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)] * 3, "aerial", extent_m=152.0
    )
    together = encoder.encode(pictures, "aerial", clouds).embedding
    apart = encoder.encode(pictures[1:2], "aerial", clouds[1:2]).embedding
    np.testing.assert_allclose(together[1], apart[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    with pytest.raises(ModelMismatch, match="came without one"):
        encoder.encode(pictures, "aerial")
    with pytest.raises(ModelMismatch, match="drone"):
        encoder.encode(pictures, "drone")
    with pytest.raises(InputError, match="no points"):
        encoder.prepare_clouds([points[0] + 500])


def test_many_clouds_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, clouds = model_of("add"), torch.rand(5, 3, 16, 64), random_clouds(5)
    with torch.no_grad():
        together = model.columns(images, "aerial", clouds=clouds)
        monkeypatch.setattr("geoloc.models.cloud_branch._EVALUATION_BYTES", 1)
        assert model.cloud is not None
        assert model.cloud.clouds_at_once == 1
        torch.testing.assert_close(
            model.columns(images, "aerial", clouds=clouds), together, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"view": {"kind": "affine", "height_px": 16, "width_px": 64}}}, "places points"),
        ({"model": {"orientation": {}}}, "no orientation maps"),
        ({"loss": {"aerial_weight": 0.5, "two_views": None}}, "no drone photos"),
        ({"loss": {"heading": "unknown"}}, "known heading"),
        ({"model": {"aerial_backbone": {"widths": [8], "strides": [4]}}}, "same number"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(changes: dict[str, dict[str, Any]], message: str) -> None:
    data = recipe("2to3", tile_px=64).model_dump(mode="json", exclude_none=True)
    for section, values in changes.items():
        data[section] |= values
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(data)


def test_a_model_without_clouds_takes_none() -> None:
    plain = Recipe.load("map25d-tile-small")
    encoder = Encoder(GeoLocalizer(plain.model), plain, "plain")
    with pytest.raises(ConfigError, match="no point clouds"):
        encoder.prepare_clouds([])


def test_the_papers_sizes() -> None:
    """4,096 numbers a view: 8 SAFA heads of 512 channels; the neck keeps the stride of 32."""
    paper = Recipe.load("map25d").model
    assert paper.embedding_dim == 4096
    assert paper.backbone.channels == paper.backbone_of_tiles.channels == 512
    assert paper.backbone_of_tiles.build(None).map_size(224, 224) == (7, 7)
    assert CloudBranch().encoder.kind == "dgcnn"
