"""Ingest: imagery and photos, as they come, to checked tables of tiles, queries and pairs.

The driver reads headers and positions and plans; Ray Data tasks read, check, cut and write, one part each.
Bad rows go to `quarantine/` beside the parts with their reason; too many of them stop the stage. Killed
halfway and run again it makes the missing parts, byte for byte as one run through would have.

Memory of a task: a picture of about 2,000 x 2,000 pixels and the imagery below it (60 MB) and one part
(`rows_per_part` tiles of at most 64 Mi pixels, or photos of at most 64 MiB, together).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoloc import parts, storage
from geoloc.errors import ConfigError, InputError
from geoloc.parts import TableManifest
from geoloc.pipelines import blocks
from geoloc.pipelines.blocks import Made
from geoloc.progress import say
from geoloc.sources import folder, geotiff
from geoloc.sources.folder import Photo, ViewDefaults
from geoloc.sources.grid import Block, TilePlace, TileSpec
from geoloc.sources.positions import read_centres
from geoloc.sources.refused import Refused
from geoloc.sources.sheets import Floats, Sheet, find_sheets

_VERSION = 1  # of what the stage makes of the same inputs
_PHOTO_PART_BYTES = 64 * 2**20
_TILE_PART_PIXELS = 64 * 2**20  # about 25 MB as JPEG


class IngestConfig(BaseModel):
    """How imagery is cut and photos are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_m: float = Field(default=64.0, gt=0, le=100_000, description="side of a tile on the ground, metres")
    tile_px: int = Field(default=160, ge=32, le=4096, description="side of a tile in pixels")
    metres_per_pixel: float | None = Field(
        default=None, gt=0, description="resolution of tiles; replaces tile_px by tile_m / metres_per_pixel"
    )
    stride_m: float | None = Field(
        default=None, gt=0, description="step between tile centres of the grid, metres; default half a tile"
    )
    max_nodata_share: float = Field(
        default=0.5, ge=0, lt=1, description="tiles with more holes than this are left out"
    )
    scale: tuple[float, float] | None = Field(
        default=None, description="pixel values that are black and white, for imagery that is not 8-bit"
    )
    jpeg_quality: int = Field(default=92, ge=50, le=100, description="quality of stored tiles (4:4:4)")
    default_view: Literal["panorama", "street", "drone"] = Field(
        default="panorama", description="view of photos whose row has none"
    )
    default_fov_deg: float | None = Field(
        default=None, gt=0, le=360, description="field of view of photos without one; default 360, street 70"
    )
    positive_radius_m: float = Field(
        default=25.0, gt=0, description="a photo's nearest tile centre within this is its positive, metres"
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="share of bad rows that stops the stage"
    )
    rows_per_part: int = Field(
        default=1024,
        ge=1,
        le=65_536,
        description="rows of a Parquet part at most; fewer where images are large",
    )

    @model_validator(mode="after")
    def _whole_pixels(self) -> IngestConfig:
        self.spec()
        return self

    def spec(self) -> TileSpec:
        """The size of tiles; `ConfigError` when it is not a whole number of pixels."""
        pixels: float = self.tile_px
        if self.metres_per_pixel is not None:
            pixels = self.tile_m / self.metres_per_pixel
            if abs(pixels - round(pixels)) > 1e-6:
                raise ConfigError(
                    f"tile_m {self.tile_m:g} is not a whole number of pixels of metres_per_pixel "
                    f"{self.metres_per_pixel:g} m; use {round(pixels) * self.metres_per_pixel:g} m."
                )
        return TileSpec(self.tile_m, round(pixels), self.stride_m or self.tile_m / 2)

    def views(self) -> ViewDefaults:
        """What photos are taken for where their row does not say."""
        usual = 70.0 if self.default_view == "street" else 360.0
        return ViewDefaults(self.default_view, self.default_fov_deg or usual)


class IngestInputs(BaseModel):
    """Where imagery and photos are; at least one of imagery and photos."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    imagery: list[str] | None = Field(
        default=None, description="GeoTIFF files, directories or globs, local or s3://"
    )
    centres: str | None = Field(
        default=None, description="CSV or GeoJSON of tile_id, lat, lon: one tile each instead of the grid"
    )
    photos: str | None = Field(
        default=None, description="CSV or GeoJSON of photo, lat, lon, ..., or a folder with photos.csv"
    )

    @model_validator(mode="after")
    def _something(self) -> IngestInputs:
        if not self.imagery and not self.photos:
            raise ConfigError("There is nothing to ingest; give imagery, photos or both.")
        if self.centres and not self.imagery:
            raise ConfigError("centres say where to cut tiles, but there is no imagery to cut; give imagery.")
        return self


class TableCounts(BaseModel):
    """Rows of one table, what was refused by reason, and what was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    rows: int
    quarantined: dict[str, int]
    mostly_nodata: int = 0


