"""Tables in parts: published whole or not at all, resumed, checked on reading."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, CorruptArtifact, OutputInUse
from geoloc.core.part_table import Receipt, TableManifest, TablePlan


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Where a table is to be."""
    return str(tmp_path / "table")


def _rows(*values: int) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.int64())})


def _make(uri: str, *, fingerprint: str = "f", count: int = 3) -> part_table.TableManifest:
    """A stage in miniature: makes the parts that are missing, then publishes."""
    with part_table.begin(uri, fingerprint) as table:
        if table.finished is not None:
            return table.finished
        for index in range(count):
            if not table.plan.has_part(index):
                table.write_part(index, _rows(*range(index * 10, index * 10 + index + 1)))
        found = [table.plan.written_part(index)[0] for index in range(count)]
        return table.publish(kind="numbers", parts=found, quarantined={"b": 1, "a": 2})


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
    assert [part.name for part in manifest.parts] == [f"part-0000{index}.f-1.parquet" for index in range(3)]


def test_parts_are_plain_parquet_for_other_tools(uri: str) -> None:
    _make(uri)
    assert pq.read_table(Path(uri) / "part-00002.f-1.parquet")["value"].to_pylist() == [20, 21, 22]


def test_a_finished_table_is_reused(uri: str) -> None:
    first = _make(uri)
    before = (Path(uri) / "part-00000.f-1.parquet").stat().st_mtime_ns
    assert _make(uri) == first
    assert (Path(uri) / "part-00000.f-1.parquet").stat().st_mtime_ns == before


@given(killed_after=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, killed_after: int
) -> None:
    whole, killed = (str(tmp_path_factory.mktemp("t") / name) for name in ("whole", "killed"))
    _make(whole)
    with part_table.begin(killed, "f") as table:
        for index in range(killed_after):
            table.write_part(index, _rows(*range(index * 10, index * 10 + index + 1)))
    with pytest.raises(ArtifactError, match=r"is unfinished; run the stage that makes it again"):
        part_table.read(killed)
    _make(killed)
    contents = [
        {file.name: storage.read_bytes(file.uri) for file in storage.list_files(uri)}
        for uri in (whole, killed)
    ]
    assert contents[0] == contents[1]


def test_other_inputs_are_refused_and_replaced_only_on_demand(uri: str) -> None:
    _make(uri)
    match = r"holds a table made from other inputs or settings; pass --overwrite"
    with pytest.raises(ArtifactError, match=match), part_table.begin(uri, "g"):
        pass
    assert part_table.read_manifest(uri).fingerprint == "f"
    with part_table.begin(uri, "g", overwrite=True) as table:
        parts = [table.write_part(0, _rows(7))]
        assert part_table.read(uri)["value"].to_pylist() == [0, 10, 11, 20, 21, 22], "the old table is there"
        table.publish(kind="numbers", parts=parts)
    assert part_table.read(uri)["value"].to_pylist() == [7]
    names = {file.name for file in storage.list_files(uri)}
    assert names == {
        "part-00000.g-2.parquet",
        "plan.json",
        "table.json",
    }


def test_a_directory_of_other_files_is_not_touched(uri: str) -> None:
    storage.write_bytes(storage.join(uri, "thesis.tex"), b"years of work")
    match = r"already holds other files; choose an empty output"
    with pytest.raises(ArtifactError, match=match), part_table.begin(uri, "f"):
        pass
    part_table.write_table(uri, [_rows(1)], kind="numbers", fingerprint="f", overwrite=True)
    assert storage.read_bytes(storage.join(uri, "thesis.tex")) == b"years of work"


