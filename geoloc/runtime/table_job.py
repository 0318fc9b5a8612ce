"""Tables made on Ray Data: each unit of work makes one part, and only missing parts are made.

The driver plans units (small, JSON-able descriptions). Unit k makes part k and nothing else. The bytes of a part
depend on the plan alone: not on the worker, the number of workers, or how often the stage was killed. A task
writes its own part; rows never travel through the driver or the object store.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray.data

from geoloc.core import errors, part_table, storage
from geoloc.core.errors import GeolocError, InputError, StoreUnavailable, TooManyBadRows
from geoloc.core.part_table import Part, Receipt, TableDraft, TableManifest, TablePlan
from geoloc.core.progress import say, track
from geoloc.runtime.metrics import record_part
from geoloc.runtime.ray_session import ensure_ray
from geoloc.sources.quarantine import RefusedRow, count_reasons, quarantine_table

_COUNTS_KEY = b"geoloc_counts"
_ROUNDS = 3  # in which a part is made whose store was away
_MOST_FAILED = 16  # parts in a round: then the store is away for all
_RECEIPTS_IN_A_FILE = 256
_UNITS_AT_ONCE = 4096  # these two bound what the driver holds of units
_UNITS_BYTES = 64 * 2**20
_RECEIPTS_EVERY_S = 10.0


@dataclass(frozen=True)
class PartResult:
    """Result of one unit: the rows of its part, its refused rows, and counts to be summed over all parts.

    Counts stand in the part's metadata; with None nothing is counted, and the part has no such metadata.
    """

    rows: pa.Table
    refused: Sequence[RefusedRow] = ()
    counts: tuple[tuple[str, int], ...] | None = ()


class PartMaker(Protocol):
    """Makes the rows of one unit: a function, or an object that Ray builds once per actor."""

    def __call__(self, unit: Any) -> PartResult:
        """The rows of the unit."""
        ...


@dataclass(frozen=True)
class Workers:
    """Where part makers run: in plain tasks (`actors` is None), or in that many actors of `cpus` and `gpus` each.

    A `growing` pool begins with that many and takes what the cluster comes to have, up to an actor a part.
    """

    actors: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    growing: bool = False


def split(items: Sequence[Any], weight: Callable[[Any], int], limit: int) -> list[list[Any]]:
    """Consecutive groups of items whose weights add up to `limit` at most (a heavier item stands alone)."""
    return [list(items[part.start : part.stop]) for part in split_ranges(map(weight, items), limit)]


def split_ranges(weights: Iterable[int], limit: int) -> list[range]:
    """The positions of consecutive groups of items, as `split` makes them of their weights."""
    starts, filled, count = [], limit, 0
    for count, weight in enumerate(weights, start=1):
        if filled + weight > limit:
            starts.append(count - 1)
            filled = 0
        filled += weight
    return [range(first, last) for first, last in itertools.pairwise([*starts, count])] if count else []


class Units(Sequence[Any]):
    """Units that are described when they are needed: `describe(item)` of each of `items`, a range or short list."""

    def __init__(self, items: Sequence[Any], describe: Callable[[Any], Any]) -> None:
        self._items = items
        self._describe = describe

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: Any) -> Any:
        return self._describe(self._items[place])


def make_parts(
    table: TableDraft,
    units: Sequence[Any],
    maker: Callable[..., Any],
    *,
    what: str,
    workers: Workers | None = None,
    arguments: tuple[Any, ...] = (),
) -> tuple[list[Part], Counter[str]]:
    """Make the missing parts of a table that `part_table.begin` opened; returns all parts and the summed counts.

    `maker` is a function `unit -> PartResult`, or, with `workers.actors`, a class that is built with `arguments` in
    each actor and called with a unit. Counts of refused rows are named `quarantined/<reason>`. The first
    `GeolocError` of a task ends the stage with that error; the parts that were written stay. A part that failed
    because its store was away is made again after the others, in `_ROUNDS` rounds at most. Parts with a receipt
    are not read again; a part without one, of a run that was killed, is checked by the task that would make it.
    """
    receipts = table.finished_parts()
    missing = [index for index in range(len(units)) if index not in receipts]
    written = [receipts[index].part for index in range(len(units)) if index in receipts]
    totals: Counter[str] = Counter()
    for receipt in receipts.values():
        totals.update(receipt.counts)
    for round_number in range(1, _ROUNDS + 1):
        failed: list[int] = []
        results = _run_all(table.plan, units, missing, maker, workers or Workers(), arguments)
        tracked = track(results, total=len(missing), what=what, unit="parts")
        for receipt in _noted(table, tracked, failed, round_number):
            record_part(what, receipt.part.rows, receipt.counts)
            written.append(receipt.part)
            totals.update(receipt.counts)
        missing = sorted(failed)
    return sorted(written, key=lambda part: part_table.part_number(part.name)), totals


def _noted(
    table: TableDraft, results: Iterator[dict[str, str]], failed: list[int], round_number: int
) -> Iterator[Receipt]:
    """The receipts of tasks as they end, which are also written, many to a file, and at the end."""
    waiting: list[Receipt] = []
    written_s = time.monotonic()
    try:
        for result in results:
            if result["failure"]:
                _note_failure(decode_error(result["failure"]), int(result["index"]), failed, round_number)
                continue
            waiting.append(Receipt.model_validate_json(result["receipt"]))
            yield waiting[-1]
            if len(waiting) >= _RECEIPTS_IN_A_FILE or time.monotonic() - written_s > _RECEIPTS_EVERY_S:
                table.write_receipts(waiting)
                waiting, written_s = [], time.monotonic()
    finally:
        if waiting:
            table.write_receipts(waiting)


def _note_failure(error: GeolocError, index: int, failed: list[int], round_number: int) -> None:
    """Add a part to those of the next round, or raise its error."""
    if not isinstance(error, StoreUnavailable) or round_number == _ROUNDS or len(failed) == _MOST_FAILED:
        raise error
    failed.append(index)
    say(f"part {index} comes again after the others: {error}")


def _run_all(
    plan: TablePlan,
    units: Sequence[Any],
    missing: list[int],
    maker: Callable[..., Any],
    workers: Workers,
    arguments: tuple[Any, ...],
) -> Iterator[dict[str, str]]:
    """Results of all missing units, of which only some are described at a time (`_batches`)."""
    for some in _batches(units, missing):
        yield from _run(plan, some, maker, workers, arguments)


def _batches(units: Sequence[Any], missing: list[int]) -> Iterator[list[dict[str, Any]]]:
    """Units with their numbers, as many at a time as `_UNITS_AT_ONCE` and `_UNITS_BYTES` allow."""
    some: list[dict[str, Any]] = []
    size = 0
    for index in missing:
        text = json.dumps(units[index])
        if some and (len(some) == _UNITS_AT_ONCE or size + len(text) > _UNITS_BYTES):
            yield some
            some, size = [], 0
        some.append({"index": index, "unit": text})
        size += len(text)
    if some:
        yield some


def _run(
    plan: TablePlan,
    items: list[dict[str, Any]],
    maker: Callable[..., Any],
    workers: Workers,
    arguments: tuple[Any, ...],
) -> Iterator[dict[str, str]]:
    ensure_ray()
    source = ray.data.from_items(items, override_num_blocks=len(items))
    actor: Any = _PartActor  # Ray Data takes a class, and its annotations do not say so
    if workers.actors is None:
        results = source.map(_PartTask(plan, maker), num_cpus=workers.cpus, num_gpus=workers.gpus)
    else:
        results = source.map(
            actor,
            fn_constructor_args=(plan, maker, arguments),
            compute=_pool(workers, len(items)),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
        )
    yield from results.iter_rows()


def _pool(workers: Workers, parts: int) -> Any:
    """The actors for so many parts; Ray asks the cluster's autoscaler for those that a growing pool lacks."""
    assert workers.actors is not None
    first = min(workers.actors, parts)
    if not workers.growing:
        return ray.data.ActorPoolStrategy(size=first)
    return ray.data.ActorPoolStrategy(min_size=1, initial_size=first, max_size=parts)


