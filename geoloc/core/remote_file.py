"""A file of a store as a stream with a position: ranges are read as they are needed, each by the policy of retries."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

from geoloc.core import storage
from geoloc.core.retry import StoreBusy

_BLOCK_BYTES = 2**18
_MOST_FETCHED = 16  # blocks of one request: 4 MiB
_MOST_KEPT = 64  # blocks: 16 MiB


class RemoteFile(io.RawIOBase):
    """A file at a URI, open for reading. Memory: 16 MiB.

    It is opened at the first use and read in aligned blocks that are kept; whoever reads on gets twice as many with
    each request. Raises `ArtifactError`, `StoreUnavailable` or `StorageError` as all of `storage` does.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self._stream: Any = None
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._fetched = -1, 1

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return int(storage.attempt("read", self.uri, lambda: self._opened().size()))

    def _opened(self) -> Any:
        if self._stream is None:
            fs, path = storage.filesystem(self.uri)
            self._stream = fs.open_input_file(path)
        return self._stream

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Bytes from an offset on, by one request; fewer where the file ends."""

        def read() -> bytes:
            stream = self._opened()
            data: bytes = stream.read_at(size_bytes, offset)
            if len(data) < min(size_bytes, stream.size() - offset):
                raise StoreBusy(f"{len(data):,} of {size_bytes:,} bytes arrived")
            return data

        return storage.attempt("read", self.uri, read)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to `offset` bytes from the start, from here (1) or from the end (2)."""
        base = 0
        if whence != io.SEEK_SET:
            base = self._position if whence == io.SEEK_CUR else self.size_bytes
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from here on, all of them unless the file ends; everything for -1."""
        left = max(0, self.size_bytes - self._position)
        length = left if size is None or size < 0 else min(size, left)
        first, last = self._position // _BLOCK_BYTES, (self._position + length - 1) // _BLOCK_BYTES
        if length == 0:
            return b""
        if last - first >= _MOST_FETCHED:
            data = self.read_at(self._position, length)  # too much to keep
        else:
            start = self._position - first * _BLOCK_BYTES
            blocks = [self._block(number, last) for number in range(first, last + 1)]
            data = b"".join(blocks)[start : start + length]
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # its stub names a private type
        """Fill a buffer; how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _block(self, number: int, last: int) -> bytes:
        if number not in self._blocks:
            self._fetch(number, last)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, number: int, last: int) -> None:
        """Get a block, those up to `last`, and more where reading goes on from the block fetched before."""
        self._fetched = min(2 * self._fetched, _MOST_FETCHED) if number == self._next_block else 1
        count = max(self._fetched, last - number + 1)
        data = self.read_at(number * _BLOCK_BYTES, count * _BLOCK_BYTES)
        for place in range(max(1, -(-len(data) // _BLOCK_BYTES))):
            self._blocks[number + place] = data[place * _BLOCK_BYTES : (place + 1) * _BLOCK_BYTES]
        self._next_block = number + count
        while len(self._blocks) > _MOST_KEPT:
            self._blocks.popitem(last=False)
