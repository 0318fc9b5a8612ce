"""What a driver of a table job holds: a few bytes a row, and nothing that it does not need now."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from geoloc.core import part_table, storage
from geoloc.core.part_table import Part, Receipt
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult, Units
from tests.conftest import S3Server
from tests.failing_proxy import Faults, failing_proxy

ROWS_A_PART = 1024
BYTES_A_ROW = 16


def receipts_of(plan: part_table.TablePlan, indices: range) -> list[Receipt]:
    part = {"rows": ROWS_A_PART, "bytes": 3, "sha256": "0" * 64}
    return [
        Receipt(part=Part(name=plan.part_name(index), **part), counts={"seen": 1})
        for index in indices
    ]  # fmt: skip


def pretend(plan: part_table.TablePlan, items: list[dict[str, Any]], *_: Any) -> Iterator[dict[str, str]]:
    """Workers that give back the receipt of each unit."""
    assert len(items) <= table_job._UNITS_AT_ONCE
    assert sum(len(item["unit"]) for item in items) <= table_job._UNITS_BYTES
    for index in (item["index"] for item in items):
        (receipt,) = receipts_of(plan, range(index, index + 1))
        yield {"index": str(index), "receipt": receipt.model_dump_json(), "failure": ""}


def peak_bytes(uri: str, parts: int) -> int:
    """The most that the driver holds while it makes so many parts, above what it held before."""
    units = Units(range(parts), lambda index: {"place": index, "text": "x" * 1000})
    with part_table.begin(uri, "f") as table:
        tracemalloc.start()
        written, totals = table_job.make_parts(table, units, lambda unit: unit, what="test")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(written) == totals["seen"] == parts
    return peak


def test_the_driver_holds_less_than_16_bytes_a_row_at_two_sizes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 and of 16 million rows; what grows is the parts' names and checksums, the units do not."""
    monkeypatch.setattr(table_job, "_run", pretend)
    sizes = (4_096, 16_384)
    small, large = (peak_bytes(str(tmp_path / str(parts)), parts) for parts in sizes)
    grown = (large - small) / ((sizes[1] - sizes[0]) * ROWS_A_PART)
    assert grown < BYTES_A_ROW / 4
    assert large < 64e6


def test_units_that_are_large_are_described_few_at_a_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_job, "_run", pretend)
    monkeypatch.setattr(table_job, "_UNITS_BYTES", 5000)
    units = Units(range(100), lambda index: "x" * (4000 if index % 7 == 0 else 900))
    with part_table.begin(str(tmp_path), "f") as table:
        written, _ = table_job.make_parts(table, units, lambda unit: unit, what="test")
    assert len(written) == 100


def test_a_resumed_job_reads_no_part_and_makes_only_what_is_missing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 parts, 95 % of them finished by an earlier run."""
    uri, made = str(tmp_path / "table"), []
    with part_table.begin(uri, "f") as table:
        receipts = receipts_of(table.plan, range(9_500))
        for first in range(0, 9_500, 250):
            table.write_receipts(receipts[first : first + 250])
        for receipt in receipts:
            (tmp_path / "table" / receipt.part.name).write_bytes(b"abc")

    def run(plan: Any, items: list[dict[str, Any]], *rest: Any) -> Iterator[dict[str, str]]:
        made.extend(item["index"] for item in items)
        yield from pretend(plan, items, *rest)

    monkeypatch.setattr(table_job, "_run", run)
    original = storage.read_bytes
    monkeypatch.setattr(
        storage, "read_bytes", lambda where: pytest.fail(where) if ".parquet" in where else original(where)
    )
    with part_table.begin(uri, "f") as table:
        written, totals = table_job.make_parts(table, range(10_000), lambda unit: unit, what="test")
    assert made == list(range(9_500, 10_000))
    assert [part_table.part_number(part.name) for part in written] == list(range(10_000))
    assert totals["seen"] == 10_000


def half(unit: int) -> PartResult:
    return PartResult(pa.table({"value": [unit]}), counts=(("seen", 1),))


def test_a_part_without_a_receipt_is_checked_and_kept_by_its_task(tmp_path: Any) -> None:
    """A run that was killed leaves parts whose receipts it had not written yet."""
    with part_table.begin(str(tmp_path / "table"), "f") as table:
        kept = table_job._write(table.plan, 0, half(5))
        task = table_job._PartTask(table.plan, half)
        first, second = (task({"index": index, "unit": json.dumps(index)}) for index in range(2))
    assert Receipt.model_validate_json(first["receipt"]) == kept
    assert part_table.read_columns(
        table.plan.uri, Receipt.model_validate_json(second["receipt"]).part, ["value"]
    )["value"].to_pylist() == [1]


@pytest.mark.usefixtures("ray_local")
def test_a_task_whose_store_was_away_is_made_again_and_nothing_is_quarantined(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers read through a proxy that answers 503, until the driver has heard of the first failure."""
    for number in range(3):
        storage.write_bytes(f"{s3_uri}/input/{number}", f"text {number}".encode())

    def reading(unit: dict[str, Any]) -> PartResult:
        with pytest.MonkeyPatch.context() as patch:  # the worker lives longer than the test
            for name, text in unit["environment"].items():
                patch.setenv(name, text)
            value = storage.read_bytes(unit["uri"]).decode()
        return PartResult(pa.table({"value": [value]}), counts=(("read", 1),))

    lines: list[str] = []
    with failing_proxy(s3_server.endpoint, Faults(shares={"error": 1.0}, methods=("GET",))) as proxy:

        def heal(line: str) -> None:
            lines.append(line)
            proxy.faults = Faults()

        monkeypatch.setattr(table_job, "say", heal)
        environment = {"AWS_ENDPOINT_URL": proxy.endpoint, "GEOLOC_STORE_BUDGET_S": "1"}
        units = [{"uri": f"{s3_uri}/input/{number}", "environment": environment} for number in range(3)]
        with part_table.begin(f"{s3_uri}/table", "f") as table:
            written, totals = table_job.make_parts(table, units, reading, what="test")
            table.publish(kind="test", parts=written)
        assert proxy.failed["error"] >= 1
    assert lines
    assert all("comes again after the others" in line for line in lines)
    assert totals == {"read": 3}
    assert part_table.read(f"{s3_uri}/table")["value"].to_pylist() == ["text 0", "text 1", "text 2"]
    assert not [file for file in storage.list_files(f"{s3_uri}/table") if "quarantine" in file.uri]
