"""The stages of the demo in their order, each a call of the stage's own `run`."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.recipe.recipe import Recipe
from geoloc.stages import calibrate, encode, evaluate, index_build, ingest
from geoloc.stages import train as train
from geoloc.stages.calibrate import CalibrateConfig, CalibrateInputs
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs, EvaluateResult
from geoloc.stages.index_build import IndexConfig, IndexInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from geoloc.stages.ingest_settings import training_tile
from geoloc.stages.train import TrainConfig, TrainInputs
from geoloc.synthetic.stages import city
from geoloc.synthetic.stages.city import CityConfig

_CITY = CityConfig()
_CODE_BITS = (64, 128, 256, 512)
_CALIBRATION = "validation-anywhere"  # tables of photos anywhere on the streets of the validation district


class Sizes(BaseModel):
    """Sizes of the data that the demo makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(_CITY.seed, ge=0, lt=2**31, description="Random seed of the city.")
    train_photos: int = Field(_CITY.train_photos, ge=8, description="Photos to train on.")
    validation_photos: int = Field(
        _CITY.validation_photos,
        ge=8,
        description="Photos near tile centres to calibrate with, and as many anywhere on the street.",
    )
    test_photos: int = Field(
        _CITY.test_photos, ge=8, description="Held-out photos to measure with, one tile each."
    )
    distractors: int = Field(
        _CITY.distractors, ge=1, description="Tiles of the held-out district without a photo."
    )
    anywhere_photos: int = Field(
        _CITY.anywhere_photos, ge=1, description="Held-out photos anywhere in a tile, not near its centre."
    )
    recipe: str = Field("geoloc", description="Name of a built-in recipe, or URI of a YAML file.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; default: the recipe's.")
    batch_size: int | None = Field(
        None, ge=2, description="Pairs in a step, over all workers; default: the recipe's."
    )
    workers: int = Field(2, ge=1, description="Data-parallel training workers.")
    shards: int = Field(4, ge=1, description="Shards of the index.")


class DemoRun:
    """Where everything lies below the output, and what was measured so far."""

    def __init__(self, sizes: Sizes, output: str, *, overwrite: bool = False) -> None:
        self.sizes = sizes
        self.output = output
        self.overwrite = overwrite
        self.evaluations: dict[str, EvaluateResult] = {}
        recipe = Recipe.load(sizes.recipe)
        self.tile = IngestConfig(tile_m=recipe.model.tile_m, tile_px=recipe.model.tile_px)
        self.code_bits = tuple(bits for bits in _CODE_BITS if bits <= recipe.model.hash.bits)
        self.training_tile = training_tile(recipe, photo_offset_m=_CITY.photo_offset_m)

    def at(self, *names: str) -> str:
        """A URI below the output."""
        return storage.join(self.output, *names)

    def tables(self, name: str) -> str:
        """The ingest output of this name."""
        return self.at("tables", name)

    @property
    def model(self) -> str:
        """The model directory."""
        return self.at("model")

    @property
    def index(self) -> str:
        """The index of the gallery, which is calibrated and served."""
        return self.at("index")


def make_city(demo: DemoRun) -> str:
    """Render imagery and photos."""
    sizes = demo.sizes.model_dump(include=set(CityConfig.model_fields) & set(Sizes.model_fields))
    sizes["validation_anywhere_photos"] = demo.sizes.validation_photos
    done = city.run(CityConfig(**sizes, tile_m=demo.tile.tile_m), demo.at("city"), overwrite=demo.overwrite)
    return f"{done.sheets} imagery sheets, {done.photos:,} photos{_reused(done.reused)}"


def make_tables(demo: DemoRun) -> str:
    """Ingest each district, the gallery with distractors, and the photos far from tile centres."""
    rows, reused = 0, True
    for name, inputs in _ingests(demo).items():
        config = demo.training_tile if name == "train" else demo.tile
        done = ingest.run(config, inputs, demo.tables(name), overwrite=demo.overwrite)
        rows += sum(table.rows for table in (done.tiles, done.queries, done.pairs) if table is not None)
        reused &= done.reused
    return f"{rows:,} rows of tiles, queries and pairs{_reused(reused)}"


