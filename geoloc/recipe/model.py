"""The parts that a model recipe can name: view transforms, backbones, orientation, aggregation, hash head.

Frozen data only; `geoloc.models` builds them. A part that a recipe does not name is None and stays out of what is
written, so that recipes of before a part existed keep their text and their fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _kind_or(default: str) -> Discriminator:
    """Tells tagged sections apart by `kind`; without it the section is the `default` one."""

    def kind(value: Any) -> str:
        found = value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default)
        return str(found)

    return Discriminator(kind)


class PolarView(Section):
    """Aerial tile to polar image; `radial_power` 1 spaces the rows evenly, above 1 densely near the centre."""

    kind: Literal["polar"] = "polar"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    radial_power: PositiveFloat = 1.0
    sampling: Literal["paper"] | None = Field(
        None, description="paper: the published formula to the letter; else samples in the middle of pixels"
    )


class SquareView(Section):
    """The aerial tile as it is, north up: no transform."""

    kind: Literal["none"] = "none"


class AffineView(Section):
    """Spatial transformer with one affine map, learned from the identity."""

    kind: Literal["affine"] = "affine"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class ComposedView(Section):
    """Three affine transformers with residual blocks between them (3 to 8 channels and back)."""

    kind: Literal["composed"] = "composed"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class SplineView(Section):
    """Spatial transformer with a thin plate spline over a regular grid of control points."""

    kind: Literal["tps"] = "tps"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    rows: Annotated[int, Field(ge=2)] = 6
    columns: Annotated[int, Field(ge=2)] = 10
    span: PositiveFloat = Field(0.9, description="control points lie in -span to span of the output")
    start: Literal["identity", "polar"] = Field("identity", description="map before anything is learned")


View = Annotated[
    Annotated[PolarView, Tag("polar")]
    | Annotated[SquareView, Tag("none")]
    | Annotated[AffineView, Tag("affine")]
    | Annotated[ComposedView, Tag("composed")]
    | Annotated[SplineView, Tag("tps")],
    _kind_or("polar"),
]


class PlainCnn(Section):
    """Convolutions 3 x 3 with batch norm, `widths[i]` channels at `strides[i]`, then residual blocks."""

    kind: Literal["plain_cnn"] = "plain_cnn"
    widths: tuple[PositiveInt, ...] = (32, 64, 128, 128)
    strides: tuple[PositiveInt, ...] = (2, 2, 2, 1)
    residual_blocks: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _same_length(self) -> PlainCnn:
        if not self.widths or len(self.widths) != len(self.strides):
            raise ValueError(
                f"{len(self.widths)} widths for {len(self.strides)} strides; give one of each per layer"
            )
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.widths[-1]


class OriCnnEncoder(Section):
    """The encoder of OriCNN (CVPR 2019): 4 x 4 convolutions of stride 2; the last maps put together."""

    kind: Literal["oricnn"] = "oricnn"
    widths: tuple[PositiveInt, ...] = (64, 128, 256, 512, 512, 512, 512)
    maps: PositiveInt = Field(3, description="how many of the last maps are resampled to the last one's grid")

    @model_validator(mode="after")
    def _enough_layers(self) -> OriCnnEncoder:
        if self.maps > len(self.widths):
            raise ValueError(f"{self.maps} maps of {len(self.widths)} layers; give at most one map per layer")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map; a rest counts as one more."""
        return int(2 ** len(self.widths))

    @property
    def channels(self) -> int:
        """Channels of the maps together."""
        return sum(self.widths[-self.maps :])


_RESNET = ((64, 4), (128, 8), (256, 16), (512, 32))
_BOTTLENECK = tuple((4 * channels, stride) for channels, stride in _RESNET)
_VGG = ((64, 2), (128, 4), (256, 8), (512, 16), (512, 32))
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


