"""Stage `pipeline`: one YAML file from imagery and photos to a calibrated, measured index, with a record of the run.

<output>/training-centres.csv    the places of the training photos, one tile each
<output>/tables/training         their tiles, queries and pairs
<output>/model                   the model trained on them, if the file names training photos
<output>/index                   the index of the imagery
<output>/index-tables            its codes
<output>/calibration             what calibration made
<output>/tables/test             held-out photos
<output>/evaluation              recall, metres and report.html
<output>/runs/<run_id>.json      the record of each run

Without training photos the index takes the model that the file names, or the one in the box. Each stage is the one of
its own command: finished work is reused, and a killed stage goes on where it was.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc.core import storage
from geoloc.core.errors import ConfigError, GeolocError, InputError
from geoloc.core.progress import enter_stage, say
from geoloc.models.built_in import BUILT_IN
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.ray_session import ensure_ray
from geoloc.runtime.reserved import ReservedSeconds
from geoloc.sources import folder
from geoloc.stages import calibrate, evaluate, index_imagery, ingest, train
from geoloc.stages.calibrate import CalibrateConfig, CalibrateInputs
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs
from geoloc.stages.index_imagery import ImageryIndexConfig, ImageryIndexInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from geoloc.stages.ingest_settings import training_tile
from geoloc.stages.run_record import RunRecord, StageRecord, tables_of
from geoloc.stages.train import TrainConfig, TrainInputs

StageName = Literal["tables", "train", "index", "calibrate", "evaluate"]
_SHEET_SETTINGS = {"scale", "bands", "nodata", "order", "max_nodata_share"}


class PhotoSets(BaseModel):
    """Photos of known position, by what they are for: CSV or GeoJSON files, or folders with photos.csv."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str | None = None
    calibration: str | None = None
    test: str | None = None


class PipelineFile(BaseModel):
    """What the YAML file says. The sections of stages take the settings of their commands."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    imagery: list[str] = Field(min_length=1)
    model: str | None = None
    photos: PhotoSets = PhotoSets()
    read_photos: IngestConfig = IngestConfig()
    train: TrainConfig = TrainConfig()
    index: ImageryIndexConfig = ImageryIndexConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _one_model(self) -> PipelineFile:
        if self.model and self.photos.train:
            raise ConfigError("The file names a model and photos to train on; leave one of them out.")
        return self


class PipelineConfig(BaseModel):
    """How far to go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: StageName = Field("evaluate", description="Last stage to run.")


