"""The convolutional transformer of the hashing system."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from geoloc.models.backbones.layer_to_layer import (
    LayerToLayer,
    LayerToLayerAttention,
    LayerToLayerNetwork,
    StandardisedConv,
    TransformerLayer,
)
from geoloc.recipe.model import Orientation
from geoloc.recipe.recipe import Recipe

TINY = LayerToLayer(
    width=8, units=(1, 1), channels=12, layers=3, heads=3, mlp=16, dropout=0.0, grid=(2, 4), output="tokens"
)


def test_attention_by_formula() -> None:
    torch.manual_seed(0)
    attention = LayerToLayerAttention(6, 2, 0.0).double()
    x, before = torch.randn(1, 5, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)

    def linear(layer: torch.nn.Linear, value: torch.Tensor) -> np.ndarray:
        return value[0].numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    q, k, v = linear(attention.query, x), linear(attention.key, before), linear(attention.value, x)
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(3))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
    expected = linear(attention.out, torch.from_numpy(np.concatenate(heads, axis=1))[None])
    np.testing.assert_allclose(attention(x, before)[0].detach().numpy(), expected, rtol=1e-9)


def test_gradients_of_a_layer_reach_both_sequences() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(TINY).double().eval()
    x = torch.randn(1, 3, 12, dtype=torch.float64, requires_grad=True)
    before = torch.randn(1, 3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, before))


def test_keys_come_from_the_input_of_the_layer_before() -> None:
    torch.manual_seed(0)
    network = LayerToLayerNetwork(TINY).eval()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in network.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    network(torch.randn(1, 3, 16, 32))
    assert torch.equal(seen[0][1], seen[0][0])
    for number in (1, 2):
        assert torch.equal(seen[number][1], seen[number - 1][0])
        assert not torch.equal(seen[number][1], seen[number][0])
    plain = LayerToLayerNetwork(TINY.model_copy(update={"keys": "own"})).eval()
    plain.load_state_dict(network.state_dict())
    picture = torch.randn(1, 3, 16, 32)
    assert not torch.allclose(plain(picture), network(picture))


def test_kernels_are_standardised() -> None:
    conv = StandardisedConv(3, 4, 3, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    images = torch.randn(1, 3, 5, 5)
    weight = conv.weight.detach().numpy().reshape(4, -1)
    weight = (weight - weight.mean(1, keepdims=True)) / np.sqrt(weight.var(1, keepdims=True) + 1e-5)
    expected = torch.nn.functional.conv2d(images, torch.from_numpy(weight.reshape(4, 3, 3, 3)))
    torch.testing.assert_close(conv(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 32), (24, 40), (17, 33)])
def test_the_map_has_the_size_that_the_section_says(size: tuple[int, int]) -> None:
    network = LayerToLayerNetwork(TINY).eval()
    assert TINY.stride == 8
    assert network(torch.randn(2, 3, *size)).shape == (2, 12, *network.map_size(*size))
    single = LayerToLayerNetwork(TINY.model_copy(update={"output": "class"})).eval()
    assert single(torch.randn(2, 3, *size)).shape == (2, 12, *single.map_size(*size)) == (2, 12, 1, 1)


def test_orientation_maps_enter_at_the_input() -> None:
    network = LayerToLayerNetwork(TINY, Orientation()).eval()
    images, maps = torch.randn(1, 3, 16, 32), torch.randn(1, 2, 16, 32)
    assert not torch.allclose(network(images, maps), network(images, -maps))


def test_the_recipes_are_the_papers_sizes_and_one_that_trains_here() -> None:
    paper = Recipe.load("hashing").model
    assert paper.embedding_dim == 768
    assert paper.backbone.stride == 16
    with torch.device("meta"):
        network = LayerToLayerNetwork(paper.backbone)  # type: ignore[arg-type]
    # ViT-B of 12 layers with a norm more for the keys (12 x 2 x 768), and ResNetV2 50 without its last stage.
    transformer = sum(p.numel() for p in network.layers.parameters())
    assert transformer == 12 * (4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 3 * 2 * 768)
    convolutions = sum(p.numel() for part in (network.stem, network.stages) for p in part.parameters())
    expected, inputs = 7 * 7 * 3 * 64 + 2 * 64, 64
    for width, units in ((64, 3), (128, 4), (256, 9)):
        expected += inputs * 4 * width + 8 * width  # the first unit's projection of its input
        for _ in range(units):
            expected += inputs * width + 9 * width**2 + 4 * width**2 + 12 * width
            inputs = 4 * width
    assert convolutions == expected
    assert Recipe.load("hashing-small").model.embedding_dim == 128
    with pytest.raises(ValidationError, match="do not divide among 5 heads"):
        LayerToLayer(heads=5)
