"""A data set of one module: tiles whose file names are their latitude and longitude, `48.1_11.5.png`."""

from __future__ import annotations

from geoloc.core import storage
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Picture, Plan, Request, Tile


def plan(request: Request) -> Plan:
    """One tile for each file."""
    rows = Plan("named_by_place", request.split, None)
    for file in storage.list_files(request.root):
        tile_id = file.uri.rpartition("/")[2].removesuffix(".png")
        lat, lon = map(float, tile_id.split("_"))
        picture = Picture(file.uri, file.size_bytes)
        rows.tiles.append(Tile(tile_id, picture, 0.5, "named_by_place", lat=lat, lon=lon))
    return rows


register(DataSet("named_by_place", ("all",), "<root>/<lat>_<lon>.png", plan))
