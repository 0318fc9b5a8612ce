"""Arrow schemas of the tables that stages hand to each other, and the checks of their rows.

tiles and results are GeoParquet 1.1 (`geometry`: WKB points in OGC:CRS84, that is longitude before latitude).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError

NOTE_NAME = "dataset.json"  # what an ingest output says of its data set
VIEWS = ("panorama", "street", "drone")
_STREET_FOV_DEG = 70.0  # of a phone's main camera, upright or across, about the middle
RELATIONS = ("positive", "semi_positive")

_POINT_WKB_PREFIX = np.frombuffer(b"\x01\x01\x00\x00\x00", dtype=np.uint8)


def _field(name: str, kind: pa.DataType, *, required: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=not required)


TILES = pa.schema(
    [
        _field("tile_id", pa.string(), required=True),
        _field("lat", pa.float64()),
        _field("lon", pa.float64()),
        _field("place_id", pa.string()),
        _field("metres_per_pixel", pa.float64(), required=True),
        _field("image", pa.binary(), required=True),
        _field("cell", pa.int64()),
        _field("source", pa.string(), required=True),
        _field("captured_at", pa.timestamp("s", tz="UTC")),
        _field("map_image", pa.binary()),
        _field(
            "points", pa.list_(pa.float32())
        ),  # 2.5D cloud, flattened rows of (east, north, height, class)
        _field("geometry", pa.binary()),
    ]
)

QUERIES = pa.schema(
    [
        _field("query_id", pa.string(), required=True),
        _field("view", pa.string(), required=True),
        _field("image", pa.binary(), required=True),
        _field("heading_deg", pa.float64()),
        _field("fov_deg", pa.float64(), required=True),
        _field("lat", pa.float64()),
        _field("lon", pa.float64()),
        _field("place_id", pa.string()),
        _field("route_id", pa.string()),
        _field("step", pa.int64()),
    ]
)

PAIRS = pa.schema(
    [
        _field("query_id", pa.string(), required=True),
        _field("tile_id", pa.string(), required=True),
        _field("relation", pa.string(), required=True),
        _field("east_m", pa.float64()),
        _field("north_m", pa.float64()),
    ]
)

QUARANTINE = pa.schema(
    [
        _field("key", pa.string(), required=True),
        _field("reason", pa.string(), required=True),
        _field("detail", pa.string(), required=True),
        _field("source", pa.string(), required=True),
    ]
)


def codes_schema(code_bytes: int, embedding_dim: int | None) -> pa.Schema:
    """Schema of a codes table: `code_bytes` bytes a row and, where wanted, a float16 embedding."""
    fields = [
        _field("tile_id", pa.string(), required=True),
        _field("lat", pa.float64()),
        _field("lon", pa.float64()),
        _field("cell", pa.int64()),
        _field("code", pa.binary(code_bytes), required=True),
    ]
    if embedding_dim is not None:
        fields.append(_field("embedding", pa.list_(pa.float16(), embedding_dim), required=True))
    return pa.schema([*fields, _field("model_id", pa.string(), required=True)])


def matches_schema() -> pa.DataType:
    """Type of the `matches` column of results: the tiles that a fix rests on, best first."""
    return pa.list_(
        pa.struct(
            [
                _field("tile_id", pa.string()),
                _field("lat", pa.float64()),
                _field("lon", pa.float64()),
                _field("distance_bits", pa.int32()),
                _field("similarity", pa.float32()),
                _field("in_cluster", pa.bool_()),
            ]
        )
    )


def hypotheses_schema() -> pa.DataType:
    """Type of the `hypotheses` column of results: places that come into question, the heaviest first."""
    return pa.list_(
        pa.struct(
            [
                _field("lat", pa.float64()),
                _field("lon", pa.float64()),
                _field("radius_m", pa.float64()),
                _field("weight", pa.float64()),
                _field("heading_deg", pa.float64()),
                _field("tiles", pa.int32()),
            ]
        )
    )


FIXES = pa.schema(
    [
        _field("query_id", pa.string(), required=True),
        _field("located", pa.bool_(), required=True),
        _field("reason", pa.string()),
        _field("lat", pa.float64()),
        _field("lon", pa.float64()),
        _field("radius_m", pa.float64()),
        _field("confidence", pa.float64()),
        _field("calibrated", pa.bool_()),
        _field("notes", pa.list_(pa.string())),
        _field("hypotheses", hypotheses_schema()),
        _field("heading_deg", pa.float64()),
        _field("view", pa.string()),
        _field("fov_deg", pa.float64()),
        _field("assumed", pa.list_(pa.string())),
        _field("snapshot_id", pa.string(), required=True),
        _field("ordered_by", pa.string()),
        _field("matches", matches_schema()),
        _field("geometry", pa.binary()),
    ]
)


ROUTE_FIXES = pa.schema(
    [
        _field("route_id", pa.string(), required=True),
        _field("step", pa.float64(), required=True),
        _field("query_id", pa.string(), required=True),
        _field("located", pa.bool_(), required=True),
        _field("lat", pa.float64()),
        _field("lon", pa.float64()),
        _field("radius_m", pa.float64()),
        _field("off_map", pa.float64()),
        _field("path_id", pa.string()),
        _field("path_lat", pa.float64()),
        _field("path_lon", pa.float64()),
        _field("calibrated", pa.bool_()),
        _field("snapshot_id", pa.string(), required=True),
        _field("geometry", pa.binary()),
    ]
)


def usual_fov_deg(view: str) -> float:
    """Horizontal field of view, in degrees, of a photo that comes without one."""
    return _STREET_FOV_DEG if view == "street" else 360.0


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns: missing optional ones become null, types are cast.

    Raises `InputError` naming the column when a required one is missing or a type does not fit.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = table[field.name]
        elif field.nullable:
            column = pa.nulls(table.num_rows, field.type)
        else:
            raise InputError(f"The table has no column {field.name!r}, which is required; add it.")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise InputError(f"Column {field.name!r} cannot be read as {field.type}: {error}") from error
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))


def point_wkb(lat: FloatArray, lon: FloatArray) -> pa.Array:
    """WKB points for WGS84 degrees [N]; null where a coordinate is NaN.

    Convention: x is the longitude and y the latitude (OGC:CRS84), little-endian doubles.
    """
    count = len(lat)
    raw = np.empty((count, 21), dtype=np.uint8)
    raw[:, :5] = _POINT_WKB_PREFIX
    raw[:, 5:13] = np.ascontiguousarray(lon, dtype="<f8").view(np.uint8).reshape(count, 8)
    raw[:, 13:] = np.ascontiguousarray(lat, dtype="<f8").view(np.uint8).reshape(count, 8)
    points = pa.FixedSizeBinaryArray.from_buffers(pa.binary(21), count, [None, pa.py_buffer(raw.tobytes())])
    present = pa.array(np.isfinite(lat) & np.isfinite(lon))
    return pc.if_else(present, points.cast(pa.binary()), pa.scalar(None, pa.binary()))


def _degrees(table: pa.Table, name: str) -> FloatArray:
    column = table[name].cast(pa.float64()).fill_null(float("nan"))
    values: FloatArray = column.to_numpy()
    return values


def with_geometry(table: pa.Table) -> pa.Table:
    """The table with its `geometry` column filled from lat and lon and GeoParquet 1.1 metadata attached."""
    lat, lon = _degrees(table, "lat"), _degrees(table, "lon")
    geometry = point_wkb(lat, lon)
    if "geometry" in table.column_names:
        table = table.drop_columns("geometry")
    table = table.append_column("geometry", geometry)
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"]}
    if np.isfinite(lat).any():
        column["bbox"] = [
            float(np.nanmin(lon)),
            float(np.nanmin(lat)),
            float(np.nanmax(lon)),
            float(np.nanmax(lat)),
        ]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"geo": json.dumps(geo).encode()})


def coordinate_problem(lat: float | None, lon: float | None) -> tuple[str, str] | None:
    """What is wrong with a coordinate pair: (reason, sentence), or None when it is fine."""
    if lat is None or lon is None or np.isnan(lat) or np.isnan(lon):
        return "missing_coordinate", "lat or lon is empty; give both in WGS84 degrees"
    if not -90.0 <= lat <= 90.0:
        return "latitude_out_of_range", f"lat is {lat:g}, outside -90 to 90 degrees; are lat and lon swapped?"
    if not -180.0 <= lon <= 180.0:
        return "longitude_out_of_range", f"lon is {lon:g}, outside -180 to 180 degrees"
    return None
