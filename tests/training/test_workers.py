"""One global batch computed by several workers: loss, weights and statistics are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from geoloc.recipe.recipe import Recipe
from geoloc.training.batch_norm import WholeBatchNorm
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import load_pairs
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.place_store import load_places, read_places
from geoloc.training.place_trainer import PlaceTrainer
from geoloc.training.trainer import Trainer
from tests.small_places import tiny_places, write_places
from tests.training.test_step import changed

STEPS = 2


def trainer_of(uri: str, recipe: Recipe, workers: int, rank: int) -> Trainer:
    if recipe.loss.places is not None:
        places = load_places(uri, read_places(uri, recipe), recipe)
        return PlaceTrainer(places, recipe, workers=workers, rank=rank)
    return PairTrainer(load_pairs(uri, read_index(uri), recipe), recipe, workers=workers, rank=rank)


def steps_of(trainer: Trainer) -> dict[str, Any]:
    """What the steps gave, with the gradients of the first."""
    losses = [trainer.step(0.0).loss.detach()]
    gradients = {
        name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None
    }
    losses += [trainer.step(step / 10).loss.detach() for step in range(1, STEPS)]
    return {"losses": torch.stack(losses), "gradients": gradients, "model": trainer.model.state_dict()}


def work(rank: int, workers: int, folder: str, uri: str, text: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    trainer = trainer_of(uri, Recipe.from_yaml(text), workers, rank)
    torch.save(steps_of(trainer), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def compared(uri: str, recipe: Recipe, workers: int, folder: Path) -> None:
    alone = steps_of(trainer_of(uri, recipe, 1, 0))
    mp.spawn(work, args=(workers, str(folder), uri, recipe.to_yaml()), nprocs=workers)
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(workers)]
    # The gradient of a bias before a batch norm is 0: what is there is rounding of sums as large as the largest one.
    rounding = 4e-6 * max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    for result in results:
        torch.testing.assert_close(result["losses"], alone["losses"], rtol=1e-4, atol=1e-5)
        for name, gradient in alone["gradients"].items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                result["gradients"][name], gradient, rtol=1e-3, atol=max(1e-3 * scale, rounding), msg=name
            )
        for name, value in results[0]["model"].items():
            if "running" not in name:
                torch.testing.assert_close(result["model"][name], value, rtol=0, atol=0, msg=name)
    for name, value in alone["model"].items():
        if "running" in name:
            torch.testing.assert_close(results[0]["model"][name], value, rtol=1e-2, atol=1e-3, msg=name)


def float32(recipe: Recipe) -> Recipe:
    return changed(recipe, training={"bfloat16": False})


def test_two_workers_compute_what_one_computes(ingested: str, tiny: Recipe, tmp_path: Path) -> None:
    compared(ingested, float32(tiny), 2, tmp_path)


@pytest.mark.slow
def test_four_workers_compute_what_one_computes(ingested: str, tiny: Recipe, tmp_path: Path) -> None:
    compared(ingested, float32(tiny), 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_places(workers: int, tmp_path: Path) -> None:
    write_places(str(tmp_path / "places"), 12)
    compared(str(tmp_path / "places"), float32(tiny_places()), workers, tmp_path)


def test_a_norm_over_all_workers_is_the_plain_one_where_there_is_one(tmp_path: Path) -> None:
    """Values, gradients and running statistics against PyTorch's own."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        values = torch.randn(6, 3, 4, 5) * 2 + 1
        norms = [kind(3) for kind in (torch.nn.BatchNorm2d, WholeBatchNorm)]
        found = []
        for norm in norms:
            with torch.no_grad():
                norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            given = values.clone().requires_grad_()
            result = norm(given)
            (result**3).sum().backward()
            found.append(
                [result, given.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
            )
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    finally:
        dist.destroy_process_group()
