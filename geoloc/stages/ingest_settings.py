"""Settings, inputs and results of ingest, and the publication of its tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoloc.core import part_table
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.lease import Lease
from geoloc.core.part_table import TableDraft, TableManifest
from geoloc.core.progress import say
from geoloc.recipe.recipe import Recipe
from geoloc.runtime import table_job
from geoloc.sources.folder import ANYWHERE_HELP, FILE_HEADING_HELP, ViewDefaults
from geoloc.sources.grid import TileSpec
from geoloc.sources.sheets import Order

_USUAL_TILE_PX = 160


class IngestConfig(BaseModel):
    """Settings of cutting imagery and of reading photos."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_m: float = Field(default=64.0, gt=0, le=100_000, description="Side of a tile on the ground, metres.")
    tile_px: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        description="Side of a tile, pixels; default: 160 for imagery, unchanged for a data set's tiles.",
    )
    max_image_px: int | None = Field(
        default=None,
        ge=32,
        le=8192,
        description="Longer side, in pixels, to which photos of a data set are scaled down.",
    )
    metres_per_pixel: float | None = Field(
        default=None, gt=0, description="Resolution of tiles; sets tile_px to tile_m / metres_per_pixel."
    )
    stride_m: float | None = Field(
        default=None, gt=0, description="Step between tile centres of the grid, metres; default: half a tile."
    )
    max_nodata_share: float = Field(
        default=0.5, ge=0, lt=1, description="Tiles with a larger share of holes than this are left out."
    )
    scale: tuple[float, float] | None = Field(
        default=None,
        description="Pixel values that become black and white, for imagery that is not 8-bit; 8-bit sheets "
        "are not changed.",
    )
    bands: tuple[int, int, int] | None = Field(
        default=None,
        description="Numbers of the bands that are red, green and blue, in sheets with that many bands; default: "
        "as the file says.",
    )
    nodata: float | None = Field(
        default=None,
        description="Value of pixels that show nothing, in all colour bands, beside what sheets declare themselves.",
    )
    order: Order = Field(
        default="name",
        description="Which of overlapping sheets is on top: the first by name, or the newest by time "
        "(TIFFTAG_DATETIME, else the file's).",
    )
    jpeg_quality: int = Field(default=92, ge=50, le=100, description="JPEG quality of stored tiles (4:4:4).")
    default_view: Literal["panorama", "street", "drone"] = Field(
        default="panorama", description="View of photos whose row has none."
    )
    default_fov_deg: float | None = Field(
        default=None,
        gt=0,
        le=360,
        description="Field of view of photos without one, degrees; default: 70 for street photos, else 360.",
    )
    file_heading: bool = Field(default=False, description=FILE_HEADING_HELP)
    photos_anywhere: bool = Field(default=False, description=ANYWHERE_HELP)
    positive_radius_m: float = Field(
        default=25.0,
        gt=0,
        description="The nearest tile centre within this distance of a photo is its positive, metres.",
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of bad rows that stops the stage."
    )
    rows_per_part: int = Field(
        default=1024,
        ge=1,
        le=65_536,
        description="Rows of a Parquet part at most; fewer where images are large.",
    )

    @model_validator(mode="after")
    def _whole_pixels(self) -> IngestConfig:
        self.spec()
        return self

    def spec(self) -> TileSpec:
        """The size of tiles; `ConfigError` when it is not a whole number of pixels."""
        pixels: float = self.tile_px or _USUAL_TILE_PX
        if self.metres_per_pixel is not None:
            pixels = self.tile_m / self.metres_per_pixel
            if abs(pixels - round(pixels)) > 1e-6:
                raise ConfigError(
                    f"tile_m {self.tile_m:g} is not a whole number of pixels of metres_per_pixel "
                    f"{self.metres_per_pixel:g} m; use {round(pixels) * self.metres_per_pixel:g} m."
                )
        return TileSpec(self.tile_m, round(pixels), self.stride_m or self.tile_m / 2)

    def views(self) -> ViewDefaults:
        """The camera that a photo is taken for where its row does not name one."""
        return ViewDefaults(self.default_view, self.default_fov_deg, self.file_heading)


def training_tile(recipe: Recipe, *, photo_offset_m: float) -> IngestConfig:
    """The size of tiles to train a recipe on, around photos that are at most `photo_offset_m` off their centres.

    Training moves the network's field around the camera, so a tile is larger than the field by both on each side.
    """
    model = recipe.model
    margin_m = photo_offset_m + recipe.training.augmentation.offset_m
    pixels = model.tile_px + 2 * math.ceil(margin_m / model.metres_per_pixel)
    return IngestConfig(tile_m=pixels * model.metres_per_pixel, tile_px=pixels)


