"""Schemas, coordinates and GeoParquet, checked with a second reader (GeoPandas)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoloc.core import part_table, schemas
from geoloc.core.errors import InputError

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@given(st.lists(st.tuples(latitudes, longitudes), min_size=1, max_size=20))
def test_wkb_is_a_little_endian_point_of_lon_lat(places: list[tuple[float, float]]) -> None:
    lat, lon = np.array(places).T
    expected = [struct.pack("<BIdd", 1, 1, to_east, to_north) for to_north, to_east in places]
    assert schemas.point_wkb(lat, lon).to_pylist() == expected


def test_wkb_is_null_where_a_coordinate_is_missing() -> None:
    points = schemas.point_wkb(np.array([1.0, np.nan, 2.0]), np.array([1.0, 1.0, np.nan]))
    assert [point is None for point in points.to_pylist()] == [False, True, True]


def _tiles() -> pa.Table:
    return schemas.conform(
        pa.table(
            {
                "tile_id": ["a", "b", "c"],
                "lat": [58.4, None, -35.25],
                "lon": [24.5, None, 149.125],
                "metres_per_pixel": [0.4, 0.4, 0.4],
                "image": [b"1", b"2", b"3"],
                "source": ["test"] * 3,
            }
        ),
        schemas.TILES,
    )


def test_geoparquet_opens_in_geopandas(tmp_path: Path) -> None:
    path = tmp_path / "tiles.parquet"
    path.write_bytes(part_table.encode_parquet(schemas.with_geometry(_tiles())))
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_string() == "OGC:CRS84"
    assert (frame.geometry[0].y, frame.geometry[0].x) == (58.4, 24.5)
    assert frame.geometry[1] is None
    assert tuple(frame.total_bounds) == (24.5, -35.25, 149.125, 58.4)


def test_geometry_metadata_names_version_encoding_and_bounds() -> None:
    geo = json.loads(schemas.with_geometry(_tiles()).schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"] == {
        "encoding": "WKB",
        "geometry_types": ["Point"],
        "bbox": [24.5, -35.25, 149.125, 58.4],
    }


def test_geometry_of_a_table_without_the_column_or_without_any_coordinate() -> None:
    bare = pa.table({"lat": pa.array([None], pa.float64()), "lon": pa.array([None], pa.float64())})
    table = schemas.with_geometry(bare)
    assert table["geometry"].to_pylist() == [None]
    assert "bbox" not in json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]


def test_conform_orders_fills_and_casts() -> None:
    loose = pa.table(
        {"fov_deg": pa.array([360], pa.int64()), "view": ["panorama"], "query_id": ["q"], "image": [b"x"]}
    )
    table = schemas.conform(loose.append_column("extra", pa.array([1])), schemas.QUERIES)
    assert table.schema.equals(schemas.QUERIES)
    assert table["fov_deg"].to_pylist() == [360.0]
    assert table["heading_deg"].to_pylist() == [None]


def test_conform_names_what_is_missing_or_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"has no column 'query_id', which is required; add it"):
        schemas.conform(pa.table({"view": ["street"]}), schemas.QUERIES)
    with pytest.raises(InputError, match=r"Column 'east_m' cannot be read as double: .*far"):
        schemas.conform(
            pa.table({"query_id": ["q"], "tile_id": ["t"], "relation": ["positive"], "east_m": ["far"]}),
            schemas.PAIRS,
        )


def test_codes_have_a_fixed_width_and_an_optional_embedding(tmp_path: Path) -> None:
    bare, full = schemas.codes_schema(32, None), schemas.codes_schema(32, 4)
    assert bare.field("code").type == pa.binary(32)
    assert set(full.names) - set(bare.names) == {"embedding"}
    row = {
        "tile_id": ["t"],
        "code": [bytes(32)],
        "embedding": [np.arange(4, dtype=np.float16)],
        "model_id": ["m"],
    }
    path = tmp_path / "codes.parquet"
    path.write_bytes(part_table.encode_parquet(schemas.conform(pa.table(row), full)))
    assert pq.read_table(path)["embedding"].to_pylist() == [[0.0, 1.0, 2.0, 3.0]]
    with pytest.raises(InputError, match="Column 'code'"):
        schemas.conform(pa.table(row | {"code": [bytes(16)]}), full)


@pytest.mark.parametrize(
    ("lat", "lon", "reason"),
    [
        (None, 1.0, "missing_coordinate"),
        (1.0, float("nan"), "missing_coordinate"),
        (95.0, 1.0, "latitude_out_of_range"),
        (-90.001, 1.0, "latitude_out_of_range"),
        (float("inf"), 1.0, "latitude_out_of_range"),
        (1.0, 180.5, "longitude_out_of_range"),
    ],
)
def test_unusable_coordinates_have_a_reason(lat: float | None, lon: float | None, reason: str) -> None:
    problem = schemas.coordinate_problem(lat, lon)
    assert problem is not None
    assert problem[0] == reason


def test_a_latitude_of_95_asks_whether_lat_and_lon_are_swapped() -> None:
    assert schemas.coordinate_problem(95.0, 1.0) == (
        "latitude_out_of_range",
        "lat is 95, outside -90 to 90 degrees; are lat and lon swapped?",
    )


@given(latitudes, longitudes)
def test_places_on_earth_are_fine(lat: float, lon: float) -> None:
    assert schemas.coordinate_problem(lat, lon) is None
