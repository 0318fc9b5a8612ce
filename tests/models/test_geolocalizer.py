from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.models.backbones.plain_cnn import PlainCnn, WrappedCnn
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.hash_encoders.encoder import pack_codes
from geoloc.models.hash_encoders.trained import LinearHash
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import input_size
from geoloc.recipe.recipe import HashHead, ModelRecipe, Recipe

BACKBONES = [
    PlainCnn(widths=(8, 12, 16), strides=(2, 2, 1), residual_blocks=1),
    PlainCnn(widths=(8, 16), strides=(4, 2)),
]


def small(**changes: object) -> ModelRecipe:
    base = {
        "tile_m": 32,
        "tile_px": 32,
        "panorama_px": (16, 64),
        "view": {"kind": "polar", "height_px": 16, "width_px": 64},
        "backbone": {"kind": "plain_cnn", "widths": (8, 16), "strides": (2, 2)},
        "aggregation": {"kind": "column_attention", "columns": 16, "channels": 4},
        "hash": {"bits": 64, "prefixes": (32, 64)},
    }
    return ModelRecipe.model_validate(base | changes)


@pytest.mark.parametrize("recipe", BACKBONES)
def test_rolling_the_picture_rolls_the_features_exactly(recipe: PlainCnn) -> None:
    torch.manual_seed(0)
    backbone = WrappedCnn(recipe).eval()
    images = torch.randn(2, 3, 32, 96)
    features = backbone(images)
    assert features.shape == (2, 16, 32 // recipe.stride, 96 // recipe.stride)
    rolled = backbone(torch.roll(images, 3 * recipe.stride, dims=-1))
    torch.testing.assert_close(rolled, torch.roll(features, 3, dims=-1), atol=1e-5, rtol=1e-5)


def test_every_pixel_of_the_picture_reaches_the_features() -> None:
    torch.manual_seed(0)
    backbone = WrappedCnn(PlainCnn(widths=(8, 16), strides=(4, 2))).eval()
    images = torch.randn(1, 3, 16, 32, requires_grad=True)
    backbone(images).square().sum().backward()
    assert images.grad is not None
    assert (
        images.grad.abs().sum(1)[:, :-1] > 0
    ).all()  # the padding of a stride of 4 leaves out the last row


@pytest.mark.parametrize("kind", ["column_attention", "height_mean"])
@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_have_length_one_and_turn_with_the_picture(kind: str, shared: bool) -> None:
    torch.manual_seed(0)
    recipe = small(aggregation={"kind": kind, "columns": 8, "channels": 4}, shared_weights=shared)
    model = GeoLocalizer(recipe).eval()
    images = torch.rand(3, 3, 16, 64)
    for view in ("panorama", "aerial"):
        embedded = model(images, view)
        assert embedded.shape == (3, 32)
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
        columns, rolled = model.columns(images, view), model.columns(torch.roll(images, 8, dims=-1), view)
        torch.testing.assert_close(rolled, torch.roll(columns, 1, dims=-1), atol=1e-5, rtol=1e-5)
    views = ["panorama", "aerial"]
    together = model.columns_of([images, images], views)
    for view, columns in zip(views, together, strict=True):
        torch.testing.assert_close(columns, model.columns(images, view), atol=1e-5, rtol=1e-5)


def test_shared_weights_are_one_backbone() -> None:
    def count(shared: bool) -> int:
        return sum(p.numel() for p in GeoLocalizer(small(shared_weights=shared)).parameters())

    backbone = sum(p.numel() for p in WrappedCnn(small().backbone).parameters())
    assert count(False) - count(True) == backbone


def test_pose_is_in_metres_whatever_margin_the_tile_has() -> None:
    model = GeoLocalizer(small(tile_m=64)).eval()  # 2 m a pixel
    tile = torch.rand(1, 3, 48, 48)
    moved = model.convert_view(tile, Pose(east_m=torch.tensor([4.0]), north_m=torch.tensor([-6.0])))
    cut = tile[:, :, 8 + 3 : 40 + 3, 8 + 2 : 40 + 2]
    torch.testing.assert_close(moved[:, :, 1:], model.convert_view(cut)[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_codes_pack_the_most_significant_bit_first() -> None:
    logits = np.full((1, 16), -1.0, dtype=np.float32)
    logits[0, [0, 15]] = 1.0
    packed = pack_codes(logits)
    assert packed.tolist() == [[0b10000000, 0b00000001]]


def test_bits_are_balanced_after_training_statistics() -> None:
    torch.manual_seed(0)
    head = LinearHash(HashHead(bits=64, prefixes=(64,)), 32)
    embeddings = torch.nn.functional.normalize(torch.randn(400, 32) + 2.0, dim=1)
    head.train()
    for _ in range(60):
        head(embeddings)
    share = (head.eval()(embeddings) > 0).float().mean(0)
    assert share.min() > 0.3
    assert share.max() < 0.7
    assert head(embeddings.view(20, 20, 32)).shape == (20, 20, 64)


def test_the_default_recipe_has_its_stated_size() -> None:
    recipe = Recipe.load("geoloc").model
    model = GeoLocalizer(recipe)
    height, width = input_size(model.recipe, "drone")
    assert height == width == recipe.tile_px
    with torch.inference_mode():
        polar = model.convert_view(torch.rand(1, 3, height, width))
        assert model.eval()(polar, "aerial").shape == (1, recipe.embedding_dim)
