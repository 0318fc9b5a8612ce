"""Queries encoded once, as a table that evaluations of the same model share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geoloc.core import part_table
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.localization.locator import EncodedQueries

KIND = "encoded_queries"

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
    """A finished table of encoded queries in memory, by group of view and number of heading candidates."""

    def __init__(self, uri: str) -> None:
        details = part_table.read_manifest(uri, kind=KIND).details
        self.model_id = str(details["model_id"])
        self._dim = int(details["embedding_dim"])
        self.table = part_table.read(uri, kind=KIND)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def query_ids(self) -> pa.Array:
        """Ids of the queries, pa.string[Q]."""
        return self.table["query_id"].combine_chunks()

    def degrees(self, name: str) -> FloatArray:
        """A column of degrees float64[Q], NaN where empty."""
        values = self.table[name].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return np.asarray(values, dtype=np.float64)

    def groups(self) -> list[tuple[IntArray, EncodedQueries]]:
        """(positions int64[q], queries) for each view and kind of heading."""
        kinds: dict[tuple[str, int], list[int]] = {}
        views, candidates = self.table["view"].to_pylist(), self.table["candidates"].to_pylist()
        for position, kind in enumerate(zip(views, candidates, strict=True)):
            kinds.setdefault(kind, []).append(position)
        return [
            (np.array(rows, dtype=np.int64), self._group(rows, view, count))
            for (view, count), rows in sorted(kinds.items())
        ]

    def _group(self, rows: list[int], view: str, candidates: int) -> EncodedQueries:
        chosen = self.table.take(pa.array(rows, pa.int64()))
        embedding = np.frombuffer(b"".join(chosen["embedding"].to_pylist()), dtype="<f2").astype(np.float32)
        embedding = embedding.reshape(len(rows), candidates, self._dim)
        # Rounding to float16 moved them off the unit sphere by up to a thousandth.
        embedding /= np.maximum(np.linalg.norm(embedding, axis=-1, keepdims=True), 1e-12)
        code = np.frombuffer(b"".join(chosen["code"].to_pylist()), dtype=np.uint8)
        weights = np.frombuffer(b"".join(chosen["weights"].to_pylist()), dtype=np.int8)
        columns = chosen["columns"][0].as_py()
        return EncodedQueries(
            embedding,
            code.reshape(len(rows), candidates, -1),
            self.degrees("heading_deg")[rows],
            view,
            self.model_id,
            columns,
            _shown_columns(chosen["lit"].to_pylist(), columns),
            weights.reshape(len(rows), candidates, -1),
        )


def _shown_columns(stored: list[bytes | None], columns: int) -> BoolArray | None:
    """Columns that the photos show, bool[Q, columns]; None where all show all."""
    if all(mask is None for mask in stored):
        return None
    whole = b"\x01" * columns
    return np.frombuffer(b"".join(mask or whole for mask in stored), dtype=np.bool_).reshape(-1, columns)
