"""Networks of torchvision as backbones."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torchvision.models
from pydantic import Field, model_validator
from torch import nn

from geoloc.core.errors import ModelMismatch
from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, State, inject, weights_file
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register

_HEAVY_CLASSIFIER = ("alexnet", "vgg16", "vgg16_bn")  # more weights in the part that is thrown away


_RESNET = ((64, 4), (128, 8), (256, 16), (512, 32))
_BOTTLENECK = tuple((4 * channels, stride) for channels, stride in _RESNET)
_VGG = ((64, 2), (128, 4), (256, 8), (512, 16), (512, 32))
_RESNET_LAST = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}
# Channels and stride after each stage; families whose inner stages are not offered have the last one only.
_TORCHVISION: dict[str, tuple[tuple[int, int], ...]] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _BOTTLENECK,
    "vgg16": _VGG,
    "vgg16_bn": _VGG,
    "alexnet": ((256, 32),),
    "densenet121": ((1024, 32),),
    "convnext_tiny": ((768, 32),),
    "efficientnet_b0": ((1280, 32),),
    "mobilenet_v3_small": ((576, 32),),
}


class TorchvisionBackbone(BackboneSection):
    """A network of torchvision without its classifier, from nothing or from weights in a file."""

    words = "{name}"
    any_size = True
    kind: Literal["torchvision"] = "torchvision"
    name: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "vgg16",
        "vgg16_bn",
        "alexnet",
        "densenet121",
        "convnext_tiny",
        "efficientnet_b0",
        "mobilenet_v3_small",
    ]
    stages: PositiveInt | None = Field(
        None, description="stages of a resnet (1 to 4) or vgg (1 to 5) that are kept; all by default"
    )
    max_pool: bool = Field(True, description="false: a resnet without its max pool, half the stride")
    neck: PositiveInt | None = Field(
        None,
        description="of a resnet: its last block gives way to a 1 x 1 and a 3 x 3 convolution of so many channels",
    )
    weights: str | None = Field(
        None, description="URI of torchvision's own weights as .safetensors, to start training from"
    )

    @model_validator(mode="after")
    def _stages_exist(self) -> TorchvisionBackbone:
        known = len(_TORCHVISION[self.name])
        if self.stages is not None and self.stages > known:
            raise ValueError(f"{self.name} has {known} stages to choose from (got {self.stages})")
        if not self.max_pool and not self.name.startswith("resnet"):
            raise ValueError(f"only resnets go without max pool ({self.name} does not)")
        if self.neck is not None and (not self.name.startswith("resnet") or (self.stages or known) < known):
            raise ValueError(f"neck takes the place of the last block of a whole resnet (got {self.name})")
        return self

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.neck or _TORCHVISION[self.name][(self.stages or 0) - 1][0]

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map."""
        stride = _TORCHVISION[self.name][(self.stages or 0) - 1][1]
        return stride if self.max_pool else stride // 2

    def published_weights(self) -> tuple[State, str] | None:
        """What training starts from, and its file."""
        return weights_file(self.weights)


@register(TorchvisionBackbone)
class TorchvisionCnn(Backbone[TorchvisionBackbone]):
    """The convolutional part of a network of torchvision; `layers` keeps torchvision's order of modules.

    With orientation the first convolution takes two more channels, whose weights start at zero: the network is
    at first what it was without the maps.
    """

    def __init__(self, recipe: TorchvisionBackbone, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
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

    def start_from(self, state: State, *, where: str) -> None:
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


def _network(name: str) -> nn.Module:
    build: Any = getattr(torchvision.models, name)
    if name not in _HEAVY_CLASSIFIER:
        whole: nn.Module = build(weights=None)
        return whole
    # The classifier alone has over 100 million weights: it is built without memory and dropped.
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
        if recipe.neck is not None:
            blocks = list(network.layer4)[:-1]
            stages[-1] = nn.Sequential(*blocks, _neck(_RESNET_LAST[recipe.name], recipe.neck))
        return nn.Sequential(*stem, *stages[: recipe.stages])
    if recipe.name.startswith("vgg"):
        pools = [at for at, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
        last = pools[(recipe.stages or len(pools)) - 1]
        return nn.Sequential(*list(network.features)[: last + 1])
    closing = [nn.ReLU()] if recipe.name.startswith("densenet") else []
    return nn.Sequential(network.features, *closing)


def _neck(inputs: int, channels: int) -> nn.Sequential:
    """What takes the place of the last block in the 2.5D map networks (arXiv 2308.05993)."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


def _names_used(network: nn.Module, recipe: TorchvisionBackbone) -> set[str]:
    """Names in torchvision's state of what the cut network holds."""
    kept = {id(tensor) for tensor in _cut(network, recipe).state_dict(keep_vars=True).values()}
    return {name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in kept}


def _widen_first(layers: nn.Sequential) -> None:
    """Replace the first convolution by a convolution of pictures and maps."""
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
