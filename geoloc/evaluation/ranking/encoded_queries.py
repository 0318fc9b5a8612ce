"""Queries encoded once, as a table that evaluations of the same model share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from geoloc.core import part_table
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.scratch import scratch_array
from geoloc.localization.locator import EncodedQueries

KIND = "encoded_queries"
MEMORY_LIMIT_BYTES = 256 * 2**20  # of the vectors of a group
_SMALL = ("query_id", "view", "heading_deg", "lat", "lon", "featureless", "candidates")
_VECTORS = ("embedding", "code", "weights", "columns", "lit")

ENCODED = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("heading_deg", pa.float64()),
        pa.field("lat", pa.float64()),
        pa.field("lon", pa.float64()),
        pa.field("featureless", pa.bool_(), nullable=False),
        pa.field("candidates", pa.int32(), nullable=False),
        pa.field("embedding", pa.binary(), nullable=False),  # float16[R, D], little-endian
        pa.field("code", pa.binary(), nullable=False),  # uint8[R, bits // 8]
        pa.field("weights", pa.binary(), nullable=False),  # int8[R, bits]
        pa.field("columns", pa.int32(), nullable=False),  # azimuth columns that roll as the photo turns
        pa.field("lit", pa.binary()),  # bool[columns], the columns that the photo shows; null: all
    ]
)


class EncodedTable:
    """A finished table of encoded queries, by group of view and number of heading candidates.

    Vectors and codes of a group larger than `memory_limit_bytes` lie in a file on the local disk, which is mapped;
    in memory are the id, the position and the kind of each query. The table is read part by part.
    """

    def __init__(self, uri: str, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        details = part_table.read_manifest(uri, kind=KIND).details
        self.model_id = str(details["model_id"])
        self._dim = int(details["embedding_dim"])
        self._uri = uri
        self._limit_bytes = memory_limit_bytes
        self._known = part_table.read(uri, kind=KIND, columns=list(_SMALL))
        self._groups: list[tuple[IntArray, EncodedQueries]] | None = None

    def __len__(self) -> int:
        return int(self._known.num_rows)

    @property
    def query_ids(self) -> pa.Array:
        """Ids of the queries, pa.string[Q]."""
        return self._known["query_id"].combine_chunks()

    @property
    def featureless(self) -> BoolArray:
        """Which photos show no place at all, bool[Q]."""
        return np.asarray(self._known["featureless"].to_pylist(), dtype=np.bool_)

    def degrees(self, name: str) -> FloatArray:
        """A column of degrees float64[Q], NaN where empty."""
        values = self._known[name].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return np.asarray(values, dtype=np.float64)

    def groups(self) -> list[tuple[IntArray, EncodedQueries]]:
        """(positions int64[q], queries) for each view and kind of heading."""
        if self._groups is None:
            kinds: dict[tuple[str, int], list[int]] = {}
            views, candidates = self._known["view"].to_pylist(), self._known["candidates"].to_pylist()
            for position, kind in enumerate(zip(views, candidates, strict=True)):
                kinds.setdefault(kind, []).append(position)
            groups = [
                _GroupVectors(np.array(rows, dtype=np.int64), view, count, self._dim)
                for (view, count), rows in sorted(kinds.items())
            ]
            self._fill(groups)
            degrees = self.degrees("heading_deg")
            self._groups = [
                (group.rows, group.queries(degrees[group.rows], self.model_id)) for group in groups
            ]
        return self._groups

    def _fill(self, groups: list[_GroupVectors]) -> None:
        start = 0
        for table in part_table.iterate(self._uri, kind=KIND, columns=list(_VECTORS)):
            for group in groups:
                first, last = np.searchsorted(group.rows, [start, start + table.num_rows])
                if first < last:
                    chosen = table.take(pa.array(group.rows[first:last] - start))
                    group.put(slice(int(first), int(last)), chosen, self._limit_bytes)
            start += table.num_rows


class _GroupVectors:
    """Vectors, codes and shown columns of one group, which are filled part by part."""

    def __init__(self, rows: IntArray, view: str, candidates: int, dim: int) -> None:
        self.rows = rows
        self._view, self._candidates, self._dim = view, candidates, dim
        self._embedding: Any = None
        self._code: Any = None
        self._weights: Any = None
        self._columns = 1
        self._shown: BoolArray | None = None

    def put(self, where: slice, table: pa.Table, limit_bytes: int) -> None:
        """Store the vectors of some of the group's queries."""
        count = len(self.rows)
        code = np.frombuffer(b"".join(table["code"].to_pylist()), dtype=np.uint8)
        code = code.reshape(table.num_rows, self._candidates, -1)
        if self._embedding is None:
            shape = count, self._candidates, self._dim
            self._embedding = np.asarray(scratch_array(shape, np.float32, limit_bytes))
            self._code = np.asarray(scratch_array((count, *code.shape[1:]), np.uint8, limit_bytes))
            bits = (count, self._candidates, 8 * code.shape[-1])
            self._weights = np.asarray(scratch_array(bits, np.int8, limit_bytes))
            self._columns = table["columns"][0].as_py()
        vectors = np.frombuffer(b"".join(table["embedding"].to_pylist()), dtype="<f2").astype(np.float32)
        vectors = vectors.reshape(table.num_rows, self._candidates, self._dim)
        # Rounding to float16 moved them off the unit sphere by up to a thousandth.
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        self._embedding[where], self._code[where] = vectors, code
        weights = np.frombuffer(b"".join(table["weights"].to_pylist()), dtype=np.int8)
        self._weights[where] = weights.reshape(table.num_rows, self._candidates, -1)
        shown = _shown_columns(table["lit"].to_pylist(), self._columns)
        if shown is not None:
            if self._shown is None:
                self._shown = np.ones((count, self._columns), np.bool_)
            self._shown[where] = shown

    def queries(self, heading_deg: FloatArray, model_id: str) -> EncodedQueries:
        """The group as a search takes it."""
        return EncodedQueries(
            self._embedding,
            self._code,
            heading_deg,
            self._view,
            model_id,
            self._columns,
            self._shown,
            self._weights,
        )


def _shown_columns(stored: list[bytes | None], columns: int) -> BoolArray | None:
    """Columns that the photos show, bool[Q, columns]; None where all show all."""
    if all(mask is None for mask in stored):
        return None
    whole = b"\x01" * columns
    return np.frombuffer(b"".join(mask or whole for mask in stored), dtype=np.bool_).reshape(-1, columns)
