"""`geoloc demo model`: trains and measures the model that ships with geoloc. `make model` calls it.

<output>/first        the demo's city, tables and model: training starts from it, its test district is for figures
<output>/city/NAME    further cities of the simulator, of other seeds and in both styles
<output>/tables       their pairs, as one ingest output
<output>/model        the trained model with its calibration: what goes into the package
<output>/calibration  an index of a city that training did not see; the calibration is fitted on it
<output>/index        the test district of the demo's city, a tile every 10 metres
<output>/made_from.json   cities, recipe, steps, checksums and figures: what the model's card in the docs says

A step that is finished is reused, and a training that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.progress import say
from geoloc.demo import stages
from geoloc.demo.photos_anywhere import Figures, measure_anywhere
from geoloc.demo.stages import DemoRun, Sizes
from geoloc.models.card import read_card
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.ray_session import ensure_ray
from geoloc.stages import calibrate, index_imagery, ingest, train
from geoloc.stages.calibrate import CalibrateConfig, CalibrateInputs
from geoloc.stages.index_imagery import ImageryIndexConfig, ImageryIndexInputs
from geoloc.stages.ingest import IngestInputs
from geoloc.stages.ingest_settings import training_tile
from geoloc.stages.train import TrainConfig, TrainInputs
from geoloc.synthetic.stages import city
from geoloc.synthetic.stages.city import CityConfig
from geoloc.training.data import table_checksums

RECORD_NAME = "made_from.json"
_FEWEST = 8  # photos of a district that nobody looks at here


@dataclass(frozen=True)
class SimulatedCity:
    """A city of the simulator: its style and its seed.

    `share` is its part of the photos to train on. `calibration` is how many photos of its validation district calibrate
    the model; half of them are near tile centres.
    """

    style: str
    seed: int
    share: float = 0.0
    calibration: int = 0

    @property
    def name(self) -> str:
        """The folder of the city."""
        return f"{self.style}-{self.seed}"


CITIES = (SimulatedCity("default", 101, 2 / 3), SimulatedCity("harbour", 102, 1 / 3))
"""Cities whose photos train the model. They lie 41 km apart, so one ingest cuts the sheets of both."""

CALIBRATION_CITY = SimulatedCity("default", 103, calibration=600)
"""The city whose photos calibrate the model; training sees nothing of it."""


class ShippedModelConfig(Sizes):
    """The demo's sizes, and how much follows."""

    further_photos: int = Field(15_000, ge=8, description="Photos of further cities to train on.")
    further_recipe: str = Field(
        "geoloc-street", description="Recipe of the training on them: the name of a built-in one, or a URI."
    )
    further_steps: int = Field(5_000, ge=1, description="Optimizer steps of the training on them.")


