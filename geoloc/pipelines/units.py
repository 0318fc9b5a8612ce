"""Units of work for photos: rows of a table that an actor handles at once and writes as one part."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from ray.exceptions import RayError

from geoloc import parts, storage
from geoloc.errors import GeolocError, TooManyBadRows
from geoloc.pipelines.cluster import cpu_count, ensure_ray
from geoloc.progress import say, track

UNIT_ROWS = 128


class Unit(BaseModel):
    """Rows of one part of a table; its number is that of the part that comes of it."""

    model_config = ConfigDict(frozen=True)

    number: int
    part: parts.Part
    start: int
    rows: int


def units_of(manifest: parts.TableManifest, rows: int = UNIT_ROWS) -> list[Unit]:
    """Units of at most `rows` rows over all parts of a table, numbered in its order."""
    found: list[Unit] = []
    for part in manifest.parts:
        for start in range(0, part.rows, rows):
            size = min(rows, part.rows - start)
            found.append(Unit(number=len(found), part=part, start=start, rows=size))
    return found


def read_unit(uri: str, unit: Unit, columns: Sequence[str]) -> pa.Table:
    """The rows of a unit, bytes checked."""
    return parts.read_part(uri, unit.part, columns).slice(unit.start, unit.rows)


def run_units(units: Sequence[BaseModel], worker: type, arguments: dict[str, Any], *, what: str) -> None:
    """Work on units with a pool of Ray Data actors.

    `worker(**arguments)` is made once an actor and called with one unit at a time; it writes that unit's part.
    What it raises as `GeolocError` is raised here as it was.
    """
    if not units:
        return
    ensure_ray()
    import ray.data

    rows = [{"unit": unit.model_dump_json()} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Worker,  # type: ignore[arg-type]  # a class is what an actor pool takes
        fn_constructor_kwargs={"worker": worker, "kind": type(units[0]), "arguments": arguments},
        # One actor is enough to go on: a running service may hold the other CPUs.
        concurrency=(1, max(1, min(len(rows), cpu_count()))),
        num_cpus=1,
    )
    try:
        for _ in track(dataset.iter_rows(), total=len(rows), what=what, unit="blocks"):
            pass
    except RayError as error:
        raise _ours(error) from None


class _Worker:
    """What Ray Data runs: hands each unit to the worker."""

    def __init__(self, worker: type, kind: type[BaseModel], arguments: dict[str, Any]) -> None:
        self._worker = worker(**arguments)
        self._kind = kind

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._worker(self._kind.model_validate_json(row["unit"]))
        return row


def _ours(error: BaseException) -> BaseException:
    """The `GeolocError` inside Ray's wrapping, or the error as it is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, GeolocError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error


def finish_table(
    uri: str,
    count: int,
    *,
    kind: str,
    fingerprint: str,
    details: dict[str, Any],
    max_bad_share: float = 1.0,
) -> parts.TableManifest:
    """Publish the table of `count` finished parts; `TooManyBadRows` when more than that share was refused."""
    written = [part for number in range(count) if (part := parts.find_part(uri, number)) is not None]
    refused = _refused(uri)
    rows, bad = sum(part.rows for part in written), sum(refused.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(refused.items()))
    if bad > max_bad_share * (rows + bad):
        raise TooManyBadRows(
            f"{bad} of {rows + bad} photos cannot be used ({reasons}), more than the stated share of "
            f"{max_bad_share:.0%}; see {storage.join(uri, parts.QUARANTINE)} and mend them, or raise max_bad_share."
        )
    if bad:
        say(f"{kind}: {rows} photos, {bad} refused ({reasons}); see {storage.join(uri, parts.QUARANTINE)}")
    return parts.publish(
        uri, kind=kind, fingerprint=fingerprint, parts=written, quarantined=refused, details=details
    )


def _refused(uri: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for file in storage.list_files(storage.join(uri, parts.QUARANTINE), suffix=".parquet"):
        counts.update(pq.read_table(io.BytesIO(storage.read_bytes(file.uri)))["reason"].to_pylist())
    return counts
