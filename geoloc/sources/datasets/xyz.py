"""Tiles of a web map as folders, `<root>/<z>/<x>/<y>.png` or `.jpg`: one zoom level to a table of tiles.

Convention: x counts to the east from 180 W, y to the south from 85.05 N (XYZ; a TMS folder counts y from the
south and has to be flipped first). Tiles are north up; metres_per_pixel is that of a tile's centre.
"""

from __future__ import annotations

import re

from pyarrow.fs import FileSelector, FileType

from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.core.geodesy import map_metres_per_pixel, map_tile_bounds
from geoloc.sources.datasets import files
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Picture, Plan, Request, Tile
from geoloc.sources.quarantine import RefusedRow

LAYOUT = "<root>/<zoom>/<x>/<y>.png (or .jpg, .webp), web mercator, y counted from the north; the split is the zoom"
_PATH = re.compile(r"(\d+)/(\d+)/(\d+)\.(?:png|jpe?g|webp)", re.IGNORECASE)
_MAP_PX = 256  # what zoom levels are defined for; a tile of 512 px has half its metres a pixel
_MOST_ZOOM = 30


def plan(request: Request) -> Plan:
    """Rows of a zoom level; `ConfigError` when several are there and none was named."""
    zoom = _zoom(request)
    folder = files.below(request.root, str(zoom))
    result = Plan("xyz", str(zoom), None)
    others = 0
    for file in storage.list_files(folder):
        inner = file.uri.removeprefix(storage.join(request.root, ""))
        match = _PATH.fullmatch(inner)
        if match is None:
            others += 1
            continue
        _add_tile(result, Picture(file.uri, file.size_bytes), zoom, int(match[2]), int(match[3]))
    if not result.tiles and not result.refused_tiles:
        raise files.missing(f"every tile of zoom {zoom}", [folder], LAYOUT)
    result.counts = {"tiles": len(result.tiles) + len(result.refused_tiles)}
    if others:
        result.findings.append(
            f"xyz {zoom}: {others:,} files in {folder!r} are not named <x>/<y>.png; left out."
        )
    return result


def _zoom(request: Request) -> int:
    levels = sorted(int(name) for name in _folders(request.root) if name.isdecimal())
    if request.split:
        if not request.split.isdecimal() or int(request.split) > _MOST_ZOOM:
            raise ConfigError(
                f"split is {request.split!r}; for xyz it is a zoom level from 0 to {_MOST_ZOOM}."
            )
        return int(request.split)
    if len(levels) > 1:
        raise ConfigError(
            f"{request.root!r} holds the zooms {', '.join(map(str, levels))}; name one with split."
        )
    if not levels:
        raise files.missing("every zoom level", [request.root], LAYOUT)
    return levels[0]


def _folders(root: str) -> list[str]:
    fs, path = storage.filesystem(root)
    selector = FileSelector(path, recursive=False, allow_not_found=True)
    infos = storage.attempt("list", root, lambda: fs.get_file_info(selector))
    return [info.base_name for info in infos if info.type == FileType.Directory]


def _add_tile(result: Plan, picture: Picture, zoom: int, x: int, y: int) -> None:
    tile_id = f"{zoom}/{x}/{y}"
    if x >= 2**zoom or y >= 2**zoom:
        result.refused_tiles.append(
            RefusedRow(
                tile_id,
                "bad_name",
                f"zoom {zoom} has {2**zoom:,} columns and rows, counted from 0",
                picture.uri,
            )
        )
        return
    # The middle of a tile is a corner of the tiles one level further down.
    _, lon, lat, _ = map_tile_bounds(2 * x + 1, 2 * y + 1, zoom + 1)
    result.tiles.append(
        Tile(tile_id, picture, map_metres_per_pixel(lat, zoom, _MAP_PX), "xyz", _MAP_PX, lat, lon)
    )


DATASET = register(DataSet("xyz", (), LAYOUT, plan, any_split=True))