class IngestResult(BaseModel):
    """What ingest made: a table for each kind of input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    tiles: TableCounts | None
    queries: TableCounts | None
    pairs: TableCounts | None


def run(config: IngestConfig, inputs: IngestInputs, output: str, *, overwrite: bool = False) -> IngestResult:
    """Make `<output>/tiles`, `<output>/queries` and `<output>/pairs`, whichever the inputs allow.

    Raises `InputError` or `ArtifactError` for inputs that cannot be used, `TooManyBadRows` when more than
    `max_bad_share` of a table's rows were refused (the table is not published).
    """
    start = time.monotonic()
    output = storage.absolute(output)
    made: list[bool] = []
    tiles = queries = pairs = None
    if inputs.imagery:
        tiles = _tiles(config, inputs, storage.join(output, "tiles"), overwrite, made)
    if inputs.photos:
        queries = _queries(config, inputs.photos, storage.join(output, "queries"), overwrite, made)
    if tiles and queries:
        pairs = _pairs(config, tiles.uri, queries.uri, storage.join(output, "pairs"), overwrite, made)
    return IngestResult(
        output=output,
        reused=not any(made),
        seconds=round(time.monotonic() - start, 3),
        tiles=tiles,
        queries=queries,
        pairs=pairs,
    )


def _tiles(
    config: IngestConfig, inputs: IngestInputs, uri: str, overwrite: bool, made: list[bool]
) -> TableCounts:
    sheets = find_sheets([storage.absolute(one) for one in inputs.imagery or []], config.scale)
    spec = config.spec()
    settings = {"max_nodata_share": config.max_nodata_share, "jpeg_quality": config.jpeg_quality}
    centres = storage.sha256_bytes(storage.read_bytes(inputs.centres)) if inputs.centres else ""
    mark = blocks.fingerprint(
        "tiles",
        _VERSION,
        asdict(spec),
        settings,
        config.scale,
        config.rows_per_part,
        centres,
        blocks.source_files(sheet.uri for sheet in sheets),
    )
    if done := parts.begin(uri, mark, overwrite=overwrite):
        return _counts("tiles", uri, done, made, reused=True)
    units = _tile_units(config, inputs.centres, sheets, spec, settings)
    written, totals = blocks.make_parts(uri, units, make_tiles, what="cutting tiles")
    details = {
        **asdict(spec),
        **settings,
        "metres_per_pixel": spec.metres_per_pixel,
        "mostly_nodata": totals["mostly_nodata"],
        "sheets": len(sheets),
    }
    manifest = _publish("tiles", uri, mark, written, totals, details, config.max_bad_share)
    return _counts("tiles", uri, manifest, made, reused=False)


def _tile_units(
    config: IngestConfig,
    centres_uri: str | None,
    sheets: Sequence[Sheet],
    spec: TileSpec,
    settings: dict[str, float],
) -> list[dict[str, Any]]:
    """What tasks need to know, part by part: tiles to cut, the sheets that they may show, rows already refused."""
    refused: list[Refused] = []
    if centres_uri:
        centres = read_centres(centres_uri)
        refused = centres.refused
        planned = geotiff.plan_centres(sheets, spec, centres.tile_ids, centres.lat, centres.lon)
    else:
        planned = geotiff.plan_grid(sheets, spec)
    common = {"spec": asdict(spec), "settings": settings, "named": bool(centres_uri)}
    limit = max(1, min(config.rows_per_part, _TILE_PART_PIXELS // spec.tile_px**2))
    pieces = [piece for block in planned for piece in geotiff.pieces(block, limit)]
    groups = blocks.split(pieces, lambda block: len(block.tiles), limit) or [[]]
    return [
        {
            **common,
            "sheets": {number: asdict(sheets[number]) for block in group for number in block.sheets},
            "blocks": [asdict(block) for block in group],
            "refused": [asdict(row) for row in (refused if index == 0 else [])],
        }
        for index, group in enumerate(groups)
    ]


def make_tiles(unit: dict[str, Any]) -> Made:
    """Cut the tiles of one part (runs in a Ray Data task)."""
    sheets = {
        int(number): Sheet(**{**sheet, "to_world": tuple(sheet["to_world"]), "bands": tuple(sheet["bands"])})
        for number, sheet in unit["sheets"].items()
    }
    planned = [
        Block(
            block["lat"],
            block["lon"],
            tuple(TilePlace(**tile) for tile in block["tiles"]),
            tuple(block["sheets"]),
        )
        for block in unit["blocks"]
    ]
    cut = geotiff.cut_blocks(
        planned, sheets, TileSpec(**unit["spec"]), named=unit["named"], **unit["settings"]
    )
    refused = [*(Refused(**row) for row in unit["refused"]), *cut.refused]
    return Made(cut.rows, refused, (("mostly_nodata", cut.mostly_nodata),))


def _queries(
    config: IngestConfig, photos_uri: str, uri: str, overwrite: bool, made: list[bool]
) -> TableCounts:
    positions = folder.positions_uri(storage.absolute(photos_uri))
    photos, refused = folder.read_photos(positions, config.views())
    mark = blocks.fingerprint(
        "queries",
        _VERSION,
        asdict(config.views()),
        config.rows_per_part,
        storage.sha256_bytes(storage.read_bytes(positions)),
        [photo.size_bytes for photo in photos],
    )
    if done := parts.begin(uri, mark, overwrite=overwrite):
        return _counts("queries", uri, done, made, reused=True)
    bytes_per_row = _PHOTO_PART_BYTES / config.rows_per_part
    groups = blocks.split(
        photos,
        lambda photo: max(1, round((photo.size_bytes or 0) / bytes_per_row)),
        config.rows_per_part,
    )
    units = [
        {
            "photos": [asdict(photo) for photo in group],
            "refused": [asdict(row) for row in (refused if index == 0 else [])],
        }
        for index, group in enumerate(groups or [[]])
    ]
    written, totals = blocks.make_parts(uri, units, make_queries, what="checking photos")
    manifest = _publish("queries", uri, mark, written, totals, {}, config.max_bad_share)
    return _counts("queries", uri, manifest, made, reused=False)


def make_queries(unit: dict[str, Any]) -> Made:
    """Read and check the photos of one part (runs in a Ray Data task)."""
    rows, bad = folder.load_photos([Photo(**photo) for photo in unit["photos"]])
    return Made(rows, [*(Refused(**row) for row in unit["refused"]), *bad])


def _pairs(
    config: IngestConfig, tiles_uri: str, queries_uri: str, uri: str, overwrite: bool, made: list[bool]
) -> TableCounts:
    tiles, queries = parts.read_manifest(tiles_uri), parts.read_manifest(queries_uri)
    mark = blocks.fingerprint(
        "pairs",
        _VERSION,
        config.positive_radius_m,
        config.tile_m,
        [part.sha256 for part in [*tiles.parts, *queries.parts]],
    )
    if done := parts.begin(uri, mark, overwrite=overwrite):
        return _counts("pairs", uri, done, made, reused=True)
    # Loads scikit-learn: two seconds that tasks, which import this module too, need not spend.
    from geoloc.sources.pairing import Pairer

    centres = parts.read(tiles_uri, columns=["tile_id", "lat", "lon"])
    pairer = Pairer(
        centres["tile_id"].to_pylist(),
        *_degrees(centres),
        tile_m=config.tile_m,
        positive_radius_m=config.positive_radius_m,
    )
    written = []
    for index, part in enumerate(queries.parts):
        rows = parts.read_part(queries_uri, part, ["query_id", "lat", "lon"])
        written.append(
            parts.write_part(uri, index, pairer.pairs(rows["query_id"].to_pylist(), *_degrees(rows)))
        )
    details = {"positive_radius_m": config.positive_radius_m}
    manifest = _publish("pairs", uri, mark, written, Counter(), details, 1.0)
    return _counts("pairs", uri, manifest, made, reused=False)


def _degrees(table: pa.Table) -> tuple[Floats, Floats]:
    lat, lon = (table[name].to_numpy().astype(np.float64) for name in ("lat", "lon"))
    return lat, lon


def _publish(
    kind: str,
    uri: str,
    mark: str,
    written: Sequence[parts.Part],
    totals: Counter[str],
    details: dict[str, Any],
    max_bad_share: float,
) -> TableManifest:
    refused = blocks.quarantined(totals)
    rows = sum(part.rows for part in written)
    blocks.check_bad_share(kind, uri, rows, refused, max_bad_share)
    if not rows and kind == "tiles":
        raise InputError(
            f"The imagery gives no tile: {totals['mostly_nodata']:,} places have more than "
            f"{details['max_nodata_share']:.0%} holes; use a smaller tile_m or a larger max_nodata_share.",
            reason="no_tiles",
        )
    return parts.publish(
        uri, kind=kind, fingerprint=mark, parts=written, quarantined=refused, details=details
    )


def _counts(kind: str, uri: str, manifest: TableManifest, made: list[bool], *, reused: bool) -> TableCounts:
    made.append(not reused)
    say(blocks.summary(kind, manifest) + (" (reused)" if reused else ""))
    return TableCounts(
        uri=uri,
        rows=manifest.rows,
        quarantined=manifest.quarantined,
        mostly_nodata=int(manifest.details.get("mostly_nodata", 0)),
    )