class IngestInputs(BaseModel):
    """URIs of imagery and photos, at least one of them, or a published data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    imagery: list[str] | None = Field(
        default=None, description="URIs of GeoTIFF files, of directories of them, or globs."
    )
    centres: str | None = Field(
        default=None,
        description="URI of a CSV or GeoJSON with tile_id, lat, lon: one tile for each row, instead of a "
        "grid.",
    )
    photos: str | None = Field(
        default=None,
        description="URI of a CSV or GeoJSON with photo, lat, lon, ..., or of a folder with photos.csv.",
    )
    dataset: str | None = Field(
        default=None,
        description="Published data set instead of imagery and photos: cvusa, vigor, ...; xyz replaces "
        "imagery alone.",
    )
    root: str | None = Field(default=None, description="URI of the data set, as downloaded.")
    split: str | None = Field(default=None, description="Split of the data set.")
    labels: Literal["auto", "original", "corrected"] = Field(
        default="auto", description="Label files of VIGOR; auto: the corrected ones where there are any."
    )
    cities: list[str] | None = Field(default=None, description="Cities of VIGOR to read; default: all.")

    @model_validator(mode="after")
    def _check_inputs(self) -> IngestInputs:
        if self.dataset:
            if self.imagery or self.centres or (self.photos and self.dataset != "xyz"):
                raise ConfigError(
                    "dataset brings its own pictures; leave imagery, photos and centres out, or the dataset (xyz alone "
                    "takes photos)."
                )
            if not self.root:
                raise ConfigError(f"Say where the data set {self.dataset} lies: give root.")
            return self
        if self.root or self.split or self.cities:
            raise ConfigError("root, split and cities belong to a data set; give dataset too.")
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
    """Result of ingest: a table for each kind of input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    tiles: TableCounts | None
    queries: TableCounts | None
    pairs: TableCounts | None
    overlapping_sheets: int = 0
    notes: tuple[str, ...] = ()


class OutputTables:
    """Opens the tables of one ingest; the lease on the whole output is taken when the first of them is not finished.

    Pairs belong to these tiles and these queries, so no other run may change one of them meanwhile. A run that finds
    everything finished writes nothing. Use it in a `with` block.
    """

    def __init__(self, output: str, *, overwrite: bool) -> None:
        self._output = output
        self._overwrite = overwrite
        self._held = ExitStack()
        self._leased = False

    def __enter__(self) -> OutputTables:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def begin(self, uri: str, fingerprint: str) -> AbstractContextManager[TableDraft]:
        """A table of the output (`part_table.begin`)."""
        if not part_table.is_finished(uri, fingerprint):
            self.hold()
        return part_table.begin(uri, fingerprint, overwrite=self._overwrite)

    def hold(self) -> None:
        """Take the lease on the output; `OutputInUse` when another run is at work there."""
        if not self._leased:
            self._held.enter_context(Lease(self._output))
            self._leased = True


def publish_table(
    kind: str,
    table: TableDraft,
    written: Sequence[part_table.Part],
    totals: Counter[str],
    details: dict[str, Any],
    max_bad_share: float,
) -> TableManifest:
    """Publish a table.

    Raises `TooManyBadRows` when more than `max_bad_share` of its rows were refused, `InputError` for no tile.
    """
    refused = table_job.quarantined(totals)
    rows = sum(part.rows for part in written)
    table_job.check_bad_share(kind, table.plan.uri, rows, refused, max_bad_share)
    if kind == "tiles" and "max_nodata_share" in details:
        check_some_tiles(rows, totals["mostly_nodata"], details["max_nodata_share"])
    return table.publish(kind=kind, parts=written, quarantined=refused, details=details)


def check_some_tiles(rows: int, mostly_nodata: int, max_nodata_share: float) -> None:
    """Raise `InputError` when imagery gave no tile at all."""
    if not rows:
        raise InputError(
            f"The imagery gives no tile: {mostly_nodata:,} places have more than {max_nodata_share:.0%} holes; use a "
            "smaller tile_m or a larger max_nodata_share.",
            reason="no_tiles",
        )


def report_counts(
    kind: str, uri: str, manifest: TableManifest, fresh: list[bool], *, reused: bool
) -> TableCounts:
    """Print and return the counts of a published table; appends to `fresh` whether this run made it."""
    fresh.append(not reused)
    say(table_job.summary(kind, manifest) + (" (reused)" if reused else ""))
    return TableCounts(
        uri=uri,
        rows=manifest.rows,
        quarantined=manifest.quarantined,
        mostly_nodata=int(manifest.details.get("mostly_nodata", 0)),
    )
