"""What the driver holds of a list of photos: a few bytes a photo, at any size; and what it looks at for one."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.sources.folder import ViewDefaults, read_photos
from geoloc.sources.positions import read_columns
from geoloc.stages.geojson_lines import collection, write_text
from geoloc.stages.localize_inputs import list_photos

READERS = {
    "localize": lambda uri: len(list_photos(uri)),
    "ingest": lambda uri: len(read_photos(uri, ViewDefaults("street", None))[0]),
}
HELD_BYTES = 16


def _list_of(folder: Path, count: int) -> str:
    rows = (f"p{k:09d},a/{k:09d}.jpg,{k * 1e-6:.7f},{k * 2e-6:.7f},{k % 360},70" for k in range(count))
    folder.mkdir()
    path = folder / "photos.csv"
    path.write_text("id,photo,lat,lon,heading_deg,fov_deg\n" + "\n".join(rows) + "\n")
    return str(path)


@pytest.mark.parametrize("stage", READERS)
def test_a_photo_of_a_list_costs_the_driver_the_same_at_two_sizes(stage: str, tmp_path: Path) -> None:
    reader: Callable[[str], int] = READERS[stage]
    reader(_list_of(tmp_path / "first", 10))  # what is loaded once
    held, counts = [], (2_000, 10_000)
    for count in counts:
        uri = _list_of(tmp_path / str(count), count)
        tracemalloc.start()
        assert reader(uri) == count
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (held[1] - held[0]) / (counts[1] - counts[0]) < HELD_BYTES


def test_the_text_of_fixes_is_written_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 1000)
    held = []
    for count in (2_000, 10_000):
        tracemalloc.start()
        write_text(str(tmp_path / "x.geojson"), collection({"number": number} for number in range(count)))
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] < held[0] + 8_000
    features = json.loads((tmp_path / "x.geojson").read_text())["features"]
    assert features == [{"number": number} for number in range(10_000)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_the_same_each_time_whatever_ends_a_line(end: str, tmp_path: Path) -> None:
    lines = ["", "a, b", "1,x", "", '2,"two', 'lines"', "3", "4,y,,"]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    columns = read_columns(str(tmp_path / "t.csv"))
    wanted = [
        {"a": "1", "b": "x"},
        {"a": "2", "b": f"two{end}lines"},
        {"a": "3", "b": ""},
        {"a": "4", "b": "y"},
    ]
    for _ in range(2):
        assert [*columns.rows] == wanted
    assert len(columns.rows) == 4
    assert not columns.problems
