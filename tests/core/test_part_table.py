"""Tables in parts: published whole or not at all, resumed, checked on reading."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, CorruptArtifact


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Where a table is to be."""
    return str(tmp_path / "table")


def _rows(*values: int) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.int64())})


def _make(uri: str, *, fingerprint: str = "f", count: int = 3) -> part_table.TableManifest:
    """A stage in miniature: makes the parts that are missing, then publishes."""
    if done := part_table.begin(uri, fingerprint):
        return done
    for index in part_table.missing_parts(uri, count):
        part_table.write_part(uri, index, _rows(*range(index * 10, index * 10 + index + 1)))
    found = [part_table.written_part(uri, index)[0] for index in range(count)]
    return part_table.publish(
        uri, kind="numbers", fingerprint=fingerprint, parts=found, quarantined={"b": 1, "a": 2}
    )


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_published_table_reads_back_in_order(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "t") if store == "local" else request.getfixturevalue("s3_uri")
    manifest = _make(uri)
    assert manifest.rows == 6
    assert list(manifest.quarantined) == ["a", "b"]
    assert part_table.read(uri, kind="numbers")["value"].to_pylist() == [0, 10, 11, 20, 21, 22]
    assert part_table.read_manifest(uri) == manifest
    assert [part.name for part in manifest.parts] == [f"part-0000{index}.parquet" for index in range(3)]


def test_parts_are_plain_parquet_for_other_tools(uri: str) -> None:
    _make(uri)
    assert pq.read_table(Path(uri) / "part-00002.parquet")["value"].to_pylist() == [20, 21, 22]


def test_a_finished_table_is_reused(uri: str) -> None:
    first = _make(uri)
    before = (Path(uri) / "part-00000.parquet").stat().st_mtime_ns
    assert _make(uri) == first
    assert (Path(uri) / "part-00000.parquet").stat().st_mtime_ns == before


@given(killed_after=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, killed_after: int
) -> None:
    whole, killed = (str(tmp_path_factory.mktemp("t") / name) for name in ("whole", "killed"))
    _make(whole)
    part_table.begin(killed, "f")
    for index in range(killed_after):
        part_table.write_part(killed, index, _rows(*range(index * 10, index * 10 + index + 1)))
    with pytest.raises(ArtifactError, match=r"is unfinished; run the stage that makes it again"):
        part_table.read(killed)
    assert part_table.missing_parts(killed, 3) == list(range(killed_after, 3))
    _make(killed)
    contents = [
        {file.name: storage.read_bytes(file.uri) for file in storage.list_files(uri)}
        for uri in (whole, killed)
    ]
    assert contents[0] == contents[1]


def test_other_inputs_are_refused_and_replaced_only_on_demand(uri: str) -> None:
    _make(uri)
    with pytest.raises(
        ArtifactError, match=r"holds a table made from other inputs or settings; pass --overwrite"
    ):
        part_table.begin(uri, "g")
    assert part_table.read_manifest(uri).fingerprint == "f"
    assert part_table.begin(uri, "g", overwrite=True) is None
    assert part_table.missing_parts(uri, 3) == [0, 1, 2]


def test_a_directory_of_other_files_is_not_touched(uri: str) -> None:
    storage.write_bytes(storage.join(uri, "thesis.tex"), b"years of work")
    with pytest.raises(ArtifactError, match=r"already holds other files; choose an empty output"):
        part_table.begin(uri, "f")
    assert storage.read_bytes(storage.join(uri, "thesis.tex")) == b"years of work"


def test_quarantined_rows_are_written_before_their_part(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pa.table(
        [["key"], ["undecodable"], ["not an image"], ["photos.csv"]], schema=schemas.QUARANTINE
    )
    written: list[str] = []
    original = storage.write_bytes
    monkeypatch.setattr(
        storage, "write_bytes", lambda where, data: (written.append(where), original(where, data))[1]
    )
    part_table.write_part(uri, 7, _rows(1), refused)
    part_table.write_part(uri, 8, _rows(1), refused.slice(0, 0))
    assert [name.removeprefix(uri) for name in written] == [
        "/quarantine/part-00007.parquet",
        "/part-00007.parquet",
        "/part-00008.parquet",
    ]
    with pytest.raises(ArtifactError, match="there is no such file"):
        part_table.written_part(uri, 9)


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap"])
def test_damaged_parts_are_refused_by_name(uri: str, damage: str) -> None:
    manifest = _make(uri)
    path = Path(uri) / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "truncate":
        data = data[:-5]
    else:
        data = bytearray((Path(uri) / "part-00002.parquet").read_bytes())
    path.write_bytes(bytes(data))
    with pytest.raises(
        CorruptArtifact, match=r"part-00001\.parquet' has \d+ bytes that do not match its manifest"
    ):
        part_table.read_part(uri, manifest.parts[1])


def test_a_missing_table_a_wrong_kind_and_a_newer_format_are_told_apart(uri: str) -> None:
    with pytest.raises(ArtifactError, match=r"There is no table at .*; check the path or run the stage"):
        part_table.read_manifest(uri)
    _make(uri)
    with pytest.raises(ArtifactError, match=r"is a table of numbers, not of tiles; give the tiles table"):
        part_table.read_manifest(uri, kind="tiles")
    manifest_path = Path(uri) / "table.json"
    document = json.loads(manifest_path.read_text())
    manifest_path.write_text(json.dumps(document | {"format_version": 99}))
    with pytest.raises(ArtifactError, match=r"has table format 99, this geoloc reads up to 1; upgrade"):
        part_table.read_manifest(uri)
    manifest_path.write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"table\.json' is not a table manifest of format 1"):
        part_table.read_manifest(uri)


def test_an_empty_table_keeps_its_columns(uri: str) -> None:
    part_table.begin(uri, "f")
    part_table.publish(uri, kind="numbers", fingerprint="f", parts=[part_table.write_part(uri, 0, _rows())])
    assert part_table.read(uri).column_names == ["value"]


def test_columns_can_be_chosen(uri: str) -> None:
    part_table.begin(uri, "f")
    table = _rows(1).append_column("image", pa.array([b"\x00"]))
    part_table.publish(uri, kind="numbers", fingerprint="f", parts=[part_table.write_part(uri, 0, table)])
    assert part_table.read(uri, columns=["value"]).column_names == ["value"]


def test_equal_tables_give_equal_bytes() -> None:
    assert part_table.encode_parquet(_rows(1, 2)) == part_table.encode_parquet(_rows(1, 2))
