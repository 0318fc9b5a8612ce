"""What every backbone's network is, how orientation maps enter it, and how weights are read that it starts from."""

from __future__ import annotations

from typing import Generic, TypeVar

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from geoloc.core import storage
from geoloc.core.errors import CorruptArtifact, ModelMismatch
from geoloc.recipe.model import BackboneSection

MAP_CHANNELS = 2
State = dict[str, torch.Tensor]  # weights by their names
SectionT = TypeVar("SectionT", bound=BackboneSection)


class Backbone(nn.Module, Generic[SectionT]):
    """A network from images to feature maps; `recipe` is the section that built it.

    It is called with images float[B, 3, H, W] and, where the recipe has orientation, with their maps
    float[B, 2, H, W]. It gives float[B, channels, h, w].
    """

    def __init__(self, recipe: SectionT) -> None:
        super().__init__()
        self.recipe = recipe
        self.channels, self.stride = recipe.channels, recipe.stride

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of pictures of a size."""
        return -(-height // self.stride), -(-width // self.stride)

    def start_from(self, state: State, *, where: str) -> None:
        """Take published weights by their own names; `where` is their file. `ModelMismatch` where they do not fit."""
        raise ModelMismatch(
            f"A backbone {self.recipe.kind} starts from no published weights (got {where!r})."
        )


def inject(features: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Features float[B, C, h, w] with the maps float[B, 2, H, W] resized to them as two more channels.

    Sizes are changed by taking the nearest value: a mean over the jump of the yaw from +1 to -1 would be north
    where the picture shows south.
    """
    if maps.shape[-2:] != features.shape[-2:]:
        maps = F.interpolate(maps, features.shape[-2:], mode="nearest-exact")
    return torch.cat([features, maps.to(features.dtype)], dim=1)


def weights_file(uri: str | None) -> tuple[State, str] | None:
    """The state dict in a .safetensors file and its URI; None without a file.

    Raises `ArtifactError` where there is no such file, `CorruptArtifact` where it is another kind of file.
    """
    if uri is None:
        return None
    try:
        return safetensors.torch.load(storage.read_bytes(uri)), uri
    except SafetensorError as error:
        raise CorruptArtifact(f"{uri!r} is no safetensors file: {error}.") from error


def start_from_weights(model: nn.Module) -> None:
    """Start a model's backbones from the published weights that their sections name.

    Raises `ArtifactError` where there is no such file, `ConfigError` where a package is missing,
    `CorruptArtifact` and `ModelMismatch` where the weights do not fit.
    """
    for module in model.modules():
        if isinstance(module, Backbone) and (weights := module.recipe.published_weights()) is not None:
            module.start_from(weights[0], where=weights[1])
