"""FAISS indexes of a shard's tiles, exact and approximate, with their own labels."""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np

from geoloc.core.arrays import Codes, HalfArray, IntArray
from geoloc.core.errors import ConfigError
from geoloc.index.build.list_build import usual_lists
from geoloc.index.search.faiss_view import flat_view

FaissKind = Literal["flat", "ivf", "hnsw", "ivf-rabitq"]
"""IndexBinaryFlat, IndexBinaryIVF and IndexBinaryHNSW of codes; IndexIVFRaBitQ of embeddings (inner product)."""

OF_EMBEDDINGS = ("ivf-rabitq",)
_HNSW_LINKS = 32
_HNSW_EFFORT = 200
# FAISS says that it is short of training points below 39 a list, and leaves out what lies above 256.
_LEAST_PER_LIST = 39


def build_faiss(
    kind: FaissKind, labels: IntArray, codes: Codes, embeddings: HalfArray | None = None, *, lists: int = 0
) -> Any:
    """An index of one kind of tiles with labels int64[N], codes uint8[N, B] and embeddings float16[N, D].

    lists: of the inverted files; 0 takes four times the root of N, and fewer where FAISS could not train them. FAISS
    uses all threads that it may. Raises `ConfigError` for a kind that needs embeddings where there are none.
    """
    bits, count = 8 * codes.shape[1], len(codes)
    wanted = max(1, min(lists or usual_lists(count), count // _LEAST_PER_LIST))
    if kind == "ivf":
        binary_lists: Any = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, wanted)
        return _filled(binary_lists, np.ascontiguousarray(codes), labels)
    if kind == "ivf-rabitq":
        if embeddings is None:
            raise ConfigError(
                f"kind is {kind!r}, which is of embeddings, and this index keeps none; build it with them."
            )
        dim = embeddings.shape[1]
        metric = faiss.METRIC_INNER_PRODUCT
        float_lists: Any = faiss.IndexIVFRaBitQ(faiss.IndexFlat(dim, metric), dim, wanted, metric)
        return _filled(float_lists, np.ascontiguousarray(embeddings, np.float32), labels)
    in_order = np.array_equal(labels, np.arange(count))
    if kind == "flat" and in_order:
        return flat_view(codes)
    inner: Any = faiss.IndexBinaryFlat(bits)
    if kind == "hnsw":
        inner = faiss.IndexBinaryHNSW(bits, _HNSW_LINKS)
        inner.hnsw.efConstruction = _HNSW_EFFORT
    rows = np.ascontiguousarray(codes)
    if in_order:
        inner.add(rows)
        return inner
    named: Any = faiss.IndexBinaryIDMap(inner)  # it takes labels for an empty index alone
    named.add_with_ids(rows, np.ascontiguousarray(labels, np.int64))
    return named


def _filled(index: Any, rows: Any, labels: IntArray) -> Any:
    """An inverted file, trained on its rows [N, ...] and filled with them."""
    if len(rows):
        index.train(rows)
        index.add_with_ids(rows, np.ascontiguousarray(labels, np.int64))
    return index


def save_faiss(index: Any, path: str) -> None:
    """Write an index to a local file, in FAISS's own format."""
    write: Any = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    write(index, path)
