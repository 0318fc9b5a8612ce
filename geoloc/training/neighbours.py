"""Lists of pairs that are near each pair: near on the ground, or alike to the model, with no pair of its own place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from geoloc.core import storage
from geoloc.core.arrays import BoolArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError, CorruptArtifact
from geoloc.core.scratch import scratch_array
from geoloc.training.node_cache import NodeCache
from geoloc.training.pair_index import PairIndex

_ROWS = 8192  # pairs whose neighbours are searched at once: 20 MB
_MEMORY_BYTES = 2**28  # of lists without a cache; above, they lie in a file
_FILE = "neighbours.npy"
_DONE = "done.json"


def geographic_neighbours(
    index: PairIndex, wanted: int, distance_m: float
) -> Iterator[tuple[int, Int32Array]]:
    """Blocks (first row, int32[n, wanted]): the pairs nearest to each on the ground, padded with -1.

    Pairs of the same place within `distance_m` are left out; where many are, a list is shorter. Distances are metres
    in the index's frame (Sample4Geo's own lists take degrees for radians). Pairs without a position have no list and
    are in none. Memory: 60 bytes a pair for the tree.
    """
    known = np.flatnonzero(np.isfinite(index.east_m))
    tree = KDTree(np.column_stack([index.east_m[known], index.north_m[known]]))
    reach = min(len(known), wanted + wanted // 2 + 2)
    for first in range(0, len(index), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(index)))
        block = np.full((len(rows), wanted), -1, dtype=np.int32)
        placed = np.isfinite(index.east_m[rows])
        if placed.any():
            at = np.column_stack([index.east_m[rows[placed]], index.north_m[rows[placed]]])
            nearest = known[tree.query(at, k=np.arange(1, reach + 1))[1]]
            same = index.same_place(rows[placed][:, None], nearest, distance_m)
            block[placed] = first_of(nearest, ~same, wanted)
        yield first, block


def first_of(items: IntArray, kept: BoolArray, wanted: int) -> Int32Array:
    """The first `wanted` kept items of each row of int64[n, k], int32[n, wanted], padded with -1."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :wanted]
    found = np.full((len(items), wanted), -1, dtype=np.int32)
    chosen = np.take_along_axis(np.where(kept, items, -1), order, axis=1)
    found[:, : order.shape[1]] = chosen
    return found


