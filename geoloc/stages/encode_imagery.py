"""Imagery to codes without a table of pictures between: an actor cuts the tiles of a part and encodes them at once.

The imagery below a part is read and warped once. Tiles that overlap share its pixels, and no picture is stored: a grid
of 64 m tiles every 10 m would store each pixel 41 times. Tiles, ids, parts and quarantine are those of `ingest` on the
same imagery; the network sees the pixels as they were cut, where a table holds them as JPEG.

Memory of an actor: the model, a picture of about 2,000 x 2,000 pixels with the imagery below it (60 MB), and
`batch_size` tiles.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import ConfigError
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.geodesy import cells
from geoloc.models.built_in import model_location
from geoloc.models.card import read_card
from geoloc.runtime.table_job import PartResult, quarantined
from geoloc.sources.geotiff import CutTile, LeftOut, cut_tiles
from geoloc.stages import encode
from geoloc.stages.encode import CodeMaker, DecodedTile, EncodeConfig, EncodeResult, TileBatch
from geoloc.stages.imagery_plan import open_unit, plan_imagery
from geoloc.stages.ingest_settings import IngestConfig, check_some_tiles

_VERSION = 1


class ImageryEncodeConfig(BaseModel):
    """Settings of cutting and of encoding; of the first those of photos and JPEG play no part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: IngestConfig = IngestConfig()
    encode: EncodeConfig = EncodeConfig()


class ImageryEncodeInputs(BaseModel):
    """Imagery and the model that encodes its tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    imagery: list[str] = Field(description="URIs of GeoTIFF files, of directories of them, or globs.")
    model: str = Field(description="URI of a model directory; builtin: the one that ships with geoloc.")


def run(
    config: ImageryEncodeConfig, inputs: ImageryEncodeInputs, output: str, *, overwrite: bool = False
) -> EncodeResult:
    """Cut and encode all tiles of the imagery into the codes table `output`.

    Raises what `ingest` raises of imagery and `encode` of models.
    """
    start = time.monotonic()
    output, model = storage.absolute(output), model_location(inputs.model)
    card = read_card(model)
    plan = plan_imagery(config.tiles, inputs.imagery)
    settings = config.encode
    fingerprint = fingerprint_of(
        [
            "codes of imagery",
            _VERSION,
            *plan.identity(),
            card.model_id,
            settings.embeddings,
            settings.batch_size,
        ]
    )
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            written, totals = encode.make_parts(settings, table, model, plan.units(), ImageryEncoder)
            rows, empty = sum(part.rows for part in written), totals["mostly_nodata"]
            check_some_tiles(rows + sum(quarantined(totals).values()), empty, plan.max_nodata_share)
            details = {**plan.details(), "mostly_nodata": empty}
            manifest = encode.publish(settings, table, model, written, totals, **details)
    return encode.result(settings, output, manifest, card, reused=reused, start_s=start)


class ImageryEncoder:
    """Cuts and encodes parts of a plan (a Ray Data actor holds one)."""

    def __init__(self, model: str, batch_size: int, gpu: bool, embeddings: bool) -> None:
        self._maker = CodeMaker(model, gpu=gpu, embeddings=embeddings)
        if self._maker.encoder.takes_clouds:
            raise ConfigError(
                f"The model {model!r} compares point clouds, and imagery has none; ingest tiles with points and encode "
                "that table."
            )
        self._batch_size = batch_size

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """The codes of the tiles of one part."""
        part = open_unit(unit)
        left_out = LeftOut(part.refused)
        tiles = cut_tiles(
            part.blocks,
            part.sheets,
            part.spec,
            left_out,
            max_nodata_share=part.max_nodata_share,
            named=part.named,
        )
        rows, counts = self._maker.rows(_batches(tiles, self._batch_size, part.spec.tile_m))
        return PartResult(rows, left_out.refused, (*counts, ("mostly_nodata", left_out.mostly_nodata)))


def _batches(tiles: Iterable[CutTile], batch_size: int, tile_m: float) -> Iterator[TileBatch]:
    waiting: list[CutTile] = []
    for tile in tiles:
        waiting.append(tile)
        if len(waiting) == batch_size:
            yield _batch(waiting, tile_m)
            waiting = []
    if waiting:
        yield _batch(waiting, tile_m)


def _batch(tiles: list[CutTile], tile_m: float) -> TileBatch:
    lat, lon = np.array([tile.lat for tile in tiles]), np.array([tile.lon for tile in tiles])
    places = {
        "tile_id": pa.array([tile.tile_id for tile in tiles], pa.string()),
        "lat": lat,
        "lon": lon,
        "cell": pa.array(cells(lat, lon).astype(np.int64)),
    }
    decoded = [DecodedTile(np.asarray(tile.image), tile_m, None) for tile in tiles]
    return TileBatch(pa.table(places, schema=encode.PLACES), decoded)
