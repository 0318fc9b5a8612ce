"""The stage `city tiles`: any number of distinct distractor tiles of the procedural city, straight into a tiles table.

Tile i is the same whatever the count, the parts or the workers: a part is one square of the city's distractor
land, and everything in it follows from the seed, the style and the square's number.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.geodesy import cells
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.sources.jpeg import encode_jpeg
from geoloc.synthetic.stages.city import RENDERER_VERSION
from geoloc.synthetic.world.distractors import MOST_TILES, TILES_PER_SQUARE, TileShape, distractor_tiles
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.style import STYLES, style_named

_CHUNKS = 20
_VERSION = 1


class CityTilesConfig(BaseModel):
    """Number, seed and size of the distractor tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(100_000, ge=1, le=MOST_TILES, description="Number of tiles.")
    seed: int = Field(
        7, ge=0, lt=2**31, description="Random seed of the city; that of a benchmark for its distractors."
    )
    style: str = Field("default", description=f"City to render: {', '.join(STYLES)}.")
    tile_m: float = Field(51.2, gt=0, le=100, description="Side of a tile, metres.")
    tile_px: int = Field(128, ge=32, le=1024, description="Side of a tile, pixels.")
    quality: int = Field(92, ge=30, le=98, description="JPEG quality.")


class CityTilesResult(BaseModel):
    """URI of the table and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    rows: int
    parts: int
    bytes: int
    seconds: float


def run(config: CityTilesConfig, output: str, *, overwrite: bool = False) -> CityTilesResult:
    """Render distractor tiles into a table; existing parts are kept."""
    start, output = time.monotonic(), storage.absolute(output)
    settings = config.model_dump()
    fingerprint = fingerprint_of(["city tiles", _VERSION, RENDERER_VERSION, settings])
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            written, _ = table_job.make_parts(table, _units(config), make_tiles, what="city tiles")
            details = {"metres_per_pixel": config.tile_m / config.tile_px, **settings}
            manifest = table.publish(kind="tiles", parts=written, details=details)
    return CityTilesResult(
        output=output, reused=reused, rows=manifest.rows, parts=len(manifest.parts),
        bytes=sum(part.bytes for part in manifest.parts), seconds=time.monotonic() - start,
    )  # fmt: skip


def _units(config: CityTilesConfig) -> table_job.Units:
    """A unit for each square of the land."""
    shared = config.model_dump(exclude={"count"})

    def describe(square: int) -> dict[str, Any]:
        last = min(TILES_PER_SQUARE, config.count - square * TILES_PER_SQUARE)
        return {**shared, "square": square, "last": last}

    return table_job.Units(range(-(-config.count // TILES_PER_SQUARE)), describe)


@lru_cache(maxsize=1)
def _city(seed: int, style: str) -> City:
    return City(seed, style_named(style), chunks=_CHUNKS)


def make_tiles(unit: dict[str, Any]) -> PartResult:
    """The tiles of one square (runs in a Ray Data task)."""
    city = _city(unit["seed"], unit["style"])
    shape = TileShape(unit["tile_m"], unit["tile_px"])
    made = distractor_tiles(city, unit["square"], 0, unit["last"], shape)
    rows = pa.table({
        "tile_id": made.tile_ids, "lat": made.lat, "lon": made.lon,
        "metres_per_pixel": np.full(len(made.lat), unit["tile_m"] / unit["tile_px"]),
        "image": [encode_jpeg(picture, unit["quality"]) for picture in made.pictures],
        "cell": cells(made.lat, made.lon),
        "source": [f"city {unit['style']} {unit['seed']}, distractors"] * len(made.lat),
    })  # fmt: skip
    return PartResult(schemas.with_geometry(schemas.conform(rows, schemas.TILES)))
