"""What may be larger than memory lies in temporary files on the local disk (TMPDIR): arrays, records, copies of files.

The files have no name, or lose it when the process ends.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.core import storage
from geoloc.core.errors import StorageError

_PREFIX = "geoloc-scratch-"
_to_json = json.JSONEncoder(default=astuple).encode
Record = TypeVar("Record")


def scratch_array(shape: tuple[int, ...], dtype: npt.DTypeLike, limit_bytes: int) -> npt.NDArray[Any]:
    """An array [...] of zeros of any shape; above `limit_bytes` it is mapped from a temporary file."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= limit_bytes:
        return np.zeros(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix=_PREFIX) as file:
        # The mapping outlives the name: the space is given back when the array goes, even after a kill.
        return np.memmap(Path(file.name), dtype=dtype, mode="w+", shape=shape)


def scratch_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """The batches as a table that is mapped from a temporary file; `StorageError` where there is no room.

    What reading the batches raises is raised as it is.
    """
    handle, name = tempfile.mkstemp(prefix=_PREFIX)
    os.close(handle)
    try:
        file = pa.OSFile(name, "wb")
        sink = pa.ipc.new_file(file, schema)
        for batch in batches:
            with _writing():
                sink.write_batch(batch)
        with _writing():
            sink.close()
            file.close()
        return pa.ipc.open_file(pa.memory_map(name)).read_all()
    finally:
        os.unlink(name)  # the mapping outlives the name


@contextmanager
def _writing() -> Iterator[None]:
    """Says where there is no room, when a temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write to the folder for temporary files, {tempfile.gettempdir()!r} ({error.strerror or error}); "
            "make room there, or set TMPDIR to another disk."
        ) from error


class ScratchRecords(Sequence[Record], Generic[Record]):
    """Records of one dataclass in a temporary file, a line of JSON each; they are appended and read.

    Memory: 8 bytes for every `read_at_once` records; so many are read to get one, so give 1 for large records. `revive`
    makes a record of the values of its fields, as JSON keeps them; by default the dataclass does.
    """

    def __init__(
        self, kind: type[Record], revive: Callable[..., Record] | None = None, read_at_once: int = 64
    ) -> None:
        self._revive = revive or kind
        self._at_once = read_at_once
        self._plain = attrgetter(*(field.name for field in fields(kind)))  # type: ignore[arg-type]
        self._starts = array("q", [0])
        self._last: list[Record] = []  # of the block that is not written yet
        self._file, name = tempfile.mkstemp(prefix=_PREFIX)
        weakref.finalize(self, os.close, self._file)
        os.unlink(name)

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        self._last.append(record)
        if len(self._last) == self._at_once:
            lines = "".join(f"{_to_json(self._plain(each))}\n" for each in self._last)
            with _writing():
                written = os.pwrite(self._file, lines.encode(), self._starts[-1])
            self._starts.append(self._starts[-1] + written)
            self._last = []

    def __len__(self) -> int:
        return (len(self._starts) - 1) * self._at_once + len(self._last)

    def __iter__(self) -> Iterator[Record]:
        block = 0
        while found := self._block(block):
            yield from found
            block += 1

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            if step != 1:
                return [self[number] for number in range(first, last, step)]
            blocks = range(first // self._at_once, -(-last // self._at_once))
            found = [record for block in blocks for record in self._block(block)]
            skipped = blocks.start * self._at_once
            return found[first - skipped : max(0, last - skipped)]
        number = range(len(self))[place]  # as lists do: from the end, and IndexError
        return self._block(number // self._at_once)[number % self._at_once]

    def _block(self, number: int) -> list[Record]:
        if number >= len(self._starts) - 1:
            return self._last if number == len(self._starts) - 1 else []
        start, end = self._starts[number], self._starts[number + 1]
        return [
            self._revive(*json.loads(line)) for line in os.pread(self._file, end - start, start).splitlines()
        ]


class LocalFile:
    """A file at any URI as one on the local disk: itself, or a copy that goes with this object."""

    def __init__(self, uri: str) -> None:
        if storage.is_local(uri):
            self.path = storage.local_path(uri)
            return
        handle, name = tempfile.mkstemp(prefix=_PREFIX)
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        storage.copy_file(uri, name)
