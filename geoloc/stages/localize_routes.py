"""Routes of `geoloc localize --route`: ordered photos to a table of positions and `routes.geojson`.

A route is one unit of work. Its photos are decoded a few at a time; what is kept of each is its search.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby, pairwise
from typing import Any

import pyarrow as pa

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, InputError
from geoloc.core.fingerprint import Streamed, fingerprint_of
from geoloc.core.part_table import TableDraft, TableManifest
from geoloc.core.progress import say
from geoloc.index.format.commit import current_snapshot
from geoloc.localization.localizer import Localizer, region_around
from geoloc.localization.query_photos import Photo
from geoloc.localization.routes.filter import FilterSettings
from geoloc.localization.routes.motion import Step
from geoloc.localization.routes.ongoing_route import OngoingRoute
from geoloc.localization.routes.route_answer import RoutePosition
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import cpu_count, ensure_ray
from geoloc.runtime.table_job import PartResult, Workers
from geoloc.sources.folder import photo_fingerprints
from geoloc.sources.quarantine import RefusedRow
from geoloc.sources.street_graphs import read_streets
from geoloc.stages.geojson_lines import collection, feature, point, write_text
from geoloc.stages.localize_inputs import PhotoEntry, RoutePlace, list_photos
from geoloc.stages.localize_settings import LocalizeConfig, LocalizeInputs, LocalizeResult, read_entry

ROUTES = "routes"
GEOJSON_NAME = "routes.geojson"
KIND = "route_fixes"
_VERSION = 1
_PHOTOS_AT_ONCE = 32  # bounds the decoded pictures that an actor holds
_MOST_PHOTOS = 20_000  # of one route; their posteriors stay in memory until it ends


def locate_routes(
    config: LocalizeConfig, inputs: LocalizeInputs, output: str, *, overwrite: bool = False
) -> LocalizeResult:
    """Locate the photos of routes and write `routes/` (GeoParquet) and `routes.geojson` to `output`.

    Killed halfway and run again, only the missing routes are located. Raises as `localize.run`.
    """
    start = time.monotonic()
    output, index = storage.absolute(output), storage.absolute(inputs.index)
    region_around(config.near, config.within_m)  # a bad region is said now, not by every worker
    streets = None if inputs.streets is None else storage.absolute(inputs.streets)
    graph = None if streets is None else read_streets(streets).fingerprint()
    snapshot_id = inputs.snapshot_id or current_snapshot(index)
    routes = list_routes(inputs.photos, anywhere=config.photos_anywhere)
    table_uri = storage.join(output, ROUTES)
    with part_table.begin(
        table_uri, _fingerprint(config, routes, graph, snapshot_id), overwrite=overwrite
    ) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            manifest = _make(config, table, (index, snapshot_id, streets), routes)
        uri = storage.join(output, GEOJSON_NAME)
        if not reused or not storage.exists(uri):
            write_text(uri, _geojson(table_uri))
    say(table_job.summary(ROUTES, manifest) + (" (reused)" if reused else ""))
    located = int(manifest.details["located"])
    return LocalizeResult(
        output=output,
        reused=reused,
        seconds=round(time.monotonic() - start, 3),
        snapshot_id=snapshot_id,
        photos=manifest.rows,
        located=located,
        not_located={"wide_posterior": manifest.rows - located} if manifest.rows > located else {},
        quarantined=manifest.quarantined,
    )


def list_routes(uri: str, *, anywhere: bool = False) -> list[list[PhotoEntry]]:
    """The routes that a user names, each by its steps; files without a list are one route in the order of their names.

    Raises as `list_photos`, and `InputError` for a route of too many photos or with a step twice.
    """
    entries = list_photos(uri, anywhere=anywhere, routes=True)
    if all(entry.way is None and entry.problem is None for entry in entries):
        entries = [
            PhotoEntry(entry.query_id, entry.uri, way=RoutePlace("", number))
            for number, entry in enumerate(entries, start=1)
        ]
    known = sorted(
        entries, key=lambda entry: (entry.way.route_id, entry.way.step) if entry.way else ("", 0.0)
    )
    routes = [
        list(route) for _, route in groupby(known, lambda entry: entry.way.route_id if entry.way else "")
    ]
    for route in routes:
        _check(route)
    return routes


def _check(route: list[PhotoEntry]) -> None:
    if len(route) > _MOST_PHOTOS:
        raise InputError(
            f"A route has {len(route):,} photos, more than {_MOST_PHOTOS:,}; cut it into several route_id.",
            reason="too_many_photos",
        )
    steps = [entry.way.step for entry in route if entry.way is not None and entry.problem is None]
    for before, after in pairwise(steps):
        if before == after:
            raise InputError(
                f"Two photos of one route have the step {after:g}; number each photo once.",
                reason="bad_value",
            )


def _fingerprint(
    config: LocalizeConfig, routes: list[list[PhotoEntry]], graph: str | None, snapshot_id: str
) -> str:
    entries = [entry for route in routes for entry in route]
    photos = Streamed(
        {name: value for name, value in asdict(entry).items() if name != "uri"} for entry in entries
    )
    contents = Streamed(photo_fingerprints(None if entry.problem else entry.uri for entry in entries))
    return fingerprint_of([KIND, _VERSION, config.model_dump(), photos, contents, snapshot_id, graph])


def _make(
    config: LocalizeConfig,
    table: TableDraft,
    arguments: tuple[str, str, str | None],
    routes: list[list[PhotoEntry]],
) -> TableManifest:
    ensure_ray()
    units = table_job.Units(range(len(routes)), lambda number: [asdict(entry) for entry in routes[number]])
    written, totals = table_job.make_parts(
        table,
        units,
        RouteLocalizer,
        what="locating routes",
        workers=Workers(actors=min(cpu_count(), len(routes)), growing=True),
        arguments=(*arguments, config.model_dump()),
    )
    refused = table_job.quarantined(totals)
    table_job.check_bad_share(
        "photos", table.plan.uri, sum(part.rows for part in written), refused, config.max_bad_share
    )
    details = {"snapshot_id": arguments[1], "located": totals["located"]}
    return table.publish(kind=KIND, parts=written, quarantined=refused, details=details)


class RouteLocalizer:
    """Locates the photos of a route (a Ray Data actor holds one)."""

    def __init__(self, index: str, snapshot_id: str, streets: str | None, config: dict[str, Any]) -> None:
        self._config = LocalizeConfig.model_validate(config)
        self._localizer = Localizer.open(
            index, snapshot_id, threads=1, headings=self._config.headings, asymmetric=self._config.asymmetric
        )
        self._streets = None if streets is None else read_streets(streets)
        self._region = region_around(self._config.near, self._config.within_m)

    def __call__(self, unit: list[dict[str, Any]]) -> PartResult:
        """The positions of one route; a photo that cannot be read is passed by and quarantined."""
        entries = [PhotoEntry(**one | {"way": one["way"] and RoutePlace(**one["way"])}) for one in unit]
        steps = [_step(self._config, entry.way) for entry in entries]
        route = self._localizer.begin_route(
            steps, streets=self._streets, region=self._region, settings=FilterSettings(lag=len(entries))
        )
        refused: list[RefusedRow] = []
        for first in range(0, len(entries), _PHOTOS_AT_ONCE):
            chosen = slice(first, first + _PHOTOS_AT_ONCE)
            refused += self._take(route, entries[chosen], steps[chosen])
        lost = {row.key for row in refused}
        fix = route.fix()
        rows = [
            _row(entry, position) | {"calibrated": fix.calibrated, "snapshot_id": fix.snapshot_id}
            for entry, position in zip(entries, fix.positions, strict=True)
            if entry.query_id not in lost
        ]
        table = schemas.with_geometry(pa.Table.from_pylist(rows, schema=schemas.ROUTE_FIXES))
        return PartResult(table, refused, (("located", sum(row["located"] for row in rows)),))

    def _take(self, route: OngoingRoute, entries: list[PhotoEntry], steps: list[Step]) -> list[RefusedRow]:
        """Take in some photos of a route; the rows of those that cannot be used."""
        photos: dict[int, Photo] = {}
        refused = []
        for number, entry in enumerate(entries):
            try:
                photos[number] = read_entry(self._config, entry)[0]
            except (InputError, ArtifactError) as error:
                reason = error.reason if isinstance(error, InputError) else "missing_file"
                refused.append(RefusedRow(entry.query_id, reason, str(error), entry.uri))
        found = self._localizer.search_route_photos(list(photos.values()), self._region) if photos else None
        position = {number: place for place, number in enumerate(photos)}
        for number, step in enumerate(steps):
            if found is None or number not in position:
                route.pass_by(step)
            else:
                route.take_one(found, position[number], step)
        return refused


def _step(config: LocalizeConfig, way: RoutePlace | None) -> Step:
    moved_m, turn_deg, course_deg = (
        (None,) * 3 if way is None else (way.moved_m, way.turn_deg, way.course_deg)
    )
    roughly_m = config.spacing_m if moved_m is None else None
    return Step(
        moved_m=moved_m if roughly_m is None else roughly_m,
        moved_sd_m=roughly_m,
        turn_deg=turn_deg,
        course_deg=course_deg,
    )


def _row(entry: PhotoEntry, position: RoutePosition) -> dict[str, Any]:
    return {
        "query_id": entry.query_id,
        "route_id": entry.way.route_id if entry.way else "",
        "step": entry.way.step if entry.way else 0.0,
        "located": position.radius_m is not None,
        **position.model_dump(),
    }


def _geojson(table_uri: str) -> Iterator[str]:
    """A FeatureCollection: of each route its path as a line, and its photos as points.

    Convention: GeoJSON puts the longitude first.
    """
    names = ["route_id", "step", "query_id", "located", "lat", "lon", "radius_m", "off_map"]
    names += ["path_id", "path_lat", "path_lon", "calibrated", "snapshot_id"]
    tables = part_table.iterate(table_uri, kind=KIND, columns=names)
    rows = (row for table in tables for row in table.to_pylist())
    return collection(
        one for _, route in groupby(rows, lambda row: row["route_id"]) for one in _features(list(route))
    )


def _features(route: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    line = [[row["path_lon"], row["path_lat"]] for row in route if row["path_id"] is not None]
    geometry = {"type": "LineString", "coordinates": line} if len(line) > 1 else None
    last = route[-1]
    yield feature(
        geometry,
        {
            "route_id": last["route_id"],
            "photos": len(route),
            "located": sum(row["located"] for row in route),
            "path": [row["path_id"] for row in route],
        },
    )
    for row in route:
        place = None if row["lat"] is None else point(row["lat"], row["lon"])
        yield feature(place, {name: row[name] for name in row if name not in ("lat", "lon")})
