"""Pictures of tiles, and map tiles made from them: what the page shows behind its pins.

The pictures are those of a table of tiles (`geoloc ingest`). A map tile is put together from one picture for each patch
of ground; at a low zoom each patch stands for more ground than it shows.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from geoloc.core import geodesy, part_table, storage
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import QueryError
from geoloc.core.images import image_format

MAP_TILE_PX = 256
MAX_ZOOM = 22
_PATCHES = 8  # along a side of a map tile, at most
_KEPT_PARTS = 8
_KEPT_MAP_TILES = 512
_OVERLAP = 0.5  # patches are half a tile apart: wherever a patch holds a tile, it is covered
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif"}


class TileImagery:
    """The pictures of a table of tiles; safe to use from several threads.

    Holds positions and ids (about 100 bytes a tile) and the pictures of the last few parts.
    """

    def __init__(self, uri: str) -> None:
        self._uri = storage.absolute(uri)
        manifest = part_table.read_manifest(self._uri, kind="tiles")
        self._parts = manifest.parts
        tables = [
            part_table.read_columns(self._uri, part, ("tile_id", "lat", "lon", "metres_per_pixel"))
            for part in manifest.parts
        ]
        table = pa.concat_tables(tables)
        self._ids = table["tile_id"].combine_chunks()
        rows = [part.rows for part in manifest.parts]
        self._part_of = np.repeat(np.arange(len(rows)), rows)
        self._row_of = np.concatenate([np.arange(count) for count in rows]) if rows else np.empty(0, np.int64)
        self._pictures: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._reading = threading.Lock()
        lat, lon = (table[name].to_numpy().astype(np.float64) for name in ("lat", "lon"))
        self._order = np.flatnonzero(np.isfinite(lat) & np.isfinite(lon))
        x, y = geodesy.mercator_xy(lat[self._order], lon[self._order])
        by_x = np.argsort(x)
        self._order, self._x, self._y = self._order[by_x], x[by_x], y[by_x]
        self._half = self._half_sides(table, lat)[self._order] if len(self._order) else np.empty(0)
        self.map_tile = lru_cache(maxsize=_KEPT_MAP_TILES)(self._map_tile)

    def _half_sides(self, table: pa.Table, lat: FloatArray) -> FloatArray:
        """Half the side of each tile in the unit square of web mercator; all pictures have the size of the first."""
        with Image.open(io.BytesIO(self._bytes_of(int(self._order[0])))) as first:
            side_px = min(first.size)
        ground_m = table["metres_per_pixel"].to_numpy().astype(np.float64) * side_px
        return np.asarray(ground_m / 2 / (geodesy.EQUATOR_M * np.cos(np.radians(lat))))

    def image(self, tile_id: str) -> tuple[bytes, str]:
        """(bytes, media type) of a tile's picture; `QueryError` (`unknown_tile`) where there is none."""
        row = pc.index(self._ids, tile_id).as_py()
        if row < 0:
            raise QueryError(
                f"There is no picture of tile {tile_id[:100]!r}; give an id of a match.",
                reason="unknown_tile",
            )
        data = self._bytes_of(row)
        return data, _TYPES.get(image_format(data) or "", "application/octet-stream")

    def _bytes_of(self, row: int) -> bytes:
        number = int(self._part_of[row])
        with self._reading:
            pictures = self._pictures.get(number)
            if pictures is None:
                part = self._parts[number]
                pictures = part_table.read_columns(self._uri, part, ("image",))["image"]
                self._pictures[number] = pictures
                if len(self._pictures) > _KEPT_PARTS:
                    self._pictures.popitem(last=False)
            self._pictures.move_to_end(number)
        data: bytes = pictures[int(self._row_of[row])].as_py()
        return data

    def _map_tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A web-mercator tile as WebP, transparent where there is no imagery; None where there is none at all.

        Convention: x counts to the east from 180 W, y to the south from the north edge, both below 2**zoom.
        """
        side = 2.0**-zoom
        places, half = self._patches(x * side, y * side, side)
        if not len(places):
            return None
        canvas = Image.new("RGBA", (MAP_TILE_PX, MAP_TILE_PX), (0, 0, 0, 0))
        for place in places:
            reach = max(float(self._half[place]), half)
            size_px = max(1, round(2 * reach / side * MAP_TILE_PX) + 1)
            with Image.open(io.BytesIO(self._bytes_of(int(self._order[place])))) as picture:
                picture.draft("RGB", (size_px, size_px))
                patch = picture.convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR)
            left = round((self._x[place] - reach - x * side) / side * MAP_TILE_PX)
            top = round((self._y[place] - reach - y * side) / side * MAP_TILE_PX)
            canvas.paste(patch, (left, top))
        sink = io.BytesIO()
        canvas.save(sink, "WEBP", quality=80, method=2)
        return sink.getvalue()

    def _patches(self, west: float, north: float, side: float) -> tuple[IntArray, float]:
        """(places int64[M] in the order of x, half a patch): one tile for each patch of a square of web mercator."""
        if not len(self._x):
            return np.empty(0, np.int64), 0.0
        reach = max(float(self._half.max()), side / _PATCHES)
        first, last = np.searchsorted(self._x, (west - reach, west + side + reach))
        near = np.arange(first, last)
        near = near[np.abs(self._y[near] - (north + side / 2)) <= side / 2 + reach]
        if not len(near):
            return near, 0.0
        step = max(2 * _OVERLAP * float(np.median(self._half[near])), side / _PATCHES)
        column, row = np.floor(self._x[near] / step), np.floor(self._y[near] / step)
        off = np.hypot(self._x[near] / step - column - 0.5, self._y[near] / step - row - 0.5)
        order = np.lexsort((off, column, row))
        near, column, row = near[order], column[order], row[order]
        new = np.ones(len(near), np.bool_)
        new[1:] = (np.diff(column) != 0) | (np.diff(row) != 0)
        return near[new], step / 2
