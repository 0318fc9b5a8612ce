"""One YAML file from imagery and photos to a measured index, on a place and a network as small as can be."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import ray
import yaml
from PIL import Image

from geoloc.core import part_table
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.runtime.reserved import ReservedSeconds
from geoloc.stages import pipeline
from geoloc.stages.pipeline import Pipeline, PipelineConfig, PipelineInputs, read_pipeline_file
from tests.small_ingest import TINY
from tests.stages.ingest_inputs import make_photos, make_sheets

FILE = {"imagery": ["sheets/*.tif"], "model": "model"}


def _read(values: object) -> pipeline.PipelineFile:
    return read_pipeline_file(yaml.safe_dump(values).encode(), "city.yaml")


def test_a_file_asks_for_its_stages() -> None:
    names = {
        "index": {},
        "index calibrate": {"calibration": "c.csv"},
        "index evaluate": {"test": "t.csv"},
        "index calibrate evaluate": {"calibration": "c.csv", "test": "t.csv"},
    }
    for expected, photos in names.items():
        stages = Pipeline(_read(FILE | {"photos": photos}), "out").stages()
        assert " ".join(name for name, _ in stages) == expected
    assert [name for name, _ in Pipeline(_read({"imagery": ["x"]}), "out").stages()] == ["index"]
    learning = Pipeline(_read({"imagery": ["x"], "photos": {"train": "t.csv", "test": "e.csv"}}), "out")
    assert [name for name, _ in learning.stages()] == ["tables", "train", "index", "evaluate"]
    assert [name for name, _ in learning.stages("train")] == ["tables", "train"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"imagery": []}, "city.yaml.*imagery"),
        (FILE | {"photos": {"train": "t"}}, "names a model and photos to train on"),
        (FILE | {"index": {"strid_m": 5}}, "index.strid_m"),
        (FILE | {"train": {"steps": 0}}, "train.steps"),
        (FILE | {"photo": {}}, "photo"),
        ("imagery", "no YAML mapping"),
    ],
)
def test_a_file_that_is_wrong_names_the_key(values: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _read(values)


def test_a_file_that_is_no_yaml_says_so() -> None:
    for content in (b"imagery: [", b"\xff\xfe\x00"):
        with pytest.raises(ConfigError, match=r"'c.yaml' is not YAML"):
            read_pipeline_file(content, "c.yaml")


def _strangers(folder: str) -> str:
    """The same places under other ids, with other pictures: training never saw them."""
    positions = Path(folder, "photos.csv")
    positions.write_text(positions.read_text().replace("\nq", "\ntest"))
    for picture in sorted(Path(folder, "photos").iterdir()):
        Image.open(picture).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(picture)
    return folder


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A file, two sheets, photos to train on and to measure with."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    values = {
        "imagery": [make_sheets(tmp_path / "sheets")],
        "photos": {
            "train": make_photos(tmp_path / "train", 24),
            "test": _strangers(make_photos(tmp_path / "test", 6)),
        },
        "train": {
            "recipe": str(tmp_path / "tiny.yaml"),
            "steps": 3,
            "batch_size": 8,
            "num_workers": 1,
        },
        "index": {"stride_m": 16, "shards": 2},
        "evaluate": {"report": False, "leak_radius_m": 0.0001},
    }
    (tmp_path / "city.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.usefixtures("ray_local")
def test_from_imagery_and_photos_to_a_measured_index(city: Path) -> None:
    inputs, output = PipelineInputs(config=str(city / "city.yaml")), str(city / "out")
    first = pipeline.run(PipelineConfig(until="index"), inputs, output)
    assert [stage.name for stage in first.record.stages] == ["tables", "train", "index"]
    assert not any(stage.reused for stage in first.record.stages)
    tables, _, index = first.record.stages
    assert (tables.counts["tiles"], tables.counts["queries"]) == (24, 24)
    assert set(tables.fingerprints) == {"tiles", "queries", "pairs"}
    assert index.counts["indexed tiles"] == index.counts["codes"] > 20
    made = [part_table.read(f"{output}/tables/training/{name}") for name in ("tiles", "queries")]
    assert sorted(made[0]["tile_id"].to_pylist()) == sorted(made[1]["query_id"].to_pylist())  # a tile each

    shutil.rmtree(city / "out" / "tables" / "training")  # a made table is made again to the same bytes
    second = pipeline.run(PipelineConfig(), inputs, output)
    again = {stage.name: stage for stage in second.record.stages}
    assert [again[name].reused for name in ("tables", "train", "index")] == [False, True, True]
    assert again["tables"].fingerprints == tables.fingerprints
    assert again["evaluate"].counts["photos"] == 6
    assert (city / "out" / "evaluation" / "metrics.json").exists()

    written = json.loads(Path(second.record_uri).read_text())
    assert written["status"] == "finished"
    assert written["config"]["index"] == {"stride_m": 16.0, "shards": 2}
    assert written["environment"]["versions"]["geoloc"]
    assert len(list((city / "out" / "runs").iterdir())) == 2
    assert "evaluate" in second.text()


@pytest.mark.usefixtures("ray_local")
def test_a_run_that_fails_says_where_and_why_in_its_record(city: Path) -> None:
    values = yaml.safe_load((city / "city.yaml").read_text()) | {"model": str(city / "nothing")}
    del values["photos"]["train"]
    (city / "city.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ArtifactError, match="There is no finished model"):
        pipeline.run(PipelineConfig(), PipelineInputs(config=str(city / "city.yaml")), str(city / "out"))
    (record,) = (city / "out" / "runs").iterdir()
    written = json.loads(record.read_text())
    assert written["status"] == "failed"
    assert written["error"].startswith("index: There is no finished model")
    assert written["ended"]


@pytest.mark.usefixtures("ray_local")
def test_reserved_seconds_are_those_of_the_tasks() -> None:
    @ray.remote(num_cpus=1)
    def wait() -> None:
        time.sleep(3.0)

    with ReservedSeconds() as reserved:
        ray.get([wait.remote(), wait.remote()])
    assert 2.0 < reserved.cpu_s < 14.0
    assert reserved.gpu_s == 0.0
