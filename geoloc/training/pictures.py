"""Prepared pictures by number: which rows of a table a run needs, cut and resized once, in one array.

A `PictureSet` is filled part by part of its table: in this process, or by Ray into the cache of a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from geoloc.core import part_table
from geoloc.core.arrays import IntArray, Pixels
from geoloc.core.errors import InputError, ModelMismatch
from geoloc.core.images import decode_image
from geoloc.core.part_table import Part
from geoloc.models.preprocessing import lens_of, prepare_aerial, prepare_panorama, resize
from geoloc.recipe.recipe import ModelRecipe

_EXTENT_TOLERANCE = 0.01
_ROWS_AT_ONCE = 64


class PictureMaker(Protocol):
    """Prepares the picture of one row of a table; carried to other processes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the row that it needs."""
        ...

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """The picture uint8[h, w, 3]."""
        ...


@dataclass(frozen=True)
class TileMaker:
    """Tiles of `extent_m` metres as `whole_px` pixels, of which the middle `side_px` are kept, north up."""

    extent_m: float
    whole_px: int
    side_px: int
    columns: tuple[str, ...] = ("tile_id", "image", "metres_per_pixel")

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """The tile uint8[side_px, side_px, 3]; `ModelMismatch` for one of another extent."""
        image = decode_image(row["image"])
        height, width = image.shape[:2]
        covered_m = min(height, width) * row["metres_per_pixel"]
        if height != width or abs(covered_m / self.extent_m - 1) > _EXTENT_TOLERANCE:
            raise ModelMismatch(
                f"Tile {row['tile_id']!r} is {width} x {height} px and covers {covered_m:g} m, others "
                f"{self.extent_m:g} m; ingest all tiles with one size."
            )
        kept = slice((self.whole_px - self.side_px) // 2, (self.whole_px + self.side_px) // 2)
        return resize(image, self.whole_px, self.whole_px)[kept, kept]


@dataclass(frozen=True)
class PhotoMaker:
    """Panoramas and street photos on the model's canvas, north in the middle where their heading is known."""

    model: ModelRecipe
    turned: bool = True
    columns: tuple[str, ...] = ("query_id", "image", "heading_deg", "fov_deg", "view")

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """The photo uint8[h, w, 3]."""
        return prepare_panorama(
            decode_image(row["image"]),
            self.model,
            fov_deg=row["fov_deg"],
            heading_deg=row["heading_deg"] if self.turned else None,
            lens=lens_of(row["view"]),
        )


@dataclass(frozen=True)
class DroneMaker:
    """Drone photos. Their table has no ground extent: a photo is taken to show the model's field."""

    model: ModelRecipe
    columns: tuple[str, ...] = ("query_id", "image")

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """The photo uint8[side, side, 3]."""
        return prepare_aerial(decode_image(row["image"]), self.model, None)


@dataclass(frozen=True)
class Span:
    """The pictures of one part of a table: its rows int64[n], and the number of the first of them in the set."""

    part: Part
    rows: IntArray
    start: int


@dataclass(frozen=True)
class PictureSet:
    """The pictures at `rows` int64[n] (ascending) of the table at `table`, each as uint8[h, w, 3]."""

    name: str
    table: str
    rows: IntArray
    size_px: tuple[int, int]
    maker: PictureMaker

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape [n, h, w, 3] of all of them."""
        return (len(self.rows), *self.size_px, 3)

    @property
    def bytes(self) -> int:
        """The size of all of them in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def spans(self) -> Iterator[Span]:
        """The parts of the table that hold pictures of the set, in order."""
        first = 0
        for part in part_table.read_manifest(self.table).parts:
            start, stop = np.searchsorted(self.rows, [first, first + part.rows])
            if stop > start:
                yield Span(part, np.asarray(self.rows[start:stop]) - first, int(start))
            first += part.rows

    def fill(self, pictures: Pixels) -> None:
        """Prepare all pictures into uint8[n, h, w, 3], one part of the table in memory at a time."""
        for span in self.spans():
            fill_span(self.table, span, self.maker, pictures[span.start : span.start + len(span.rows)])


def fill_span(table: str, span: Span, maker: PictureMaker, pictures: Pixels) -> None:
    """Prepare the pictures of a span into uint8[n, h, w, 3]; `InputError` for one that cannot be decoded."""
    rows = part_table.read_columns(table, span.part, list(maker.columns)).take(pa.array(span.rows))
    number = 0
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            pictures[number] = maker(row)
            number += 1


def picture_extent_m(table: str, row: int) -> float:
    """Metres that the shorter side of the tile at a row of the tiles table covers."""
    found = _rows(table, ["image", "metres_per_pixel"], np.array([row]))[0]
    return float(min(decode_image(found["image"]).shape[:2]) * found["metres_per_pixel"])


def row_names(table: str, key: str, rows: IntArray) -> list[str]:
    """The names in column `key` at rows int64[n] of a table, in their order; only parts with such rows are read."""
    unique, place = np.unique(rows, return_inverse=True)
    names = [row[key] for row in _rows(table, [key], unique)]
    return [names[each] for each in place]


def _rows(table: str, columns: Sequence[str], rows: IntArray) -> list[dict[str, Any]]:
    """Some columns of a few rows int64[n] (ascending) of a table."""
    found: list[dict[str, Any]] = []
    first = 0
    for part in part_table.read_manifest(table).parts:
        inside = rows[(rows >= first) & (rows < first + part.rows)] - first
        if len(inside):
            found += part_table.read_columns(table, part, columns).take(pa.array(inside)).to_pylist()
        first += part.rows
    if len(found) < len(rows):
        raise InputError(f"{table!r} has {first} rows and was read for row {rows[-1]}; run ingest again.")
    return found
