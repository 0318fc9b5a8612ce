"""What each stage fingerprints: every input is changed in place, under its name, and the identity changes with it.

The table in docs/formats.md names the same stages and inputs as the cases here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_index import SmallIndex, build, write_table

from geoloc.core import part_table, schemas, storage
from geoloc.models.store import load_model, save_model
from geoloc.stages import (
    augment_model,
    calibrate,
    compare,
    encode,
    encode_queries,
    evaluate,
    export_webdataset,
    fit_codes,
    index_build,
    index_update,
    ingest,
    localize,
    train,
)
from geoloc.stages.ingest_settings import OutputTables
from geoloc.synthetic.stages import ablations, city, codes
from geoloc.training.comparison.measurements import MeasurementStore, Model, TestTable
from geoloc.training.data import table_checksums
from tests.sources.datasets.miniatures import make_cvusa

from .ingest_inputs import make_photos, make_sheets

ROOT = Path(__file__).resolve().parents[2]
Change = Callable[["World"], None]


class Identified(Exception):
    """A stage has computed the fingerprint of its output."""


@dataclass(frozen=True)
class World:
    """Inputs of all stages below one folder."""

    root: Path
    small: SmallIndex
    other: SmallIndex

    @property
    def out(self) -> str:
        return str(self.root / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two small worlds, the second with other pictures and another model."""
    roots = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("other")
    build(roots[0], count=12)
    build(roots[1], count=13, seed=1, name="other")
    make_sheets(roots[0] / "sheets", 1)
    make_photos(roots[0] / "photos", 3)
    make_cvusa(roots[0] / "cvusa")
    (roots[0] / "centres.csv").write_text("tile_id,lat,lon\na,59.0,24.0\n")
    codes_of(roots[0], roots[0] / "model", 0)
    return roots