def _ingests(demo: DemoRun) -> dict[str, IngestInputs]:
    districts = {
        split: IngestInputs(
            imagery=[demo.at("city", split, "imagery")],
            centres=demo.at("city", split, "centres.csv"),
            photos=demo.at("city", split, "photos.csv"),
        )
        for split in ("train", "validation", "test")
    }
    gallery = IngestInputs(
        imagery=[demo.at("city", split, "imagery") for split in ("test", "validation")],
        centres=_gallery_centres(demo),
    )
    anywhere = {
        name: IngestInputs(photos=demo.at("city", split, "anywhere", "photos.csv"))
        for name, split in (("anywhere", "test"), (_CALIBRATION, "validation"))
    }
    return {**districts, "gallery": gallery, **anywhere}


def _gallery_centres(demo: DemoRun) -> str:
    """A CSV of all tiles of the map that is served: test tiles, distractors and the validation district.

    The photos of the validation district calibrate this index, so it holds their tiles too.
    """
    uri = demo.at("gallery.csv")
    names = (("test", "centres.csv"), ("test", "distractors.csv"), ("validation", "centres.csv"))
    texts = [storage.read_text(demo.at("city", *name)).splitlines() for name in names]
    lines = [texts[0][0], *(line for text in texts for line in text[1:])]
    data = ("\n".join(lines) + "\n").encode()
    if not storage.exists(uri) or storage.read_bytes(uri) != data:
        storage.write_bytes(uri, data)
    return uri


def train_model(demo: DemoRun) -> str:
    """Train the recipe on the training district."""
    sizes = demo.sizes
    done = train.run(
        TrainConfig(
            recipe=sizes.recipe, steps=sizes.steps, batch_size=sizes.batch_size, num_workers=sizes.workers
        ),
        TrainInputs(train=demo.tables("train"), validation=demo.tables("validation")),
        demo.model,
        overwrite=demo.overwrite,
    )
    return f"model {done.model_id}{_reused(done.reused)}"


def encode_tiles(demo: DemoRun) -> str:
    """Encode the tiles of both galleries."""
    rows, reused = 0, True
    for name in ("test", "gallery"):
        inputs = EncodeInputs(tiles=demo.tables(name), model=demo.model)
        done = encode.run(EncodeConfig(), inputs, demo.at("codes", name), overwrite=demo.overwrite)
        rows, reused = rows + done.rows, reused and done.reused
    return f"{rows:,} tiles to codes of {done.bits} bits{_reused(reused)}"


def build_indexes(demo: DemoRun) -> str:
    """Build the small index of the test tiles and the one that is served."""
    reused, counts = True, []
    for codes, index in (("test", demo.at("index-small")), ("gallery", demo.index)):
        inputs = IndexInputs(codes=demo.at("codes", codes), model=demo.model)
        config = IndexConfig(shards=demo.sizes.shards)
        done = index_build.run(config, inputs, index, overwrite=demo.overwrite)
        reused &= done.reused
        counts.append(f"{done.tiles:,} tiles in {done.shards} shards")
    return " and ".join(counts) + _reused(reused)


def calibrate_index(demo: DemoRun) -> str:
    """Calibrate the served index on photos anywhere on the streets of the validation district."""
    done = calibrate.run(
        CalibrateConfig(),
        CalibrateInputs(index=demo.index, photos=[demo.tables("validation"), demo.tables(_CALIBRATION)]),
        demo.at("calibration"),
        overwrite=demo.overwrite,
    )
    fitted = [f"{name} on {kind.photos:,} photos" for name, kind in done.query_kinds.items()]
    return (", ".join(fitted) or " ".join(done.not_calibrated)) + _reused(done.reused)


def measure(demo: DemoRun) -> str:
    """Measure on the held-out district."""
    for name, index, queries in (
        ("small", demo.at("index-small"), "test"),
        ("gallery", demo.index, "test"),
        ("anywhere", demo.index, "anywhere"),
    ):
        demo.evaluations[name] = evaluate.run(
            EvaluateConfig(code_bits=demo.code_bits),
            EvaluateInputs(
                index=index,
                queries=demo.tables(queries),
                tiles=demo.tables("gallery"),
                trained_on=demo.tables("train"),
                encoded=demo.at("evaluation", "encoded", queries),
            ),
            demo.at("evaluation", name),
            overwrite=demo.overwrite,
        )
    best = demo.evaluations["gallery"]
    return f"{best.queries:,} held-out photos against {best.gallery:,} tiles{_reused(best.reused)}"


def _reused(reused: bool) -> str:
    return " (reused)" if reused else ""


STAGES: dict[str, Callable[[DemoRun], str]] = {
    "city": make_city,
    "ingest": make_tables,
    "train": train_model,
    "encode": encode_tiles,
    "index": build_indexes,
    "calibrate": calibrate_index,
    "evaluate": measure,
}
