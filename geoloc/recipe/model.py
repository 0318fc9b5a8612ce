"""The sections of a model recipe, and what a view, a backbone and an aggregation must answer about themselves.

Frozen data only. Views, backbones and aggregations lie with their networks (`geoloc.models.views`,
`geoloc.models.backbones`, `geoloc.models.aggregation`). A part that a recipe does not name is None and stays out of
what is written, so that recipes of before a part existed keep their text and their fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from geoloc.core.semantics import CLASSES
from geoloc.recipe.registry import Part, PositiveFloat, PositiveInt, Section, chosen


class ViewSection(Part):
    """A view transform; the defaults are those of a transform to an image of `height_px` x `width_px`."""

    package = "geoloc.models.views"
    learned: ClassVar[bool] = False
    """Whether training changes the transform."""
    azimuth_columns: ClassVar[bool] = False
    """Whether the output's columns are exactly the tile's azimuths, so that a turned tile rolls the output."""
    size_keys: ClassVar[tuple[str, str]] = ("view height_px", "view width_px")
    """Keys of a recipe that give the output's height and width, for error sentences."""
    places_points: ClassVar[bool] = False
    """Whether its transform knows where a point of the ground lies in the output (`place_points`)."""
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

    def build(self, side_px: int) -> Any:
        """The transform, a `geoloc.models.views.transform.ViewTransform` of squares of `side_px`."""
        return self.network(self, side_px)

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        return self.title


class BackboneSection(Part):
    """A backbone; a kind adds its fields, `channels` and `stride`, and changes what else differs."""

    package = "geoloc.models.backbones"
    injects_scales: ClassVar[bool] = False
    """Whether orientation maps can enter at every scale."""
    any_size: ClassVar[bool] = False
    """Whether the same weights take pictures of other sizes than the recipe's, which `check_size` accepts."""

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
    any_size: ClassVar[bool] = False
    """Whether the same weights take feature maps of any size."""

    if TYPE_CHECKING:
        kind: str

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


class CloudEncoderSection(Part):
    """An encoder of point clouds; a kind adds its fields and `channels`."""

    package = "geoloc.models.clouds"

    if TYPE_CHECKING:
        kind: str
        channels: int

        def bytes_per_cloud(self, points: int) -> int:
            """Bytes of the largest tensor for a cloud of `points` in float32: the bound of its memory."""

    def build(self, inputs: int) -> Any:
        """The network, a `geoloc.models.clouds.network.CloudNetwork` of points of `inputs` numbers."""
        return self.network(self, inputs)


class FusionSection(Part):
    """How a tile's picture and its points become one embedding; the defaults are those of a fusion of both."""

    package = "geoloc.models.fusions"
    sees_picture: ClassVar[bool] = True
    """Whether the picture counts; else only the points do."""
    places_points: ClassVar[bool] = False
    """Whether it must know where a point lies in the picture that the backbone sees."""

    if TYPE_CHECKING:
        kind: str

    def build(self, sizes: Any) -> Any:
        """The network, a `geoloc.models.fusions.network.Fusion` for `sizes` (`FusionSizes`)."""
        return self.network(self, sizes)


class HashEncoderSection(Part):
    """A hash encoder that is fitted on embeddings after training; a kind adds its constants."""

    package = "geoloc.models.hash_encoders"
    paired: ClassVar[bool] = False
    """Whether it learns from photos and their tiles; else from tiles alone."""

    if TYPE_CHECKING:
        kind: str


View = Annotated[SerializeAsAny[ViewSection], chosen(ViewSection, "polar")]
Backbone = Annotated[SerializeAsAny[BackboneSection], chosen(BackboneSection, "plain_cnn")]
Aggregation = Annotated[SerializeAsAny[AggregationSection], chosen(AggregationSection)]
CloudEncoder = Annotated[SerializeAsAny[CloudEncoderSection], chosen(CloudEncoderSection, "dgcnn")]
FusionOf = Annotated[SerializeAsAny[FusionSection], chosen(FusionSection, "2to3")]
FittedHash = Annotated[SerializeAsAny[HashEncoderSection], chosen(HashEncoderSection)]


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
    norm: Literal["batch"] | None = Field(
        None, description="batch: a batch norm after the map, as in University-1652's classifier block"
    )


