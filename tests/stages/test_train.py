from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.core.extensions import VARIABLE
from geoloc.models.encoder import Encoder
from geoloc.stages.train import TrainConfig, TrainInputs, run
from tests.small_places import TINY_PLACES, write_places
from tests.stages.command_output import foreign_lines

PATIENT = {"RAY_raylet_start_wait_time_s": "120"}  # machines that run tests are busy


def test_a_model_comes_out_on_s3_and_is_reused(
    ray_local: None, ingested: str, tiny_path: str, s3_uri: str
) -> None:
    output, tables = f"{s3_uri}/model", f"{s3_uri}/tables"
    for file in storage.list_files(ingested):
        storage.copy_file(file.uri, tables + file.uri.removeprefix(ingested))
    config = TrainConfig(recipe=tiny_path, steps=12, checkpoint_every=5)
    inputs = TrainInputs(train=tables, validation=tables)
    result = run(config, inputs, output)
    assert not result.reused
    assert result.metrics["validation_pairs"] == 80
    assert result.metrics["validation_recall_10"] > 3 * 100 * 10 / 80  # far above chance
    assert result.metrics["step"] == 12
    assert result.metrics["loss"] > 0
    assert result.metrics["cpu_seconds"] > 0
    encoder = Encoder.open(output)
    assert encoder.model_id == result.model_id
    assert {file.name for file in storage.list_files(output)} == {
        "metrics.jsonl",
        "model.json",
        "model.safetensors",
        "recipe.yaml",
        "validation.json",
    }
    again = run(config, inputs, output)
    assert again.reused
    assert again.metrics == result.metrics
    assert again.model_id == result.model_id
    other = config.model_copy(update={"steps": 13})
    with pytest.raises(
        ArtifactError, match="holds a model made from other inputs or settings; pass --overwrite"
    ):
        run(other, inputs, output)


@pytest.mark.slow
def test_a_recipe_of_places_trains_with_two_workers(ray_local: None, tmp_path: Path) -> None:
    recipe = tmp_path / "places.yaml"
    recipe.write_text(TINY_PLACES)
    write_places(str(tmp_path / "places"), 12)
    inputs = TrainInputs(train=str(tmp_path / "places"), validation=str(tmp_path / "places"))
    result = run(
        TrainConfig(recipe=str(recipe), steps=12, checkpoint_every=5), inputs, str(tmp_path / "model")
    )
    assert result.metrics["step"] == 12
    assert result.metrics["validation_pairs"] == 36  # three drone photos of each place
    assert result.metrics["validation_recall_5"] > 100 * 5 / 12
    assert Encoder.open(str(tmp_path / "model")).embedding_dim == 16


@pytest.mark.ray
def test_the_command_trains_an_extension_and_prints_nothing_but_its_own_lines(
    ingested: str, tiny_path: str, tmp_path: Path
) -> None:
    """A Ray of its own, whose workers import the backbone from a module outside the package."""
    root = Path(__file__).resolve().parents[2]
    recipe = tmp_path / "patches.yaml"
    section = "backbone: {kind: patches, channels: 16, stride: 4}"
    recipe.write_text(re.sub(r"backbone: .*", section, Path(tiny_path).read_text()))
    environment = os.environ | {VARIABLE: "tests.extensions.patches", "PYTHONPATH": str(root), **PATIENT}
    environment["GEOLOC_CACHE"] = str(
        tmp_path / "cache"
    )  # pictures of other tests are not there: they are prepared now
    environment.pop("RAY_ADDRESS", None)
    words = ["train", "--recipe", str(recipe), "--steps", "4", "--train", ingested, "--num-workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "geoloc", *words, "--output", str(tmp_path / "model")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "model_id" in done.stdout
    assert done.stderr
    assert foreign_lines(done.stderr, "train: ") == []


def test_what_cannot_run_is_refused_before_any_worker_starts(
    ray_local: None, ingested: str, tiny_path: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "model")
    inputs = TrainInputs(train=ingested)
    with pytest.raises(ConfigError, match="cannot be shared by 3 workers"):
        run(TrainConfig(recipe=tiny_path, num_workers=3), inputs, output)
    with pytest.raises(ConfigError, match=r"need 16 CPUs, Ray has 2 CPUs; lower num_workers"):
        run(TrainConfig(recipe=tiny_path, num_workers=16), inputs, output)
    with pytest.raises(ConfigError, match=r"has 80 pairs, fewer than a batch \(128\)"):
        run(TrainConfig(recipe=tiny_path, batch_size=128), inputs, output)
    with pytest.raises(
        ConfigError,
        match=r"need 2 CPUs and 2 GPUs, Ray has 2 CPUs and 0 GPUs; lower",
    ):
        run(TrainConfig(recipe=tiny_path, use_gpu=True), inputs, output)
    with pytest.raises(ArtifactError, match="no table at"):
        run(TrainConfig(recipe=tiny_path), TrainInputs(train=str(tmp_path / "nothing")), output)
    assert not storage.exists(output)


@pytest.mark.slow
def test_a_killed_worker_resumes_from_the_checkpoint_on_s3(
    ray_local: None, ingested: str, tiny_path: str, s3_uri: str
) -> None:
    output = storage.join(s3_uri, "model")
    killed: list[int] = []

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if any("checkpoint_" in file.uri for file in storage.list_files(output)):
                for entry in Path("/proc").iterdir():
                    if entry.name.isdigit() and is_train_worker(entry):
                        os.kill(int(entry.name), signal.SIGKILL)
                        killed.append(int(entry.name))
                        return
            time.sleep(0.2)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    config = TrainConfig(recipe=tiny_path, steps=400, checkpoint_every=20)
    result = run(config, TrainInputs(train=ingested), output)
    thread.join()
    assert killed
    assert result.metrics["step"] == 400
    assert Encoder.open(output).model_id == result.model_id


def is_train_worker(entry: Path) -> bool:
    try:
        return b"ray::RayTrainWorker" in (entry / "cmdline").read_bytes() and os.getpid() in parents(entry)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def parents(entry: Path) -> set[int]:
    """This Ray's workers descend from the test process by way of its raylet."""
    found: set[int] = set()
    while entry.name not in ("0", "1"):
        line = (entry / "status").read_text(encoding="utf-8").split("PPid:")[1].split()[0]
        found.add(int(line))
        entry = Path("/proc") / line
        if line == "0":
            break
    return found
