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


class PlaceLossSection(Part):
    """A loss of pictures with the places that they show; a kind adds its constants."""

    package = "geoloc.losses.places"
    words = "{kind}"
    weight: PositiveFloat = Field(1.0, description="of this loss in the sum of all")

    def build(self, dim: int, places: int) -> Any:
        """The loss, a `geoloc.losses.places.place_loss.PlaceLoss`, for `places` of training and embeddings of `dim`."""
        return self.network(self, dim, places)


PlaceLoss = Annotated[SerializeAsAny[PlaceLossSection], chosen(PlaceLossSection)]
PairLoss = Annotated[SerializeAsAny[PairLossSection], chosen(PairLossSection)]
Triplet = Annotated[SerializeAsAny[PairLossSection], named(PairLossSection, "triplet")]


class TwoViews(Section):
    """Every pair is seen twice, with augmentations of their own; a loss of pairs for each of three relations."""

    cross: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight of photo against tile, means of both"
    )
    references: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of tile against tile")
    queries: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of photo against photo")


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
    two_views: TwoViews | None = Field(
        None, description="every pair seen twice, with losses between the two (the multi-term loss of map25d)"
    )
    places: tuple[PlaceLoss, ...] | None = Field(
        None,
        description="losses of places, added by their weights, instead of a loss of pairs: training is by place_id",
    )

    @model_validator(mode="after")
    def _one_pair_loss(self) -> LossRecipe:
        if self.triplet is not None and self.pair_loss is not None:
            raise ValueError("triplet and pair_loss both replace InfoNCE; give one of them")
        if self.places is not None and (self.triplet is not None or self.pair_loss is not None):
            raise ValueError("losses of places take the place of a loss of pairs; give the one or the other")
        if self.two_views is not None and (self.places is not None or self.heading is not None):
            raise ValueError("two_views is for pairs of known heading; leave places and heading out")
        if self.two_views is not None and (self.aerial_weight > 0 or self.guidance_weight is not None):
            raise ValueError("two_views takes the place of aerial_weight (give 0) and of guidance_weight")
        if self.places == ():
            raise ValueError("places names no loss; give one or leave it out")
        return self


