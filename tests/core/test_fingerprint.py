"""Fingerprints identify content; one function decides whether an output is reused, refused or replaced."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.core.fingerprint import Streamed, begin_output, file_fingerprints, fingerprint_of


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint_of({"a": 1, "b": [2.5]}) == fingerprint_of({"b": [2.5], "a": 1})
    assert fingerprint_of(["codes", 1]) != fingerprint_of(["codes", 2])
    # Tables of earlier versions are known by this very value.
    assert (
        fingerprint_of(["codes", 1, ["a"]])
        == "35a8c7ff7b5708a9caf9209b7dd5c937c3a8d9ffae71999f45eca9a635823ceb"
    )


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_moved_file_is_the_same_and_a_changed_one_at_its_place_is_another(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if store == "local" else request.getfixturevalue("s3_uri")
    first, moved = storage.join(root, "a.tif"), storage.join(root, "elsewhere", "b.tif")
    storage.write_bytes(first, b"picture")
    storage.write_bytes(moved, b"picture")
    before, same, missing = file_fingerprints([first, moved, storage.join(root, "none.tif")])
    assert before == same is not None
    assert missing is None
    times = os.stat(first) if store == "local" else None
    storage.write_bytes(first, b"Picture")
    if times is not None:
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither size nor time give it away
    assert list(file_fingerprints([first])) != [before]


@pytest.mark.parametrize("shared", [False, True])
def test_an_output_is_reused_refused_or_replaced(tmp_path: Path, shared: bool) -> None:
    output = str(tmp_path / "model")

    def begin(fingerprint: str, *, overwrite: bool = False) -> bytes | None:
        with begin_output(
            output, fingerprint, record="model.json", what="a model", overwrite=overwrite, shared=shared
        ) as record:
            return record

    assert begin("f") is None
    storage.write_bytes(storage.join(output, "piece"), b"1")
    assert begin("f") is None, "an unfinished output is gone on with"
    storage.write_bytes(storage.join(output, "model.json"), b'{"fingerprint": "f"}')
    assert begin("f") == begin("f", overwrite=True) == b'{"fingerprint": "f"}'
    with pytest.raises(
        ArtifactError, match=r"holds a model made from other inputs or settings; pass --overwrite"
    ):
        begin("g")
    assert begin("g", overwrite=True) is None
    assert not storage.exists(storage.join(output, "model.json"))
    assert storage.exists(storage.join(output, "piece")) is shared


def test_a_record_that_is_not_readable_is_another_one(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "plan.json"), b"[half a pl")
    with (
        pytest.raises(ArtifactError, match="made from other inputs or settings"),
        begin_output(str(tmp_path), "f", record="table.json", what="a table"),
    ):
        pass


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"years of work")
    with (
        pytest.raises(ArtifactError, match="already holds other files; choose an empty output"),
        begin_output(str(tmp_path), "f", record="table.json", what="a table"),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_bytes() == b"years of work"


@pytest.mark.parametrize("items", [[], [1], [{"b": 1, "a": (2, "é")}, None, "x" * 100]])
def test_a_streamed_list_has_the_fingerprint_of_the_list(items: list[object]) -> None:
    whole = hashlib.sha256(json.dumps(["kind", items, 1.5], sort_keys=True, default=str).encode()).hexdigest()
    assert fingerprint_of(["kind", items, 1.5]) == whole
    assert fingerprint_of(["kind", Streamed(iter(items)), 1.5]) == whole
    assert fingerprint_of([]) == hashlib.sha256(b"[]").hexdigest()
