"""The stages of the demo in their order, each a call of the stage's own `run`."""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.recipe.recipe import Recipe
from geoloc.stages import encode, evaluate, index_build, ingest
from geoloc.stages import train as train
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs, EvaluateResult
from geoloc.stages.index_build import IndexConfig, IndexInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from geoloc.stages.train import TrainConfig, TrainInputs
from geoloc.synthetic.stages import city
from geoloc.synthetic.stages.city import CityConfig

_CITY = CityConfig()
_CODE_BITS = (64, 128, 256, 512)


class Sizes(BaseModel):
    """How much of everything the demo makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(_CITY.seed, ge=0, lt=2**31, description="Random seed of the city.")
    train_photos: int = Field(_CITY.train_photos, ge=8, description="Photos to train on.")
    validation_photos: int = Field(_CITY.validation_photos, ge=8, description="Photos to calibrate with.")
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


class Way:
    """Where everything lies below the output, and what was measured on the way."""

    def __init__(self, sizes: Sizes, output: str, *, overwrite: bool = False) -> None:
        self.sizes = sizes
        self.output = output
        self.overwrite = overwrite
        self.evaluations: dict[str, EvaluateResult] = {}
        recipe = Recipe.load(sizes.recipe)
        self.tile = IngestConfig(tile_m=recipe.model.tile_m, tile_px=recipe.model.tile_px)
        self.code_bits = tuple(bits for bits in _CODE_BITS if bits <= recipe.model.hash.bits)
        # Training moves the network's field about the camera, which stands off the tile's centre already.
        margin_m = _CITY.photo_offset_m + recipe.training.augmentation.offset_m
        pixels = recipe.model.tile_px + 2 * math.ceil(margin_m / recipe.model.metres_per_pixel)
        self.training_tile = IngestConfig(tile_m=pixels * recipe.model.metres_per_pixel, tile_px=pixels)

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


def make_city(way: Way) -> str:
    """Render imagery and photos."""
    sizes = way.sizes.model_dump(include=set(CityConfig.model_fields) & set(Sizes.model_fields))
    done = city.run(CityConfig(**sizes, tile_m=way.tile.tile_m), way.at("city"), overwrite=way.overwrite)
    return f"{done.sheets} imagery sheets, {done.photos:,} photos{_reused(done.reused)}"


def make_tables(way: Way) -> str:
    """Ingest each district, the gallery with distractors, and the photos far from tile centres."""
    rows, reused = 0, True
    for name, inputs in _ingests(way).items():
        config = way.training_tile if name == "train" else way.tile
        done = ingest.run(config, inputs, way.tables(name), overwrite=way.overwrite)
        rows += sum(table.rows for table in (done.tiles, done.queries, done.pairs) if table is not None)
        reused &= done.reused
    return f"{rows:,} rows of tiles, queries and pairs{_reused(reused)}"


def _ingests(way: Way) -> dict[str, IngestInputs]:
    districts = {
        split: IngestInputs(
            imagery=[way.at("city", split, "imagery")],
            centres=way.at("city", split, "centres.csv"),
            photos=way.at("city", split, "photos.csv"),
        )
        for split in ("train", "validation", "test")
    }
    gallery = IngestInputs(
        imagery=[way.at("city", split, "imagery") for split in ("test", "validation")],
        centres=_gallery_centres(way),
    )
    anywhere = IngestInputs(photos=way.at("city", "test", "anywhere", "photos.csv"))
    return {**districts, "gallery": gallery, "anywhere": anywhere}


def _gallery_centres(way: Way) -> str:
    """A CSV of all tiles of the map that is served: test tiles, distractors and the validation district.

    The photos of the validation district calibrate that very map, so it has to hold their tiles.
    """
    uri = way.at("gallery.csv")
    names = (("test", "centres.csv"), ("test", "distractors.csv"), ("validation", "centres.csv"))
    texts = [storage.read_text(way.at("city", *name)).splitlines() for name in names]
    lines = [texts[0][0], *(line for text in texts for line in text[1:])]
    data = ("\n".join(lines) + "\n").encode()
    if not storage.exists(uri) or storage.read_bytes(uri) != data:
        storage.write_bytes(uri, data)
    return uri


def train_model(way: Way) -> str:
    """Train the recipe on the training district."""
    sizes = way.sizes
    done = train.run(
        TrainConfig(
            recipe=sizes.recipe, steps=sizes.steps, batch_size=sizes.batch_size, num_workers=sizes.workers
        ),
        TrainInputs(train=way.tables("train"), validation=way.tables("validation")),
        way.model,
        overwrite=way.overwrite,
    )
    return f"model {done.model_id}{_reused(done.reused)}"


def encode_tiles(way: Way) -> str:
    """Encode the tiles of both galleries."""
    rows, reused = 0, True
    for name in ("test", "gallery"):
        inputs = EncodeInputs(tiles=way.tables(name), model=way.model)
        done = encode.run(EncodeConfig(), inputs, way.at("codes", name), overwrite=way.overwrite)
        rows, reused = rows + done.rows, reused and done.reused
    return f"{rows:,} tiles to codes of {done.bits} bits{_reused(reused)}"


def build_indexes(way: Way) -> str:
    """Build the small index of the test tiles and the one that is served."""
    reused, counts = True, []
    for codes, index in (("test", way.at("index-small")), ("gallery", way.index)):
        inputs = IndexInputs(codes=way.at("codes", codes), model=way.model)
        config = IndexConfig(shards=way.sizes.shards)
        done = index_build.run(config, inputs, index, overwrite=way.overwrite)
        reused &= done.reused
        counts.append(f"{done.tiles:,} tiles in {done.shards} shards")
    return " and ".join(counts) + _reused(reused)


def measure(way: Way) -> str:
    """Calibrate on the validation district, then measure on the held-out one."""
    for name, index, queries in (
        ("validation", way.index, "validation"),
        ("small", way.at("index-small"), "test"),
        ("gallery", way.index, "test"),
        ("anywhere", way.index, "anywhere"),
    ):
        way.evaluations[name] = evaluate.run(
            EvaluateConfig(calibrate=name == "validation", code_bits=way.code_bits),
            EvaluateInputs(
                index=index,
                queries=way.tables(queries),
                tiles=way.tables("gallery"),
                trained_on=way.tables("train"),
                encoded=way.at("evaluation", "encoded", queries),
            ),
            way.at("evaluation", name),
            overwrite=way.overwrite,
        )
    best = way.evaluations["gallery"]
    return f"{best.queries:,} held-out photos against {best.gallery:,} tiles{_reused(best.reused)}"


def _reused(reused: bool) -> str:
    return " (reused)" if reused else ""


STAGES: dict[str, Callable[[Way], str]] = {
    "city": make_city,
    "ingest": make_tables,
    "train": train_model,
    "encode": encode_tiles,
    "index": build_indexes,
    "evaluate": measure,
}
