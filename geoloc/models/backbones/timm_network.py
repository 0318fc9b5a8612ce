"""Networks of timm as backbones, where it is installed: from nothing or from a file, never from a hub."""

from __future__ import annotations

import copy
import importlib
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from geoloc.core.errors import ConfigError, ModelMismatch
from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, State, inject, weights_file
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register


class TimmBackbone(BackboneSection):
    """A network of timm by its name, from nothing or from weights in a file; timm is imported on building it."""

    words = "{name}"
    kind: Literal["timm"] = "timm"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
    stage: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="number of the intermediate map that is taken, as timm counts them; by default the last",
    )
    channels: PositiveInt = Field(
        description="channels of that map; a wrong number is refused with the right one"
    )
    stride: PositiveInt = Field(description="pixels of the input per pixel of that map")
    weights: str | None = Field(
        None, description="URI of timm's own weights as .safetensors, to start training from"
    )

    def published_weights(self) -> tuple[State, str] | None:
        """What training starts from, and its file."""
        return weights_file(self.weights)


@register(TimmBackbone)
class TimmCnn(Backbone[TimmBackbone]):
    """One of the intermediate feature maps of a network of timm; what comes after it is left out.

    With orientation the first convolution takes two more channels, whose weights start at zero. Raises
    `ConfigError` when timm is missing, does not know the name, or the recipe's channels and stride are not its.
    """

    def __init__(self, recipe: TimmBackbone, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
        self.network = _network(recipe, 3 if orientation is None else 3 + MAP_CHANNELS)
        self._stage = _chosen(self.network, recipe)
        self.network.prune_intermediate_layers([self._stage], prune_norm=True, prune_head=True)
        if orientation is not None:
            first = next(layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d))
            with torch.no_grad():
                first.weight[:, 3:].zero_()

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, h, w]."""
        inputs = images if maps is None else inject(images, maps)
        found = self.network.forward_intermediates(
            inputs, indices=[self._stage], output_fmt="NCHW", intermediates_only=True, stop_early=True
        )
        features: torch.Tensor = found[0]
        return features

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of pictures of a size (from shapes alone, nothing is computed).

        Raises `ConfigError` where the network takes no pictures of that size, as transformers of one size do.
        """
        shapes = copy.deepcopy(self).to("meta").eval()
        first = next(layer for layer in shapes.modules() if isinstance(layer, nn.Conv2d))
        try:
            with torch.no_grad():
                size = shapes(torch.empty(1, first.in_channels, height, width, device="meta")).shape
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"timm's {self.recipe.name} takes no pictures of {height} x {width} pixels ({error}); name a "
                "convolutional network, or change the sizes of the recipe."
            ) from error
        return int(size[2]), int(size[3])

    def start_from(self, state: State, *, where: str) -> None:
        """Take timm's weights (the whole network's state, by its own names; what comes after the map is left out).

        Raises `ModelMismatch` naming the first weight that is missing or has another shape.
        """
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                own = tensor
                if (
                    name in state
                    and tensor.ndim == 4
                    and tensor.shape[1] == state[name].shape[1] + MAP_CHANNELS
                ):
                    own = tensor[:, :-MAP_CHANNELS]  # the first convolution, with two more input channels
                if name not in state or state[name].shape != own.shape:
                    found = (
                        "lack" if name not in state else f"have another shape ({list(state[name].shape)}) of"
                    )
                    raise ModelMismatch(
                        f"The weights in {where!r} {found} {name!r} of timm's {self.recipe.name}."
                    )
                own.copy_(state[name])


def _network(recipe: TimmBackbone, inputs: int) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The backbone {recipe.name!r} is one of timm's, which is not installed: pip install 'geoloc[timm]'."
        ) from error
    if not timm.is_model(recipe.name):
        raise ConfigError(f"timm {timm.__version__} has no network {recipe.name!r}; see timm.list_models().")
    network = timm.create_model(recipe.name, pretrained=False, in_chans=inputs)
    if not hasattr(network, "forward_intermediates"):
        raise ConfigError(f"timm's {recipe.name} gives no intermediate maps; name another network.")
    return network


def _chosen(network: Any, recipe: TimmBackbone) -> int:
    """The number of the recipe's map, checked against the maps that timm lists."""
    known = [(entry["num_chs"], entry["reduction"]) for entry in network.feature_info]
    stage = len(known) - 1 if recipe.stage is None else recipe.stage
    if stage >= len(known):
        raise ConfigError(f"timm's {recipe.name} has maps 0 to {len(known) - 1}; there is no stage {stage}.")
    channels, stride = known[stage]
    if (channels, stride) != (recipe.channels, recipe.stride):
        raise ConfigError(
            f"timm's {recipe.name} has {channels} channels and stride {stride} at stage {stage}, the recipe says "
            f"{recipe.channels} and {recipe.stride}; correct the recipe."
        )
    return stage
