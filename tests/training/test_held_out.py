from __future__ import annotations

import torch

from geoloc.recipe.recipe import Recipe
from geoloc.training.held_out import BestWeights
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import load_pairs
from geoloc.training.pair_trainer import PairTrainer

CPU = torch.device("cpu")


def measured(best: BestWeights, trainer: PairTrainer, recalls: list[float], start: int = 0) -> None:
    for number, recall in enumerate(recalls, start=start + 1):
        with torch.no_grad():
            trainer.module.pair_loss.log_scale.fill_(float(number))  # type: ignore[union-attr, operator]
        best._recalls = lambda _, recall=recall: {"validation_pairs": 80.0, "validation_recall_1": recall}  # type: ignore[method-assign]
        best.measure(10 * number, trainer.module, trainer.model, None)


def test_the_first_of_the_best_weights_are_kept_and_patience_ends_a_run(ingested: str, tiny: Recipe) -> None:
    trainer = PairTrainer(load_pairs(ingested, read_index(ingested), tiny), tiny)
    best = BestWeights(ingested, tiny, every=10, patience=3, device=CPU, rank=0)
    measured(best, trainer, [20.0, 40.0, 40.0, 30.0])
    assert (best.recall_1, best.step, best.worse, best.over) == (40.0, 20, 2, False)
    again = BestWeights(ingested, tiny, every=10, patience=3, device=CPU, rank=0)
    again.restore(best.note(), best.saved())
    for each in (best, again):
        measured(each, trainer, [39.0], start=4)
        assert each.over
        assert each.state is not None
        assert float(each.state["pair_loss.log_scale"]) == 2.0
    assert not BestWeights(ingested, tiny, every=10, patience=None, device=CPU, rank=0, worse=99).over


def test_recall_is_due_every_so_many_steps_and_at_the_end_once() -> None:
    best = BestWeights("", Recipe.load("geoloc"), every=10, patience=None, device=CPU, rank=0)
    assert [step for step in range(1, 35) if best.is_due(step, last=False)] == [10, 20, 30]
    assert best.is_due(34, last=True)
    best.measured = 34
    assert not best.is_due(34, last=True)


def test_recall_of_a_run_is_that_of_its_averaged_weights(ingested: str, tiny: Recipe) -> None:
    """The weights that would be kept are measured, and the present ones are there again afterwards."""
    trainer = PairTrainer(load_pairs(ingested, read_index(ingested), tiny), tiny)
    for step in range(25):
        trainer.step(step / 40)
    learned = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    best = BestWeights(ingested, tiny, every=1, patience=None, device=CPU, rank=0)
    good = best.measure(1, trainer.module, trainer.model, None)
    empty = {name: torch.zeros_like(value) for name, value in learned.items()}
    bad = best.measure(2, trainer.module, trainer.model, empty)
    assert good["validation_recall_1"] > 30 > bad["validation_recall_1"]
    for name, value in trainer.module.state_dict().items():
        assert torch.equal(value, learned[name])