class _PartTask:
    """A plain callable that Ray ships with its maker."""

    def __init__(self, plan: TablePlan, maker: PartMaker) -> None:
        self.plan = plan
        self.maker = maker
        self.__name__ = getattr(maker, "__name__", type(maker).__name__)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        index = int(row["index"])
        try:
            receipt = self._make(index, row["unit"])
        except GeolocError as error:
            return {"index": str(index), "receipt": "", "failure": encode_error(error)}
        return {"index": str(index), "receipt": receipt.model_dump_json(), "failure": ""}

    def _make(self, index: int, unit: str) -> Receipt:
        if self.plan.has_part(index):
            return _existing(self.plan, index)
        return _write(self.plan, index, self.maker(json.loads(unit)))


class _PartActor(_PartTask):
    """Builds its maker once; a maker that cannot be built fails its units with one sentence, not a stack trace."""

    def __init__(self, plan: TablePlan, maker: Callable[..., PartMaker], arguments: tuple[Any, ...]) -> None:
        try:
            built: PartMaker = maker(*arguments)
        except GeolocError as error:
            built = _FailingMaker(error)
        super().__init__(plan, built)


@dataclass(frozen=True)
class _FailingMaker:
    """Raises the error of a maker that could not be built, for every unit."""

    error: GeolocError

    def __call__(self, unit: Any) -> PartResult:
        raise self.error


