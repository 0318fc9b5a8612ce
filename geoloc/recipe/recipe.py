"""Recipes: everything that defines a model and its training, as frozen data read from YAML.

A recipe is named (`geoloc`, a file of `geoloc/recipe/built_in/`) or a URI of a YAML file. Unknown keys are refused:
a misspelt option must not silently mean the default. `base: NAME` starts from another recipe and changes keys of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from geoloc.core import storage
from geoloc.core.errors import ConfigError, GeolocError
from geoloc.recipe.model import (
    Aggregation,
    AugmentationAtTest,
    Backbone,
    BackboneSection,
    Branches,
    CloudBranch,
    HashHead,
    ModelInputs,
    Orientation,
    PixelRange,
    Projection,
    View,
)
from geoloc.recipe.registry import Part, Section, registered
from geoloc.recipe.training import LossRecipe, TrainingRecipe

_SMALLEST_LOCALISED_PX = 64  # four poolings of the localisation network leave something of it
_LONGEST_CHAIN = 8  # of recipes that start from each other


class ModelRecipe(ModelInputs):
    """What the network sees and how it is built."""

    pixels: PixelRange | None = Field(None, description="range of the pixels; (x - 0.45) / 0.25 by default")
    view: View = Field(default={"kind": "polar"}, validate_default=True)
    backbone: Backbone = Field(default={"kind": "plain_cnn"}, validate_default=True)
    aerial_backbone: Backbone | None = Field(
        None, description="backbone of aerial views where it is another than that of photos"
    )
    cloud: CloudBranch | None = Field(
        None, description="point clouds of the tiles, and how they are joined to their pictures"
    )
    orientation: Orientation | None = None
    aggregation: Aggregation = Field(default={"kind": "column_attention"}, validate_default=True)
    projection: Projection | None = None
    branches: Branches | None = None
    shared_weights: bool = Field(True, description="one backbone for all branches")
    hash: HashHead = HashHead()
    test_time: AugmentationAtTest | None = Field(
        None, description="mirrored and resized pictures that are embedded beside each picture after training"
    )

    @property
    def backbone_of_tiles(self) -> BackboneSection:
        """Backbone of the aerial views."""
        return self.aerial_backbone or self.backbone

    @property
    def columns(self) -> int:
        """Azimuth columns of the embedding; 1 where the aggregation does not keep the azimuth."""
        return self.aggregation.output_columns

    @property
    def aggregated_channels(self) -> int:
        """Channels of the aggregation's output, before a projection."""
        return self.aggregation.output_channels(self.backbone.channels)

    @property
    def embedding_dim(self) -> int:
        """Length of the float embedding."""
        return self.columns * (self.projection.channels if self.projection else self.aggregated_channels)

    @property
    def aerial_px(self) -> tuple[int, int]:
        """Height and width of what the aerial backbone sees, after the view transform."""
        return self.view.output_px(self.tile_px)

    @property
    def map_turns_by_rolling(self) -> bool:
        """Whether a picture rolled by whole strides gives a feature map rolled by whole columns, exactly."""
        wraps = self.backbone.wraps and self.backbone_of_tiles.wraps
        return wraps and self.orientation is None

    @property
    def turns_by_rolling(self) -> bool:
        """Whether a picture rolled by whole columns gives an embedding rolled by whole columns, exactly."""
        return self.map_turns_by_rolling and self.aggregation.keeps_azimuth

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelRecipe:
        self._check_strides()
        if self.aggregation.keeps_azimuth:
            self._check_columns()
        if self.hash.layout == "columns":
            for bits in (self.hash.bits, *self.hash.prefixes):
                if bits % self.columns:
                    raise ValueError(
                        f"{bits} bits do not divide among the embedding's {self.columns} columns"
                    )
        low, high = self.elevation_deg
        if not -90 <= low < high <= 90:
            raise ValueError(
                f"elevation_deg is ({low:g}, {high:g}); give lowest before highest, within -90 to 90"
            )
        return self

    @model_validator(mode="after")
    def _transformer_has_room(self) -> ModelRecipe:
        if self.view.learned and self.tile_px < _SMALLEST_LOCALISED_PX:
            raise ValueError(
                f"tile_px is {self.tile_px}; a view of kind {self.view.kind} needs {_SMALLEST_LOCALISED_PX} or more"
            )
        return self

    @model_validator(mode="after")
    def _orientation_fits(self) -> ModelRecipe:
        if self.orientation is None:
            return self
        if self.view.learned:
            raise ValueError(
                f"orientation maps need a view of kind none or polar (got {self.view.kind!r}): a learned transform "
                "moves the picture under them"
            )
        if self.orientation.scheme == "scales" and not self.backbone.injects_scales:
            raise ValueError(
                "orientation at all scales needs the backbone plain_cnn or oricnn; use scheme input"
            )
        return self

    @model_validator(mode="after")
    def _branches_fit(self) -> ModelRecipe:
        if self.aerial_backbone is not None:
            if self.shared_weights or self.orientation is not None:
                raise ValueError(
                    "aerial_backbone needs shared_weights: false and no orientation maps: the branches differ"
                )
            if self.aerial_backbone.channels != self.backbone.channels:
                raise ValueError(
                    f"aerial_backbone gives {self.aerial_backbone.channels} channels, backbone "
                    f"{self.backbone.channels}; the heads need the same number"
                )
        if self.cloud is not None:
            self._check_cloud(self.cloud)
        return self

    @model_validator(mode="after")
    def _test_time_fits(self) -> ModelRecipe:
        if self.test_time is None:
            return self
        if not self.test_time.words:
            raise ValueError("test_time neither mirrors nor resizes; leave it out, or give flip or scales")
        if self.cloud is not None or self.orientation is not None:
            raise ValueError(
                "test_time changes pictures alone, and this model also sees "
                f"{'point clouds' if self.cloud is not None else 'orientation maps'}, which would no longer belong to "
                "them; leave it out"
            )
        if self.aggregation.keeps_azimuth:
            raise ValueError(
                f"test_time {self.test_time.words} cannot be had with the aggregation {self.aggregation.kind}: its "
                f"{self.columns} columns are azimuths, and those of a mirrored or resized picture are others; leave it "
                "out, or pool the whole map (gap, max, avg_max, gem)"
            )
        if self.test_time.resizes:
            self._check_scales(self.test_time)
        return self

    def _check_scales(self, test_time: AugmentationAtTest) -> None:
        fixed = [
            part.kind
            for part in (self.backbone, self.backbone_of_tiles, self.aggregation)
            if not part.any_size
        ]
        if fixed:
            raise ValueError(
                f"test_time has scales, and {fixed[0]} takes pictures of one size alone; leave scales out"
            )
        for scale in test_time.scales:
            at = f"at scale {scale:g} the"
            for key, side in zip(("panorama_px height", "panorama_px width"), self.panorama_px, strict=True):
                self.backbone.check_size(f"{at} {key}", test_time.resized_px(side, scale))
            for key, side in zip(self.view.size_keys, self.aerial_px, strict=True):
                self.backbone_of_tiles.check_size(f"{at} {key}", test_time.resized_px(side, scale))

    def _check_cloud(self, cloud: CloudBranch) -> None:
        if self.orientation is not None:
            raise ValueError("a model with point clouds has no orientation maps; leave one of them out")
        if cloud.fusion.places_points and not self.view.places_points:
            raise ValueError(
                f"the fusion {cloud.fusion.kind} needs a view that places points, such as none or polar (got "
                f"{self.view.kind!r})"
            )

    def _check_strides(self) -> None:
        for key, size in zip(("panorama_px height", "panorama_px width"), self.panorama_px, strict=True):
            self.backbone.check_size(key, size)
        for key, size in zip(self.view.size_keys, self.aerial_px, strict=True):
            self.backbone_of_tiles.check_size(key, size)

    def _check_columns(self) -> None:
        width, stride = self.aerial_px[1], self.backbone_of_tiles.stride
        if self.panorama_px[1] != width:
            raise ValueError(
                f"panorama_px width is {self.panorama_px[1]} but view width_px is {width}; make them equal"
            )
        if -(-width // stride) % self.columns:
            raise ValueError(
                f"{self.columns} columns do not divide the feature map's width {-(-width // stride)}"
            )


class Recipe(Section):
    """A model and its training, complete."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    seed: int = 0
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    loss: LossRecipe = LossRecipe()
    training: TrainingRecipe = TrainingRecipe()

    @model_validator(mode="after")
    def _losses_fit_the_model(self) -> Recipe:
        if self.loss.guidance_weight is not None and not self.model.view.learned:
            raise ValueError(
                f"loss.guidance_weight needs a learned view such as affine or tps (got {self.model.view.kind!r})"
            )
        if self.training.localisation_rate is not None and not self.model.view.learned:
            raise ValueError(
                f"training.localisation_rate needs a learned view such as affine or tps (got {self.model.view.kind!r})"
            )
        if (self.training.places is None) != (self.loss.places is None):
            raise ValueError(
                "loss.places and training.places belong together: the losses, and what a batch has of a place"
            )
        if self.loss.places is not None and self.model.orientation is not None:
            raise ValueError("training by places knows no headings, which orientation maps need")
        if self.model.cloud is not None and (self.loss.aerial_weight > 0 or self.loss.places is not None):
            raise ValueError(
                "a model with point clouds has no drone photos: give loss.aerial_weight 0 and no losses of places"
            )
        if self.loss.heading == "unknown" and self.model.columns == 1:
            raise ValueError("loss.heading unknown needs an aggregation that keeps the azimuth's columns")
        return self

    @classmethod
    def load(cls, name_or_uri: str) -> Recipe:
        """A built-in recipe by name, or the recipe in the YAML file at a URI.

        Raises `ConfigError` naming the key, the file and the near match for anything that does not fit.
        """
        built_in = name_or_uri in built_in_recipes()
        where = f"built-in recipe {name_or_uri!r}" if built_in else repr(name_or_uri)
        return cls.from_yaml(_text_of(name_or_uri), where=where, beside=None if built_in else name_or_uri)

    @classmethod
    def from_yaml(cls, text: str, *, where: str = "the recipe", beside: str | None = None) -> Recipe:
        """Read a recipe from YAML text; `where` names its origin in errors.

        A relative path in `base` is looked up beside the file that names it, `beside` for this text.
        """
        data = _with_base(_keys_and_values(text, where), where, beside)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, where)) from error

    def with_overrides(self, **training: Any) -> Recipe:
        """The recipe with other values in `training` (steps, batch_size, ...); `ConfigError` if they do not fit."""
        return self._changed("training", training)

    def with_test_time(self, **test_time: Any) -> Recipe:
        """The recipe with these values in `model.test_time` (flip, scales); `ConfigError` if they do not fit."""
        return self._changed("model", {"test_time": test_time})

    def _changed(self, section: str, values: Mapping[str, Any]) -> Recipe:
        data = self.model_dump(mode="json")
        data[section] |= {key: value for key, value in values.items() if value is not None}
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, f"recipe {self.name!r} with overrides")) from error

    def to_yaml(self) -> str:
        """The recipe as YAML with every value written out; `from_yaml` gives the same recipe back.

        Parts that the recipe does not have are left out, so that a new kind of part changes no old recipe.
        """
        return yaml.safe_dump(self.written(), sort_keys=False, default_flow_style=None)

    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical content: equal for recipes that mean the same."""
        canonical = json.dumps(self.written(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def written(self) -> dict[str, Any]:
        """The recipe as nested JSON-able values, without the parts that it does not have."""
        return self.model_dump(mode="json", exclude_none=True)


def built_in_recipes() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    folder = resources.files("geoloc.recipe") / "built_in"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def _keys_and_values(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML: {detail}.") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} holds {type(data).__name__}, not keys and values; see geoloc/recipe/built_in/geoloc.yaml."
        )
    return data


def _with_base(data: dict[str, Any], where: str, beside: str | None) -> dict[str, Any]:
    """The keys and values of the recipes that this recipe starts from, overlaid by its keys."""
    chain = [data]
    while "base" in chain[-1]:
        name = str(chain[-1]["base"])
        if len(chain) > _LONGEST_CHAIN:
            raise ConfigError(
                f"{where} starts from {name!r} in a circle, or over more than {_LONGEST_CHAIN}."
            )
        if name.endswith((".yaml", ".yml")):
            folder, slash, _ = (beside or "").rpartition("/")
            name = beside = name if "://" in name or name.startswith("/") else f"{folder}{slash}{name}"
        chain.append(_keys_and_values(_text_of(name), f"base recipe {name!r} of {where}"))
    merged: dict[str, Any] = {}
    for layer in reversed(chain):
        own = {key: value for key, value in layer.items() if key != "base"}
        merged = _merged({key: value for key, value in merged.items() if key != "name"}, own)
    return merged


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`, section by section; a section of another kind replaces the base's."""
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and value.get("kind", below.get("kind")) == below.get("kind")
        ):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _text_of(name_or_uri: str) -> str:
    """Text of a built-in recipe or of the YAML file at a URI; `ConfigError` for neither."""
    if name_or_uri in built_in_recipes():
        built_in = resources.files("geoloc.recipe") / "built_in" / f"{name_or_uri}.yaml"
        return built_in.read_text(encoding="utf-8")
    if not name_or_uri.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"There is no recipe {name_or_uri!r}{_near(name_or_uri, built_in_recipes())}; built in are: "
            f"{', '.join(built_in_recipes())}. Or give the path of a .yaml file."
        )
    try:
        return storage.read_text(name_or_uri)
    except GeolocError as error:
        raise ConfigError(f"The recipe cannot be read: {error}") from error


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
        inner = [
            found
            for s in sections
            if part in s.model_fields
            for found in _sections_of(s.model_fields[part].annotation)
        ]
        sections = tagged or [s for s in inner if getattr(s, "key", None) == part] or inner
    return sorted({name for section in sections for name in section.model_fields})


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [annotation, *registered(annotation).values()]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]
