from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision.models

from geoloc.core.errors import CorruptArtifact, ModelMismatch
from geoloc.models.backbones.network import inject, start_from_weights
from geoloc.models.backbones.oricnn import OriCnn, OriCnnEncoder
from geoloc.models.backbones.plain_cnn import PlainCnn, WrappedCnn
from geoloc.models.backbones.torchvision_network import TorchvisionBackbone, TorchvisionCnn
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import registered

LIGHT = ["resnet18", "mobilenet_v3_small", "alexnet"]
HEAVY = ["resnet34", "resnet50", "vgg16", "vgg16_bn", "densenet121", "convnext_tiny", "efficientnet_b0"]


def by_hand(encoder: OriCnn, images: torch.Tensor) -> torch.Tensor:
    """The encoder's convolutions with TensorFlow's rule for SAME, written out."""
    kept = []
    for number, convolution in enumerate(encoder.convolutions):
        if number:
            images = torch.where(images > 0, images, 0.2 * images)
        height, width = images.shape[-2:]
        pads = []
        for size in (width, height):
            out = -(-size // 2)
            total = max(0, (out - 1) * 2 + 4 - size)
            pads += [total // 2, total - total // 2]
        images = torch.nn.functional.conv2d(
            torch.nn.functional.pad(images, pads), convolution.weight, stride=2
        )
        if number:
            norm = encoder.norms[number - 1]
            images = (images - norm.running_mean[:, None, None]) / (
                norm.running_var[:, None, None] + 1e-5
            ).sqrt()
            images = images * norm.weight[:, None, None] + norm.bias[:, None, None]
        kept.append(images)
    size = kept[-1].shape[-2:]
    resized = [torch.nn.functional.interpolate(each, size, mode="bilinear") for each in kept[-3:]]
    return torch.cat(resized, 1)


@pytest.mark.parametrize("size", [(32, 64), (37, 77)])
def test_the_encoder_of_oricnn_layer_by_layer(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    recipe = OriCnnEncoder(widths=(4, 6, 8, 5))
    encoder = OriCnn(recipe).eval()
    images = torch.randn(2, 3, *size)
    features = encoder(images)
    assert features.shape == (2, 19, -(-size[0] // 16), -(-size[1] // 16))
    assert encoder.map_size(*size) == tuple(features.shape[-2:])
    torch.testing.assert_close(features, by_hand(encoder, images), atol=1e-5, rtol=1e-4)


def test_the_published_encoder_has_its_published_sizes() -> None:
    recipe = OriCnnEncoder()
    assert recipe.channels == 1536
    with torch.device("meta"):
        encoder = OriCnn(recipe, Orientation())
        features = encoder(torch.empty(1, 3, 224, 1232), torch.empty(1, 2, 224, 1232))
    assert features.shape == (1, 1536, 2, 10)
    assert encoder.convolutions[0].in_channels == 5  # Scheme I
    every = [
        convolution.in_channels for convolution in OriCnn(recipe, Orientation(scheme="scales")).convolutions
    ]
    assert every == [5, 66, 130, 258, 514, 514, 514]  # Scheme II


@pytest.mark.parametrize("scheme", ["input", "scales"])
@pytest.mark.parametrize(
    "recipe",
    [PlainCnn(widths=(6, 8, 10), strides=(2, 2, 1), residual_blocks=1), OriCnnEncoder(widths=(6, 8, 10))],
)
def test_maps_reach_the_features_at_every_place_they_are_given(recipe: PlainCnn, scheme: str) -> None:
    torch.manual_seed(0)
    backbone = recipe.build(Orientation(scheme=scheme)).eval()
    images = torch.randn(1, 3, 16, 32)
    maps = torch.randn(1, 2, 16, 32, requires_grad=True)
    features = backbone(images, maps)
    assert features.shape[1] == recipe.channels
    features.square().sum().backward()
    assert maps.grad is not None
    assert (maps.grad.abs().sum((2, 3)) > 0).all()
    other = backbone(images, maps.detach() + 0.5)
    assert (features.detach() - other).abs().max() > 1e-3


def test_all_scales_roll_with_the_picture_and_its_maps() -> None:
    torch.manual_seed(0)
    backbone = WrappedCnn(PlainCnn(widths=(6, 8), strides=(2, 2)), Orientation(scheme="scales")).eval()
    images, maps = torch.randn(1, 3, 16, 32), torch.randn(1, 2, 16, 32)
    features = backbone(images, maps)
    rolled = backbone(images.roll(8, -1), maps.roll(8, -1))
    torch.testing.assert_close(rolled, features.roll(2, -1), atol=1e-5, rtol=1e-5)


def test_maps_are_resized_without_a_mean_over_the_seam() -> None:
    maps = torch.tensor([0.9, 1.0, -1.0, -0.9]).expand(1, 2, 4, 4)
    resized = inject(torch.zeros(1, 1, 2, 2), maps)[:, 1:]
    assert set(resized.flatten().tolist()) <= set(maps.flatten().tolist())


def check(name: str, size: int = 64, **options: object) -> None:
    recipe = TorchvisionBackbone(name=name, **options)
    backbone = TorchvisionCnn(recipe).eval()
    with torch.inference_mode():
        features = backbone(torch.rand(1, 3, size, size))
    assert features.shape[1] == recipe.channels == backbone.channels
    assert tuple(features.shape[2:]) == backbone.map_size(size, size)
    assert torch.isfinite(features).all()
    if name != "alexnet":
        assert features.shape[2] == -(-size // recipe.stride)


@pytest.mark.parametrize("name", LIGHT)
def test_torchvision_networks_have_the_stated_channels_and_strides(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_larger_torchvision_networks_too(name: str) -> None:
    check(name)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_and_the_missing_max_pool(stages: int) -> None:
    check("resnet18", stages=stages, max_pool=False)


def test_torchvision_weights_are_taken_and_wrong_ones_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = torchvision.models.resnet18(weights=None)
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(published.state_dict(), path)
    recipe = TorchvisionBackbone(name="resnet18", stages=2, weights=str(path))
    backbone = TorchvisionCnn(recipe)
    start_from_weights(backbone)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        stem = published.eval().maxpool(published.relu(published.bn1(published.conv1(images))))
        expected = published.layer2(published.layer1(stem))
        torch.testing.assert_close(backbone.eval()(images), expected)
        fed = TorchvisionCnn(recipe, Orientation())
        start_from_weights(fed)
        # The maps' weights start at zero: at first the network is what it was.
        torch.testing.assert_close(fed.eval()(images, torch.rand(2, 2, 32, 32)), expected)
    state = published.state_dict()
    with pytest.raises(ModelMismatch, match=r"lack 'bn1\.bias' of torchvision's resnet18"):
        backbone.start_from({k: v for k, v in state.items() if k != "bn1.bias"}, where="x")
    with pytest.raises(ModelMismatch, match="another shape"):
        backbone.start_from(state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, where="x")
    path.write_bytes(b"no weights")
    with pytest.raises(CorruptArtifact, match="no safetensors file"):
        start_from_weights(backbone)


ANY_SIZE = {
    "plain_cnn": {"widths": [4, 6], "strides": [2, 2]},
    "oricnn": {"widths": [4, 6, 8]},
    "torchvision": {"name": "resnet18", "stages": 1},
    "efficientnet_lite": {"pretrained": False, "stages": 2},
    "layer_to_layer": {
        "width": 8,
        "units": [1],
        "channels": 12,
        "layers": 1,
        "heads": 3,
        "mlp": 8,
        "output": "tokens",
    },
}


def test_the_backbones_that_say_so_take_pictures_of_any_size() -> None:
    kinds = registered(BackboneSection)
    assert {kind for kind, section in kinds.items() if section.any_size} == set(ANY_SIZE)
    for kind, values in ANY_SIZE.items():
        section = kinds[kind].model_validate(values)
        backbone = section.build(None).eval()
        for side in (32, 48):
            section.check_size("tile_px", side)
            with torch.inference_mode():
                features = backbone(torch.rand(1, 3, side, side))
            assert features.shape[1:] == (section.channels, *backbone.map_size(side, side)), kind
