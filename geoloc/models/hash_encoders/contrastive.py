"""One linear map for photos and tiles, each about its own mean, learned from pairs so that bits tell places apart.

The start is iterative quantisation: each block of bits rotates the widest principal components of the tiles. From there
the map is learned by a contrastive loss on the very bits that an index compares. Gradients pass the sign as if it were
a tanh (straight-through estimator: Bengio, Léonard, Courville, arXiv 1308.3432, 2013). The loss is taken at every
prefix, so that a prefix is a code (Kusupati et al., "Matryoshka representation learning", NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder, Side
from geoloc.models.hash_encoders.itq import best_rotation, principal_components
from geoloc.models.hash_encoders.linear import LinearMap
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.registry import PositiveFloat, PositiveInt, register

_SIDES: tuple[Side, ...] = ("ground", "aerial")
_FIRST_LOG_SCALE = 2.5  # similarities count e^2.5 = 12 at first, as with a temperature of 0.08


class Contrastive(HashEncoderSection):
    """ITQ about the means of photos and tiles, then InfoNCE on the bits at every prefix; learns from pairs."""

    paired = True
    kind: Literal["contrastive"] = "contrastive"
    prefixes: tuple[PositiveInt, ...] = Field(
        (64, 128, 256), description="lengths at which a shorter code ends; those beyond the code do not count"
    )
    iterations: PositiveInt = Field(15, description="steps of ITQ in the start")
    steps: int = Field(300, ge=0, description="optimizer steps; 0 keeps the start")
    batch_size: Annotated[int, Field(ge=2)] = 1024
    learning_rate: PositiveFloat = 0.01
    warm_up: PositiveInt = Field(
        20, description="steps in which the learning rate rises; then it falls as a cosine"
    )
    seed: int = 1


@register(Contrastive)
class ContrastiveEncoder(HashEncoder):
    """Two linear maps; a photo's logits also weigh the bits of a tile, as the asymmetric comparison does."""

    nested = True

    def __init__(self, section: Contrastive, bits: int, maps: Mapping[Side, LinearMap]) -> None:
        super().__init__(section, bits, maps["aerial"].weight.shape[1])
        self._maps = dict(maps)

    @classmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        """Raises `InputError` for a sample of fewer than two pairs or with too few tiles for the start."""
        assert isinstance(section, Contrastive)
        photos, tile_of = sample.pairs(section.kind)
        ends = _ends(section.prefixes, bits)
        fitted = section.model_copy(update={"prefixes": ends[:-1]})
        means: dict[Side, Float32Array] = {"ground": photos.mean(axis=0), "aerial": sample.tiles.mean(axis=0)}
        weight = start_weight(fitted, ends, sample.tiles - means["aerial"])
        if not section.steps:
            return cls(fitted, bits, {side: LinearMap(weight, mean) for side, mean in means.items()})
        network = _SharedMap(weight, means, sample.tiles)
        learn(fitted, ends, network, (photos, sample.tiles[tile_of]), sample.columns)
        return cls(fitted, bits, network.maps())

    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits], by the map of the side."""
        return self._maps[side].logits(embeddings)

    def logits_of_parts(self, parts: Float32Array, shown: BoolArray, side: Side) -> Float32Array:
        """Logits float32[..., bits] of embeddings [..., D] whose columns `shown` bool[..., columns] are known."""
        return self._maps[side].logits_of_parts(parts, shown)

    def arrays(self) -> dict[str, AnyArray]:
        """Both maps, such as aerial.weight: float32[bits, D] and aerial.mean: float32[D]."""
        return {name: array for side in _SIDES for name, array in self._maps[side].arrays(f"{side}.").items()}

    @classmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        """aerial.weight: [bits, D], aerial.mean: [D] and so on; `KeyError` or `ValueError` where they do not fit."""
        assert isinstance(section, Contrastive)
        return cls(section, bits, {side: LinearMap.from_arrays(bits, arrays, f"{side}.") for side in _SIDES})


def _ends(prefixes: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """Where codes end, ascending: the prefixes that are shorter than the code, and its length."""
    return tuple(sorted({*(end for end in prefixes if end < bits), bits}))


def start_weight(section: Contrastive, ends: tuple[int, ...], centred: Float32Array) -> Float32Array:
    """Directions float32[bits, D] for centred tiles float32[N, D]; each block of bits rotates the widest components.

    The first block rotates as many components as it has bits, so that it is ITQ. A later block of n bits that ends at
    bit e rotates max(n, e / 2) of them and keeps n directions. So it sees wide components again: narrow ones alone
    give bits that photo and tile do not share.
    """
    components = principal_components(centred)[1]
    blocks = []
    for number, (start, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True)):
        used = min(len(components), max(end - start, end // 2))
        rows = [
            best_rotation(centred @ components[:used].T, section.iterations, section.seed + number + turn)
            for turn in range(-(-(end - start) // used))
        ]
        blocks.append(np.concatenate(rows)[: end - start] @ components[:used])
    return np.concatenate(blocks)


class _SharedMap(nn.Module):
    """Logits of embeddings: one map for both sides, in the tiles' principal components, about a mean per side.

    Narrow components are widened a little, to the square root of their share, so that steps of all of them are alike.
    """

    def __init__(self, weight: Float32Array, means: Mapping[Side, Float32Array], tiles: Float32Array) -> None:
        super().__init__()
        used = min(weight.shape)
        components = principal_components(tiles)[1][:used]
        spread = ((tiles - means["aerial"]) @ components.T).std(axis=0)
        scale = (spread + 0.1 * spread.mean()) ** -0.5
        self._basis = torch.from_numpy((components * scale[:, None]).astype(np.float32))
        self._means = {side: torch.from_numpy(mean) for side, mean in means.items()}
        kept = (weight @ components.T) / scale
        width = np.abs((tiles - means["aerial"]) @ weight.T).mean()
        self.weight = nn.Parameter(torch.from_numpy((kept / width).astype(np.float32)))
        self.shift = nn.ParameterDict({side: nn.Parameter(torch.zeros(used)) for side in _SIDES})

    def forward(self, embeddings: torch.Tensor, side: Side) -> torch.Tensor:
        """Embeddings float[N, D] to logits float[N, bits]."""
        centred = (embeddings - self._means[side]) @ self._basis.T - self.shift[side]
        logits: torch.Tensor = centred @ self.weight.T
        return logits

    def maps(self) -> dict[Side, LinearMap]:
        """The map of each side, over embeddings."""
        weight = (self.weight.detach() @ self._basis).numpy()
        back = torch.linalg.pinv(self._basis)
        means = {side: self._means[side] + back @ self.shift[side].detach() for side in _SIDES}
        return {side: LinearMap(weight, mean.numpy().astype(np.float32)) for side, mean in means.items()}


def learn(
    section: Contrastive,
    ends: tuple[int, ...],
    network: nn.Module,
    pairs: tuple[Float32Array, Float32Array],
    columns: int,
) -> None:
    """Train a network (embeddings, side) -> logits on pairs: photos and tiles float32[N, D], row by row.

    With azimuth `columns` that four divides, both views of a batch are turned by the same quarter circles and may be
    mirrored together. A turned world has the same pairs, so there are eight times as many.
    """
    photos, tiles = (torch.from_numpy(side) for side in pairs)
    rng = np.random.default_rng(section.seed)
    scales = nn.Parameter(torch.full((2, len(ends)), _FIRST_LOG_SCALE))
    parameters = [*network.parameters(), scales]
    optimizer = torch.optim.Adam(parameters, section.learning_rate)
    size = min(section.batch_size, len(photos))
    for step in range(section.steps):
        chosen = torch.from_numpy(rng.choice(len(photos), size, replace=False))
        seen = _turned(photos[chosen], tiles[chosen], columns, rng)
        loss = bit_loss(network(seen[0], "ground"), network(seen[1], "aerial"), ends, scales.exp())
        rate = min(1.0, (step + 1) / section.warm_up) * (1 + math.cos(math.pi * step / section.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = section.learning_rate * rate
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()


def bit_loss(
    ground: torch.Tensor, aerial: torch.Tensor, ends: tuple[int, ...], scales: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE of logits float[N, bits] of pairs, summed over prefixes and both comparisons of an index.

    The first row of `scales` float[2, prefixes] multiplies the similarity of bits, from -1 to 1. The second multiplies
    the cosine of the photo's logits with the tile's signs.
    """
    signs, bits = straight_through(ground), straight_through(aerial)
    losses = []
    for number, end in enumerate(ends):
        tile = bits[:, :end]
        losses.append(_info_nce(signs[:, :end] @ tile.T * scales[0, number] / end))
        reals = F.normalize(ground[:, :end], dim=1)
        losses.append(_info_nce(reals @ tile.T * scales[1, number] / end**0.5))
    return torch.stack(losses).sum()


def _info_nce(similarity: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of finding column i for row i and row i for column i among float[N, N]."""
    own = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def straight_through(logits: torch.Tensor) -> torch.Tensor:
    """Signs float[...] of logits float[...], +1 or -1, with the gradient of their tanh."""
    soft = torch.tanh(logits)
    return soft + (torch.where(logits > 0, 1.0, -1.0) - soft).detach()


def _turned(
    photos: torch.Tensor, tiles: torch.Tensor, columns: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos and tiles float[N, D] in a world that is turned by random quarter circles and perhaps mirrored."""
    if columns % 4:
        return photos, tiles
    turn, mirrored = int(rng.integers(4)) * columns // 4, bool(rng.integers(2))

    def seen(embeddings: torch.Tensor) -> torch.Tensor:
        rolled = embeddings.view(len(embeddings), -1, columns).roll(turn, dims=-1)
        return (rolled.flip(-1) if mirrored else rolled).flatten(1)

    return seen(photos), seen(tiles)