class CloudAugmentation(Section):
    """What varies between two uses of the same point cloud, beside the pose that it shares with its picture."""

    jitter_m: Annotated[float, Field(ge=0)] = Field(
        1.0, description="standard deviation of every coordinate, metres"
    )
    clip_m: Annotated[float, Field(ge=0)] = Field(2.0, description="largest jitter of a coordinate, metres")
    drop: tuple[Share, Share] = Field(
        (0.01, 0.1), description="smallest and largest share of points left out"
    )

    @model_validator(mode="after")
    def _share_fits(self) -> CloudAugmentation:
        if not self.drop[0] <= self.drop[1] < 1:
            raise ValueError(f"drop is {list(self.drop)}; give smallest before largest, below 1")
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
    roll_apart_deg: PositiveFloat | None = Field(
        None, description="largest turn of the panorama alone, beside the turn of both views"
    )
    erasing: Share | None = Field(None, description="share of the panoramas that lose a random rectangle")
    cloud: CloudAugmentation | None = Field(None, description="changes of the tiles' point clouds")
    whole: Share | None = Field(
        None, description="share of the panoramas that keep their whole circle all the same"
    )
    rows: Share | None = Field(
        None,
        description="smallest share of the rows that a limited view keeps, at a random height: a lens sees less of the "
        "height than a panorama",
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> AugmentationRecipe:
        if self.fov_deg is not None and not 1 <= self.fov_deg[0] <= self.fov_deg[1] <= 360:
            raise ValueError(
                f"fov_deg is {list(self.fov_deg)}; give smallest before largest, within 1 to 360"
            )
        if self.whole is not None and self.fov_deg is None:
            raise ValueError("whole is the share that fov_deg leaves alone; give fov_deg too")
        if self.rows is not None and self.fov_deg is None:
            raise ValueError("rows are those of the views that fov_deg limits; give fov_deg too")
        if self.centre_crop is not None and self.centre_crop[0] == 0:
            raise ValueError("centre_crop keeps nothing of the tile; give a share above 0")
        return self


class OptimizerRecipe(Section):
    """Adam or SGD as the papers had it; AdamW with PyTorch's constants where a recipe names none."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: Share | None = Field(None, description="of sgd, with Nesterov's correction; 0.9 by default")
    backbone_rate: PositiveFloat | None = Field(
        None, description="learning rate of the backbones, times learning_rate, where they start from weights"
    )


class Sharpness(Section):
    """Sharpness-aware minimisation (SAM; adaptive: ASAM) over the optimizer: two passes a step."""

    rho: PositiveFloat = Field(2.5, description="radius in which the loss is to be low")
    adaptive: bool = Field(True, description="the radius grows with the size of each weight (ASAM)")


class PlaceSampling(Section):
    """Batches of places: each gives its tile and some photos (PK sampling); `batch_size` counts places."""

    drone: Annotated[int, Field(ge=0)] = Field(1, description="drone photos of a place in a batch")
    street: Annotated[int, Field(ge=0)] = Field(0, description="street photos of a place in a batch")
    turn_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        90.0, description="tiles are turned by up to this angle, to either side"
    )
    shift: Share = Field(0.04, description="pictures are shifted by up to this share of their side")

    @property
    def photos(self) -> dict[str, int]:
        """Photos of a place in a batch, by the views that are wanted."""
        return {view: count for view, count in (("drone", self.drone), ("street", self.street)) if count}

    @model_validator(mode="after")
    def _some_photos(self) -> PlaceSampling:
        if not self.photos:
            raise ValueError("places have no photos in a batch; give drone or street")
        return self


class HardNegatives(Section):
    """Batches of pairs that are hard to tell apart, as in Sample4Geo (ICCV 2023, section 3.3).

    A batch is filled from random pairs, each followed by some of its candidates: the nearest ones, and as many of the
    others at random. Candidates are near on the ground, and from the first mining on alike to the model.
    """

    candidates: PositiveInt = Field(128, description="pairs that each pair may bring into its batch")
    chosen: Annotated[int, Field(ge=2)] = Field(
        64, description="how many it brings at most, half of them the nearest; never more than half a batch"
    )
    mine_every: PositiveInt = Field(
        4, description="of the sampler similarity: passes over the pairs from one mining to the next"
    )

    @model_validator(mode="after")
    def _enough_candidates(self) -> HardNegatives:
        if self.chosen > self.candidates:
            raise ValueError(
                f"chosen is {self.chosen}, more than the {self.candidates} candidates; give fewer"
            )
        return self


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
    largest_gradient: PositiveFloat | None = Field(None, description="norm at which gradients are clipped")
    warm_up: Share = Field(0.1, description="share of the steps with a rising learning rate")
    negative_distance_m: Annotated[float, Field(ge=0)] = Field(
        12.0, description="cameras nearer than this are not negatives of each other"
    )
    sampler: Literal["random", "neighbours", "similarity"] = Field(
        "random",
        description="neighbours: batches of places near each other, the harder negatives; similarity: these first, "
        "then batches of places that the model confuses, mined again and again",
    )
    hard_negatives: HardNegatives | None = Field(
        None, description="of the samplers neighbours and similarity, where not by default"
    )
    bfloat16: bool = Field(
        True,
        description="convolutions in bfloat16 where the device has instructions for it; all else in float32",
    )
    chunk: PositiveInt | None = Field(
        None,
        description="views that go through the network at once, for batches beyond memory: the gradient is that of the "
        "whole batch, for one more forward pass (gradient caching)",
    )
    weight_average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the weights, which then becomes the model (EMA)"
    )
    layer_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="factor of the learning rate from a backbone's layer to the one before it, nearer the picture",
    )
    localisation_rate: PositiveFloat | None = Field(
        None, description="learning rate of a learned view's localisation networks, times learning_rate"
    )
    augmentation: AugmentationRecipe = AugmentationRecipe()
    places: PlaceSampling | None = Field(None, description="what a batch takes of a place, for loss.places")
    optimizer: OptimizerRecipe | None = None
    sharpness: Sharpness | None = Field(
        None, description="minimise the sharpness too (SAM), at twice the cost of a step"
    )
    batch_norm: Literal["workers"] | None = Field(
        None,
        description="workers: each worker normalises its share of a batch alone, which saves messages; else batch "
        "norms see the whole batch, and any number of workers learns the same",
    )
    schedule: Literal["constant"] | None = Field(
        None, description="constant: no warm-up, no decay; else cosine up and down"
    )
    drops: tuple[tuple[Share, PositiveFloat], ...] | None = Field(
        None,
        description="of a constant schedule: (share of the run, factor of the learning rate from there on)",
    )

    @model_validator(mode="after")
    def _sampler_fits(self) -> TrainingRecipe:
        if self.sampler != "random" and self.places is not None:
            raise ValueError(f"sampler {self.sampler} is for pairs; batches of places are drawn at random")
        if self.sampler == "random" and self.hard_negatives is not None:
            raise ValueError("hard_negatives need the sampler neighbours or similarity (got random)")
        if self.chunk is not None and self.places is not None:
            raise ValueError("chunk is for pairs; give fewer places in a batch")
        return self
