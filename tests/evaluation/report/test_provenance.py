"""What stands behind a figure: fingerprints that follow the bytes, the note of a data set, the commit."""

import os

import pyarrow as pa
import pytest

from geoloc.core import part_table
from geoloc.core.errors import CorruptArtifact
from geoloc.evaluation.report import provenance


def write(uri: str, values: list[int]) -> None:
    part_table.write_table(uri, [pa.table({"a": values})], kind="t", fingerprint="x")


def test_a_fingerprint_follows_the_bytes_and_not_the_place(tmp_path):
    for name, values in (("one", [1, 2]), ("two", [1, 2]), ("three", [2, 1])):
        write(str(tmp_path / name / "queries"), values)
    one, two, three = (
        provenance.data_fingerprints(str(tmp_path / name), str(tmp_path / name), "s")
        for name in ("one", "two", "three")
    )
    assert one == two
    assert one["queries"] != three["queries"]
    assert one["pairs"] is None
    assert one["snapshot"] == "s"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_note_is_refused(tmp_path, text):
    assert provenance.dataset_note(str(tmp_path)) is None
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(CorruptArtifact, match="run the ingest again"):
        provenance.dataset_note(str(tmp_path))


def test_the_commit_is_what_head_names(tmp_path):
    assert provenance._commit(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert provenance._commit(tmp_path) is None
    (git / "packed-refs").write_text("# pack-refs\n" + "b" * 40 + " refs/heads/main\n")
    assert provenance._commit(tmp_path) == "b" * 40
    (git / "refs" / "heads" / "main").write_text("a" * 40 + "\n")
    assert provenance._commit(tmp_path) == "a" * 40
    (git / "HEAD").write_text("c" * 40 + "\n")
    assert provenance._commit(tmp_path) == "c" * 40


def test_the_environment_names_versions_and_cores():
    found = provenance.environment()
    assert found["versions"]["geoloc"]
    assert found["versions"]["faiss-cpu"]
    assert found["cores"] == len(os.sched_getaffinity(0))
