"""Temporary files: records are those of a list, whatever is asked of them, and take no memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import storage
from geoloc.core.scratch import LocalFile, ScratchRecords


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
