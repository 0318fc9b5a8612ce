"""Losses of the two-stage hash encoder ("Hashing for Geo-localization", TGRS 2023, after UCCH, TPAMI 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


class CodeBank:
    """Noise-contrastive loss of codes against a memory bank: one code for each training pair, of length 1.

    The bank starts with random signs. During warm-up the pair's own place in the bank holds the mean of the batch's
    two codes, and the update keeps nothing of what was there.
    """

    def __init__(
        self,
        count: int,
        bits: int,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
        generator: torch.Generator,
    ) -> None:
        self.codes = F.normalize(torch.randn(count, bits, generator=generator).sign(), dim=1)
        self.negatives = min(negatives, count)
        self.temperature = temperature
        self.momentum = momentum
        self._generator = generator

    def __call__(
        self, aerial: torch.Tensor, ground: torch.Tensor, rows: torch.Tensor, *, warm_up: bool
    ) -> torch.Tensor:
        """Loss of the codes float[B, bits] (of length 1) of the pairs `rows` int64[B]; updates the bank."""
        momentum = 0.0 if warm_up else self.momentum
        if warm_up:
            self.update(aerial, ground, rows, momentum)
        drawn = torch.randint(0, len(self.codes), (len(rows), self.negatives), generator=self._generator)
        chosen = torch.cat([rows[:, None], drawn], dim=1)
        signs = self.codes[chosen].sign()
        loss = contrastive_loss(aerial, signs, self.temperature) + contrastive_loss(
            ground, signs, self.temperature
        )
        if not warm_up:
            self.update(aerial, ground, rows, momentum)
        return loss

    @torch.no_grad()
    def update(self, aerial: torch.Tensor, ground: torch.Tensor, rows: torch.Tensor, momentum: float) -> None:
        """Move the bank's codes of the pairs `rows` int64[B] towards the mean of their two codes float[B, bits]."""
        mean = F.normalize((aerial + ground) / 2, dim=1)
        self.codes[rows] = F.normalize(momentum * self.codes[rows] + (1 - momentum) * mean, dim=1)


def contrastive_loss(codes: torch.Tensor, signs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of -log softmax of signs . codes / (temperature sqrt(bits)) at column 0.

    `codes` float[B, bits] of length 1, `signs` float[B, 1 + K, bits]: the pair's own first, then K others.
    """
    logits = torch.einsum("bkd,bd->bk", signs, codes) / (temperature * codes.shape[1] ** 0.5)
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def ranking_loss(similarity: torch.Tensor, *, margin: float, shift: float) -> torch.Tensor:
    """Ranking of the own partner above the others, over rows and columns of cosines float[B, B].

    A cosine s stays as it is where s >= own - margin and is lowered by `shift` elsewhere. The loss of a row is
    log sum exp(row) - own + margin.
    """
    own = similarity.diagonal()

    def one_way(cosines: torch.Tensor) -> torch.Tensor:
        near = cosines >= own[:, None] - margin
        return (torch.where(near, cosines, cosines - shift).logsumexp(1) - own + margin).mean()

    return one_way(similarity) + one_way(similarity.T)