def test_quarantined_rows_are_written_before_their_part(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pa.table(
        [["key"], ["undecodable"], ["not an image"], ["photos.csv"]], schema=schemas.QUARANTINE
    )
    written: list[str] = []
    for name in ("write_bytes", "put_if_absent"):
        original = getattr(storage, name)
        monkeypatch.setattr(
            storage, name, lambda where, data, put=original: (written.append(where), put(where, data))[1]
        )
    plan = TablePlan(uri, "f")
    plan.write_part(7, _rows(1), refused)
    plan.write_part(8, _rows(1), refused.slice(0, 0))
    assert [name.removeprefix(uri) for name in written] == [
        "/quarantine/part-00007.f-1.parquet",
        "/part-00007.f-1.parquet",
        "/part-00008.f-1.parquet",
    ]
    with pytest.raises(ArtifactError, match="there is no such file"):
        plan.written_part(9)


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap"])
def test_damaged_parts_are_refused_by_name(uri: str, damage: str) -> None:
    manifest = _make(uri)
    path = Path(uri) / "part-00001.f-1.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "truncate":
        data = data[:-5]
    else:
        data = bytearray((Path(uri) / "part-00002.f-1.parquet").read_bytes())
    path.write_bytes(bytes(data))
    with pytest.raises(
        CorruptArtifact, match=r"part-00001\.f-1\.parquet' has \d+ bytes that do not match its manifest"
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
    with pytest.raises(ArtifactError, match=r"has table format 99, this geoloc reads up to 2; upgrade"):
        part_table.read_manifest(uri)
    manifest_path.write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"table\.json' is not a table manifest of format 2 or older"):
        part_table.read_manifest(uri)


def test_an_empty_table_keeps_its_columns(uri: str) -> None:
    part_table.write_table(uri, [_rows()], kind="numbers", fingerprint="f")
    assert part_table.read(uri).column_names == ["value"]


def test_columns_can_be_chosen(uri: str) -> None:
    table = _rows(1).append_column("image", pa.array([b"\x00"]))
    part_table.write_table(uri, [table], kind="numbers", fingerprint="f")
    assert part_table.read(uri, columns=["value"]).column_names == ["value"]


def test_equal_tables_give_equal_bytes() -> None:
    assert part_table.encode_parquet(_rows(1, 2)) == part_table.encode_parquet(_rows(1, 2))


def test_a_table_of_the_first_format_is_read_reused_and_replaced(uri: str) -> None:
    """As releases before the generations wrote it: parts without a plan in their names."""
    data = part_table.encode_parquet(_rows(1, 2))
    storage.write_bytes(storage.join(uri, "part-00000.parquet"), data)
    storage.write_bytes(storage.join(uri, "plan.json"), b'{"fingerprint": "f"}\n')
    part = {"name": "part-00000.parquet", "rows": 2, "bytes": len(data), "sha256": storage.sha256_bytes(data)}
    manifest = {
        "format_version": 1, "kind": "numbers", "fingerprint": "f", "rows": 2, "parts": [part],
        "quarantined": {}, "details": {},
    }  # fmt: skip
    storage.write_bytes(storage.join(uri, "table.json"), json.dumps(manifest).encode())
    assert part_table.read(uri, kind="numbers")["value"].to_pylist() == [1, 2]
    with part_table.begin(uri, "f") as table:
        assert table.finished is not None
        assert table.finished.rows == 2
    part_table.write_table(uri, [_rows(3)], kind="numbers", fingerprint="g", overwrite=True)
    assert part_table.read(uri)["value"].to_pylist() == [3]
    assert not storage.exists(storage.join(uri, "part-00000.parquet"))


def test_a_manifest_that_names_parts_of_another_run_is_refused(uri: str) -> None:
    _make(uri)
    path = Path(uri) / "table.json"
    path.write_text(path.read_text().replace('"fingerprint":"f"', '"fingerprint":"g"').replace(
        '"fingerprint": "f"', '"fingerprint": "g"'))  # fmt: skip
    with pytest.raises(CorruptArtifact, match=r"part-00000\.f-1\.parquet, which belongs to another run"):
        part_table.read(uri)


def test_a_part_that_is_there_stays(uri: str) -> None:
    plan = TablePlan(uri, "f")
    first = plan.write_part(0, _rows(1))
    assert plan.write_part(0, _rows(1, 2)) == first
    assert storage.sha256_file(storage.join(uri, first.name)) == first.sha256


def test_finished_parts_are_known_by_their_receipts_without_reading_them(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with part_table.begin(uri, "f") as table:
        receipts = [
            Receipt(part=table.write_part(index, _rows(index)), counts={"seen": index}) for index in range(4)
        ]
        table.write_receipts(receipts[:2])
        table.write_receipts(receipts[2:3])
    (Path(uri) / receipts[1].part.name).write_bytes(b"cut off")
    opened: list[str] = []
    original = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda where: (opened.append(where), original(where))[1])
    with part_table.begin(uri, "f") as table:
        assert table.finished_parts() == {0: receipts[0], 2: receipts[2]}
    assert not [where for where in opened if where.endswith(".parquet")]


def test_the_lease_keeps_a_second_run_out_and_names_the_first(uri: str) -> None:
    with part_table.begin(uri, "f") as table:
        with pytest.raises(OutputInUse, match=r"another run is at work there \(process \d+ on .*, since 20"):
            part_table.write_table(uri, [_rows(1)], kind="numbers", fingerprint="f")
        table.publish(kind="numbers", parts=[table.write_part(0, _rows(5))])
    assert not storage.exists(storage.join(uri, "lease.json"))
    assert part_table.write_table(uri, [_rows(1)], kind="numbers", fingerprint="f").rows == 1


def test_who_lost_the_table_to_an_overwrite_publishes_nothing(uri: str) -> None:
    with part_table.begin(uri, "f") as table:
        parts = [table.write_part(0, _rows(1))]
        storage.delete(storage.join(uri, "lease.json"))  # as after its time
        part_table.write_table(uri, [_rows(2)], kind="numbers", fingerprint="g", overwrite=True)
        with pytest.raises(OutputInUse, match="lost its lease"):
            table.publish(kind="numbers", parts=parts)
        table._lease = None  # as if it had looked just before
        with pytest.raises(OutputInUse, match=r"took .* over with --overwrite"):
            table.publish(kind="numbers", parts=parts)
    assert part_table.read(uri)["value"].to_pylist() == [2]


def test_an_old_run_that_publishes_first_is_replaced_by_the_one_that_overwrites(uri: str) -> None:
    with part_table.begin(uri, "f") as old:
        storage.delete(storage.join(uri, "lease.json"))
        before = (Path(uri) / "plan.json").read_bytes()
        with part_table.begin(uri, "g", overwrite=True) as new:
            (Path(uri) / "plan.json").write_bytes(before)  # the old run looked at the plan just before
            old._lease = None
            old.publish(kind="numbers", parts=[old.write_part(0, _rows(1))])
            assert part_table.read(uri)["value"].to_pylist() == [1]
            (Path(uri) / "plan.json").write_bytes(new.plan.encode())
            new.publish(kind="numbers", parts=[new.write_part(0, _rows(2))])
    assert part_table.read(uri)["value"].to_pylist() == [2]


@pytest.mark.parametrize("store", ["local", "s3"])
def test_columns_are_read_without_the_pictures(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The picture's bytes are broken, and nobody who asks for ids notices."""
    uri = str(tmp_path / "t") if store == "local" else request.getfixturevalue("s3_uri")
    picture = os.urandom(100_000)
    table = _rows(*range(100)).append_column("image", pa.array([picture] * 100))
    (part,) = part_table.write_table(uri, [table], kind="numbers", fingerprint="f").parts
    data = bytearray(storage.read_bytes(storage.join(uri, part.name)))
    at = data.index(picture[:50])
    data[at] ^= 1
    storage.write_bytes(storage.join(uri, part.name), bytes(data))
    assert part_table.read(uri, columns=["value"])["value"].to_pylist() == list(range(100))
    with pytest.raises(CorruptArtifact, match="a page that does not match its checksum"):
        part_table.read(uri, columns=["image"])
    with pytest.raises(CorruptArtifact, match="do not match its manifest"):
        part_table.read(uri)
    storage.write_bytes(storage.join(uri, part.name), bytes(data[:-9]))
    with pytest.raises(CorruptArtifact, match=f"its manifest says {part.bytes}"):
        part_table.read(uri, columns=["value"])


def test_columns_cost_their_own_bytes_alone(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _rows(*range(50)).append_column("image", pa.array([os.urandom(200_000) for _ in range(50)]))
    part_table.write_table(uri, [table], kind="numbers", fingerprint="f")
    monkeypatch.setattr(
        storage, "read_bytes", lambda where: pytest.fail(where) if where.endswith("t") else b""
    )
    (part,) = TableManifest.model_validate_json((Path(uri) / "table.json").read_bytes()).parts
    before = pa.total_allocated_bytes()
    read = part_table.read_columns(uri, part, ["value"])
    assert read.num_rows == 50
    assert pa.total_allocated_bytes() - before < part.bytes / 10