def codes_of(root: Path, model: Path, seed: int) -> None:
    """A codes table as the model could have made it."""
    from geoloc.models.card import read_card

    card, rng = read_card(str(model)), np.random.default_rng(seed)
    rows = [
        {
            "tile_id": f"c{number}",
            "code": rng.bytes(card.bits // 8),
            "embedding": rng.normal(size=card.embedding_dim).astype(np.float16),
            "model_id": card.model_id,
        }
        for number in range(4)
    ]
    write_table(str(root / "codes"), "codes", schemas.codes_schema(card.bits // 8, card.embedding_dim), rows)


@pytest.fixture
def world(made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of the first world, to change; stages end where their fingerprint is known."""

    def identified(_uri: str, fingerprint: str, **_: Any) -> None:
        raise Identified(fingerprint)

    monkeypatch.setattr(part_table, "begin", identified)
    for module in (train, evaluate, ablations, calibrate, fit_codes, augment_model):
        monkeypatch.setattr(module, "begin_output", identified)
    monkeypatch.setattr(train, "ensure_ray", lambda: None)
    monkeypatch.setattr(train, "_await_resources", lambda _config: None)
    monkeypatch.setattr(train, "_check_data", lambda *_: None)
    root = tmp_path / "world"
    shutil.copytree(made[0], root)
    here, there = str(root), str(made[1])
    places = [
        SmallIndex(f"{base}/index", f"{base}/model", f"{base}/ingested", [], np.empty(0), np.empty(0), [], [])
        for base in (here, there)
    ]
    return World(root, *places)


def identity(call: Callable[[World], Any], world: World) -> str:
    """The fingerprint that a stage computes, or what `call` returns."""
    try:
        return str(call(world))
    except Identified as found:
        return str(found)


def replace(kind: str, *, of: str = "ingested") -> Change:
    """Another table of that kind, with the fingerprint of the old one, in its place."""

    def change(world: World) -> None:
        place = world.root / of / kind
        manifest = part_table.read_manifest(str(place))
        table = part_table.read(str(place))
        shutil.rmtree(place)
        plan = part_table.TablePlan(str(place), manifest.fingerprint)
        storage.write_bytes(f"{place}/plan.json", plan.encode())
        part_table.TableDraft(plan).publish(kind=kind, parts=[plan.write_part(0, table[:-1])])

    return change


def swap_model(world: World) -> None:
    shutil.rmtree(world.small.model)
    shutil.copytree(world.other.model, world.small.model)


def swap_start(world: World) -> None:
    """The same model with other weights."""
    uri = str(world.root / "start")
    model, recipe, _ = load_model(uri)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    save_model(model, recipe, uri)


def flip(*path: str) -> Change:
    """One byte of a file becomes another; its size and its time stay."""

    def change(world: World) -> None:
        file = world.root.joinpath(*path)
        times, data = os.stat(file), bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    return change


def rewrite(path: str, text: str) -> Change:
    """Another text in the file."""

    def change(world: World) -> None:
        assert (world.root / path).read_text() != text
        (world.root / path).write_text(text)

    return change


def shorten(path: str) -> Change:
    """The file without its last line."""

    def change(world: World) -> None:
        file = world.root / path
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))

    return change


def commit_another(world: World) -> None:
    """Another snapshot becomes the current one of the index."""
    shutil.copytree(world.other.index, world.small.index, dirs_exist_ok=True)


def break_calibration(world: World) -> None:
    from geoloc.index.format.commit import current_snapshot
    from geoloc.localization.calibration import calibration_uri

    storage.write_bytes(calibration_uri(world.small.index, current_snapshot(world.small.index)), b"{}")


def ingested(**inputs: Any) -> Callable[[World], Any]:
    def call(world: World) -> Any:
        found = {name: value(world) if callable(value) else value for name, value in inputs.items()}
        return ingest.run(ingest.IngestConfig(), ingest.IngestInputs(**found), world.out)

    return call


def pairs(world: World) -> Any:
    tiles, queries = f"{world.small.ingested}/tiles", f"{world.small.ingested}/queries"
    with OutputTables(world.out, overwrite=False) as opened:
        return ingest._pairs(ingest.IngestConfig(), 50.0, tiles, queries, world.out, opened, [])


def trained(world: World) -> Any:
    config = train.TrainConfig(recipe=f"{world.small.model}/recipe.yaml", num_workers=1, batch_size=2)
    return train.run(config, train.TrainInputs(train=world.small.ingested), world.out)


def started(world: World) -> Any:
    start = world.root / "start"
    if not start.exists():
        shutil.copytree(world.small.model, start)
    config = train.TrainConfig(recipe=f"{world.small.model}/recipe.yaml", num_workers=1, batch_size=2)
    return train.run(config, train.TrainInputs(train=world.small.ingested, start=str(start)), world.out)


def encoded(world: World) -> Any:
    inputs = encode.EncodeInputs(tiles=world.small.ingested, model=world.small.model)
    return encode.run(encode.EncodeConfig(), inputs, world.out)


def indexed(world: World) -> Any:
    config = index_build.IndexConfig()
    inputs = index_build.IndexInputs(codes=str(world.root / "codes"), model=world.small.model)
    return index_build._fingerprint(config, index_build.inspect_inputs(config, inputs))


def added(world: World) -> Any:
    source = index_build.inspect_inputs(
        index_build.IndexConfig(),
        index_build.IndexInputs(codes=str(world.root / "codes"), model=world.small.model),
    )
    return index_update._fingerprint("add", [part.sha256 for part in source.parts])


def removed(world: World) -> Any:
    return index_update._fingerprint(
        "remove", index_update.read_ids(f"{world.small.ingested}/tiles").to_pylist()
    )


def evaluated(world: World) -> Any:
    inputs = evaluate.EvaluateInputs(
        index=world.small.index, queries=world.small.ingested, trained_on=str(world.root / "trained")
    )
    (world.root / "trained").mkdir(exist_ok=True)
    for kind in ("tiles", "queries", "pairs"):
        if not (world.root / "trained" / kind).exists():
            shutil.copytree(Path(world.small.ingested, kind), world.root / "trained" / kind)
    return evaluate.run(evaluate.EvaluateConfig(), inputs, world.out)


def calibrated(world: World) -> Any:
    if not (world.root / "strangers").exists():
        shutil.copytree(Path(world.small.ingested, "queries"), world.root / "strangers" / "queries")
    inputs = calibrate.CalibrateInputs(
        index=world.small.index, photos=[world.small.ingested], strangers=[str(world.root / "strangers")]
    )
    return calibrate.run(calibrate.CalibrateConfig(), inputs, world.out)


def encoded_queries(world: World) -> Any:
    return encode_queries.encode_queries(
        f"{world.small.ingested}/queries", world.small.model, world.out, headings=4
    )


def fitted(world: World) -> Any:
    inputs = fit_codes.FitCodesInputs(model=world.small.model, tiles=world.small.ingested)
    return fit_codes.run(fit_codes.FitCodesConfig(), inputs, world.out)


def augmented(world: World) -> Any:
    config = augment_model.AugmentModelConfig(flip=True)
    return augment_model.run(config, augment_model.AugmentModelInputs(model=world.small.model), world.out)


def located(world: World) -> Any:
    inputs = localize.LocalizeInputs(index=world.small.index, photos=str(world.root / "photos" / "photos"))
    return localize.run(localize.LocalizeConfig(), inputs, world.out)


def routes_located(world: World) -> Any:
    streets = world.root / "streets.csv"
    if not streets.exists():
        streets.write_text("id,lat,lon\na,59.0,24.0\nb,59.0,24.0001\n")
    inputs = localize.LocalizeInputs(
        index=world.small.index, photos=str(world.root / "photos" / "photos"), streets=str(streets)
    )
    return localize.run(localize.LocalizeConfig(route=True), inputs, world.out)


def exported(world: World) -> Any:
    inputs = export_webdataset.ShardExportInputs(tables=world.small.ingested)
    return export_webdataset.run(export_webdataset.ShardExportConfig(), inputs, world.out)


def measured(world: World) -> Any:
    model = Model("small", 0, world.small.model)
    return MeasurementStore(world.out, None, 1)._identity(model, TestTable("test", world.small.ingested, ()))


def generated(world: World) -> Any:
    inputs = codes.CityCodesInputs(like=str(world.root / "codes"))
    return codes.run(codes.CityCodesConfig(), inputs, world.out)


def ablated(world: World) -> Any:
    import json

    config = city.CityConfig(
        seed=int((world.root / "seed").read_text()) if (world.root / "seed").exists() else 1
    )
    record = {"config": config.model_dump(), "fingerprint": config.fingerprint()}
    storage.write_bytes(str(world.root / "city" / "city.json"), json.dumps(record, default=str).encode())
    inputs = ablations.CityAblationInputs(index=world.small.index, city=str(world.root / "city"))
    return ablations.run(ablations.CityAblationConfig(), inputs, world.out)


def validated(world: World) -> Any:
    return table_checksums(world.small.ingested)


def other_seed(world: World) -> None:
    (world.root / "seed").write_text("2")


def repaint(world: World) -> None:
    """Another picture at the same place."""
    path = next((world.root / "photos" / "photos").glob("*.jpg"))
    Image.new("RGB", (128, 32), (200, 10, 10)).save(path)


SHEETS = {"imagery": lambda world: [str(world.root / "sheets" / "*.tif")]}
CVUSA = {"dataset": "cvusa", "split": "train", "root": lambda world: str(world.root / "cvusa")}
CASES: dict[tuple[str, str], tuple[Callable[[World], Any], Change]] = {
    ("ingest", "imagery"): (ingested(**SHEETS), flip("sheets", "sheet_0.tif")),
    ("ingest", "centres"): (
        ingested(**SHEETS, centres=lambda world: str(world.root / "centres.csv")),
        rewrite("centres.csv", "tile_id,lat,lon\na,59.0,24.0001\n"),
    ),
    ("ingest", "root"): (ingested(**CVUSA), shorten("cvusa/splits/train-19zl.csv")),
    ("ingest", "photos"): (ingested(photos=lambda world: str(world.root / "photos")), repaint),
    ("ingest", "tiles and queries of pairs"): (pairs, replace("queries")),
    ("ingest export", "tables"): (exported, replace("pairs")),
    ("train", "train"): (trained, replace("pairs")),
    ("train", "start"): (started, swap_start),
    ("train", "validation"): (validated, replace("queries")),
    ("fit-codes", "model"): (fitted, swap_model),
    ("augment-model", "model"): (augmented, swap_model),
    ("fit-codes", "tiles"): (fitted, replace("tiles")),
    ("encode", "tiles"): (encoded, replace("tiles")),
    ("encode", "model"): (encoded, swap_model),
    ("index build", "codes"): (indexed, replace("codes", of=".")),
    ("index build", "model"): (indexed, rewrite("model/metrics.jsonl", "{}\n")),
    ("index add", "codes"): (added, replace("codes", of=".")),
    ("index remove", "tiles"): (removed, replace("tiles")),
    ("evaluate", "index"): (evaluated, commit_another),
    ("evaluate", "queries"): (evaluated, replace("queries")),
    ("evaluate", "tiles"): (evaluated, replace("tiles")),
    ("evaluate", "trained_on"): (evaluated, replace("queries", of="trained")),
    ("evaluate", "encoded"): (encoded_queries, replace("queries")),
    ("calibrate", "index"): (calibrated, commit_another),
    ("calibrate", "photos"): (calibrated, replace("queries")),
    ("calibrate", "strangers"): (calibrated, replace("queries", of="strangers")),
    ("localize", "index"): (located, break_calibration),
    ("localize", "photos"): (located, repaint),
    ("localize", "streets"): (
        routes_located, rewrite("streets.csv", "id,lat,lon\na,59.0,24.0\nb,59.0,24.0002\n"),
    ),
    ("compare", "train, tests, aligned"): (measured, replace("pairs")),
    ("city codes", "like"): (generated, replace("codes", of=".")),
    ("city ablations", "index"): (ablated, commit_another),
    ("city ablations", "city"): (ablated, other_seed),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_an_input_that_was_changed_in_place_is_another(case: tuple[str, str], world: World) -> None:
    call, change = CASES[case]
    before = identity(call, world)
    assert identity(call, world) == before
    change(world)
    assert identity(call, world) != before


def test_the_documented_table_names_the_same_inputs() -> None:
    text = (ROOT / "docs" / "formats.md").read_text()
    section = text.partition("### What a stage fingerprints")[2].partition("\n#")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)
    named = {(stage.strip("` "), field.replace("`", "").strip()) for stage, field in rows[1:]}
    assert named == set(CASES)


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("ingest", ingest.IngestInputs), ("train", train.TrainInputs),
        ("fit-codes", fit_codes.FitCodesInputs), ("encode", encode.EncodeInputs),
        ("augment-model", augment_model.AugmentModelInputs),
        ("index build", index_build.IndexInputs), ("index add", index_update.AddInputs),
        ("index remove", index_update.RemoveInputs), ("evaluate", evaluate.EvaluateInputs),
        ("localize", localize.LocalizeInputs), ("ingest export", export_webdataset.ShardExportInputs),
        ("compare", compare.CompareInputs), ("city codes", codes.CityCodesInputs),
        ("city ablations", ablations.CityAblationInputs), ("calibrate", calibrate.CalibrateInputs),
    ],
)  # fmt: skip
def test_every_input_of_every_stage_is_in_the_table(stage: str, fields: Any) -> None:
    plain = {"snapshot_id", "dataset", "split", "labels", "cities", "ship"}  # values, and an output
    named = {word for one, field in CASES if one == stage for word in field.split(", ")}
    assert set(fields.model_fields) - plain <= named
