"""The source's second stage: an MLP per view on frozen embeddings ("Hashing for Geo-localization", TGRS 2023).

The paper takes it from UCCH (Hu et al., "Unsupervised Contrastive Cross-Modal Hashing", TPAMI 2023). The constants are
those of the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.core.arrays import AnyArray, Float32Array
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder, Side
from geoloc.models.hash_encoders.two_stage_losses import CodeBank, ranking_loss
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.registry import PositiveFloat, PositiveInt, Share, register

_ROWS = 4096  # of a pass: bounds the memory of the hidden layers


class TwoStage(HashEncoderSection):
    """MLPs of three layers, noise-contrastive loss against a memory bank, and a ranking loss; learns from pairs."""

    paired = True
    kind: Literal["two_stage"] = "two_stage"
    hidden: PositiveInt = 8192
    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: PositiveFloat = 1e-3
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    largest_gradient: PositiveFloat = Field(1.0, description="norm at which gradients are clipped")
    alpha: Share = Field(0.7, description="weight of the contrastive loss; the ranking loss has the rest")
    negatives: PositiveInt = Field(4096, description="codes of the memory bank that a pair is compared with")
    temperature: PositiveFloat = 0.9
    bank_momentum: Share = 0.4
    margin: Annotated[float, Field(ge=0)] = 0.2
    shift: Annotated[float, Field(ge=0)] = 0.01
    seed: int = 123


class CodeNetwork(nn.Sequential):
    """Embeddings float[N, D] to tanh of code logits float[N, bits], three linear layers with ReLU between."""

    def __init__(self, embedding_dim: int, hidden: int, bits: int) -> None:
        super().__init__(
            nn.Linear(embedding_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, bits),
            nn.Tanh(),
        )
        self.embedding_dim = embedding_dim


@register(TwoStage)
class TwoStageEncoder(HashEncoder):
    """An MLP for photos and another for tiles; logits are their outputs, before the normalisation of the losses."""

    nested = False

    def __init__(self, section: TwoStage, bits: int, networks: Mapping[Side, CodeNetwork]) -> None:
        super().__init__(section, bits, networks["aerial"].embedding_dim)
        self._networks = {side: network.eval() for side, network in networks.items()}

    @classmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        """Raises `InputError` for a sample of fewer than two pairs: a ranking needs another one."""
        assert isinstance(section, TwoStage)
        photos, tile_of = sample.pairs(section.kind)
        torch.manual_seed(section.seed)
        networks: dict[Side, CodeNetwork] = {
            side: CodeNetwork(photos.shape[1], section.hidden, bits) for side in ("aerial", "ground")
        }
        tiles = torch.from_numpy(sample.tiles[tile_of])
        _train(section, bits, networks, torch.from_numpy(photos), tiles)
        return cls(section, bits, networks)

    @torch.inference_mode()
    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits] in -1 to 1, by the network of the side."""
        flat = torch.from_numpy(np.ascontiguousarray(embeddings)).flatten(0, -2)
        parts = [self._networks[side](rows) for rows in torch.split(flat, _ROWS)]
        logits = torch.cat(parts) if parts else flat.new_zeros((0, self.bits))
        return np.asarray(logits.numpy().reshape(*embeddings.shape[:-1], self.bits))

    def arrays(self) -> dict[str, AnyArray]:
        """The weights of both networks, such as aerial.0.weight: float32[hidden, D]."""
        return {
            f"{side}.{name}": tensor.numpy()
            for side, network in self._networks.items()
            for name, tensor in network.state_dict().items()
        }

    @classmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        """From weights such as aerial.0.weight: [hidden, D]; `KeyError` or `ValueError` where they do not fit."""
        assert isinstance(section, TwoStage)
        networks: dict[Side, CodeNetwork] = {}
        sides: tuple[Side, ...] = ("aerial", "ground")
        for side in sides:
            dim = arrays[f"{side}.0.weight"].shape[1]
            network = CodeNetwork(dim, section.hidden, bits)
            state = {
                name: torch.from_numpy(np.array(arrays[f"{side}.{name}"])) for name in network.state_dict()
            }
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(" ".join(str(error).split())) from error
            networks[side] = network
        return cls(section, bits, networks)


def _train(
    section: TwoStage,
    bits: int,
    networks: Mapping[Side, CodeNetwork],
    photos: torch.Tensor,
    tiles: torch.Tensor,
) -> None:
    """Train both networks on pairs: `photos` and `tiles` float[N, D], row by row."""
    generator = torch.Generator().manual_seed(section.seed)
    bank = CodeBank(
        len(photos),
        bits,
        negatives=section.negatives,
        temperature=section.temperature,
        momentum=section.bank_momentum,
        generator=generator,
    )
    parameters = [parameter for network in networks.values() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(
        parameters, section.learning_rate, section.momentum, weight_decay=section.weight_decay
    )
    for epoch in range(section.epochs):
        for rows in torch.split(torch.randperm(len(photos), generator=generator), section.batch_size):
            if len(rows) < 2:
                continue  # the last of an odd number
            ground = F.normalize(networks["ground"](photos[rows]), dim=1)
            aerial = F.normalize(networks["aerial"](tiles[rows]), dim=1)
            contrast = bank(aerial, ground, rows, warm_up=epoch == 0)
            order = ranking_loss(aerial @ ground.T, margin=section.margin, shift=section.shift)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(section.alpha * contrast + (1 - section.alpha) * order)
            torch.nn.utils.clip_grad_norm_(parameters, section.largest_gradient)
            optimizer.step()
