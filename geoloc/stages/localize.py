"""Stage `localize`: a batch of photos to a table of fixes (GeoParquet), `fixes.geojson` and `hypotheses.geojson`.

With `route` the photos are those of routes (`localize_routes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, InputError
from geoloc.core.fingerprint import Streamed, fingerprint_of
from geoloc.core.part_table import TableDraft, TableManifest
from geoloc.core.progress import say
from geoloc.index.format.commit import current_snapshot
from geoloc.localization.calibration import calibration_uri
from geoloc.localization.localizer import Localizer, region_around
from geoloc.localization.query_photos import Photo
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import cpu_count, ensure_ray
from geoloc.runtime.table_job import PartResult, Workers
from geoloc.sources.folder import photo_fingerprints, unused_headings
from geoloc.sources.quarantine import RefusedRow
from geoloc.stages import localize_routes
from geoloc.stages.geojson_lines import collection, feature, point, write_text
from geoloc.stages.localize_inputs import PhotoEntry, list_photos
from geoloc.stages.localize_settings import LocalizeConfig, LocalizeInputs, LocalizeResult, read_entry

__all__ = ["LocalizeConfig", "LocalizeInputs", "LocalizeResult", "run"]

_VERSION = 4
_UNIT_PHOTOS = 64  # bounds the decoded pictures that an actor holds
FIXES = "fixes"
GEOJSON_NAME = "fixes.geojson"
HYPOTHESES_NAME = "hypotheses.geojson"
KIND = "fixes"
_UNUSED_HEADINGS = "unused_file_headings"


def run(
    config: LocalizeConfig, inputs: LocalizeInputs, output: str, *, overwrite: bool = False
) -> LocalizeResult:
    """Locate photos and write `fixes/` (GeoParquet), `fixes.geojson` and `hypotheses.geojson` to `output`.

    With `config.route` it writes `routes/` and `routes.geojson` instead.
    Killed halfway and run again, only the missing parts are made. Raises `ArtifactError` when there is no photo
    or no index, `TooManyBadRows` when too many photos cannot be used.
    """
    start = time.monotonic()
    if config.route:
        return localize_routes.locate_routes(config, inputs, output, overwrite=overwrite)
    output, index = storage.absolute(output), storage.absolute(inputs.index)
    region_around(config.near, config.within_m)  # a bad region is said now, not by every worker
    snapshot_id = inputs.snapshot_id or current_snapshot(index)
    entries = list_photos(inputs.photos, anywhere=config.photos_anywhere)
    fingerprint = _fingerprint(config, entries, index, snapshot_id)
    fixes = storage.join(output, FIXES)
    with part_table.begin(fixes, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            units = table_job.Units(
                range(0, len(entries), _UNIT_PHOTOS),
                lambda first: [asdict(entry) for entry in entries[first : first + _UNIT_PHOTOS]],
            )
            manifest = _make(config, table, (index, snapshot_id), units)
        for name, lines in ((GEOJSON_NAME, _geojson), (HYPOTHESES_NAME, _hypotheses_geojson)):
            uri = storage.join(output, name)
            if not reused or not storage.exists(uri):
                write_text(uri, lines(fixes))
    say(table_job.summary("fixes", manifest) + (" (reused)" if reused else ""))
    if words := unused_headings("photos", int(manifest.details.get(_UNUSED_HEADINGS, 0))):
        say(words)
    return _result(output, manifest, snapshot_id, reused=reused, seconds=time.monotonic() - start)


def _fingerprint(config: LocalizeConfig, entries: Sequence[PhotoEntry], index: str, snapshot_id: str) -> str:
    fit = calibration_uri(index, snapshot_id)
    calibrated = storage.sha256_file(fit) if storage.exists(fit) else None
    known = (asdict(entry) for entry in entries)
    photos = Streamed(
        {name: value for name, value in each.items() if name not in ("uri", "way")} for each in known
    )
    contents = Streamed(photo_fingerprints(None if entry.problem else entry.uri for entry in entries))
    return fingerprint_of([KIND, _VERSION, config.model_dump(), photos, contents, snapshot_id, calibrated])


def _make(
    config: LocalizeConfig, table: TableDraft, snapshot: tuple[str, str], units: Sequence[Any]
) -> TableManifest:
    ensure_ray()
    written, totals = table_job.make_parts(
        table,
        units,
        PhotoLocalizer,
        what="locating photos",
        workers=Workers(actors=cpu_count(), growing=True),
        arguments=(*snapshot, config.model_dump()),
    )
    refused = table_job.quarantined(totals)
    table_job.check_bad_share(
        "photos", table.plan.uri, sum(part.rows for part in written), refused, config.max_bad_share
    )
    outcomes = {name: count for name, count in sorted(totals.items()) if name.startswith("outcome/")}
    details = {"snapshot_id": snapshot[1], "outcomes": outcomes, _UNUSED_HEADINGS: totals[_UNUSED_HEADINGS]}
    return table.publish(kind=KIND, parts=written, quarantined=refused, details=details)


def _result(
    output: str, manifest: TableManifest, snapshot_id: str, *, reused: bool, seconds: float
) -> LocalizeResult:
    outcomes = {name.removeprefix("outcome/"): count for name, count in manifest.details["outcomes"].items()}
    located = outcomes.pop("located", 0)
    return LocalizeResult(
        output=output,
        reused=reused,
        seconds=round(seconds, 3),
        snapshot_id=snapshot_id,
        photos=manifest.rows,
        located=located,
        not_located=outcomes,
        quarantined=manifest.quarantined,
    )


class PhotoLocalizer:
    """Locates groups of photos (a Ray Data actor holds one)."""

    def __init__(self, index: str, snapshot_id: str, config: dict[str, Any]) -> None:
        self._config = LocalizeConfig.model_validate(config)
        self._localizer = Localizer.open(
            index,
            snapshot_id,
            threads=1,
            headings=self._config.headings,
            asymmetric=self._config.asymmetric,
            scales=self._config.scales,
        )

    def __call__(self, unit: list[dict[str, Any]]) -> PartResult:
        """The fixes of one group."""
        config = self._config
        ids: list[str] = []
        photos: list[Photo] = []
        refused: list[RefusedRow] = []
        unused = 0
        for entry in (PhotoEntry(**one) for one in unit):
            try:
                one, stated_deg = read_entry(config, entry)
                photos.append(one)
                ids.append(entry.query_id)
                unused += one.heading_deg is None and stated_deg is not None
            except (InputError, ArtifactError) as error:
                reason = error.reason if isinstance(error, InputError) else "missing_file"
                refused.append(RefusedRow(entry.query_id, reason, str(error), entry.uri))
        fixes = self._localizer.localize_batch(
            photos,
            near=config.near,
            within_m=config.within_m,
            k=config.k,
            rerank=config.rerank,
            min_confidence=config.min_confidence,
            uncalibrated=config.uncalibrated,
        )
        rows = [fix.row(query_id) for query_id, fix in zip(ids, fixes, strict=True)]
        table = pa.Table.from_pylist(rows, schema=schemas.FIXES)
        outcomes = {_UNUSED_HEADINGS: unused}
        for fix in fixes:
            name = f"outcome/{fix.reason or 'located'}"
            outcomes[name] = outcomes.get(name, 0) + 1
        return PartResult(schemas.with_geometry(table), refused, tuple(outcomes.items()))


def _geojson(fixes: str) -> Iterator[str]:
    """A FeatureCollection, a line a photo; one that was not located has no geometry.

    Convention: GeoJSON puts the longitude first.
    """
    names = ["query_id", "located", "reason", "radius_m", "confidence", "calibrated", "notes", "heading_deg"]
    names += ["view", "fov_deg", "assumed", "snapshot_id"]
    rows = _rows(fixes, [*names, "lat", "lon", "matches"])
    return collection(
        feature(
            point(row["lat"], row["lon"]) if row["located"] else None,
            {name: row[name] for name in names}
            | {"best_tile": row["matches"][0]["tile_id"] if row["matches"] else None},
        )
        for row in rows
    )


def _hypotheses_geojson(fixes: str) -> Iterator[str]:
    """A FeatureCollection, a line for each place that comes into question; `rank` 1 is the answer's own.

    Convention: GeoJSON puts the longitude first.
    """
    names = ["query_id", "located", "calibrated"]
    return collection(
        feature(
            point(place["lat"], place["lon"]),
            {name: row[name] for name in names}
            | {"rank": rank}
            | {name: place[name] for name in ("weight", "radius_m", "heading_deg", "tiles")},
        )
        for row in _rows(fixes, [*names, "hypotheses"])
        for rank, place in enumerate(row["hypotheses"] or (), start=1)
    )


def _rows(fixes: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for table in part_table.iterate(fixes, kind=KIND, columns=columns):
        yield from table.to_pylist()
