from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from geoloc.core.errors import ConfigError, ModelMismatch
from geoloc.models.backbones.network import start_from_weights
from geoloc.models.backbones.timm_network import TimmBackbone, TimmCnn
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.model import Orientation
from geoloc.recipe.recipe import ModelRecipe, Recipe

TEXT = """
name: by-name
model:
  tile_px: 64
  panorama_px: [32, 128]
  view: {height_px: 32, width_px: 128}
  backbone: {kind: timm, name: resnet10t, stage: 2, channels: 128, stride: 8}
  aggregation: {kind: safa, heads: 2}
  pixels: {}
  hash: {bits: 64, prefixes: [64]}
"""


def section(**changes: object) -> TimmBackbone:
    return TimmBackbone.model_validate(Recipe.from_yaml(TEXT).model.backbone.model_dump() | changes)


def test_a_recipe_is_read_without_timm_and_the_model_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = importlib.import_module

    def refuse(name: str) -> ModuleType:
        if name == "timm":
            raise ModuleNotFoundError(name)
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    recipe = Recipe.from_yaml(TEXT)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.model.embedding_dim == 256
    with pytest.raises(ConfigError, match=r"'resnet10t' is one of timm's, .* 'geoloc\[timm\]'"):
        GeoLocalizer(recipe.model)


@pytest.fixture
def timm() -> object:
    return pytest.importorskip("timm", reason="timm is not installed: pip install 'geoloc[timm]'")


def test_the_map_is_timms_own(timm: object, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model("resnet10t", pretrained=False).eval()  # type: ignore[attr-defined]
    path = tmp_path / "resnet10t.safetensors"
    safetensors.torch.save_file(whole.state_dict(), path)
    data = Recipe.from_yaml(TEXT).model.model_dump()
    data["backbone"]["weights"] = str(path)
    model = GeoLocalizer(ModelRecipe.model_validate(data)).eval()
    start_from_weights(model)
    images, maps = torch.rand(2, 3, 32, 128), torch.rand(2, 2, 32, 128)
    backbone = model.backbones["panorama"]
    with torch.inference_mode():
        stem = whole.maxpool(whole.act1(whole.bn1(whole.conv1(images))))
        expected = whole.layer2(whole.layer1(stem))
        torch.testing.assert_close(backbone(images), expected)
        assert backbone.map_size(32, 128) == tuple(expected.shape[2:]) == (4, 16)
        assert expected.shape[1] == backbone.channels
        fed = TimmCnn(section(weights=str(path)), Orientation()).eval()
        start_from_weights(fed)
        torch.testing.assert_close(fed(images, maps), expected)
    assert not hasattr(backbone.network, "layer4") or not list(backbone.network.layer4.parameters())
    state = whole.state_dict()
    with pytest.raises(ModelMismatch, match=r"lack 'layer1\.0\.bn1\.bias' of timm's resnet10t"):
        backbone.start_from({k: v for k, v in state.items() if k != "layer1.0.bn1.bias"}, where="x")
    with pytest.raises(ModelMismatch, match="another shape"):
        backbone.start_from(state | {"layer1.0.bn1.bias": torch.zeros(3)}, where="x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet10"}, "has no network 'resnet10'"),
        ({"stage": 7}, "has maps 0 to 4; there is no stage 7"),
        ({"channels": 64}, "has 128 channels and stride 8 at stage 2, the recipe says 64 and 8"),
    ],
)
def test_what_timm_does_not_have_is_one_sentence(
    timm: object, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmCnn(section(**changes))


def test_a_network_of_one_size_says_so(timm: object) -> None:
    recipe = section(name="vit_tiny_patch16_224", stage=0, channels=192, stride=16)
    with pytest.raises(ConfigError, match=r"takes no pictures of 32 x 128 pixels \("):
        TimmCnn(recipe).map_size(32, 128)
