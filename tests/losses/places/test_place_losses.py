"""Every loss of places against its formula written out in float64, its gradient, and its value over two workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.losses.places.her import HerRecipe
from geoloc.losses.places.place_loss import PlaceBatch
from geoloc.recipe.registry import registered
from geoloc.recipe.training import LossRecipe, PlaceLossSection
from geoloc.training.all_gather import gather_rows

DIM, PLACES = 5, 7
SECTIONS: dict[str, dict[str, object]] = {
    "instance": {"dropout": 0.0},
    "contrastive": {"margin": 1.2},
    "hard_triplet": {"margin": 0.4},
    "soft_margin": {"alpha": 3.0},
    "her": {},
}


def built(kind: str, **constants: object) -> nn.Module:
    values = {"kind": kind, **SECTIONS[kind], **constants}
    (section,) = LossRecipe.model_validate({"places": [values]}).places or ()
    torch.manual_seed(3)
    loss: nn.Module = section.build(DIM, PLACES).double()
    return loss


def batch(seed: int = 0, spread: float = 1.0) -> PlaceBatch:
    """Four places with a tile, two drone photos and, for two of them, a street photo; shuffled."""
    g = torch.Generator().manual_seed(seed)
    place = torch.tensor([0, 1, 2, 6, 0, 0, 1, 1, 2, 2, 6, 6, 0, 2])
    view = torch.tensor([0] * 4 + [1] * 8 + [2] * 2)
    order = torch.randperm(len(place), generator=g)
    centres = torch.randn(PLACES, DIM, generator=g, dtype=torch.float64)
    vectors = centres[place] + spread * torch.randn(len(place), DIM, generator=g, dtype=torch.float64)
    heading = torch.where(view == 0, 30.0, 100.0 * torch.rand(len(view), generator=g)).double()
    heading[5] = math.nan
    return PlaceBatch(vectors[order], place[order], view[order], heading[order])


def rows(b: PlaceBatch) -> tuple[np.ndarray, list[int], list[int]]:
    vectors = b.bottleneck.detach().numpy()
    return vectors, b.place.tolist(), b.view.tolist()


def squared(b: PlaceBatch, i: int, k: int) -> float:
    vectors = rows(b)[0]
    one, other = (v / np.sqrt((v**2).sum()) for v in (vectors[i], vectors[k]))
    return float(((one - other) ** 2).sum())


def relations(b: PlaceBatch) -> tuple[list[tuple[int, int]], dict[int, list[int]]]:
    """Positive pairs (anchor, other) and the negatives of every anchor, across views."""
    _, place, view = rows(b)
    every = range(len(place))
    positive = [(i, k) for i in every for k in every if view[i] != view[k] and place[i] == place[k]]
    negative = {i: [k for k in every if view[i] != view[k] and place[i] != place[k]] for i in every}
    return positive, negative


def instance_formula(b: PlaceBatch, loss: nn.Module) -> float:
    vectors, place, view = rows(b)
    weight = loss.classifier.weight.detach().numpy()
    bias = loss.classifier.bias.detach().numpy()
    total = 0.0
    for one in sorted(set(view)):
        of_view = [i for i in range(len(view)) if view[i] == one]
        for i in of_view:
            logits = [float(np.dot(weight[c], vectors[i]) + bias[c]) for c in range(PLACES)]
            total += (math.log(sum(math.exp(z) for z in logits)) - logits[place[i]]) / len(of_view)
    return total


def contrastive_formula(b: PlaceBatch, loss: nn.Module) -> float:
    positive, negative = relations(b)
    near = [squared(b, i, k) / 2 for i, k in positive]
    far = [max(0.0, 1.2 - math.sqrt(squared(b, i, k))) ** 2 / 2 for i, ks in negative.items() for k in ks]
    return sum(near) / len(near) + sum(far) / len(far)


def hard_triplet_formula(b: PlaceBatch, loss: nn.Module) -> float:
    positive, negative = relations(b)
    terms = []
    for i in range(len(b.place)):
        own = [math.sqrt(squared(b, i, k)) for a, k in positive if a == i]
        others = [math.sqrt(squared(b, i, k)) for k in negative[i]]
        if own and others:
            terms.append(max(0.0, 0.4 + max(own) - min(others)))
    return sum(terms) / len(terms)


def soft_margin_formula(b: PlaceBatch, loss: nn.Module) -> float:
    positive, negative = relations(b)
    terms = [
        math.log(1 + math.exp(3.0 * (squared(b, i, p) - squared(b, i, n))))
        for i, p in positive
        for n in negative[i]
    ]
    return sum(terms) / len(terms)


def her_formula(b: PlaceBatch, loss: nn.Module) -> float:
    """As in the authors' code, entry by entry: the logistic regression's probability first, the bounds after it."""
    _, place, view = rows(b)
    m = 3.75
    low, high = math.log2(1 + math.exp(-m / 2)), math.log2(1 + math.exp(m / 2))
    tiles = [k for k in range(len(view)) if view[k] == 0]
    total, count = 0.0, 0
    for i in (i for i in range(len(view)) if view[i] != 0):
        for p in (k for k in tiles if place[k] == place[i]):
            for k in tiles:
                count += 1
                if place[k] == place[i]:
                    continue
                own, other = 25 * squared(b, i, p), 25 * squared(b, i, k)
                weight = -math.log2(1 / (1 + math.exp(own - other + m / 2)))
                weight = 0.1 / len(tiles) if weight < low else min(weight, high)
                total += 2 * weight * math.log(1 + math.exp(own - other))
    return total / count


FORMULAS: dict[str, Callable[[PlaceBatch, nn.Module], float]] = {
    "instance": instance_formula,
    "contrastive": contrastive_formula,
    "hard_triplet": hard_triplet_formula,
    "soft_margin": soft_margin_formula,
    "her": her_formula,
}


def test_every_loss_is_tested() -> None:
    assert set(registered(PlaceLossSection)) == set(FORMULAS)


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_is_its_formula(kind: str, seed: int) -> None:
    b, loss = batch(seed), built(kind)
    assert float(loss(b).detach()) == pytest.approx(FORMULAS[kind](b, loss), rel=1e-9)


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_gradient_is_that_of_the_formula(kind: str) -> None:
    b, loss = batch(4), built(kind)

    def value(vectors: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = loss(PlaceBatch(vectors, b.place, b.view, b.heading_deg))
        return result

    assert torch.autograd.gradcheck(value, b.bottleneck.clone().requires_grad_())


@pytest.mark.parametrize("kind", sorted(set(FORMULAS) - {"instance"}))
def test_a_batch_without_anything_to_compare_is_zero(kind: str) -> None:
    vectors = torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    result = built(kind)(PlaceBatch(vectors, torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1])))
    torch.autograd.backward(result)
    assert float(result.detach()) == 0.0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_published_constants_of_her() -> None:
    recipe = HerRecipe()
    assert recipe.m == pytest.approx(3.75)
    assert recipe.bounds == pytest.approx((0.206, 2.911), abs=5e-4)


def test_weights_of_her_are_not_detached() -> None:
    """Between the bounds the gradient of one term is that of the product, weight and loss together."""
    place, view = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 0])
    angle = torch.tensor([0.0, 0.30, 0.31], dtype=torch.float64, requires_grad=True)
    flat = torch.zeros(3, DIM - 2, dtype=torch.float64)
    vectors = torch.cat([torch.cos(angle)[:, None], torch.sin(angle)[:, None], flat], 1)
    (gradient,) = torch.autograd.grad(built("her")(PlaceBatch(vectors, place, view)), angle)

    def value(own: float, other: float) -> float:
        gap = 25 * (2 - 2 * math.cos(own)) - 25 * (2 - 2 * math.cos(other))
        return 2 * math.log2(1 + math.exp(gap + 1.875)) * math.log(1 + math.exp(gap)) / 2

    step = 1e-6
    expected = (value(0.30 + step, 0.31) - value(0.30 - step, 0.31)) / (2 * step)
    assert float(gradient[1]) == pytest.approx(expected, rel=1e-5)


def test_orientation_regression_adds_the_weighted_error_of_pairs_of_known_heading() -> None:
    b = batch(5)
    loss, plain = built("her", orientation_share=1.0), built("her")
    weight, bias = (p.detach().numpy() for p in loss.orientation.parameters())
    vectors, place, view = rows(b)
    unit = vectors / np.sqrt((vectors**2).sum(1, keepdims=True))
    heading = b.heading_deg.tolist() if b.heading_deg is not None else []
    tiles = [k for k in range(len(view)) if view[k] == 0]
    extra, count = 0.0, 0
    for i in (i for i in range(len(view)) if view[i] != 0):
        for p in (k for k in tiles if place[k] == place[i]):
            turn = math.radians(heading[i] - heading[p])
            guess = weight @ np.concatenate([unit[i], unit[p]]) + bias
            error = (
                0.0 if math.isnan(turn) else float(((guess - [math.cos(turn), math.sin(turn)]) ** 2).sum())
            )
            for k in tiles:
                count += 1
                gap = 25 * (squared(b, i, p) - squared(b, i, k))
                raw = math.log2(1 + math.exp(gap + 1.875))
                low, high = HerRecipe().bounds
                pruned = 0.1 / len(tiles) if raw < low else min(raw, high)
                extra += 0.0 if place[k] == place[i] else pruned * error
    assert any(math.isnan(value) for value in heading)
    assert float((loss(b) - plain(b)).detach()) == pytest.approx(extra / count, rel=1e-9)


class SumOfAll(nn.Module):
    """An encoder and all losses with weights, on the gathered rows: what a training step does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(DIM, DIM).double()
        kinds = [{"kind": kind, **SECTIONS[kind], "weight": 0.5} for kind in FORMULAS]
        self.sections = LossRecipe.model_validate({"places": kinds}).places or ()
        self.losses = nn.ModuleList(section.build(DIM, PLACES).double() for section in self.sections)

    def forward(self, vectors: torch.Tensor, place: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        b = PlaceBatch(gather_rows(self.encoder(vectors)), gather_rows(place), gather_rows(view))
        total = vectors.new_zeros(())
        for section, loss in zip(self.sections, self.losses, strict=True):
            total = total + section.weight * loss(b)
        return total


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    b = batch(6)
    model = DistributedDataParallel(SumOfAll())
    half = slice(7 * rank, 7 * rank + 7)
    loss = model(b.bottleneck[half], b.place[half], b.view[half])
    torch.autograd.backward(loss)
    if rank == 0:
        torch.save([loss.detach(), *(p.grad for p in model.parameters())], f"{folder}/result.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_loss_and_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    b, whole = batch(6), SumOfAll()
    loss = whole(b.bottleneck, b.place, b.view)
    torch.autograd.backward(loss)
    together = torch.load(tmp_path / "result.pt", weights_only=True)
    torch.testing.assert_close(together[0], loss.detach())
    for parameter, gradient in zip(whole.parameters(), together[1:], strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-12)
