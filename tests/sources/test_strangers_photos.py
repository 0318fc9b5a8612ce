"""Tables, pictures and tar shards from strangers: no file outside the table's folder, no byte above the bounds."""

from __future__ import annotations

import io
import os
import resource
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geoloc.core import storage
from geoloc.core.errors import InputError, StorageError, StoreUnavailable
from geoloc.core.images import MAX_IMAGE_BYTES, decode_image
from geoloc.sources import folder
from geoloc.sources.datasets.rows import Request
from geoloc.sources.datasets.webdataset import plan, read_shard
from geoloc.sources.folder import ViewDefaults, load_photos, read_photos
from geoloc.stages import localize, localize_routes
from geoloc.stages.localize_inputs import list_photos

STREET = ViewDefaults("street", 70.0)
NAMES = (
    "/etc/passwd",
    "../../etc/passwd",
    "photos/../../secret.jpg",
    "..\\secret.jpg",
    "~/secret.jpg",
    "file:///etc/passwd",
    "http://127.0.0.1:1/latest/meta-data",
    "s3://private/x.jpg",
)


def _table(tmp_path: Path, *names: str) -> str:
    table = tmp_path / "table"
    table.mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(table / "good.png")
    rows = "".join(f"{name},59,24\n" for name in ("good.png", *names))
    (table / "photos.csv").write_text(f"photo,lat,lon\n{rows}")
    return str(table / "photos.csv")


def test_photos_outside_the_folder_of_their_table_are_refused(tmp_path: Path) -> None:
    uri = _table(tmp_path, *NAMES)
    photos, refused = read_photos(uri, STREET)
    assert [photo.query_id for photo in photos] == ["good.png"]
    assert [row.key for row in refused] == list(NAMES)
    assert {row.reason for row in refused} == {"outside_folder"}
    entries = list_photos(uri)
    assert [entry.problem and entry.problem[0] for entry in entries] == [None] + ["outside_folder"] * len(
        NAMES
    )


def test_photos_from_anywhere_are_an_option_and_say_nothing_of_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"root:x:0:0:password")
    uri = _table(tmp_path, "../secret.jpg", str(tmp_path / "secret.jpg"))
    photos, refused = read_photos(uri, STREET, anywhere=True)
    assert (len(photos), len(refused)) == (3, 0)
    rows, bad, _ = load_photos(photos)
    assert (rows.num_rows, len(bad)) == (1, 2)
    assert all("root" not in row.detail and row.reason == "undecodable" for row in bad)
    assert [entry.problem for entry in list_photos(uri, anywhere=True)] == [None] * 3


def test_a_place_that_cannot_be_listed_or_read_costs_its_rows_alone(
    tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = _table(tmp_path, "s3://no-such-bucket-here/a.jpg", "http://127.0.0.1:1/b.jpg", f"{s3_uri}/c.jpg")
    photos, refused = read_photos(uri, STREET, anywhere=True)
    assert photos[0].query_id == "good.png"
    assert "http://127.0.0.1:1/b.jpg" in {row.key for row in refused}
    rows, bad, _ = load_photos(photos)
    assert rows["query_id"].to_pylist() == ["good.png"]
    assert {row.reason for row in [*refused, *bad]} <= {"unreachable", "missing_file"}

    def closed(uri: str, **_: Any) -> bytes:
        raise StorageError(f"Cannot read {uri!r}: AWS Error ACCESS_DENIED")

    monkeypatch.setattr(folder.storage, "read_bytes", closed)
    with pytest.raises(InputError) as caught:
        folder.read_photo("s3://private/x.jpg")
    assert caught.value.reason == "unreachable"


def test_what_a_refused_row_names_is_never_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for its size nor for the fingerprint of the stage."""
    uri = _table(tmp_path, *NAMES)
    looked: list[str] = []
    for name in ("file_size", "content_tag"):
        original = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda uri, look=original: (looked.append(uri), look(uri))[1])
    read_photos(uri, STREET)
    entries = list_photos(uri)
    config = localize.LocalizeConfig()
    assert localize._fingerprint(config, entries, str(tmp_path), "none")
    assert localize_routes._fingerprint(config, [list(entries)], None, "none")
    assert set(looked) == {str(tmp_path / "table" / "good.png")}


def test_a_photo_that_may_not_be_read_does_not_stop_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def tag(uri: str) -> str:
        if uri == "closed":
            raise StorageError("Cannot read 'closed': AWS Error ACCESS_DENIED")
        if uri == "away":
            raise StoreUnavailable("Cannot read 'away': no answer")
        return uri

    monkeypatch.setattr(storage, "content_tag", tag)
    assert list(folder.photo_fingerprints(["a", "closed", None])) == ["a", "unreachable", None]
    with pytest.raises(StoreUnavailable):
        list(folder.photo_fingerprints(["away"]))


def test_a_huge_file_is_refused_before_a_byte_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = _table(tmp_path, "huge.jpg")
    with (tmp_path / "table" / "huge.jpg").open("wb") as huge:
        huge.write(b"\xff\xd8\xff")
        huge.truncate(3 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, bad, _ = load_photos(read_photos(uri, STREET)[0])
    assert (rows.num_rows, [row.reason for row in bad]) == (1, ["too_large"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    with pytest.raises(InputError, match=f"at most {MAX_IMAGE_BYTES:,} are read"):
        storage.read_bytes(str(tmp_path / "table" / "huge.jpg"), limit_bytes=MAX_IMAGE_BYTES)


def test_the_refusal_of_a_picture_shows_none_of_its_bytes() -> None:
    with pytest.raises(InputError) as caught:
        decode_image(b"root:x:0:0:password")
    assert "root" not in str(caught.value)


def _sparse_tar(path: Path, size_bytes: int) -> None:
    """A tar whose one member is 512 bytes of data and claims to be `size_bytes` long (GNU's old sparse format)."""
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"%011o\0" % 512
    header[156:157] = b"S"
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    header[483:495] = b"%011o\0" % size_bytes
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    path.write_bytes(bytes(header) + b"{}".ljust(512) + bytes(1024))


def test_a_sparse_member_of_a_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    _sparse_tar(path, 7 * 2**30)
    with tarfile.open(path) as tar:
        member = tar.next()
        assert member is not None
        assert (member.issparse(), member.size) == (True, 7 * 2**30)
    with pytest.raises(InputError, match=r"'a\.json' is a sparse file, which can grow without end"):
        read_shard(str(path))


def test_a_member_larger_than_a_picture_or_a_note_is_refused(tmp_path: Path) -> None:
    for name, size in (("a.json", 17 * 2**20), ("a.ground.jpg", MAX_IMAGE_BYTES + 1)):
        path = tmp_path / f"{name}.tar"
        member = tarfile.TarInfo(name)
        member.size = size
        with path.open("wb") as file:
            file.write(member.tobuf())
            file.truncate(512 + -(-size // 512) * 512 + 1024)
    with pytest.raises(InputError, match="its JSON has 17,825,792 bytes, more than 16,777,216"):
        read_shard(str(tmp_path / "a.json.tar"))
    (picture,) = read_shard(str(tmp_path / "a.ground.jpg.tar"))[0].pictures.values()
    from geoloc.sources.datasets.files import picture_bytes

    with pytest.raises(InputError, match="at most 67,108,864 are read"):
        picture_bytes(picture)


def test_a_header_that_claims_gigabytes_takes_none(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 6 * 2**30
    buffer = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + os.urandom(1024))
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        plan(Request(str(tmp_path), ""))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
