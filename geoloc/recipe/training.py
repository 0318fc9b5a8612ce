"""The parts of a recipe that say how to train: losses, augmentation, optimizer.

Like `geoloc.recipe.model`: frozen data, and what a recipe does not name is None and stays out of what is written.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from geoloc.recipe.registry import (
    Part,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    chosen,
    named,
)


class PairLossSection(Part):
    """A loss of the matrix of cosines of a batch's pairs; a kind adds its constants."""

    package = "geoloc.losses"
    words = "{kind} loss"

    def build(self) -> Any:
        """The loss, a `geoloc.losses.pair_loss.PairLoss`."""
        return self.network(self)


PairLoss = Annotated[SerializeAsAny[PairLossSection], chosen(PairLossSection)]
Triplet = Annotated[SerializeAsAny[PairLossSection], named(PairLossSection, "triplet")]


class LossRecipe(Section):
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
    triplet: Triplet | None = Field(None, description="soft-margin triplet instead of InfoNCE")
    guidance_weight: PositiveFloat | None = Field(
        None, description="weight of the L1 distance of a learned transform's output from the polar image"
    )
    heading: Literal["unknown"] | None = Field(
        None, description="unknown: photos are compared at their best turn, as they will be searched"
    )
    pair_loss: PairLoss | None = Field(None, description="loss of another kind instead of InfoNCE")

    @model_validator(mode="after")
    def _one_pair_loss(self) -> LossRecipe:
        if self.triplet is not None and self.pair_loss is not None:
            raise ValueError("triplet and pair_loss both replace InfoNCE; give one of them")
        return self


class AugmentationRecipe(Section):
    """What varies between two uses of the same pair."""

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
    turn: Literal["quarters", "any"] | None = Field(
        None,
        description="each view turned on its own, the tile by quarter turns (OriCNN) or by any angle; orientation "
        "maps follow. Without orientation maps the views no longer line up: for loss.heading unknown",
    )
    centre_crop: tuple[Share, Share] | None = Field(
        None,
        description="smallest share of the tile's side that is cut from its middle, and how often (OriCNN)",
    )
    fov_deg: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="panoramas keep a field of view between these two, at a random place"
    )
    whole: Share | None = Field(
        None, description="share of the panoramas that keep their whole circle all the same"
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> AugmentationRecipe:
        if self.fov_deg is not None and not 1 <= self.fov_deg[0] <= self.fov_deg[1] <= 360:
            raise ValueError(
                f"fov_deg is {list(self.fov_deg)}; give smallest before largest, within 1 to 360"
            )
        if self.whole is not None and self.fov_deg is None:
            raise ValueError("whole is the share that fov_deg leaves alone; give fov_deg too")
        if self.centre_crop is not None and self.centre_crop[0] == 0:
            raise ValueError("centre_crop keeps nothing of the tile; give a share above 0")
        return self


class OptimizerRecipe(Section):
    """Adam as the papers had it; AdamW with PyTorch's constants where a recipe names none."""

    kind: Literal["adam", "adamw"] = "adam"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8


class TrainingRecipe(Section):
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
    bfloat16: bool = Field(
        True,
        description="convolutions in bfloat16 where the device has instructions for it; all else in float32",
    )
    augmentation: AugmentationRecipe = AugmentationRecipe()
    optimizer: OptimizerRecipe | None = None
    schedule: Literal["constant"] | None = Field(
        None, description="constant: no warm-up, no decay; else cosine up and down"
    )
