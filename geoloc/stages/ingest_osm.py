"""Tiles of an OpenStreetMap extract: a map tile and a point cloud every few metres along its streets.

The driver reads the extract once and cuts it into blocks of 512 m; Ray Data tasks make the tiles of one block each. So
memory is that of a block and its surroundings, whatever the extract's size.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.geodesy import LatLon, SphericalTransverseMercator, cells
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.sources.datasets.cloud import SQUARE_M
from geoloc.sources.osm.blocks import BLOCK_M, BlockPlan, read_block, street_places, write_blocks
from geoloc.sources.osm.classes import KEYS
from geoloc.sources.osm.extract import read_features
from geoloc.sources.osm.picture import draw_tile
from geoloc.sources.osm.surfaces import MapFeatures, sample_surfaces

_VERSION = 1
_BLOCKS = "osm-blocks"
_MARGIN_M = 16.0  # beyond the tiles' squares: walls look beside them


class OsmTilesConfig(BaseModel):
    """Settings of the tiles of an OSM extract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_m: float = Field(
        default=152.0, gt=0, le=200, description="Side of a map tile on the ground, metres."
    )
    tile_px: int = Field(default=256, ge=32, le=1024, description="Side of a map tile, pixels.")
    stride_m: float = Field(
        default=10.0, gt=0, description="Step between tile centres along streets, metres."
    )


class OsmTilesInputs(BaseModel):
    """An OSM extract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    osm: str = Field(description="URI of an OSM extract: .osm, .osm.pbf, .geojson or .parquet.")


class OsmTilesResult(BaseModel):
    """The tiles table that was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    rows: int
    blocks: int


def run(
    config: OsmTilesConfig, inputs: OsmTilesInputs, output: str, *, overwrite: bool = False
) -> OsmTilesResult:
    """Make the tiles table `<output>/tiles` of an extract: pictures are map tiles, and every tile has points.

    Raises `InputError` for an extract that cannot be read or has no street, `ConfigError` where the extra `osm` is
    missing.
    """
    start = time.monotonic()
    output, extract = storage.absolute(output), storage.absolute(inputs.osm)
    if not storage.exists(extract):
        raise ConfigError(f"There is no OSM extract at {extract!r}; check the path.")
    settings = config.model_dump()
    fingerprint = fingerprint_of(["osm tiles", _VERSION, settings, storage.sha256_file(extract)])
    with part_table.begin(storage.join(output, "tiles"), fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            folder = storage.join(output, _BLOCKS)
            storage.delete(folder)
            plan = write_blocks(read_features(extract, keys=KEYS), folder, SQUARE_M + _MARGIN_M)
            written, totals = table_job.make_parts(
                table, _units(plan, settings), make_tiles, what="drawing map tiles"
            )
            details = {
                **settings,
                "blocks": len(plan.files),
                "metres_per_pixel": config.tile_m / config.tile_px,
            }
            refused = table_job.quarantined(Counter(totals))
            manifest = table.publish(kind="tiles", parts=written, quarantined=refused, details=details)
            storage.delete(folder)
    return OsmTilesResult(
        output=output,
        reused=reused,
        seconds=round(time.monotonic() - start, 3),
        rows=manifest.rows,
        blocks=int(manifest.details["blocks"]),
    )


def _units(plan: BlockPlan, settings: dict[str, Any]) -> Sequence[Any]:
    blocks = list(plan.files)

    def describe(block: tuple[int, int]) -> dict[str, Any]:
        origin = [plan.origin.lat, plan.origin.lon]
        return {"block": list(block), "files": plan.files[block], "origin": origin, **settings}

    return table_job.Units(blocks, describe)


def make_tiles(unit: dict[str, Any]) -> PartResult:
    """The tiles of one block (runs in a Ray Data task)."""
    block = (int(unit["block"][0]), int(unit["block"][1]))
    frame = SphericalTransverseMercator(LatLon(*unit["origin"]))
    features, streets = read_block(unit["files"])
    places = street_places(streets, block, unit["stride_m"])
    low = np.array(block) * BLOCK_M
    reach = SQUARE_M
    points = sample_surfaces(features, (low[0] - reach, low[1] - reach, *(low + BLOCK_M + reach).tolist()))
    drawn = _Drawing(features, unit["tile_m"], unit["tile_px"])
    rows = []
    lat, lon = frame.to_degrees(places[:, 0], places[:, 1])
    for number, place in enumerate(places):
        rows.append(
            {
                "tile_id": f"osm/{block[0]}_{block[1]}_{number:05d}",
                "lat": float(lat[number]),
                "lon": float(lon[number]),
                "points": _around(points, place),
                "image": drawn.png(place),
            }
        )
    return PartResult(_table(rows, unit["tile_m"] / unit["tile_px"]))


def _around(points: Float32Array, place: FloatArray) -> Float32Array:
    """Points of the square of +-114 m about a place, float32[4 P], from its middle."""
    near = points - np.array([*place, 0.0, 0.0], np.float32)
    flat: Float32Array = near[(np.abs(near[:, :2]) <= SQUARE_M).all(axis=1)].ravel()
    return flat


class _Drawing:
    """Draws the tiles of a block, each from the features that it shows."""

    def __init__(self, features: MapFeatures, side_m: float, size_px: int) -> None:
        self._features, self._side_m, self._size_px = features, side_m, size_px
        self._surfaces = shapely.STRtree([each.shape for each in features.surfaces])
        self._trees = shapely.STRtree(
            [shapely.Point(tree.x, tree.y).buffer(tree.radius_m) for tree in features.trees]
        )

    def png(self, place: FloatArray) -> bytes:
        """The map tile about a place float64[2], as the bytes of a PNG file."""
        x, y = (float(value) for value in place)
        half = self._side_m / 2
        box = shapely.box(x - half, y - half, x + half, y + half)
        shown = MapFeatures(
            [self._features.surfaces[row] for row in np.sort(self._surfaces.query(box))],
            [self._features.trees[row] for row in np.sort(self._trees.query(box))],
        )
        buffer = io.BytesIO()
        pixels = draw_tile(shown, x, y, side_m=self._side_m, size_px=self._size_px)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


def _table(rows: list[dict[str, Any]], metres_per_pixel: float) -> pa.Table:
    columns = {
        name: pa.array([row[name] for row in rows], schemas.TILES.field(name).type)
        for name in ("tile_id", "lat", "lon", "image", "points")
    }
    columns["map_image"] = columns["image"]
    columns["metres_per_pixel"] = pa.array([metres_per_pixel] * len(rows), pa.float64())
    columns["source"] = pa.array(["osm"] * len(rows), pa.string())
    lat, lon = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("lat", "lon"))
    columns["cell"] = pa.array(cells(lat, lon), pa.int64())
    return schemas.with_geometry(schemas.conform(pa.table(columns), schemas.TILES))
