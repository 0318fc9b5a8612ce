"""From pictures to embeddings and codes, with a trained model, in a plain Python process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from geoloc.core.arrays import BoolArray, Codes, Float32Array, Pixels
from geoloc.core.errors import ConfigError, InputError
from geoloc.geometry.clouds import crop_cloud, sample_cloud
from geoloc.models.batch_norm_folding import fold_batch_norms
from geoloc.models.built_in import model_location
from geoloc.models.geolocalizer import GeoLocalizer, flatten
from geoloc.models.hash_encoders.encoder import HashEncoder, Side, pack_codes
from geoloc.models.hash_encoders.trained import TrainedEncoder
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import AERIAL_VIEWS, input_size, prepare_picture, to_unit
from geoloc.models.store import load_hash_encoder, load_model
from geoloc.recipe.model import AugmentationAtTest
from geoloc.recipe.recipe import Recipe

View = Literal["aerial", "drone", "panorama", "street"]


_MICRO_BATCH = 16  # bounds memory (about 50 MiB); more pictures fall out of a core's cache and are slower


@dataclass(frozen=True)
class Encoded:
    """Embeddings float32[..., D] of length 1, code logits float32[..., bits] and their signs, uint8[..., bits // 8]."""

    embedding: Float32Array
    logits: Float32Array
    code: Codes


class Encoder:
    """A trained model, ready to encode; see `Encoder.open`.

    Where its recipe has `model.test_time`, every embedding is the sum of those of the pictures that this names, of
    length 1 again.
    """

    def __init__(
        self,
        model: GeoLocalizer,
        recipe: Recipe,
        model_id: str,
        *,
        device: str = "cpu",
        hash_encoder: HashEncoder | None = None,
    ) -> None:
        self.recipe = recipe
        self.model_id = model_id
        self.bits = recipe.model.hash.bits
        self.embedding_dim = recipe.model.embedding_dim
        self.device = torch.device(device)
        self._model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.hash_encoder = hash_encoder or TrainedEncoder(model.hash_head, self.bits, self.embedding_dim)

    @classmethod
    def open(cls, model_uri: str, *, device: str = "auto", threads: int | None = None) -> Encoder:
        """Load the model at a URI (`builtin`: that of the package); `device` is `auto`, `cpu` or `cuda`.

        `threads` are the CPU threads of this process.

        Raises `ArtifactError`, `CorruptArtifact` or `ModelMismatch` as `load_model` does.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"device is {device!r} but this machine has no usable GPU; use 'cpu' or 'auto'."
            )
        if threads is not None:
            torch.set_num_threads(threads)
        model_uri = model_location(model_uri)
        model, recipe, card = load_model(model_uri)
        fitted = load_hash_encoder(model_uri, recipe, card)
        return cls(fold_batch_norms(model), recipe, card.model_id, device=device, hash_encoder=fitted)

    def prepare(
        self,
        images: Sequence[Pixels],
        view: View,
        *,
        extent_m: float | Sequence[float | None] | None = None,
        fov_deg: float | Sequence[float] = 360.0,
        heading_deg: float | Sequence[float | None] | None = None,
        pitch_deg: float | Sequence[float | None] | None = None,
        roll_deg: float | Sequence[float | None] | None = None,
    ) -> Pixels:
        """Pictures uint8[H, W, 3] of any size to the model's input uint8[N, h, w, 3].

        `extent_m` (aerial, drone) is the ground covered by the shorter side, None meaning exactly the model's
        field; larger pictures are cut in the middle, smaller than 0.9 of the field raise `ModelMismatch`.
        `fov_deg` and `heading_deg` (panorama, street) are as in the queries table; None is an unknown heading.
        `pitch_deg` below the horizon and clockwise `roll_deg` (street) are those of the lens, None level.
        A drone picture is taken to have its heading at the top.
        """
        count = len(images)
        height, width = input_size(self.recipe.model, view)
        out = np.empty((count, height, width, 3), dtype=np.uint8)
        extents = _spread(extent_m, count, "extent_m")
        fovs = _spread(fov_deg, count, "fov_deg")
        headings = _spread(heading_deg, count, "heading_deg")
        pitches, rolls = _spread(pitch_deg, count, "pitch_deg"), _spread(roll_deg, count, "roll_deg")
        for index, image in enumerate(images):
            out[index] = prepare_picture(
                image,
                self.recipe.model,
                view,
                extent_m=extents[index],
                fov_deg=fovs[index],
                heading_deg=headings[index],
                pitch_deg=pitches[index],
                roll_deg=rolls[index],
            )
        return out

    @property
    def takes_clouds(self) -> bool:
        """Whether the model compares the points of tiles, which `encode` then needs for the view `aerial`."""
        return self.recipe.model.cloud is not None

    def prepare_clouds(self, points: Sequence[Float32Array]) -> Float32Array:
        """Points float32[P, 4] of tiles, (east, north, height, class), to the model's input float32[N, points, 4].

        Each cloud is cut to the model's field and thinned by farthest-point sampling. Raises `InputError` for a cloud
        without a point in the field, `ConfigError` for a model without clouds.
        """
        cloud = self.recipe.model.cloud
        if cloud is None:
            raise ConfigError(f"The model {self.model_id!r} sees no point clouds; give it pictures alone.")
        half_m = self.recipe.model.tile_m / 2
        sampled = [sample_cloud(crop_cloud(each, half_m), cloud.points) for each in points]
        return np.stack(sampled) if sampled else np.zeros((0, cloud.points, 4), np.float32)

    def encode(self, batch: Pixels, view: View, clouds: Float32Array | None = None) -> Encoded:
        """Prepared pictures uint8[N, h, w, 3] to embeddings [N, D] and codes [N, bits // 8].

        `clouds` float32[N, points, 4] are the tiles' points, prepared, for a model that `takes_clouds`.
        Rows do not depend on each other: evaluation statistics, float32, micro-batches. The same batch gives
        the same bits on the same machine; in another batch a row may differ by float32 rounding (1e-6).
        """
        encoded = self.encode_headings(batch, view, 1, clouds)
        return Encoded(encoded.embedding[:, 0], encoded.logits[:, 0], encoded.code[:, 0])

    def encode_headings(
        self, batch: Pixels, view: View, headings: int, clouds: Float32Array | None = None
    ) -> Encoded:
        """Prepared pictures of unknown heading to `headings` candidates each: [N, R, D] and [N, R, bits // 8].

        Candidate r assumes that the middle of the picture (for a drone picture: its top) looks along
        r * 360 / R degrees. Where the feature map turns with the picture (`ModelRecipe.map_turns_by_rolling`),
        candidates that are whole columns of it apart share one pass; else each has a pass of its own.
        Raises `ConfigError` unless R divides the width of the input, or where clouds have more than one heading.
        """
        self._check(batch, view)
        if clouds is not None and headings > 1:
            raise ConfigError(f"Point clouds are encoded north up; give one heading (got {headings}).")
        width = self.recipe.model.panorama_px[1]
        if headings < 1 or width % headings:
            raise ConfigError(
                f"headings is {headings}; give a divisor of the model's {width} columns, such as 32."
            )
        embeddings = np.empty((len(batch), headings, self.embedding_dim), dtype=np.float32)
        for start in range(0, len(batch), _MICRO_BATCH):
            rows = slice(start, start + _MICRO_BATCH)
            points = None if clouds is None else clouds[rows]
            embeddings[rows] = self._candidates(batch[rows], view, headings, points)
        logits = self.hash_encoder.logits(embeddings, side_of(view))
        return Encoded(embeddings, logits, pack_codes(logits))

    def logits_of_parts(self, parts: Float32Array, shown: BoolArray, view: View) -> Float32Array:
        """Code logits float32[..., bits] of embeddings [..., D] of which some columns are zero, as unit vectors.

        `shown` bool[..., columns]: the others. Their signs are the codes (`pack_codes`).
        """
        return self.hash_encoder.logits_of_parts(parts, shown, side_of(view))

    @torch.inference_mode()
    def _candidates(
        self, batch: Pixels, view: View, headings: int, clouds: Float32Array | None
    ) -> Float32Array:
        """Embeddings float32[N, headings, D] of prepared pictures, with what `model.test_time` embeds beside them.

        Candidate r of a mirrored picture is the mirror image of candidate -r of the picture itself.
        """
        images = to_unit(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        augmented = self.recipe.model.test_time or AugmentationAtTest()
        parts = [self._embeddings(images, view, headings, scale, clouds) for scale in augmented.scales]
        if augmented.flip:
            mirrored = images.flip(-1)
            opposite = [-candidate % headings for candidate in range(headings)]
            parts += [
                self._embeddings(mirrored, view, headings, scale, clouds)[:, opposite]
                for scale in augmented.scales
            ]
        whole = parts[0] if len(parts) == 1 else F.normalize(torch.stack(parts).sum(dim=0), dim=-1)
        embedding: Float32Array = whole.cpu().numpy()
        return embedding

    def _embeddings(
        self, images: torch.Tensor, view: View, headings: int, scale: float, clouds: Float32Array | None
    ) -> torch.Tensor:
        """Unit embeddings float32[N, headings, D] of pictures float[N, 3, H, W], as they are but for the scale."""
        recipe = self.recipe.model
        rolls = recipe.map_turns_by_rolling and (view not in AERIAL_VIEWS or recipe.view.azimuth_columns)
        if clouds is not None:
            points = torch.from_numpy(np.ascontiguousarray(clouds)).to(self.device)
            aerial = self._model.convert_view(images)
            features = [self._model.columns(aerial, view, clouds=points)]
        elif rolls and scale == 1:
            features = self._rolled_features(images, view, headings)
        else:
            features = [self._features_at(images, view, turn / headings, scale) for turn in range(headings)]
        return flatten(torch.stack(features, dim=1))

    def _rolled_features(self, images: torch.Tensor, view: View, headings: int) -> list[torch.Tensor]:
        """Features of every candidate from as few passes as there are places between two columns.

        Columns of the embedding where it keeps them, else of the feature map, which is then aggregated anew.
        """
        recipe = self.recipe.model
        if view in AERIAL_VIEWS:
            images = self._model.convert_view(images)
        step_px = images.shape[-1] // headings
        keeps = recipe.turns_by_rolling
        column_px = images.shape[-1] // recipe.columns if keeps else recipe.backbone.stride
        passes = column_px // math.gcd(step_px, column_px)
        rolled: list[torch.Tensor] = [torch.empty(0)] * headings
        for first in range(passes):
            turned = torch.roll(images, first * step_px, dims=-1)
            features = self._model.columns(turned, view) if keeps else self._model.feature_map(turned, view)
            for candidate in range(first, headings, passes):
                moved = torch.roll(features, (candidate - first) * step_px // column_px, dims=-1)
                rolled[candidate] = moved if keeps else self._model.aggregate(moved, view)
        return rolled

    def _features_at(self, images: torch.Tensor, view: View, turn: float, scale: float = 1.0) -> torch.Tensor:
        """Features of pictures that look along `turn` of a circle, brought to north first.

        `scale` resizes what the branch sees, bicubic as in University-1652's baseline.
        """
        if view not in AERIAL_VIEWS:
            rolled = torch.roll(images, round(turn * images.shape[-1]), dims=-1)
            return self._model.columns(_resized(rolled, scale), view)
        pose = None
        if turn:
            # Where the picture's top looks along h, north lies at -h of it.
            heading = torch.full((len(images),), -360.0 * turn, device=images.device)
            pose = Pose(heading_deg=heading)
        return self._model.columns(_resized(self._model.convert_view(images, pose), scale), view)

    def _check(self, batch: Pixels, view: View) -> None:
        height, width = input_size(self.recipe.model, view)
        if batch.dtype != np.uint8 or batch.shape[1:] != (height, width, 3):
            raise InputError(
                f"Pictures of view {view!r} are {batch.dtype}{list(batch.shape)}, the model takes "
                f"uint8[N, {height}, {width}, 3]; call prepare first."
            )


def side_of(view: View) -> Side:
    """The side of a view: drone photos go through the branch of the tiles."""
    return "aerial" if view in AERIAL_VIEWS else "ground"


def _resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Pictures float[B, 3, H, W] at a scale, antialiased where they become smaller."""
    if scale == 1:
        return images
    height, width = (AugmentationAtTest.resized_px(side, scale) for side in images.shape[-2:])
    return F.interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=scale < 1)


def _spread(value: float | Sequence[float | None] | None, count: int, name: str) -> list[float | None]:
    if value is None or isinstance(value, int | float):
        return [value] * count
    if len(value) != count:
        raise InputError(f"{name} has {len(value)} values for {count} pictures; give one each.")
    return list(value)
