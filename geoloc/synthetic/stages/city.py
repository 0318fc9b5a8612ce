"""The stage `city`: renders the procedural city's imagery and photos to files, as an agency would deliver them.

<output>/plan.json                          what the files are made from; written first
<output>/<split>/imagery/sheet_RR_CC.tif    GeoTIFF sheets, EPSG:32626
<output>/<split>/photos/*.jpg, photos.csv   panoramas with latitude, longitude and heading
<output>/<split>/centres.csv                where benchmark tiles are cut
<output>/<validation or test>/anywhere/     photos anywhere in a tile, not near its centre
<output>/<validation or test>/routes/   photos along the streets, with --routes: photos.csv, truth.csv, streets.csv
<output>/test/distractors.csv
<output>/city.json                          counts and extents; written last
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.fingerprint import begin_output
from geoloc.core.progress import say, track
from geoloc.runtime.ray_session import ensure_ray, remote_task
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.districts import SPLITS, District, DistrictSettings, Photo, Sheet, plan_districts
from geoloc.synthetic.world.export import (
    photos_csv,
    render_photo,
    render_sheet,
    route_tables,
    sheet_name,
    tiles_csv,
    work_bounds,
)
from geoloc.synthetic.world.georeference import CRS, to_latlon
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.route_photos import (
    DistrictRoutes,
    RoutePhoto,
    RouteSettings,
    plan_routes,
    render_route_photo,
)
from geoloc.synthetic.world.street import StreetCamera
from geoloc.synthetic.world.style import STYLES, style_named

_CHUNKS = 60  # three rows of neighbours beside a row of six sheets: no chunk of a task is made twice
_ROUTE_PX = 320, 240
RECORD_NAME = "city.json"
RENDERER_VERSION = 2
"""Goes up whenever the same configuration gives other bytes."""


class CityConfig(BaseModel):
    """Size and content of the city's data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=7, ge=0, lt=2**31, description="Random seed; the city follows from it.")
    style: str = Field(default="default", description=f"City to render: {', '.join(STYLES)}.")
    imagery_epoch: int = Field(
        default=0, ge=0, le=8, description="Rounds of change to the city between photos and imagery."
    )
    train_photos: int = Field(
        default=5000, ge=1, description="Photos and tile centres of the training district."
    )
    validation_photos: int = Field(
        default=300, ge=1, description="Photos and tile centres for tuning and calibration."
    )
    test_photos: int = Field(
        default=1000, ge=1, description="Photos and tile centres of the held-out district."
    )
    distractors: int = Field(
        default=5000, ge=0, description="Tile centres of the held-out district without a photo."
    )
    anywhere_photos: int = Field(
        default=500, ge=0, description="Test photos anywhere in a tile, not near its centre."
    )
    validation_anywhere_photos: int = Field(
        default=0, ge=0, description="Validation photos anywhere in a tile, to calibrate with."
    )
    photo_offset_m: float = Field(
        default=5.0, ge=0, le=20, description="Largest distance of a photo from its tile's centre, metres."
    )
    train_spacing_m: float = Field(
        default=18.0, ge=2, description="Smallest distance between training tiles, metres."
    )
    spacing_m: float = Field(
        default=25.0,
        ge=2,
        description="Smallest distance of validation and test tiles from all others, metres.",
    )
    distractor_spacing_m: float = Field(
        default=15.0, ge=2, description="Smallest distance between distractors, metres."
    )
    tile_m: float = Field(default=51.2, gt=0, le=100, description="Side of a tile, metres.")
    sheet_m: float = Field(
        default=512.0, ge=256, le=2048, multiple_of=64, description="Side of an imagery sheet, metres."
    )
    gap_m: float = Field(
        default=400.0,
        ge=300,
        description="Smallest distance between districts, metres; photos see 130 m far.",
    )
    metres_per_pixel: float = Field(default=0.4, ge=0.1, le=4, description="Resolution of the imagery.")
    panorama_height_px: int = Field(default=64, ge=16, le=1024, description="Rows of a photo, pixels.")
    panorama_width_px: int = Field(default=256, ge=32, le=4096, description="Columns of a photo, pixels.")
    panorama_top_deg: float = Field(
        default=32.0, gt=0, lt=85, description="Elevation of the photo's top row, degrees."
    )
    panorama_bottom_deg: float = Field(
        default=-42.0, gt=-85, lt=0, description="Elevation of the photo's bottom row, degrees."
    )
    random_heading: bool = Field(
        default=False, description="Give photos random headings; otherwise their centre is grid north."
    )
    routes: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Routes of photos along the streets of validation and of test.",
    )
    route_photos: int = Field(default=20, ge=2, le=1000, description="Photos of a route.")
    route_spacing_m: float = Field(
        default=12.0, ge=2, le=100, description="Metres along the street between two photos of a route."
    )
    route_fov_deg: float = Field(
        default=90.0, ge=20, le=120, description="Horizontal field of view of the photos of a route, degrees."
    )
    sheets_per_task: int = Field(default=18, ge=1, description="Neighbouring sheets that one task renders.")

    def districts(self) -> DistrictSettings:
        """The settings of the districts."""
        return DistrictSettings(
            **{
                name: getattr(self, name)
                for name in DistrictSettings.__dataclass_fields__
                if name != "margin_m"
            }
        )

    def camera(self) -> Camera:
        """The street camera."""
        return Camera(
            self.panorama_height_px, self.panorama_width_px, self.panorama_top_deg, self.panorama_bottom_deg
        )

    def route_settings(self) -> RouteSettings:
        """The settings of the routes."""
        camera = StreetCamera(*_ROUTE_PX, self.route_fov_deg)
        return RouteSettings(self.routes, self.route_photos, self.route_spacing_m, camera)

    def fingerprint(self) -> str:
        """Identifies the bytes of the data set."""
        unused = {"sheets_per_task"}
        if not self.routes:
            unused |= {"routes", "route_photos", "route_spacing_m", "route_fov_deg"}
        text = self.model_dump_json(exclude=unused) + f"/{RENDERER_VERSION}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class CityResult(BaseModel):
    """URI of the data set and counts of what was rendered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    sheets: int
    photos: int
    seconds: float
    splits: dict[str, dict[str, Any]]

    def split(self, name: str) -> str:
        """The folder of `train`, `validation` or `test`."""
        return storage.join(self.output, name)


def run(config: CityConfig, output: str, *, overwrite: bool = False) -> CityResult:
    """Render the city; existing files are kept, `city.json` is written last."""
    start = time.monotonic()
    output = storage.absolute(output)
    with begin_output(
        output, config.fingerprint(), record=RECORD_NAME, what="a city", overwrite=overwrite
    ) as record:
        if record is not None:
            counts = {name: json.loads(record)[name] for name in ("sheets", "photos", "splits")}
            return CityResult(output=output, reused=True, seconds=0.0, **counts)
        done = _render_city(config, output)
    return CityResult(output=output, reused=False, seconds=time.monotonic() - start, **done)


def _render_city(config: CityConfig, output: str) -> dict[str, Any]:
    """Write all files and the record; returns the counts."""
    city, settings = City(config.seed, style_named(config.style)), config.districts()
    districts = plan_districts(city, settings)
    routes: dict[str, DistrictRoutes] = {}
    if config.routes:
        routes = {
            district.name: plan_routes(city, district, config.route_settings(), settings.margin_m)
            for district in districts[1:]
        }
    for district in districts:
        _write_tables(output, district)
    for split, planned in routes.items():
        for name, table in route_tables(planned, config.route_fov_deg).items():
            storage.write_bytes(storage.join(output, split, "routes", name), table)
    _render_all(config, output, districts, routes)
    splits = {district.name: _describe(district) for district in districts}
    for split, planned in routes.items():
        splits[split]["route_photos"] = len(planned.photos)
    done = {
        "sheets": sum(len(d.sheets) for d in districts),
        "photos": sum(len(d.photos) + len(d.anywhere) for d in districts)
        + sum(len(planned.photos) for planned in routes.values()),
        "splits": splits,
    }
    content = {"fingerprint": config.fingerprint(), "crs": CRS, "config": config.model_dump(), **done}
    storage.write_bytes(storage.join(output, RECORD_NAME), json.dumps(content, indent=1).encode())
    return done


def _write_tables(output: str, district: District) -> None:
    folder = storage.join(output, district.name)
    storage.write_bytes(storage.join(folder, "centres.csv"), tiles_csv(district.centres))
    storage.write_bytes(storage.join(folder, "photos.csv"), photos_csv(district.photos))
    if district.name == "test":
        storage.write_bytes(storage.join(folder, "distractors.csv"), tiles_csv(district.distractors))
    if district.anywhere:
        storage.write_bytes(storage.join(folder, "anywhere", "photos.csv"), photos_csv(district.anywhere))


def _describe(district: District) -> dict[str, Any]:
    west, south, east, north = district.bounds
    lat, lon = to_latlon([west, east], [south, north])
    return {
        "photos": len(district.photos), "centres": len(district.centres),
        "distractors": len(district.distractors), "anywhere_photos": len(district.anywhere),
        "sheets": len(district.sheets), "width_m": east - west, "height_m": north - south,
        "south_west": [float(lat[0]), float(lon[0])], "north_east": [float(lat[1]), float(lon[1])],
    }  # fmt: skip


Work = tuple[Sheet, bool, list[Photo]]
"""A sheet, whether its picture is still to be made, and the photos still to be taken in it."""


def _render_all(
    config: CityConfig, output: str, districts: list[District], routes: dict[str, DistrictRoutes]
) -> None:
    """Render what is missing, each district cut into runs of neighbouring sheets."""
    tasks: list[tuple[str, list[Work]]] = []
    for district in districts:
        on_routes = routes[district.name].photos if district.name in routes else []
        work = _missing_work(output, district, [*district.photos, *district.anywhere, *on_routes])
        runs = max(1, math.ceil(len(work) / config.sheets_per_task))
        bounds = [round(k * len(work) / runs) for k in range(runs + 1)]
        tasks += [(district.name, work[a:b]) for a, b in itertools.pairwise(bounds) if b > a]
    if not tasks:
        return
    ensure_ray()
    total = sum(1 + len(photos) for _, work in tasks for _, _, photos in work)
    say(f"city: rendering {total:,} files in {len(tasks)} tasks")
    tasks.sort(key=lambda task: -sum(1 + len(photos) for _, _, photos in task[1]))
    remote = remote_task(_render_run, num_cpus=1)
    pending = [remote.remote(config, output, split, work) for split, work in tasks]
    for _ in track(completed_results(pending), total=len(pending), what="city", unit="tasks"):
        pass


def completed_results(pending: list[Any]) -> Iterator[int]:
    """The results of Ray tasks in the order in which they end. The error of a task is raised here."""
    while pending:
        ready, pending = ray.wait(pending)
        yield ray.get(ready[0])


def _missing_work(output: str, district: District, photos: list[Photo]) -> list[Work]:
    """Sheets and photos without a file, sheet by sheet in rows that run back and forth."""
    folder = storage.join(output, district.name)
    names = {file.name for file in storage.list_files(folder)}
    west, _, _, north = district.bounds
    side = district.sheets[0].bounds[2] - district.sheets[0].bounds[0]
    by_cell: dict[tuple[int, int], list[Photo]] = {}
    for photo in photos:
        if photo.name not in names:
            cell = (int((north - photo.y) // side), int((photo.x - west) // side))
            by_cell.setdefault(cell, []).append(photo)
    work = []
    for sheet in sorted(district.sheets, key=lambda s: (s.row, -s.column if s.row % 2 else s.column)):
        there = by_cell.get((sheet.row, sheet.column), [])
        todo = sheet_name(sheet) not in names
        if todo or there:
            work.append((sheet, todo, there))
    return work


@lru_cache(maxsize=2)
def _city(seed: int, style: str, epoch: int) -> City:
    """A city of this worker process, kept for its rendered chunks."""
    return City(seed, style_named(style), epoch, chunks=_CHUNKS)


def _render_run(config: CityConfig, output: str, split: str, work: list[Work]) -> int:
    """Render some neighbouring sheets and their photos; the number of files written."""
    city, camera = _city(config.seed, config.style, 0), config.camera()
    flown = _city(config.seed, config.style, config.imagery_epoch)
    count = 0
    for sheet, todo, photos in work:
        bounds = work_bounds(sheet)
        window = city.window(bounds)
        if todo:
            seen = window if flown is city else flown.window(bounds)
            uri = storage.join(output, split, "imagery", sheet_name(sheet))
            storage.write_bytes(uri, render_sheet(flown, sheet, config.metres_per_pixel, seen))
        for photo in photos:
            uri = storage.join(output, photo.folder, photo.name)
            if isinstance(photo, RoutePhoto):
                content = render_route_photo(city, photo, config.route_settings().camera, window)
            else:
                content = render_photo(city, photo, camera, window)
            storage.write_bytes(uri, content)
        count += todo + len(photos)
    return count


__all__ = ["SPLITS", "CityConfig", "CityResult", "run"]