@dataclass
class NeighbourLists:
    """The lists of a run: on the disk of the node, and those that were mined in the run's own folder too.

    Mined lists depend on the weights of one step, which a resumed run no longer has: it reads them from `folder`, a
    URI that all workers reach. None keeps them in this process alone; `cache` None keeps lists in memory.
    """

    folder: str | None = None
    cache: NodeCache | None = None
    _own: dict[str, Int32Array] = field(default_factory=dict)

    def geographic(self, index: PairIndex, wanted: int, distance_m: float) -> Int32Array:
        """`geographic_neighbours` int32[N, wanted], mapped; made once on a node. `ConfigError` without positions."""
        if not index.has_positions:
            raise ConfigError(
                "training.sampler is neighbours, but no pair has a position; choose random or similarity, or ingest "
                "photos with lat and lon."
            )
        name = f"near-{wanted}-{distance_m:g}"
        if self.cache is not None:
            columns = str(self.cache.folder / "columns")
            make = partial(_write_geographic, columns, wanted, distance_m)
            return _mapped(self.cache.columns(make, name)[0])
        if name not in self._own:
            self._own[name] = _in_memory(len(index), wanted)
            for first, block in geographic_neighbours(index, wanted, distance_m):
                self._own[name][first : first + len(block)] = block
        return self._own[name]

    def mined(self, number: int) -> Int32Array | None:
        """The lists int32[N, K] of a mining, from 1; None before it. `CorruptArtifact` for damaged ones."""
        if self.folder is None:
            return self._own.get(_round(number))
        folder = storage.join(self.folder, _round(number))
        done = storage.join(folder, _DONE)
        if not storage.exists(done):
            return None
        note = storage.read_text(done)
        name = f"mined-{storage.sha256_bytes(note.encode())[:16]}"
        if self.cache is not None:
            return _mapped(self.cache.columns(partial(_write_mined, folder, note), name)[0])
        if name not in self._own:
            lists = _in_memory(*json.loads(note)["shape"])
            _assemble(folder, note, lists)
            self._own[name] = lists
        return self._own[name]

    def write_part(
        self, number: int, first: int, block: Int32Array, shape: tuple[int, int]
    ) -> dict[str, Any]:
        """Keep the lists int32[n, K] of pairs from row `first` on; returns what `note_parts` wants of each part."""
        if self.folder is None:
            own = self._own.setdefault(_round(number), _in_memory(*shape))
            own[first : first + len(block)] = block
            return {}
        buffer = io.BytesIO()
        np.save(buffer, block, allow_pickle=False)
        data, name = buffer.getvalue(), f"{first:012d}.npy"
        storage.write_bytes(storage.join(self.folder, _round(number), name), data)
        return {"name": name, "first": first, "sha256": storage.sha256_bytes(data)}

    def note_parts(self, number: int, rank: int, parts: list[dict[str, Any]]) -> None:
        """Note the parts that a worker has written."""
        if self.folder is not None:
            storage.write_bytes(self._parts_of(number, rank), json.dumps(parts).encode())

    def finish(self, number: int, workers: int, shape: tuple[int, int]) -> None:
        """Make the lists of a mining visible, when all workers have noted their parts."""
        if self.folder is None:
            return
        parts = [
            part
            for rank in range(workers)
            for part in json.loads(storage.read_text(self._parts_of(number, rank)))
        ]
        note = json.dumps({"shape": shape, "parts": parts})
        storage.write_bytes(storage.join(self.folder, _round(number), _DONE), note.encode())

    def _parts_of(self, number: int, rank: int) -> str:
        assert self.folder is not None
        return storage.join(self.folder, _round(number), f"worker-{rank}.json")


def _round(number: int) -> str:
    return f"{number:06d}"


def _in_memory(count: int, wanted: int) -> Int32Array:
    lists: Int32Array = scratch_array((count, wanted), np.int32, _MEMORY_BYTES)
    return lists


def _mapped(folder: Path) -> Int32Array:
    lists: Int32Array = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
    return lists


def _new_file(folder: Path, shape: tuple[int, int]) -> Int32Array:
    lists: Int32Array = np.lib.format.open_memmap(folder / _FILE, mode="w+", dtype=np.int32, shape=shape)
    return lists


def _write_geographic(columns: str, wanted: int, distance_m: float, folder: Path) -> dict[str, Any]:
    index = PairIndex.map(Path(columns))
    folder.mkdir(parents=True, exist_ok=True)
    lists = _new_file(folder, (len(index), wanted))
    for first, block in geographic_neighbours(index, wanted, distance_m):
        lists[first : first + len(block)] = block
    lists.flush()  # type: ignore[attr-defined]
    return {"pairs": len(index)}


def _write_mined(uri: str, note: str, folder: Path) -> dict[str, Any]:
    shape = json.loads(note)["shape"]
    folder.mkdir(parents=True, exist_ok=True)
    lists = _new_file(folder, (shape[0], shape[1]))
    _assemble(uri, note, lists)
    lists.flush()  # type: ignore[attr-defined]
    return {"pairs": shape[0]}


def _assemble(uri: str, note: str, lists: Int32Array) -> None:
    for part in json.loads(note)["parts"]:
        where = storage.join(uri, part["name"])
        data = storage.read_bytes(where)
        if storage.sha256_bytes(data) != part["sha256"]:
            raise CorruptArtifact(
                f"{where!r} is damaged (its checksum differs); pass --overwrite to train from the start."
            )
        block = np.load(io.BytesIO(data), allow_pickle=False)
        lists[part["first"] : part["first"] + len(block)] = block
