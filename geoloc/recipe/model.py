"""The sections of a model recipe, and what a backbone and an aggregation must answer about themselves.

Frozen data only. Backbones and aggregations lie with their networks, one module each (`geoloc.models.backbones`,
`geoloc.models.aggregation`). A part that a recipe does not name is None and stays out of what is written, so that
recipes of before a part existed keep their text and their fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, SerializeAsAny, Tag, model_validator

from geoloc.recipe.registry import Part, PositiveFloat, PositiveInt, Section, chosen


def _kind_or(default: str) -> Discriminator:
    """Tells tagged sections apart by `kind`; without it the section is the `default` one."""

    def kind(value: Any) -> str:
        found = value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default)
        return str(found)

    return Discriminator(kind)


class ViewSection(Section):
    """A view transform; the defaults are those of a transform to an image of `height_px` x `width_px`."""

    learned: ClassVar[bool] = False
    """Whether training changes the transform."""
    azimuth_columns: ClassVar[bool] = False
    """Whether the output's columns are exactly the tile's azimuths, so that a turned tile rolls the output."""
    size_keys: ClassVar[tuple[str, str]] = ("view height_px", "view width_px")
    """Keys of a recipe that give the output's height and width, for error sentences."""
    title: ClassVar[str]
    """How the transform is called in tables."""

    if TYPE_CHECKING:
        kind: str
        height_px: int
        width_px: int

    @property
    def starts_polar(self) -> bool:
        """Whether the output is a polar image before anything is learned."""
        return self.azimuth_columns

    def output_px(self, tile_px: int) -> tuple[int, int]:
        """Height and width of the output for a tile of `tile_px` x `tile_px`."""
        return self.height_px, self.width_px

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        return self.title


class PolarView(ViewSection):
    """Aerial tile to polar image; `radial_power` 1 spaces the rows evenly, above 1 densely near the centre."""

    title = "polar image"
    azimuth_columns = True
    kind: Literal["polar"] = "polar"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    radial_power: PositiveFloat = 1.0
    sampling: Literal["paper"] | None = Field(
        None, description="paper: the published formula to the letter; else samples in the middle of pixels"
    )

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        power = "" if self.radial_power == 1 else f", radius to the power {self.radial_power:g}"
        return self.title + (" (published formula)" if self.sampling == "paper" else "") + power


class SquareView(ViewSection):
    """The aerial tile as it is, north up: no transform."""

    title = "no transform"
    size_keys = ("tile_px", "tile_px")
    kind: Literal["none"] = "none"

    def output_px(self, tile_px: int) -> tuple[int, int]:
        """The tile's own size."""
        return tile_px, tile_px


class AffineView(ViewSection):
    """Spatial transformer with one affine map, learned from the identity."""

    title = "affine transformer"
    learned = True
    kind: Literal["affine"] = "affine"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class ComposedView(ViewSection):
    """Three affine transformers with residual blocks between them (3 to 8 channels and back)."""

    title = "composed transformer"
    learned = True
    kind: Literal["composed"] = "composed"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class SplineView(ViewSection):
    """Spatial transformer with a thin plate spline over a regular grid of control points."""

    title = "thin plate spline"
    learned = True
    kind: Literal["tps"] = "tps"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    rows: Annotated[int, Field(ge=2)] = 6
    columns: Annotated[int, Field(ge=2)] = 10
    span: PositiveFloat = Field(0.9, description="control points lie in -span to span of the output")
    start: Literal["identity", "polar"] = Field("identity", description="map before anything is learned")

    @property
    def starts_polar(self) -> bool:
        """Whether the output is a polar image before anything is learned."""
        return self.start == "polar"

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        return f"{self.title} from the {'polar image' if self.starts_polar else self.start}"


VIEWS: tuple[type[ViewSection], ...] = (SquareView, PolarView, AffineView, ComposedView, SplineView)
View = Annotated[
    Annotated[PolarView, Tag("polar")]
    | Annotated[SquareView, Tag("none")]
    | Annotated[AffineView, Tag("affine")]
    | Annotated[ComposedView, Tag("composed")]
    | Annotated[SplineView, Tag("tps")],
    _kind_or("polar"),
]


class BackboneSection(Part):
    """A backbone; a kind adds its fields, `channels` and `stride`, and changes what else differs."""

    package = "geoloc.models.backbones"
    injects_scales: ClassVar[bool] = False
    """Whether orientation maps can enter at every scale."""

    if TYPE_CHECKING:
        kind: str

        @property
        def channels(self) -> int:
            """Channels of the feature map."""

        @property
        def stride(self) -> int:
            """Pixels of the input per pixel of the feature map."""

    @property
    def wraps(self) -> bool:
        """Whether an input rolled by whole strides gives a feature map rolled by whole columns, exactly."""
        return False

    def build(self, orientation: Orientation | None) -> Any:
        """The network, a `geoloc.models.backbones.network.Backbone` with room for the orientation maps."""
        return self.network(self, orientation)

    def check_size(self, key: str, size_px: int) -> None:
        """Raise `ValueError` where a side of an input, which `key` of the recipe gives, does not suit the network."""
        if size_px < self.stride:
            raise ValueError(f"{key} is {size_px}, smaller than the backbone's stride {self.stride}")

    def published_weights(self) -> tuple[Any, str] | None:
        """State dict that training starts from, and the file it comes from; None: from random weights."""
        return None


class AggregationSection(Part):
    """An aggregation; the defaults are those of a head that pools the whole map and keeps its channels."""

    package = "geoloc.models.aggregation"
    keeps_azimuth: ClassVar[bool] = False
    """Whether the output's columns are shares of the width."""

    @property
    def output_columns(self) -> int:
        """Columns of the output."""
        return 1

    def output_channels(self, channels: int) -> int:
        """Channels of the output for a feature map of `channels`."""
        return channels

    def build(self, channels: int, size: tuple[int, int]) -> Any:
        """The head (nn.Module): feature map float[B, channels, *size] to float[B, output channels, columns]."""
        return self.network(self, channels, size)


Backbone = Annotated[SerializeAsAny[BackboneSection], chosen(BackboneSection, "plain_cnn")]
Aggregation = Annotated[SerializeAsAny[AggregationSection], chosen(AggregationSection)]


class Orientation(Section):
    """Orientation maps given to the network (OriCNN): at its input (Scheme I) or at every scale (Scheme II)."""

    scheme: Literal["input", "scales"] = "input"
    sampling: Literal["centred", "paper"] = Field(
        "centred", description="paper: ends of the yaw range on the first and last column, as published"
    )


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
