"""A run with all that training can do beside steps, over two workers: mining, averaging, measuring, stopping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.models.encoder import Encoder
from geoloc.stages.train import TrainConfig, TrainInputs, run


@pytest.mark.slow
def test_the_best_weights_of_a_run_with_mined_batches_are_kept(
    ray_local: None, ingested: str, tiny_path: str, tmp_path: Path
) -> None:
    data = yaml.safe_load(Path(tiny_path).read_text())
    data["training"] |= {
        "sampler": "similarity",
        "hard_negatives": {"candidates": 20, "chosen": 8, "mine_every": 1},
        "weight_average": 0.5,
    }
    recipe = tmp_path / "mined.yaml"
    recipe.write_text(yaml.safe_dump(data))
    config = TrainConfig(
        recipe=str(recipe), steps=60, checkpoint_every=7, evaluate_every=5, patience=2, num_workers=2
    )
    inputs = TrainInputs(train=ingested, validation=ingested)
    output = str(tmp_path / "model")
    result = run(config, inputs, output)
    lines = [json.loads(line) for line in storage.read_text(f"{output}/metrics.jsonl").splitlines()]
    measured = {
        int(line["step"]): line["validation_recall_1"] for line in lines if "validation_recall_1" in line
    }
    best = max(measured, key=lambda step: (measured[step], -step))
    assert result.metrics["best_step"] == best
    stop = int(result.metrics["step"])
    assert stop in (best + 10, 60)
    # The recall that the finished model is measured with is that of the weights that were chosen.
    assert result.metrics["validation_recall_1"] == pytest.approx(measured[best], abs=1.3)  # one photo of 80
    assert any(line["mining_share"] > 0 for line in lines if "mining_share" in line)
    assert Encoder.open(output).model_id == result.model_id
    other = config.model_copy(update={"patience": 3})
    with pytest.raises(ArtifactError, match="other inputs or settings"):
        run(other, inputs, output)


def test_what_cannot_be_measured_is_refused(ingested: str, tiny_path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluate_every measures recall on held-out pairs; give them as"):
        run(TrainConfig(recipe=tiny_path, evaluate_every=5), TrainInputs(train=ingested), str(tmp_path / "m"))
    with pytest.raises(ConfigError, match="patience is 2 measurements, but nothing is measured"):
        run(TrainConfig(recipe=tiny_path, patience=2), TrainInputs(train=ingested), str(tmp_path / "m"))
