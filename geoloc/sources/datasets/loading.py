"""Rows of a data set to rows of the tables: bytes read, decoded once, stored as they came unless a size is asked.

Memory: the bytes of the rows given and one decoded picture at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from geoloc.core import schemas, storage
from geoloc.core.arrays import Pixels
from geoloc.core.errors import ArtifactError, InputError
from geoloc.core.geodesy import cells
from geoloc.core.images import decode_image
from geoloc.core.photo_facts import check_shape
from geoloc.sources.datasets import files
from geoloc.sources.datasets.cloud import tile_points
from geoloc.sources.datasets.rows import Picture, Query, Tile
from geoloc.sources.jpeg import encode_jpeg
from geoloc.sources.quarantine import RefusedRow

Row = TypeVar("Row", Tile, Query)


def load_tiles(
    rows: Sequence[Tile], *, tile_px: int | None = None, jpeg_quality: int = 92
) -> tuple[pa.Table, list[RefusedRow]]:
    """Rows of the tiles table and refused rows, both in order.

    Bytes are stored unchanged, or with `tile_px` resized to that many pixels a side (square pictures only).
    """

    def load(tile: Tile, data: bytes) -> dict[str, object]:
        pixels = decode_image(data)
        height, width = pixels.shape[:2]
        metres_per_pixel = tile.metres_per_pixel * (tile.at_width_px or width) / width
        if tile_px is not None and (height, width) != (tile_px, tile_px):
            if height != width:
                raise InputError(
                    f"the tile has {width} x {height} px and is not square; leave tile_px out",
                    reason="bad_aspect",
                )
            data = encode_jpeg(_resized(pixels, tile_px, tile_px), jpeg_quality)
            metres_per_pixel *= width / tile_px
        row = {name: getattr(tile, name) for name in ("tile_id", "lat", "lon", "place_id", "source")}
        map_image = None if tile.map_picture is None else _shared(tile, data)
        points = None if tile.cloud is None else tile_points(tile.cloud)
        return row | {
            "metres_per_pixel": metres_per_pixel,
            "image": data,
            "map_image": map_image,
            "points": points,
        }

    kept, refused = _load(rows, load, lambda tile: tile.tile_id)
    return _tiles_table(kept), refused


def load_queries(
    rows: Sequence[Query], *, max_px: int | None = None, jpeg_quality: int = 92
) -> tuple[pa.Table, list[RefusedRow]]:
    """Rows of the queries table and refused rows, both in order.

    Bytes are stored unchanged, or where the longer side passes `max_px` scaled down to it.
    """

    def load(query: Query, data: bytes) -> dict[str, object]:
        pixels = decode_image(data)
        height, width = pixels.shape[:2]
        check_shape(query.view, query.fov_deg, height, width)
        if max_px is not None and max(height, width) > max_px:
            scale = max_px / max(height, width)
            data = encode_jpeg(
                _resized(pixels, max(1, round(height * scale)), max(1, round(width * scale))), jpeg_quality
            )
        return {
            field.name: data if field.name == "image" else getattr(query, field.name)
            for field in schemas.QUERIES
        }

    kept, refused = _load(rows, load, lambda query: query.query_id)
    columns = {
        field.name: pa.array([row[field.name] for row in kept], field.type) for field in schemas.QUERIES
    }
    return schemas.conform(pa.table(columns), schemas.QUERIES), refused


def _load(
    rows: Sequence[Row],
    load: Callable[[Row, bytes], dict[str, object]],
    key: Callable[[Row], str],
) -> tuple[list[dict[str, object]], list[RefusedRow]]:
    kept: list[dict[str, object]] = []
    refused: list[RefusedRow] = []
    for row, data in zip(rows, _contents([row.picture for row in rows]), strict=True):
        try:
            if isinstance(data, InputError):
                raise data
            kept.append(load(row, data))
        except InputError as error:
            refused.append(RefusedRow(key(row), error.reason, str(error), row.picture.uri))
    return kept, refused


def _contents(pictures: Sequence[Picture]) -> Iterator[bytes | InputError]:
    """Bytes of pictures in order; from object stores by eight threads: there the time goes into waiting."""
    if all(storage.is_local(picture.uri) for picture in pictures):
        yield from map(_content, pictures)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(_content, pictures)


def _content(picture: Picture) -> bytes | InputError:
    try:
        return files.picture_bytes(picture)
    except InputError as error:
        return error
    except ArtifactError:
        return InputError(f"the picture {picture.uri!r} does not exist", reason="missing_file")


def _shared(tile: Tile, data: bytes) -> bytes:
    """The map picture of a tile, which often is the tile's picture itself."""
    assert tile.map_picture is not None
    if tile.map_picture == tile.picture:
        return data
    found = _content(tile.map_picture)
    if isinstance(found, InputError):
        raise found
    decode_image(found)
    return found


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _tiles_table(rows: list[dict[str, object]]) -> pa.Table:
    names = [name for name in schemas.TILES.names if name not in ("cell", "captured_at", "geometry")]
    columns = {name: pa.array([row[name] for row in rows], schemas.TILES.field(name).type) for name in names}
    lat = np.array([np.nan if row["lat"] is None else row["lat"] for row in rows], dtype=np.float64)
    lon = np.array([np.nan if row["lon"] is None else row["lon"] for row in rows], dtype=np.float64)
    known = np.isfinite(lat) & np.isfinite(lon)
    codes = cells(np.where(known, lat, 0.0), np.where(known, lon, 0.0))
    columns["cell"] = pa.array(codes, pa.int64(), mask=~known)
    return schemas.with_geometry(schemas.conform(pa.table(columns), schemas.TILES))