def _write(plan: TablePlan, index: int, result: PartResult) -> Receipt:
    if result.counts is None:
        return Receipt(part=plan.write_part(index, result.rows))
    reasons = {f"quarantined/{reason}": count for reason, count in count_reasons(result.refused).items()}
    counts = dict(result.counts) | reasons
    rows = result.rows.replace_schema_metadata(
        {**(result.rows.schema.metadata or {}), _COUNTS_KEY: json.dumps(counts, sort_keys=True).encode()}
    )
    refused = quarantine_table(result.refused) if result.refused else None
    return Receipt(part=plan.write_part(index, rows, refused), counts=counts)


def _existing(plan: TablePlan, index: int) -> Receipt:
    part, metadata = plan.written_part(index)
    return Receipt(part=part, counts=json.loads(metadata.get(_COUNTS_KEY, b"{}")))


def encode_error(error: GeolocError) -> str:
    """An error of a task as text."""
    return json.dumps([type(error).__name__, str(error), getattr(error, "reason", "")])


def decode_error(failure: str) -> GeolocError:
    """The error of a task with its kind, sentence and reason."""
    kind_name, message, reason = json.loads(failure)
    kind: type[GeolocError] = getattr(errors, kind_name, GeolocError)
    return kind(message, reason=reason) if issubclass(kind, InputError) else kind(message)


def quarantined(totals: Counter[str]) -> dict[str, int]:
    """Counts of refused rows by reason."""
    prefix = "quarantined/"
    return {
        name.removeprefix(prefix): count for name, count in sorted(totals.items()) if name.startswith(prefix)
    }


def check_bad_share(what: str, uri: str, rows: int, refused: dict[str, int], limit: float) -> None:
    """Raise `TooManyBadRows` with the counts when refused rows are more than `limit` of all."""
    bad = sum(refused.values())
    if bad and bad > limit * (rows + bad):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
        raise TooManyBadRows(
            f"{bad:,} of {rows + bad:,} {what} are bad ({reasons}), more than the limit of {limit:.1%}; nothing was "
            f"published: see {storage.join(uri, part_table.QUARANTINE)} and repair them, or raise max_bad_share."
        )


def summary(what: str, manifest: TableManifest) -> str:
    """One line for people: rows, parts, and what was left out and why."""
    left_out = [f"{count:,} {reason}" for reason, count in manifest.quarantined.items() if count]
    tail = f"; quarantined: {', '.join(left_out)}" if left_out else "; nothing quarantined"
    return f"{what}: {manifest.rows:,} rows in {len(manifest.parts):,} parts{tail}"
