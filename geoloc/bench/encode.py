"""`geoloc bench encode`: imagery to codes in one process, beside the network alone and JPEG alone, against bars.

One CPU thread, no Ray: what an actor costs beside the network's own forward pass, what a stored picture costs, and
what that means for a km2. Without `imagery` a sheet is generated, without `model` a network with random weights.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from rasterio.transform import from_origin

from geoloc.bench.measure import Bar, Spread, interleave, ratios
from geoloc.core import part_table, storage
from geoloc.core.arrays import Pixels
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.images import decode_image
from geoloc.core.progress import say
from geoloc.models.card import RECIPE_NAME, read_card
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.table_job import PartResult
from geoloc.sources.jpeg import encode_jpeg
from geoloc.stages.encode import TileEncoder
from geoloc.stages.encode_imagery import ImageryEncoder
from geoloc.stages.imagery_plan import plan_imagery
from geoloc.stages.ingest import make_tiles
from geoloc.stages.ingest_settings import IngestConfig

_JPEG_QUALITY = 92
_ENCODE_LIMIT, _INGEST_LIMIT = 0.85, 0.8
_SPACINGS_M = (5.0, 10.0, 20.0)
_SHEET_PX, _PIXEL_M = 2400, 0.4

FORWARD, AT_ONCE, TABLE, CUT, RECODE = (
    "forward pass",
    "at once",
    "from a table",
    "cutting to JPEG",
    "JPEG alone",
)


class EncodeBench(BaseModel):
    """What is measured; the defaults take about a minute on one core."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    imagery: list[str] | None = Field(
        None,
        description="URIs of GeoTIFF files, of directories of them, or globs; default: a generated sheet.",
    )
    model: str | None = Field(None, description="URI of a model directory; default: random weights.")
    recipe: str = Field("geoloc", description="Recipe of the random weights.")
    stride_m: float = Field(10.0, gt=0, description="Step between tile centres, metres.")
    batch_size: int = Field(64, ge=1, le=4096, description="Tiles in a forward pass.")
    rounds: int = Field(5, ge=1, description="How often each measurement is repeated.")
    scratch: str | None = Field(None, description="Directory for temporary files.")


