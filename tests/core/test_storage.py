"""Storage: the same promises on local files and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from geoloc.core import s3, storage
from geoloc.core.errors import ArtifactError, StorageError


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once on disk and once on S3."""
    return str(tmp_path / "place") if request.param == "local" else request.getfixturevalue("s3_uri")


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("/a", ("b", "c"), "/a/b/c"),
        ("/a/", ("/b/",), "/a/b"),
        ("/", ("b",), "/b"),
        ("s3://bucket/x/", ("y.json",), "s3://bucket/x/y.json"),
        ("relative", ("y",), "relative/y"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(uri, *parts) == joined


def test_local_path_understands_file_uris_spaces_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.local_path("file:///a/b%20c") == Path("/a/b c")
    assert storage.local_path("/a/b%20c") == Path("/a/b%20c")
    assert storage.local_path("~/x") == Path("/home/someone/x")


def test_local_path_refuses_other_stores() -> None:
    with pytest.raises(StorageError, match=r"'s3://b/k' is not on this machine's file system; copy it"):
        storage.local_path("s3://b/k")


def test_absolute_survives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("x") == str(tmp_path / "x")
    assert storage.absolute("s3://b/x") == "s3://b/x"


def test_write_read_replace_delete(place: str) -> None:
    uri = storage.join(place, "deep/er/file.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two!")
    assert (storage.read_bytes(uri), storage.size_bytes(uri)) == (b"two!", 4)
    assert storage.is_directory(storage.join(place, "deep"))
    storage.delete(place)
    assert not storage.exists(uri)
    storage.delete(place)  # nothing happens where nothing is


def test_reading_what_is_missing_names_it(place: str) -> None:
    for read in (storage.read_bytes, storage.sha256_file, storage.size_bytes):
        with pytest.raises(ArtifactError, match=r"nothing\.bin': there is no such file"):
            read(storage.join(place, "nothing.bin"))


def test_text_drops_a_byte_order_mark_and_refuses_other_encodings(place: str) -> None:
    uri = storage.join(place, "photos.csv")
    storage.write_bytes(uri, b"\xef\xbb\xbflat,lon")
    assert storage.read_text(uri) == "lat,lon"
    storage.write_bytes(uri, "größe".encode("latin-1"))
    with pytest.raises(StorageError, match=r"photos\.csv' is not UTF-8 text \(byte 2\); save it as UTF-8"):
        storage.read_text(uri)


def test_unknown_scheme_is_refused_with_what_is_known() -> None:
    with pytest.raises(StorageError, match=r"Cannot open .gopher://x/y.*Use a path, file:// or s3://"):
        storage.exists("gopher://x/y")


def test_other_fsspec_stores_read_and_write_but_have_no_conditional_put() -> None:
    uri = "memory://geoloc-test/file"
    storage.write_bytes(uri, b"bytes")
    assert storage.read_bytes(uri) == b"bytes"
    for commit in (
        storage.put_if_absent,
        lambda where, data: storage.compare_and_swap(where, data, b"bytes"),
    ):
        with pytest.raises(StorageError, match="no conditional put"):
            commit(uri, b"other")


def test_put_if_absent_keeps_the_first(place: str) -> None:
    uri = storage.join(place, "manifest.json")
    assert storage.put_if_absent(uri, b"first")
    assert not storage.put_if_absent(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_compare_and_swap_replaces_only_what_was_seen(place: str) -> None:
    uri = storage.join(place, "CURRENT")
    assert storage.compare_and_swap(uri, b"a", None)
    assert not storage.compare_and_swap(uri, b"b", None)
    assert storage.compare_and_swap(uri, b"b", b"a")
    assert not storage.compare_and_swap(uri, b"c", b"a")
    assert storage.read_bytes(uri) == b"b"


def test_a_swap_of_what_was_removed_is_refused_and_makes_nothing(place: str) -> None:
    uri = storage.join(place, "lease.json")
    storage.write_bytes(uri, b"a")
    storage.delete(uri)
    assert not storage.compare_and_swap(uri, b"b", b"a")
    assert not storage.exists(uri)


@pytest.mark.parametrize("after", ["head", "put_if"])
def test_a_file_that_goes_while_it_is_swapped_or_made_is_no_error(
    place: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes it between two of our requests."""
    if storage.is_local(place):
        pytest.skip("a local swap holds a lock")
    uri = storage.join(place, "lease.json")
    storage.write_bytes(uri, b"a")
    real = getattr(s3, after)

    def gone_after(*arguments: Any) -> Any:
        answer = real(*arguments)
        storage.delete(uri)
        return answer

    monkeypatch.setattr(s3, after, gone_after)
    made = storage.compare_and_swap(uri, b"b", b"a") if after == "head" else storage.put_if_absent(uri, b"b")
    assert not made
    assert not storage.exists(uri)


def _rounds(place: str) -> int:
    # A lost race costs a second on S3: the client waits before it asks again.
    return 40 if storage.is_local(place) else 5


Race = Callable[[Callable[[int], bool]], list[int]]


@pytest.fixture
def race() -> Iterator[Race]:
    """A function that lets three writers loose at once and gives the numbers of those that won."""
    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:

        def run(write: Callable[[int], bool]) -> list[int]:
            def attempt(number: int) -> bool:
                barrier.wait()
                return write(number)

            return [number for number, won in enumerate(pool.map(attempt, range(3))) if won]

        yield run


def test_of_racing_creators_exactly_one_wins(place: str, race: Race) -> None:
    for round_number in range(_rounds(place)):
        uri = storage.join(place, f"round-{round_number}")
        winners = race(lambda number, uri=uri: storage.put_if_absent(uri, f"writer {number}".encode()))
        assert len(winners) == 1
        assert storage.read_bytes(uri) == f"writer {winners[0]}".encode()


def test_of_racing_swaps_exactly_one_wins_each_round(place: str, race: Race) -> None:
    uri = storage.join(place, "CURRENT")
    current = b"start"
    storage.write_bytes(uri, current)
    for round_number in range(_rounds(place)):
        names = [f"round {round_number} writer {number}".encode() for number in range(3)]
        winners = race(
            lambda number, names=names, seen=current: storage.compare_and_swap(uri, names[number], seen)
        )
        assert len(winners) == 1
        current = names[winners[0]]
        assert storage.read_bytes(uri) == current


def test_racing_processes_see_one_winner(tmp_path: Path) -> None:
    code = (
        "import sys; from geoloc.core import storage;"
        "print(sum(storage.put_if_absent(f'{sys.argv[1]}/{i}', sys.argv[2].encode()) for i in range(100)))"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 100
    kept = [(tmp_path / str(number)).read_text() for number in range(100)]
    assert [kept.count("one"), kept.count("two")] == wins


def test_a_local_write_is_on_disk_before_it_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def record(name: str) -> None:
        original = getattr(os, name)

        def wrapped(*arguments: object) -> object:
            kind = (
                ""
                if name != "fsync"
                else (" file" if os.path.isfile(f"/proc/self/fd/{arguments[0]}") else " dir")
            )
            steps.append(name + kind)
            return original(*arguments)

        monkeypatch.setattr(os, name, wrapped)

    for name in ("fsync", "replace", "link"):
        record(name)
    storage.write_bytes(str(tmp_path / "a"), b"data")
    storage.put_if_absent(str(tmp_path / "b"), b"data")
    assert steps == ["fsync file", "replace", "fsync dir", "fsync file", "link", "fsync dir"]


def test_a_writer_killed_anywhere_leaves_the_old_bytes_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "file"
    versions = {bytes([letter]) * 300_000 for letter in (65, 66)}
    code = (
        "import sys; from geoloc.core import storage\n"
        "storage.write_bytes(sys.argv[1], b'A' * 300000); print('go', flush=True)\n"
        "while True:\n"
        "    storage.write_bytes(sys.argv[1], b'B' * 300000); storage.write_bytes(sys.argv[1], b'A' * 300000)\n"
    )
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"go\n"
        until = time.monotonic() + 0.03 + 0.017 * attempt
        while time.monotonic() < until:
            assert storage.read_bytes(str(target)) in versions
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=10)
        writer.stdout.close()
        assert storage.read_bytes(str(target)) in versions
    assert [file.name for file in storage.list_files(str(tmp_path))] == ["file"]


def test_a_failed_write_leaves_neither_temporary_nor_damage(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_bytes(b"x")
    with pytest.raises(StorageError, match="Cannot write"):
        storage.write_bytes(str(tmp_path / "taken"), b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"Cannot write .*file': .*No space left on device"):
        storage.write_bytes(uri, b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_listing_is_sorted_and_filtered(place: str) -> None:
    for name in ("b.tif", "a.TIF", "sub/c.tif", "notes.txt", f"{storage.TEMPORARY_PREFIX}half.tif"):
        storage.write_bytes(storage.join(place, name), name.encode())
    names = [file.uri.removeprefix(place) for file in storage.list_files(place)]
    assert names == ["/a.TIF", "/b.tif", "/notes.txt", "/sub/c.tif"]
    assert [file.name for file in storage.list_files(place, suffix=".tif")] == ["b.tif", "c.tif"]
    assert [file.name for file in storage.list_files(place, recursive=False)] == [
        "a.TIF",
        "b.tif",
        "notes.txt",
    ]
    assert [file.size_bytes for file in storage.list_files(place)] == [5, 5, 9, 9]
    assert storage.list_files(storage.join(place, "absent")) == []


def test_checksums_equal_hashlib(place: str) -> None:
    data = os.urandom(3_000_001)
    uri = storage.join(place, "blob")
    storage.write_bytes(uri, data)
    assert storage.sha256_file(uri) == storage.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "there_and_back", [("local", "s3"), ("s3", "local"), ("local", "local"), ("s3", "s3")]
)
def test_copying_between_stores_keeps_the_bytes(
    there_and_back: tuple[str, str], tmp_path: Path, s3_uri: str
) -> None:
    roots = {"local": str(tmp_path), "s3": s3_uri}
    source, target = (
        storage.join(roots[kind], name) for kind, name in zip(there_and_back, "ab", strict=True)
    )
    data = os.urandom(9_000_000)  # more than one chunk
    storage.write_bytes(source, data)
    storage.copy_file(source, target)
    assert storage.read_bytes(target) == data


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_copy_that_fails_halfway_leaves_nothing(
    kind: str, tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(tmp_path / "source")
    storage.write_bytes(source, b"x" * 100_000)
    target = storage.join(str(tmp_path) if kind == "local" else s3_uri, "target")

    def broken(reader: object, writer: object, _length: int) -> None:
        writer.write(b"half")  # type: ignore[attr-defined]
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.shutil, "copyfileobj", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.copy_file(source, target)
    assert not storage.exists(target)


def test_wrong_credentials_are_one_sentence(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match=r"Cannot write 's3://.*'"):
        storage.write_bytes(s3_uri + "/x", b"x")


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:1/x.tif", "https://host/x", "simplecache::s3://b/k", "zip://a::s3://b/k", "ftp://h/x"],
)
def test_the_web_and_chained_uris_are_no_stores(uri: str) -> None:
    for operation in (storage.read_bytes, storage.exists, storage.list_files):
        with pytest.raises(
            StorageError, match=r"no place that geoloc reads or writes. Use a path, file:// or s3://"
        ):
            operation(uri)


def test_names_in_a_directory_are_of_files_and_directories(place: str) -> None:
    assert storage.entry_names(place) == []
    for name in ("b.txt", "é.txt", "sub/deeper/c.txt"):
        storage.write_bytes(storage.join(place, name), b"x")
    assert sorted(storage.entry_names(place)) == ["b.txt", "sub", "é.txt"]
    assert storage.entry_names(storage.join(place, "sub/")) == ["deeper"]
