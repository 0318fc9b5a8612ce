"""What a recipe is and what it cost, in figures and a few words: a table must be read without knowing file names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from geoloc.models.card import read_card
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import read_log
from geoloc.recipe.model import ViewSection
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.registry import registered
from geoloc.recipe.training import AugmentationRecipe, LossRecipe


@dataclass(frozen=True)
class CurvePoint:
    """One line of a model's log: step, loss of its batch, percent of the batch whose own tile came first."""

    step: int
    loss: float
    first: float


class ModelFacts(BaseModel):
    """One trained model: how its recipe bridges the views, its size, and what a step of its training took."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    recipe: str
    seed: int
    model_id: str
    bridge: str = Field(description="how the views are bridged")
    what: str = Field(description="the recipe in a few words")
    parameters: int = Field(description="that are trained, of all branches and the hash head")
    embedding_dim: int
    steps: int
    batch_size: int
    pairs_per_s: float | None = Field(description="of all workers, from the log's last line")
    step_core_s: float | None = Field(
        description="CPU seconds of a step in all workers; for logs without them its time, once for each worker"
    )


def read_model_facts(uri: str, recipe: Recipe, name: str, seed: int, workers: int) -> ModelFacts:
    """A finished model directory in words and figures; `recipe` is the one it was trained with."""
    card, training = read_card(uri), recipe.training
    last = (read_log(uri) or [{}])[-1]
    seconds, done = last.get("cpu_seconds", last.get("seconds")), last.get("step")
    return ModelFacts(
        recipe=name,
        seed=seed,
        model_id=card.model_id,
        bridge=recipe.model.view.title,
        what=recipe_summary(recipe),
        parameters=count_parameters(recipe),
        embedding_dim=card.embedding_dim,
        steps=int(done or training.steps),
        batch_size=training.batch_size,
        pairs_per_s=last.get("pairs_per_s"),
        step_core_s=round(seconds * workers / done, 4) if seconds and done else None,
    )


def count_parameters(recipe: Recipe) -> int:
    """Numbers that training a recipe learns, of all branches, what branches share counted once."""
    return sum(parameter.numel() for parameter in GeoLocalizer(recipe.model).parameters())


def read_curve(uri: str) -> list[CurvePoint]:
    """How the loss went, by step."""
    return [
        CurvePoint(int(line["step"]), line["loss"], 100 * line["batch_accuracy"])
        for line in read_log(uri)
        if {"step", "loss", "batch_accuracy"} <= line.keys()
    ]


def recipe_summary(recipe: Recipe) -> str:
    """What tells a recipe from others, such as `polar image, 32 columns of 16, maps at the input`."""
    return ", ".join(
        [
            recipe.model.view.describe(),
            recipe.model.aggregation.describe(),
            *_network(recipe),
            *_loss(recipe.loss),
            *_augmentation(recipe.training.augmentation),
        ]
    )


def _network(recipe: Recipe) -> Iterator[str]:
    model = recipe.model
    if model.orientation is not None:
        yield "maps at the input (I)" if model.orientation.scheme == "input" else "maps at all scales (II)"
    if words := model.backbone.describe():
        yield words
    if model.projection is not None:
        yield f"projected to {model.projection.channels}"
    if model.shared_weights:
        yield "one backbone"


def _loss(loss: LossRecipe) -> Iterator[str]:
    if (part := loss.pair_loss or loss.triplet) is not None:
        yield part.describe()
    if loss.guidance_weight is not None:
        yield f"L1 to the polar image ({loss.guidance_weight:g})"
    if loss.heading == "unknown":
        yield "trained at the best turn"


def _augmentation(augmentation: AugmentationRecipe) -> Iterator[str]:
    if augmentation.turn is not None:
        yield "views turned apart" + (" by quarters" if augmentation.turn == "quarters" else "")
    elif not augmentation.roll:
        yield "trained north up"
    if augmentation.fov_deg is not None:
        whole = f" ({augmentation.whole:.0%} whole)" if augmentation.whole else ""
        yield "trained on views of {:g} to {:g} degrees".format(*augmentation.fov_deg) + whole


def bridge_titles() -> list[str]:
    """How views can be bridged, in the order of the tables: no transform, the polar image, learned transforms."""
    views = sorted(registered(ViewSection).values(), key=lambda view: (view.learned, view.azimuth_columns))
    return [view.title for view in views]


def sorted_by_bridge(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """Models by how they bridge the views, else as they came."""
    titles = bridge_titles()
    return sorted(models, key=lambda model: titles.index(model.bridge))