class EncodeReport(BaseModel):
    """Seconds of one part of tiles, bytes of a tile, and the bars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: dict[str, str | int]
    tiles: int
    seconds: dict[str, list[float]]
    picture_bytes: float = Field(description="Of a tile in a table of pictures.")
    code_bytes: float = Field(description="Of a tile in a table of codes, with its embedding.")
    bars: list[Bar]

    def milliseconds(self, variant: str) -> float:
        """Median time of a tile."""
        return Spread.of(self.seconds[variant]).median / self.tiles * 1e3

    def text(self) -> str:
        """Milliseconds a tile, costs of a km2, the bars last."""
        lines = ["machine: " + ", ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        lines += [f"  {name:<16} {self.milliseconds(name):>7.2f} ms a tile" for name in self.seconds]
        lines += ["", "a km2, one core: at once, or cut to a table and then encoded"]
        through = self.milliseconds(CUT) + self.milliseconds(TABLE)
        for spacing_m in _SPACINGS_M:
            tiles = (1000 / spacing_m) ** 2
            lines.append(
                f"  every {spacing_m:>2g} m: {tiles * self.milliseconds(AT_ONCE) / 1e3:,.0f} s and "
                f"{tiles * self.code_bytes / 1e6:,.1f} MB, or {tiles * through / 1e3:,.0f} s and "
                f"{tiles * (self.code_bytes + self.picture_bytes) / 1e6:,.1f} MB"
            )
        lines += ["", "bars: median (min to max over the rounds)"]
        return "\n".join([*lines, *(f"  {bar.line()}" for bar in self.bars)])


def run(config: EncodeBench, output: str | None = None) -> EncodeReport:
    """Measure cutting and encoding on this machine.

    With `output` the report is written there as JSON. Raises `InputError` where imagery gives no tile.
    """
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="geoloc-bench-", dir=config.scratch) as scratch:
            report = _measure(config, Path(scratch))
    finally:
        torch.set_num_threads(threads)  # an encoder of one thread sets it for the process
    if output:
        storage.write_bytes(storage.absolute(output), (report.model_dump_json(indent=1) + "\n").encode())
    return report


def _measure(config: EncodeBench, root: Path) -> EncodeReport:
    model = storage.absolute(config.model) if config.model else _random_model(config.recipe, root / "model")
    read_card(model)
    unit = _unit(config, model, root)
    at_once = ImageryEncoder(model, config.batch_size, gpu=False, embeddings=True)
    from_table = TileEncoder(model, config.batch_size, gpu=False, embeddings=True)
    cut = make_tiles(unit)
    table = str(root / "tiles")
    part_table.write_table(table, [cut.rows], kind="tiles", fingerprint="bench")
    part = part_table.read_manifest(table).parts[0]
    described = {"tiles": table, "part": part.model_dump()}
    encoder, prepared = _prepared(model, cut)
    say(f"bench: {len(prepared):,} tiles, {config.rounds} rounds")
    seconds = interleave(
        {
            FORWARD: lambda: _forward(encoder, prepared, config.batch_size),
            AT_ONCE: lambda: at_once(unit),
            TABLE: lambda: from_table(described),
            CUT: lambda: make_tiles(unit),
            RECODE: lambda: _recode(cut),
        },
        config.rounds,
    )
    codes = str(root / "codes")
    part_table.write_table(codes, [at_once(unit).rows], kind="codes", fingerprint="bench")
    return EncodeReport(
        machine={"cpus": len(os.sched_getaffinity(0)), "torch": torch.__version__, "vectors": _vectors()},
        tiles=len(prepared),
        seconds=seconds,
        picture_bytes=part.bytes / len(prepared),
        code_bytes=part_table.read_manifest(codes).parts[0].bytes / len(prepared),
        bars=_bars(seconds),
    )


def _bars(seconds: dict[str, list[float]]) -> list[Bar]:
    bars = [
        Bar(
            what=f"encoding {what}: the network's forward pass / time",
            value=ratios(seconds[FORWARD], seconds[what]),
            quickest=min(seconds[FORWARD]) / min(seconds[what]),
            limit=_ENCODE_LIMIT,
            at_most=False,
        )
        for what in (AT_ONCE, TABLE)
    ]
    ingest = Bar(
        what="cutting tiles to JPEG: decoding and encoding the same JPEG / time",
        value=ratios(seconds[RECODE], seconds[CUT]),
        quickest=min(seconds[RECODE]) / min(seconds[CUT]),
        limit=_INGEST_LIMIT,
        at_most=False,
    )
    return [*bars, ingest]


def _vectors() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _unit(config: EncodeBench, model: str, root: Path) -> dict[str, object]:
    """The first part of the plan that gives tiles for at least one batch, else the fullest of those tried."""
    recipe = Recipe.load(storage.join(model, RECIPE_NAME)).model
    tiles = IngestConfig(tile_m=recipe.tile_m, tile_px=recipe.tile_px, stride_m=config.stride_m)
    plan = plan_imagery(tiles, config.imagery or [_generated_sheet(root / "sheet.tif")])
    best: tuple[int, dict[str, object]] | None = None
    units = plan.units()
    for number in range(min(len(units), 200)):
        unit = {**units[number], "jpeg_quality": _JPEG_QUALITY}
        rows = make_tiles(unit).rows.num_rows
        if rows and (best is None or rows > best[0]):
            best = rows, unit
        if rows >= config.batch_size:
            break
    if best is None:
        raise InputError("The imagery gives no tile to measure with; give other sheets.", reason="no_tiles")
    return best[1]


def _prepared(model: str, cut: PartResult) -> tuple[Encoder, Pixels]:
    """The model and all tiles decoded, at its size."""
    encoder = Encoder.open(model, device="cpu", threads=1)
    pictures = [decode_image(data) for data in cut.rows["image"].to_pylist()]
    return encoder, encoder.prepare(pictures, "aerial")


def _forward(encoder: Encoder, prepared: Pixels, batch_size: int) -> None:
    for first in range(0, len(prepared), batch_size):
        encoder.encode(prepared[first : first + batch_size], "aerial")


def _recode(cut: PartResult) -> None:
    for data in cut.rows["image"].to_pylist():
        encode_jpeg(decode_image(data), _JPEG_QUALITY)


def _random_model(recipe_name: str, path: Path) -> str:
    recipe = Recipe.load(recipe_name)
    if recipe.model.hash.encoder is not None:
        raise ConfigError(f"The recipe {recipe_name!r} needs a fitted hash encoder; give a model instead.")
    torch.manual_seed(0)
    save_model(GeoLocalizer(recipe.model), recipe, str(path))
    return str(path)


def _generated_sheet(path: Path) -> str:
    """A sheet with texture at all scales, so that JPEG has as much to do as with imagery."""
    rng = np.random.default_rng(0)
    total = np.zeros((_SHEET_PX, _SHEET_PX, 3), np.float32)
    for cell_px in (8, 32, 128):
        side = -(-_SHEET_PX // cell_px)
        coarse = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((_SHEET_PX, _SHEET_PX), Image.Resampling.BICUBIC), np.float32) / 3
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=_SHEET_PX,
        height=_SHEET_PX,
        count=3,
        dtype="uint8",
        crs="EPSG:32635",
        transform=from_origin(500_000, 6_500_000, _PIXEL_M, _PIXEL_M),
        tiled=True,
        compress="jpeg",
        photometric="ycbcr",
    ) as sheet:
        sheet.write(total.astype(np.uint8).transpose(2, 0, 1))
    return str(path)
