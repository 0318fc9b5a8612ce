"""Recipes: everything that defines a model and its training, as frozen data read from YAML.

A recipe is named (`geoloc`, a file of `geoloc/recipes/`) or a URI of a YAML file. Unknown keys are refused:
a misspelt option must not silently mean the default.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from importlib import resources
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc import storage
from geoloc.errors import ConfigError, GeolocError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PolarView(_Section):
    """Aerial tile to polar image; `radial_power` 1 spaces the rows evenly, above 1 densely near the centre."""

    kind: Literal["polar"] = "polar"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    radial_power: PositiveFloat = 1.0


class PlainCnn(_Section):
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


class HeightMean(_Section):
    """Mean over the height of the feature map, one projection for all columns: keeps the azimuth."""

    kind: Literal["height_mean"] = "height_mean"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


class ColumnAttention(_Section):
    """Learned weights over the height, per output channel and view (SAFA per column): keeps the azimuth."""

    kind: Literal["column_attention"] = "column_attention"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


class HashHead(_Section):
    """Linear map from the embedding to `bits` signs; every length in `prefixes` is a usable code."""

    bits: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = 512
    prefixes: tuple[PositiveInt, ...] = (64, 128, 256, 512)

    @model_validator(mode="after")
    def _prefixes_fit(self) -> HashHead:
        for prefix in self.prefixes:
            if prefix % 8 or prefix > self.bits:
                raise ValueError(f"prefix {prefix} must be a multiple of 8 and at most bits ({self.bits})")
        return self


class ModelRecipe(_Section):
    """What the network sees and how it is built."""

    tile_m: PositiveFloat = Field(
        64.0, description="side of the ground square that the aerial branch sees, metres"
    )
    tile_px: PositiveInt = Field(160, description="side of the aerial input, pixels")
    panorama_px: tuple[PositiveInt, PositiveInt] = Field((64, 256), description="height, width of a panorama")
    elevation_deg: tuple[float, float] = Field(
        (-42.0, 32.0), description="lowest and highest elevation that the panorama rows span"
    )
    view: PolarView = PolarView()
    backbone: PlainCnn = PlainCnn()
    aggregation: HeightMean | ColumnAttention = Field(default=ColumnAttention(), discriminator="kind")
    shared_weights: bool = Field(True, description="one backbone for both views")
    hash: HashHead = HashHead()

    @property
    def embedding_dim(self) -> int:
        """Length of the float embedding."""
        return self.aggregation.columns * self.aggregation.channels

    @property
    def metres_per_pixel(self) -> float:
        """Ground sampling distance of the aerial input."""
        return self.tile_m / self.tile_px

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelRecipe:
        stride = self.backbone.stride
        for what, size in (
            ("panorama_px height", self.panorama_px[0]),
            ("panorama_px width", self.panorama_px[1]),
            ("view height_px", self.view.height_px),
            ("view width_px", self.view.width_px),
        ):
            if size % stride:
                raise ValueError(f"{what} is {size}, not a multiple of the backbone's stride {stride}")
        if self.panorama_px[1] != self.view.width_px:
            raise ValueError(
                f"panorama_px width is {self.panorama_px[1]} but view width_px is {self.view.width_px}; make them equal"
            )
        if (self.view.width_px // stride) % self.aggregation.columns:
            raise ValueError(
                f"{self.aggregation.columns} columns do not divide the feature map's width "
                f"{self.view.width_px // stride}"
            )
        low, high = self.elevation_deg
        if not -90 <= low < high <= 90:
            raise ValueError(
                f"elevation_deg is ({low:g}, {high:g}); give lowest before highest, within -90 to 90"
            )
        return self


class LossRecipe(_Section):
    """Weights and constants of the losses."""

    temperature: PositiveFloat = Field(0.07, description="start of the learnable InfoNCE temperature")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hashing_weight: Annotated[float, Field(ge=0)] = 0.2
    hashing_temperature: PositiveFloat = Field(0.07, description="InfoNCE temperature of the relaxed codes")
    quantisation_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="pull of the code logits to -1 and +1"
    )
    orthogonality_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="keeps the bits' directions apart"
    )
    aerial_every: PositiveInt = Field(
        4, description="steps from one with the aerial term to the next: it costs half a step"
    )
    aerial_weight: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="weight of aerial against aerial (turned, scaled, shifted, in other light), for drone photos",
    )


class AugmentationRecipe(_Section):
    """What varies between two looks at the same pair."""

    offset_m: Annotated[float, Field(ge=0)] = Field(
        5.0, description="largest distance of camera and tile centre"
    )
    roll: bool = Field(True, description="both views turned by the same random angle")
    flip: bool = Field(True, description="both views mirrored")
    photometric: Share = Field(1.0, description="strength of light and colour changes, each view on its own")
    aerial_scale: PositiveFloat = Field(
        1.25, description="largest factor of scale between aerial and drone look"
    )
    aerial_turn_deg: Annotated[float, Field(ge=0)] = Field(6.0, description="largest turn of the drone look")
    aerial_shift_m: Annotated[float, Field(ge=0)] = Field(8.0, description="largest shift of the drone look")


class TrainingRecipe(_Section):
    """How long and how fast to train."""

    steps: PositiveInt = 500
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="pairs a step, over all workers")
    learning_rate: PositiveFloat = 3e-3
    hash_rate: PositiveFloat = Field(
        0.3,
        description="learning rate of the hash head, times learning_rate: slow, or it overfits the training places",
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_up: Share = Field(0.1, description="share of the steps with a rising learning rate")
    negative_distance_m: Annotated[float, Field(ge=0)] = Field(
        12.0, description="cameras nearer than this are not negatives of each other"
    )
    sampler: Literal["random", "neighbours"] = Field(
        "random", description="neighbours: batches of places near each other, the harder negatives"
    )
    bfloat16: bool = Field(True, description="autocast of convolutions; weights and losses stay float32")
    augmentation: AugmentationRecipe = AugmentationRecipe()


class Recipe(_Section):
    """A model and its training, complete."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    seed: int = 0
    model: ModelRecipe = ModelRecipe()
    loss: LossRecipe = LossRecipe()
    training: TrainingRecipe = TrainingRecipe()

    @classmethod
    def load(cls, name_or_uri: str) -> Recipe:
        """A built-in recipe by name, or the recipe in the YAML file at a URI.

        Raises `ConfigError` naming the key, the file and the near match for anything that does not fit.
        """
        built_in = resources.files("geoloc") / "recipes" / f"{name_or_uri}.yaml"
        if name_or_uri in built_in_recipes():
            return cls.from_yaml(
                built_in.read_text(encoding="utf-8"), where=f"built-in recipe {name_or_uri!r}"
            )
        if not name_or_uri.endswith((".yaml", ".yml")):
            raise ConfigError(
                f"There is no recipe {name_or_uri!r}{_near(name_or_uri, built_in_recipes())}; built in are: "
                f"{', '.join(built_in_recipes())}. Or give the path of a .yaml file."
            )
        try:
            text = storage.read_text(name_or_uri)
        except GeolocError as error:
            raise ConfigError(f"The recipe cannot be read: {error}") from error
        return cls.from_yaml(text, where=repr(name_or_uri))

    @classmethod
    def from_yaml(cls, text: str, *, where: str = "the recipe") -> Recipe:
        """Read a recipe from YAML text; `where` names its origin in errors."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            detail = " ".join(str(error).split())
            raise ConfigError(f"{where} is not YAML: {detail}.") from error
        if not isinstance(data, dict):
            raise ConfigError(
                f"{where} holds {type(data).__name__}, not keys and values; see recipes/geoloc.yaml."
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, where)) from error

    def with_overrides(self, **training: Any) -> Recipe:
        """The recipe with other values in `training` (steps, batch_size, ...); `ConfigError` if they do not fit."""
        data = self.model_dump(mode="json")
        data["training"] |= {key: value for key, value in training.items() if value is not None}
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, f"recipe {self.name!r} with overrides")) from error

    def to_yaml(self) -> str:
        """The recipe as YAML with every value written out; `from_yaml` gives the same recipe back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None)

    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical content: equal for recipes that mean the same."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def built_in_recipes() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    folder = resources.files("geoloc") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def _near(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def _explain(error: ValidationError, where: str) -> str:
    """One sentence for the first problem that pydantic found."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path) or "recipe"
    if first["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        hint = _near(path[-1], known) or f"; known are {', '.join(known)}"
        return f"{where} has the unknown key {key!r}{hint}"
    if first["type"] == "missing":
        return f"{where} lacks the key {key!r}; add it."
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | list) else ""
    return f"{where}: {key}: {message}{shown}."


def _keys_at(path: list[str]) -> list[str]:
    """Keys that the section at `path` knows; a tagged section's path carries its `kind` as one more part."""
    sections: list[type[BaseModel]] = [Recipe]
    for part in path:
        tagged = [s for s in sections if "kind" in s.model_fields and s.model_fields["kind"].default == part]
        sections = tagged or [
            inner
            for s in sections
            if part in s.model_fields
            for inner in _sections_of(s.model_fields[part].annotation)
        ]
    return sorted({name for section in sections for name in section.model_fields})


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]
