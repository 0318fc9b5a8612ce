"""A file of a store read by ranges, against the same bytes in memory."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from geoloc.core import storage
from geoloc.core.remote_file import RemoteFile

DATA = random.Random(1).randbytes(9_000_001)


@pytest.fixture
def uri(s3_uri: str) -> str:
    storage.write_bytes(f"{s3_uri}/file", DATA)
    return f"{s3_uri}/file"


def test_any_reads_give_the_bytes_of_the_file(uri: str) -> None:
    remote, memory, draw = RemoteFile(uri), io.BytesIO(DATA), random.Random(2)
    for _ in range(60):
        offset, whence = draw.choice([(draw.randrange(len(DATA) + 10), 0), (1000, 1), (-5000, 2)])
        size = draw.choice([0, 1, 4, 70_000, 300_000, 5_000_000, -1 if draw.random() < 0.2 else 8])
        assert remote.seek(offset, whence) == memory.seek(offset, whence)
        assert remote.read(size) == memory.read(size)
        assert remote.tell() == memory.tell()


def test_reading_on_needs_few_requests(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    read_at = RemoteFile.read_at

    def counted(self: RemoteFile, offset: int, size_bytes: int) -> bytes:
        requests.append(size_bytes)
        return read_at(self, offset, size_bytes)

    monkeypatch.setattr(RemoteFile, "read_at", counted)
    remote = RemoteFile(uri)
    while remote.read(10_000):
        pass
    assert len(requests) <= 7
    assert max(requests) == 4 * 2**20


def test_it_serves_a_library_that_reads_streams(s3_uri: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 600_000
            tar.addfile(member, io.BytesIO(name.encode() * 600_000))
    storage.write_bytes(f"{s3_uri}/x.tar", buffer.getvalue())
    with tarfile.open(fileobj=RemoteFile(f"{s3_uri}/x.tar")) as tar:
        assert {member.name: tar.extractfile(member).read()[:2] for member in tar} == {"a": b"aa", "b": b"bb"}  # type: ignore[union-attr]