class ShippedModelResult(BaseModel):
    """The model, what it was trained on and what it reaches."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_uri: str
    model_id: str
    weights_sha256: str
    cities: list[str]
    recipe: str
    steps: int
    tables: list[list[str]]
    figures: list[Figures]

    def text(self) -> str:
        """The model and a line for each kind of photo."""
        return "\n".join([f"{self.model_id} in {self.model_uri}", *(line.text() for line in self.figures)])


def run(
    config: ShippedModelConfig, output: str = "build/model", *, overwrite: bool = False
) -> ShippedModelResult:
    """Make and measure the model that ships with geoloc, below `output`; what is finished is reused.

    Raises what the stages raise.
    """
    output = storage.absolute(output)
    ensure_ray()
    first = DemoRun(config, storage.join(output, "first"), overwrite=overwrite)
    for stage in (stages.make_city, stages.make_tables, stages.train_model):
        say(stage(first))
    _render_cities(config, output, overwrite=overwrite)
    tables = _cut_pairs(config, output, overwrite=overwrite)
    model = _train(config, tables, first.model, output, overwrite=overwrite)
    _calibrate(output, model, overwrite=overwrite)
    card = read_card(model)
    result = ShippedModelResult(
        model_uri=model,
        model_id=card.model_id,
        weights_sha256=card.weights_sha256,
        cities=[one.name for one in CITIES],
        recipe=Recipe.load(config.further_recipe).name,
        steps=config.further_steps,
        tables=table_checksums(tables),
        figures=_measure(first, model, storage.join(output, "index"), overwrite=overwrite),
    )
    storage.write_bytes(storage.join(output, RECORD_NAME), result.model_dump_json(indent=1).encode())
    return result


def _render_cities(config: ShippedModelConfig, output: str, *, overwrite: bool) -> None:
    tile_m = Recipe.load(config.further_recipe).model.tile_m
    for one in (*CITIES, CALIBRATION_CITY):
        settings = CityConfig(
            seed=one.seed,
            style=one.style,
            train_photos=max(_FEWEST, round(config.further_photos * one.share)),
            validation_photos=max(_FEWEST, one.calibration // 2),
            validation_anywhere_photos=one.calibration // 2,
            test_photos=_FEWEST,
            distractors=0,
            anywhere_photos=0,
            tile_m=tile_m,
        )
        city.run(settings, storage.join(output, "city", one.name), overwrite=overwrite)


def _cut_pairs(config: ShippedModelConfig, output: str, *, overwrite: bool) -> str:
    """The pairs of all cities as one ingest output, with tiles as large as training needs them."""
    for name in ("centres.csv", "photos.csv"):
        _join_lists(output, name)
    inputs = IngestInputs(
        imagery=[storage.join(output, "city", one.name, "train", "imagery") for one in CITIES],
        centres=storage.join(output, "city", "centres.csv"),
        photos=storage.join(output, "city", "photos.csv"),
    )
    tile = training_tile(Recipe.load(config.further_recipe), photo_offset_m=CityConfig().photo_offset_m)
    tables = storage.join(output, "tables")
    ingest.run(tile, inputs, tables, overwrite=overwrite)
    return tables


def _join_lists(output: str, name: str) -> None:
    """One CSV with the rows of all cities; a photo's path starts at the folder of the cities."""
    lines: list[str] = []
    for one in CITIES:
        text = storage.read_text(storage.join(output, "city", one.name, "train", name))
        head, *rows = text.strip().splitlines()
        prefix = f"{one.name}/train/photos/" if name == "photos.csv" else ""
        lines += [*([] if lines else [head]), *(prefix + row for row in rows)]
    uri, data = storage.join(output, "city", name), ("\n".join(lines) + "\n").encode()
    if not storage.exists(uri) or storage.read_bytes(uri) != data:
        storage.write_bytes(uri, data)


def _train(config: ShippedModelConfig, tables: str, start: str, output: str, *, overwrite: bool) -> str:
    """Train on the pairs from the weights of the model `start`; returns the model directory."""
    model = storage.join(output, "model")
    train.run(
        TrainConfig(
            recipe=config.further_recipe,
            num_workers=config.workers,
            steps=config.further_steps,
            checkpoint_every=50,
        ),
        TrainInputs(train=tables, start=start),
        model,
        overwrite=overwrite,
    )
    return model


def _calibrate(output: str, model: str, *, overwrite: bool) -> None:
    """Ship the model with the calibration of an index of an unseen city; other indexes start with it, marked so."""
    district = storage.join(output, "city", CALIBRATION_CITY.name, "validation")
    below = storage.join(output, "calibration")
    index = storage.join(below, "index")
    inputs = ImageryIndexInputs(imagery=[storage.join(district, "imagery")], model=model)
    index_imagery.run(ImageryIndexConfig(), inputs, index, overwrite=overwrite)
    photos = [storage.join(district, "photos.csv"), storage.join(district, "anywhere", "photos.csv")]
    calibrate.run(
        CalibrateConfig(),
        CalibrateInputs(index=index, photos=photos, ship=model),
        storage.join(below, "fit"),
        overwrite=overwrite,
    )


def _measure(first: DemoRun, model: str, index: str, *, overwrite: bool) -> list[Figures]:
    """Photos anywhere on the streets of the first city's test district, which no training saw."""
    inputs = ImageryIndexInputs(imagery=[first.at("city", "test", "imagery")], model=model)
    index_imagery.run(ImageryIndexConfig(), inputs, index, overwrite=overwrite)
    return measure_anywhere(index, storage.join(first.tables("anywhere"), "queries"))