class TorchvisionBackbone(Section):
    """A network of torchvision without its classifier, from nothing or from weights in a file."""

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
        return self

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return _TORCHVISION[self.name][(self.stages or 0) - 1][0]

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map."""
        stride = _TORCHVISION[self.name][(self.stages or 0) - 1][1]
        return stride if self.max_pool else stride // 2


_LITE_STRIDES = (2, 4, 8, 16, 16, 32, 32)
_LITE_CHANNELS = {
    "lite0": (16, 24, 40, 80, 112, 192, 320),
    "lite1": (16, 24, 40, 80, 112, 192, 320),
    "lite2": (16, 24, 48, 88, 120, 208, 352),
}
_LITE_HEAD = 1280


class EfficientNetLite(Section):
    """EfficientNet-Lite: EfficientNet without squeeze and excitation, with ReLU6 (lite0 to lite2)."""

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


class TimmBackbone(Section):
    """A network of timm by its name, from nothing or from weights in a file; timm is asked only when it is built."""

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


Backbone = Annotated[
    Annotated[PlainCnn, Tag("plain_cnn")]
    | Annotated[OriCnnEncoder, Tag("oricnn")]
    | Annotated[TorchvisionBackbone, Tag("torchvision")]
    | Annotated[EfficientNetLite, Tag("efficientnet_lite")]
    | Annotated[TimmBackbone, Tag("timm")],
    _kind_or("plain_cnn"),
]


class Orientation(Section):
    """Orientation maps given to the network (OriCNN): at its input (Scheme I) or at every scale (Scheme II)."""

    scheme: Literal["input", "scales"] = "input"
    sampling: Literal["centred", "paper"] = Field(
        "centred", description="paper: ends of the yaw range on the first and last column, as published"
    )


class HeightMean(Section):
    """Mean over the height of the feature map, one projection for all columns: keeps the azimuth."""

    kind: Literal["height_mean"] = "height_mean"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


class ColumnAttention(Section):
    """Learned weights over the height, per output channel and view (SAFA per column): keeps the azimuth."""

    kind: Literal["column_attention"] = "column_attention"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


class MeanPool(Section):
    """Global average of the feature map."""

    kind: Literal["gap"] = "gap"


class GemPool(Section):
    """Generalised mean: (mean of max(x, eps)^p)^(1 / p), p fixed or learned per branch."""

    kind: Literal["gem"] = "gem"
    p: PositiveFloat = 3.0
    learnt: bool = False
    eps: PositiveFloat = 1e-6


class SafaHeads(Section):
    """SAFA (NeurIPS 2019): per head a learned map of positions, from the mean or maximum over channels."""

    kind: Literal["safa"] = "safa"
    heads: PositiveInt = 8
    pool: Literal["mean", "max"] = "max"


Aggregation = HeightMean | ColumnAttention | MeanPool | GemPool | SafaHeads


class Projection(Section):
    """A linear map of the aggregated channels, the same for all columns."""

    channels: PositiveInt = 512
    shared: bool = Field(False, description="one for all branches")


class Branches(Section):
    """Which branch each view goes through; a branch takes ground views or aerial views, not both."""

    panorama: str = "panorama"
    street: str = "panorama"
    aerial: str = "aerial"
    drone: str = "aerial"

    @model_validator(mode="after")
    def _ground_is_not_aerial(self) -> Branches:
        if both := {self.panorama, self.street} & {self.aerial, self.drone}:
            raise ValueError(
                f"branch {min(both)!r} has ground and aerial views; give them different branches"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every branch once, ground first."""
        return tuple(dict.fromkeys((self.panorama, self.street, self.aerial, self.drone)))


class PixelRange(Section):
    """What the network sees of a pixel in 0..1: (pixel - mean) / std, channels as they are or reversed."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    order: Literal["rgb", "bgr"] = "rgb"


class HashHead(Section):
    """Linear map from the embedding to `bits` signs; every length in `prefixes` is a usable code."""

    bits: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = 512
    prefixes: tuple[PositiveInt, ...] = (64, 128, 256, 512)
    layout: Literal["columns"] | None = Field(
        None,
        description="columns: each azimuth column has its own bits, so that a turned photo has a turned code",
    )

    @model_validator(mode="after")
    def _prefixes_fit(self) -> HashHead:
        for prefix in self.prefixes:
            if prefix % 8 or prefix > self.bits:
                raise ValueError(f"prefix {prefix} must be a multiple of 8 and at most bits ({self.bits})")
        return self
