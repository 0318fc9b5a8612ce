"""Temporary files: records are those of a list, whatever is asked of them, and take no memory."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import storage
from geoloc.core.errors import StorageError
from geoloc.core.scratch import LocalFile, ScratchRecords, scratch_table


@dataclass(frozen=True)
class Place:
    """A record."""

    name: str
    lat: float | None
    way: tuple[str, int] | None = None


def _places(count: int) -> list[Place]:
    return [Place(f"ä\n{number}", None if number % 3 == 0 else number / 7) for number in range(count)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.slices(300), st.integers(-310, 310))
def test_records_are_those_of_a_list(count: int, chosen: slice, place: int) -> None:
    rows, records = _places(count), ScratchRecords(Place)
    for row in rows:
        records.append(row)
    assert len(records) == count
    assert list(records) == rows
    assert records[chosen] == rows[chosen]
    if -count <= place < count:
        assert records[place] == rows[place]
    else:
        with pytest.raises(IndexError):
            records[place]


def test_records_that_were_read_may_be_followed_by_others() -> None:
    records = ScratchRecords(Place, lambda name, lat, way: Place(name, lat, way and tuple(way)))
    for number, row in enumerate(_places(200)):
        assert len(records) == number
        records.append(row)
        assert records[-1] == row
    records.append(Place("x", 1.0, ("way", 3)))
    records.append(Place("y", 1.0))
    assert records[200:] == [Place("x", 1.0, ("way", 3)), Place("y", 1.0)]


def test_a_record_takes_less_than_a_byte_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    peaks = []
    for count in (2_000, 10_000):
        tracemalloc.start()
        records = ScratchRecords(Place)
        for number in range(count):
            records.append(Place(f"place {number}", 1.0))
        assert sum(1 for _ in records) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 8_000 < 1
    assert not list(tmp_path.iterdir()), "the file has no name that a kill could leave behind"


SCHEMA = pa.schema([("number", pa.int64())])


def _batches(counts: list[int]) -> Iterator[pa.RecordBatch]:
    for count in counts:
        yield pa.record_batch([pa.array(range(count), pa.int64())], schema=SCHEMA)


def test_a_table_is_mapped_from_a_file_that_lost_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = pa.total_allocated_bytes()
    table = scratch_table(_batches([3, 0, 100_000]), SCHEMA)
    assert table["number"].to_pylist() == [*range(3), *range(100_000)]
    assert pa.total_allocated_bytes() - before < 100_000
    assert not list(tmp_path.iterdir())
    assert scratch_table([], SCHEMA).num_rows == 0


def test_what_the_batches_raise_is_raised_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> Iterator[pa.RecordBatch]:
        yield from _batches([3])
        raise PermissionError("photos.csv")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PermissionError, match=r"photos\.csv"):
        scratch_table(unreadable(), SCHEMA)
    assert not list(tmp_path.iterdir())


@contextmanager
def _little_room() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def append_all() -> None:
        records = ScratchRecords(Place)
        for place in _places(1000):
            records.append(place)

    with pytest.raises(StorageError, match="set TMPDIR to another disk"), _little_room():
        append_all()
    with pytest.raises(StorageError, match="set TMPDIR to another disk"), _little_room():
        scratch_table(_batches([10_000] * 3), SCHEMA)
    assert not list(tmp_path.iterdir())


def test_a_remote_file_has_a_copy_for_as_long_as_it_is_wanted(s3_uri: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"here")
    assert LocalFile(str(tmp_path / "here")).path == tmp_path / "here"
    storage.write_bytes(f"{s3_uri}/there", b"there")
    file = LocalFile(f"{s3_uri}/there")
    path = file.path
    assert path.read_bytes() == b"there"
    del file
    assert not path.exists()
    assert (tmp_path / "here").exists()