class CloudBranch(Section):
    """Points of the tiles, beside their pictures or instead of them: only the views that show tiles have them."""

    encoder: CloudEncoder = Field(default={"kind": "dgcnn"}, validate_default=True)
    fusion: FusionOf = Field(default={"kind": "2to3"}, validate_default=True)
    points: PositiveInt = Field(1024, description="points of a cloud, by farthest-point sampling")
    semantics: bool = Field(True, description="whether the network sees the classes of points, one-hot")

    @property
    def inputs(self) -> int:
        """Numbers of a point that the encoder sees."""
        return 3 + (len(CLASSES) if self.semantics else 0)


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


class ModelInputs(Section):
    """The pictures that a model takes: all that a picture must be known for to be prepared."""

    tile_m: PositiveFloat = Field(
        64.0, description="side of the ground square that the aerial branch sees, metres"
    )
    tile_px: PositiveInt = Field(160, description="side of the aerial input, pixels")
    panorama_px: tuple[PositiveInt, PositiveInt] = Field((64, 256), description="height, width of a panorama")
    elevation_deg: tuple[float, float] = Field(
        (-42.0, 32.0), description="lowest and highest elevation that the panorama rows span"
    )
    street: Literal["whole", "lifted"] | None = Field(
        None,
        description="whole: a street photo fills the panorama's picture, whatever its field of view; lifted: its "
        "pixels go where a level panorama shows them, by field of view, pitch and roll",
    )

    @property
    def metres_per_pixel(self) -> float:
        """Ground sampling distance of the aerial input."""
        return self.tile_m / self.tile_px


class AugmentationAtTest(Section):
    """Pictures that are embedded beside a picture itself; its embedding is the sum of theirs, of length 1 again."""

    flip: bool = Field(False, description="every picture also mirrored, left and right swapped")
    scales: Annotated[tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Field(min_length=1)] = Field(
        (1.0,), description="resized by each of these; 1 is the picture as it is"
    )

    @model_validator(mode="after")
    def _scales_differ(self) -> AugmentationAtTest:
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales has a number twice ({self.words}); give each once")
        return self

    @property
    def resizes(self) -> bool:
        """Whether a picture is also seen at another scale."""
        return self.scales != (1.0,)

    @staticmethod
    def resized_px(side_px: int, scale: float) -> int:
        """The side of a picture of `side_px` at a scale."""
        return round(side_px * scale)

    @property
    def words(self) -> str:
        """What it does in a word that names files, such as `flip-x1-x1.25`; empty where it does nothing."""
        scales = [f"x{scale!r}".removesuffix(".0") for scale in self.scales if self.resizes]
        return "-".join(["flip"] * self.flip + scales)


class PixelRange(Section):
    """What the network sees of a pixel in 0..1: (pixel - mean) / std, channels as they are or reversed."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    order: Literal["rgb", "bgr"] = "rgb"


class HashHead(Section):
    """Linear map from the embedding to `bits` signs; every length in `prefixes` is a usable code.

    `encoder` replaces the linear map in a model whose codes were fitted afterwards.
    """

    bits: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = 512
    prefixes: tuple[PositiveInt, ...] = (64, 128, 256, 512)
    layout: Literal["columns"] | None = Field(
        None,
        description="columns: each azimuth column has its own bits, so that a turned photo has a turned code",
    )
    encoder: FittedHash | None = Field(
        None, description="fitted on embeddings after training; else the head that is trained with the model"
    )

    @model_validator(mode="after")
    def _prefixes_fit(self) -> HashHead:
        for prefix in self.prefixes:
            if prefix % 8 or prefix > self.bits:
                raise ValueError(f"prefix {prefix} must be a multiple of 8 and at most bits ({self.bits})")
        return self
