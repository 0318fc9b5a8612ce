"""Networks of torchvision as backbones, and starting these and others from published weights."""

from __future__ import annotations

import copy
from typing import Any

import safetensors.torch
import torch
import torchvision.models
from safetensors import SafetensorError
from torch import nn

from geoloc.core import storage
from geoloc.core.errors import CorruptArtifact, ModelMismatch
from geoloc.models.backbones import MAP_CHANNELS, inject
from geoloc.models.efficientnet_lite import EfficientNetLiteCnn, packaged_weights
from geoloc.models.timm_network import TimmCnn
from geoloc.recipe.model import Orientation, TorchvisionBackbone

_HEAVY_CLASSIFIER = ("alexnet", "vgg16", "vgg16_bn")  # more weights in the part that is thrown away


class TorchvisionCnn(nn.Module):
    """The convolutional part of a network of torchvision; `layers` keeps torchvision's order of modules.

    With orientation the first convolution takes two more channels, whose weights start at zero: the network is
    at first what it was without the maps.
    """

    def __init__(self, recipe: TorchvisionBackbone, orientation: Orientation | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.channels, self.stride = recipe.channels, recipe.stride
        self.layers = _cut(_network(recipe.name), recipe)
        if orientation is not None:
            _widen_first(self.layers)

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, h, w]."""
        features: torch.Tensor = self.layers(images if maps is None else inject(images, maps))
        return features

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of pictures of a size (from shapes alone, nothing is computed)."""
        shapes = copy.deepcopy(self.layers).to("meta").eval()
        inputs = next(layer for layer in shapes.modules() if isinstance(layer, nn.Conv2d)).in_channels
        size = shapes(torch.empty(1, inputs, height, width, device="meta")).shape
        return int(size[2]), int(size[3])

    def start_from(self, state: dict[str, torch.Tensor], *, where: str) -> None:
        """Take torchvision's weights (the whole network's state, by its own names; a classifier is left out).

        Raises `ModelMismatch` naming the first weight that is missing or has another shape.
        """
        network = _network(self.recipe.name)
        expected = network.state_dict()
        used = _names_used(network, self.recipe)
        for name in sorted(used):
            if name not in state or state[name].shape != expected[name].shape:
                found = "lack" if name not in state else f"have another shape of ({list(state[name].shape)})"
                raise ModelMismatch(
                    f"The weights in {where!r} {found} {name!r} of torchvision's {self.recipe.name}."
                )
        network.load_state_dict({name: state[name] for name in used}, strict=False)
        own = _cut(network, self.recipe).state_dict()
        with torch.no_grad():
            for name, tensor in self.layers.state_dict().items():
                if tensor.shape == own[name].shape:
                    tensor.copy_(own[name])
                else:  # the first convolution, with two more input channels
                    tensor[:, : own[name].shape[1]].copy_(own[name])


def start_from_weights(model: nn.Module) -> None:
    """Start a model's backbones from the weights their recipe names.

    These are a .safetensors file of torchvision's or timm's state, or those that a package of EfficientNet-Lite's
    ships. Raises `ArtifactError` where there is no such file, `ConfigError` where the package is missing,
    `CorruptArtifact` and `ModelMismatch` where it does not fit.
    """
    for backbone in model.modules():
        if isinstance(backbone, TorchvisionCnn | TimmCnn) and backbone.recipe.weights is not None:
            uri = backbone.recipe.weights
            try:
                state = safetensors.torch.load(storage.read_bytes(uri))
            except SafetensorError as error:
                raise CorruptArtifact(f"{uri!r} is no safetensors file: {error}.") from error
            backbone.start_from(state, where=uri)
        if isinstance(backbone, EfficientNetLiteCnn) and backbone.recipe.pretrained:
            state, where = packaged_weights(backbone.recipe.name)
            backbone.start_from(state, where=where)


def _network(name: str) -> nn.Module:
    build: Any = getattr(torchvision.models, name)
    if name not in _HEAVY_CLASSIFIER:
        whole: nn.Module = build(weights=None)
        return whole
    # The classifier alone has over 100 million weights: it is made without memory and dropped.
    with torch.device("meta"):
        network: Any = build(weights=None)
    network.features.to_empty(device="cpu")
    for module in network.features.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    network.classifier = nn.Identity()
    light: nn.Module = network
    return light


def _cut(network: Any, recipe: TorchvisionBackbone) -> nn.Sequential:
    """The modules of a network up to the last kept stage, in order."""
    if recipe.name.startswith("resnet"):
        stem = [network.conv1, network.bn1, network.relu, *([network.maxpool] if recipe.max_pool else [])]
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        return nn.Sequential(*stem, *stages[: recipe.stages])
    if recipe.name.startswith("vgg"):
        pools = [at for at, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
        last = pools[(recipe.stages or len(pools)) - 1]
        return nn.Sequential(*list(network.features)[: last + 1])
    closing = [nn.ReLU()] if recipe.name.startswith("densenet") else []
    return nn.Sequential(network.features, *closing)


def _names_used(network: nn.Module, recipe: TorchvisionBackbone) -> set[str]:
    """Names in torchvision's state of what the cut network holds."""
    kept = {id(tensor) for tensor in _cut(network, recipe).state_dict(keep_vars=True).values()}
    return {name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in kept}


def _widen_first(layers: nn.Sequential) -> None:
    """Replace the first convolution by one that takes the maps too."""
    for parent in layers.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(parent, name, _wider(child))
                return


def _wider(convolution: nn.Conv2d) -> nn.Conv2d:
    wider = nn.Conv2d(
        convolution.in_channels + MAP_CHANNELS,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, : convolution.in_channels] = convolution.weight
        if wider.bias is not None and convolution.bias is not None:
            wider.bias.copy_(convolution.bias)
    return wider
