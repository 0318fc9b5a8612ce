"""The stage `city export`: the procedural city as a published data set, in its directories and annotation files.

<output>/...            the data set, exactly as its readers want it (see `geoloc.synthetic.layouts`)
<output>/plan.json      what the files are made from; written first
<output>/truth.csv      the exact pose of every picture; no reader of the layout needs it
<output>/export.json    counts, cities and where they were put on Earth; written last
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.fingerprint import begin_output
from geoloc.core.progress import say, track
from geoloc.runtime.ray_session import ensure_ray, remote_task
from geoloc.synthetic.layouts.cloud_files import write_cloud
from geoloc.synthetic.layouts.registry import ExportSettings, plan_layout
from geoloc.synthetic.layouts.render import blocks, make_city, write_block
from geoloc.synthetic.layouts.view_images import CitySource, Export, Picture, PointCloud, Writer, truth_csv
from geoloc.synthetic.stages.city import RENDERER_VERSION, completed_results
from geoloc.synthetic.world.raster import City

Layout = Literal["cvusa", "cvact", "vigor", "university1652", "map25d"]
EXPORT_VERSION = 1
"""Goes up whenever the same configuration gives another plan."""
RECORD_NAME = "export.json"
_PICTURES_PER_TASK = 120


class CityExportConfig(BaseModel):
    """Layout and size of the data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout = Field(description="Data set whose directories and annotation files are written.")
    seed: int = Field(default=7, ge=0, lt=2**31, description="Random seed; the city follows from it.")
    places: int | None = Field(
        default=None,
        ge=8,
        description="Photos, pairs or buildings in all; default: the published number.",
    )
    scale: float = Field(
        default=1.0, gt=0, le=1, description="Size of images as a share of the published size in pixels."
    )
    cities: list[Literal["NewYork", "Seattle", "SanFrancisco", "Chicago"]] | None = Field(
        default=None, description="Cities of VIGOR to write; default: all four."
    )
    missing_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share of CVACT's ids whose images are left out, as in the published set.",
    )
    distractors: int | None = Field(
        default=None,
        ge=0,
        description="Tiles of University-160k without a place; default: the published number.",
    )
    masked_gallery: bool = Field(
        default=False,
        description="University-160k: put the gallery's tiles among the distractors too, masked.",
    )
    drone_views: int = Field(default=54, ge=1, le=99, description="Drone photos of a building.")
    photo_epoch: int = Field(default=0, ge=0, le=1, description="State of the city that photos show.")
    imagery_epoch: int = Field(default=0, ge=0, le=1, description="State of the city that tiles show.")
    pictures_per_task: int = Field(
        default=_PICTURES_PER_TASK,
        ge=1,
        description="Images of neighbouring blocks that one task renders at least.",
    )

    def settings(self) -> ExportSettings:
        """The settings on which the content of the data set depends."""
        values = self.model_dump(exclude={"layout", "pictures_per_task"})
        return ExportSettings(**{**values, "cities": None if self.cities is None else tuple(self.cities)})

    def fingerprint(self) -> str:
        """Identifies the bytes of the data set."""
        versions = f"/{EXPORT_VERSION}/{RENDERER_VERSION}"
        text = self.model_dump_json(exclude={"pictures_per_task"}) + versions
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class CityExportResult(BaseModel):
    """URI of the data set and its number of pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    layout: str
    reused: bool
    pictures: int
    made: int = Field(description="pictures rendered by this run; the others existed already")
    views: dict[str, int]
    seconds: float


def run(config: CityExportConfig, output: str, *, overwrite: bool = False) -> CityExportResult:
    """Write the city in the layout of a published data set; existing files are kept, `export.json` is written last."""
    start = time.monotonic()
    output = storage.absolute(output)
    with begin_output(
        output, config.fingerprint(), record=RECORD_NAME, what="an export", overwrite=overwrite
    ) as finished:
        record, made = json.loads(finished or b"null"), 0
        if record is None:
            export = plan_layout(config.layout, config.settings())
            for path, data in {**export.annotations, "truth.csv": truth_csv(export)}.items():
                storage.write_bytes(storage.join(output, path), data)
            made = _render(config, output, export)
            record = _record(config, export)
            storage.write_bytes(storage.join(output, RECORD_NAME), json.dumps(record, indent=1).encode())
    views = record["views"]
    return CityExportResult(
        output=output, layout=config.layout, reused=finished is not None, pictures=sum(views.values()), made=made,
        views=views, seconds=time.monotonic() - start,
    )  # fmt: skip


def _record(config: CityExportConfig, export: Export) -> dict[str, Any]:
    return {
        "layout": export.layout,
        "fingerprint": config.fingerprint(),
        "config": config.model_dump(),
        "made_by": "geoloc's procedural city: no picture shows a real place",
        "views": dict(sorted(Counter(picture.view for picture in export.pictures).items())),
        "splits": dict(sorted(Counter(f"{p.split}/{p.view}" for p in export.pictures).items())),
        "annotations": sorted(export.annotations),
        "cities": [
            {
                "name": city.name, "seed": city.seed, "projection": city.placement.projection,
                "easting_m": city.placement.easting_m, "northing_m": city.placement.northing_m,
                "turn_deg": city.placement.turn_deg,
            }
            for city in export.cities
        ],
        "details": export.details,
    }  # fmt: skip


def _render(config: CityExportConfig, output: str, export: Export) -> int:
    """Make every picture and cloud whose file is missing; the number of pictures."""
    root = output.rstrip("/") + "/"
    there = {file.uri.removeprefix(root) for file in storage.list_files(output)}
    missing = [picture for picture in export.pictures if picture.path not in there]
    clouds = [cloud for cloud in export.clouds if not there.issuperset(cloud.paths())]
    if not missing and not clouds:
        return 0
    ensure_ray()
    runs = _runs(blocks(missing), config.pictures_per_task)
    say(
        f"city export: {len(missing):,} pictures and {len(clouds)} point clouds in {len(runs) + len(clouds)} tasks"
    )
    remote_cloud, remote_run = remote_task(_make_cloud, num_cpus=1), remote_task(_make_run, num_cpus=1)
    pending = [remote_cloud.remote(output, export.cities[cloud.city], cloud) for cloud in clouds]
    pending += [remote_run.remote(output, tuple(export.cities), groups) for groups in runs]
    for _ in track(completed_results(pending), total=len(pending), what="city export", unit="tasks"):
        pass
    return len(missing)


def _runs(groups: list[list[Picture]], least: int) -> list[list[list[Picture]]]:
    """Group neighbouring blocks into runs of at least `least` pictures; a run stays in one city."""
    runs: list[list[list[Picture]]] = []
    for group in groups:
        last = runs[-1] if runs else None
        same = last is not None and (last[0][0].city, last[0][0].epoch) == (group[0].city, group[0].epoch)
        if last is None or not same or sum(map(len, last)) >= least:
            runs.append([group])
        else:
            last.append(group)
    return runs


@lru_cache(maxsize=1)
def _city(source: CitySource, epoch: int) -> City:
    """The city of this worker process, kept for its rendered chunks."""
    return make_city(source, epoch)


def _make_run(output: str, cities: Sequence[CitySource], groups: list[list[Picture]]) -> int:
    """Render some neighbouring blocks; the number of files written."""
    return sum(write_block(_city(cities[g[0].city], g[0].epoch), g, _writer(output)) for g in groups)


def _make_cloud(output: str, source: CitySource, cloud: PointCloud) -> int:
    return write_cloud(_city(source, 0), cloud, _writer(output))


def _writer(output: str) -> Writer:
    def write(path: str, data: bytes) -> None:
        storage.write_bytes(storage.join(output, path), data)

    return write