class PipelineInputs(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str = Field(description="URI of a YAML file: imagery, photos, model, settings of each stage.")


class PipelineResult(BaseModel):
    """The record of the run, and where it lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    record_uri: str
    record: RunRecord

    def text(self) -> str:
        """A line for each stage, and the run's costs."""
        lines = [f"{'stage':<10} {'seconds':>9} {'CPU s':>9} {'GPU s':>9}"]
        for stage in self.record.stages:
            counts = ", ".join(f"{count:,} {name}" for name, count in stage.counts.items())
            times = (stage.seconds, stage.cpu_seconds, stage.gpu_seconds)
            figures = " ".join(f"{value:>9,.0f}" for value in times)
            lines.append(f"{stage.name:<10} {figures}  {counts}{' (reused)' if stage.reused else ''}")
        return "\n".join([*lines, f"record: {self.record_uri}"])


@dataclass(frozen=True)
class StageOutcome:
    """What a stage made: URIs by name, whether all of it was there, and counts of its own."""

    outputs: dict[str, str]
    reused: bool
    counts: dict[str, int]
    ids: dict[str, str]


def run(
    config: PipelineConfig, inputs: PipelineInputs, output: str, *, overwrite: bool = False
) -> PipelineResult:
    """Run all stages that the file asks for.

    Raises `ConfigError` naming the key of the file that is wrong, and what the stages raise. The record says which
    stage failed and why.
    """
    output, uri = storage.absolute(output), storage.absolute(inputs.config)
    content = storage.read_bytes(uri)
    work = Pipeline(read_pipeline_file(content, uri), output, overwrite=overwrite)
    ensure_ray()
    settings = work.file.model_dump(mode="json", exclude_defaults=True)
    record = RunRecord.begin(output, enter_stage("pipeline"), uri, content, settings)
    record_uri = record.save(output)
    for name, stage in work.stages(config.until):
        enter_stage(f"pipeline {name}")
        say(f"pipeline: {name}")
        try:
            record = record.with_stage(_measured(name, stage))
        except BaseException as error:
            record.end(f"{name}: {_sentence(error)}").save(output)
            raise
        record.save(output)
    record = record.end()
    record.save(output)
    return PipelineResult(output=output, record_uri=record_uri, record=record)


def read_pipeline_file(content: bytes, uri: str) -> PipelineFile:
    """The file's content, checked; `ConfigError` names the first key that is wrong."""
    try:
        values = yaml.safe_load(content.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{uri!r} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{uri!r} is no YAML mapping; write keys such as `imagery:` and `photos:`.")
    try:
        return PipelineFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{uri!r}: {key}: {first['msg']}") from error
    except ConfigError as error:
        raise ConfigError(f"{uri!r}: {error}") from error


class Pipeline:
    """The stages of one file and output."""

    def __init__(self, file: PipelineFile, output: str, *, overwrite: bool = False) -> None:
        self.file = file
        self._output = output
        self._overwrite = overwrite

    def stages(self, until: StageName = "evaluate") -> list[tuple[StageName, Callable[[], StageOutcome]]]:
        """The stages that the file asks for, in their order, up to and with `until`."""
        photos = self.file.photos
        every: list[tuple[StageName, bool, Callable[[], StageOutcome]]] = [
            ("tables", photos.train is not None, self.make_tables),
            ("train", photos.train is not None, self.train),
            ("index", True, self.index),
            ("calibrate", photos.calibration is not None, self.calibrate),
            ("evaluate", photos.test is not None, self.evaluate),
        ]
        last = [name for name, _, _ in every].index(until)
        return [(name, stage) for name, wanted, stage in every[: last + 1] if wanted]

    def _at(self, *names: str) -> str:
        return storage.join(self._output, *names)

    @property
    def _model(self) -> str:
        return self._at("model") if self.file.photos.train else self.file.model or BUILT_IN

    def make_tables(self) -> StageOutcome:
        """Cut one tile around each training photo, larger than the model's field by what training moves it."""
        recipe = Recipe.load(self.file.train.recipe)
        sheets = self.file.index.model_dump(include=_SHEET_SETTINGS)
        tile = training_tile(recipe, photo_offset_m=recipe.model.metres_per_pixel)
        tile = self.file.read_photos.model_copy(update={**tile.model_dump(exclude_defaults=True), **sheets})
        photos = storage.absolute(self.file.photos.train or "")
        centres = self._write_centres(photos)
        done = ingest.run(
            tile,
            IngestInputs(imagery=self.file.imagery, centres=centres, photos=photos),
            self._at("tables", "training"),
            overwrite=self._overwrite,
        )
        return StageOutcome({"tables": done.output}, done.reused, {}, {})

    def _write_centres(self, photos: str) -> str:
        """A CSV of the places of training photos; it is written where its content changed alone."""
        config = self.file.read_photos
        rows, _ = folder.read_photos(
            folder.positions_uri(photos), config.views(), anywhere=config.photos_anywhere
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["tile_id", "lat", "lon"])
        located = [photo for photo in rows if photo.lat is not None]
        if not located:
            raise InputError(f"No photo of {photos!r} has a position to train on.", reason="no_positions")
        writer.writerows([photo.query_id, repr(photo.lat), repr(photo.lon)] for photo in located)
        uri, content = self._at("training-centres.csv"), text.getvalue().encode()
        if not storage.exists(uri) or storage.read_bytes(uri) != content:
            storage.write_bytes(uri, content)
        return uri

    def train(self) -> StageOutcome:
        """Train the recipe."""
        done = train.run(
            self.file.train,
            TrainInputs(train=self._at("tables", "training")),
            self._at("model"),
            overwrite=self._overwrite,
        )
        return StageOutcome({"model": done.model_uri}, done.reused, {}, {"model": done.model_id})

    def index(self) -> StageOutcome:
        """Cut, encode and index the imagery."""
        done = index_imagery.run(
            self.file.index,
            ImageryIndexInputs(imagery=self.file.imagery, model=self._model),
            self._at("index"),
            overwrite=self._overwrite,
        )
        outputs = {"index": done.index_uri, "tables": self._at("index-tables")}
        return StageOutcome(
            outputs, done.reused, {"indexed tiles": done.tiles}, {"snapshot": done.snapshot_id}
        )

    def calibrate(self) -> StageOutcome:
        """Fit what the index can promise."""
        done = calibrate.run(
            self.file.calibrate,
            CalibrateInputs(index=self._at("index"), photos=[self.file.photos.calibration or ""]),
            self._at("calibration"),
            overwrite=self._overwrite,
        )
        return StageOutcome({"calibration": done.output}, done.reused, {}, {"snapshot": done.snapshot_id})

    def evaluate(self) -> StageOutcome:
        """Measure held-out photos."""
        tables = self._at("tables", "test")
        read = ingest.run(
            self.file.read_photos,
            IngestInputs(photos=self.file.photos.test),
            tables,
            overwrite=self._overwrite,
        )
        done = evaluate.run(
            self.file.evaluate,
            EvaluateInputs(
                index=self._at("index"),
                queries=tables,
                tiles=self._at("index-tables") if self.file.index.keep_tiles else None,
                trained_on=self._at("tables", "training") if self.file.photos.train else None,
            ),
            self._at("evaluation"),
            overwrite=self._overwrite,
        )
        outputs = {"tables": tables, "evaluation": self._at("evaluation")}
        return StageOutcome(outputs, read.reused and done.reused, {"photos": done.queries}, {})


def _measured(name: StageName, stage: Callable[[], StageOutcome]) -> StageRecord:
    start_s = time.monotonic()
    with ReservedSeconds() as reserved:
        outcome = stage()
    fingerprints, rows = tables_of(outcome.outputs["tables"]) if "tables" in outcome.outputs else ({}, {})
    return StageRecord(
        name=name,
        reused=outcome.reused,
        seconds=round(time.monotonic() - start_s, 3),
        cpu_seconds=round(reserved.cpu_s, 1),
        gpu_seconds=round(reserved.gpu_s, 1),
        outputs=outcome.outputs,
        fingerprints=fingerprints | outcome.ids,
        counts=rows | outcome.counts,
    )


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, GeolocError) else f"{type(error).__name__}: {error}"
