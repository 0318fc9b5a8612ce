"""Approximate searches on given codes: our inverted lists and FAISS's own kinds; recall, speed, bytes, build time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench.measure import Spread, ratios
from geoloc.core.arrays import Codes, IntArray
from geoloc.core.errors import ConfigError
from geoloc.index.build import list_build
from geoloc.index.build.faiss_build import build_faiss
from geoloc.index.search import inverted_lists, topk
from geoloc.index.search.kernels.scan_kernel import Kernel

_LEAST_CODES = 20
_PROBES = (4, 16, 64)
_FARTHEST = np.iinfo(np.int32).max


class ListsResult(BaseModel):
    """An approximate search against the exact scan, one thread, query by query.

    A tile is a hit when it is no farther than the k-th true neighbour, so ties do not matter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = Field(description="ours, or FAISS's IndexBinaryIVF or IndexBinaryHNSW.")
    codes: str = Field(description="Which codes they are.")
    tiles: int
    bits: int
    lists: int = Field(description="Inverted lists; 0 for a graph.")
    probes: int = Field(
        description="Lists that a query looks into; for a graph the length of its search list."
    )
    build_s: float
    bytes_per_tile: float = Field(description="Codes included.")
    recall_at_1: float
    recall_at_10: float
    queries_per_s: float
    faster: Spread = Field(description="Time of the exact scan over that of this search.")


@dataclass(frozen=True)
class _Built:
    """A searcher: distances int64[Q, k] of queries uint8[Q, B] with so many probes."""

    engine: str
    lists: int
    build_s: float
    bytes_per_tile: float
    distances: Callable[[Codes, int, int], IntArray]


def measure_lists(
    codes: Codes, name: str, *, kernel: Kernel, threads: int, rounds: int, queries: int = 200
) -> list[ListsResult]:
    """Recall and speed for several numbers of probes, ours first.

    Some of the codes uint8[N, bits / 8] are queries and not in the gallery.
    Raises `ConfigError` for fewer than 20 codes.
    """
    if len(codes) < _LEAST_CODES:
        raise ConfigError(f"{name} holds {len(codes)} codes; lists are measured on {_LEAST_CODES} or more.")
    held_out = np.zeros(len(codes), np.bool_)
    held_out[np.random.default_rng(1).choice(len(codes), min(queries, len(codes) // 10), replace=False)] = (
        True
    )
    held_codes, codes = np.ascontiguousarray(codes[held_out]), np.ascontiguousarray(codes[~held_out])
    k = min(10, len(codes))

    def exact(each: Codes, k: int, _: int) -> IntArray:
        return np.concatenate([kernel.nearest(codes, each[q : q + 1], k)[0] for q in range(len(each))])

    exact_s, truth = _timed(exact, held_codes, k, 0, rounds)
    results = []
    for built in (_ours(codes, kernel, threads), _faiss("ivf", codes), _faiss("hnsw", codes)):
        for probes in _PROBES:
            spent, found = _timed(built.distances, held_codes, k, probes, rounds)
            results.append(
                ListsResult(
                    engine=built.engine,
                    codes=name,
                    tiles=len(codes),
                    bits=codes.shape[1] * 8,
                    lists=built.lists,
                    probes=probes,
                    build_s=built.build_s,
                    bytes_per_tile=built.bytes_per_tile,
                    recall_at_1=float((found[:, 0] <= truth[:, 0]).mean()),
                    recall_at_10=float((found <= truth[:, -1:]).mean()),
                    queries_per_s=len(held_codes) / float(np.median(spent)),
                    faster=ratios(exact_s, spent),
                )
            )
    return results


def _timed(
    search: Callable[[Codes, int, int], IntArray], queries: Codes, k: int, probes: int, rounds: int
) -> tuple[list[float], IntArray]:
    """(seconds of each round, distances int64[Q, k]) on one thread."""
    seconds, found = [], np.empty((0, k), np.int64)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            found = search(queries, k, probes)
            seconds.append(time.perf_counter() - began)
    finally:
        faiss.omp_set_num_threads(before)
    return seconds, found


def _ours(codes: Codes, kernel: Kernel, threads: int) -> _Built:
    began = time.perf_counter()
    lists = list_build.make_lists(codes, min(list_build.usual_lists(len(codes)), len(codes)), threads=threads)
    build_s = time.perf_counter() - began
    size = codes.nbytes + lists.centres.nbytes + lists.starts.nbytes + lists.rows.nbytes

    def distances(queries: Codes, k: int, probes: int) -> IntArray:
        return topk.unpack(inverted_lists.scan_lists(codes, lists, queries, k, probes, kernel, None))[0]

    return _Built("ours", len(lists), build_s, size / len(codes), distances)


def _faiss(kind: Literal["ivf", "hnsw"], codes: Codes) -> _Built:
    """FAISS's own, built with all threads that it takes."""
    began = time.perf_counter()
    index = build_faiss(kind, np.arange(len(codes)), codes)
    build_s = time.perf_counter() - began

    def distances(queries: Codes, k: int, probes: int) -> IntArray:
        if kind == "ivf":
            index.nprobe = probes
        else:
            index.hnsw.efSearch = max(probes, k)
        # Query by query, as an index is asked while it serves.
        parts = [index.search(queries[q : q + 1], k) for q in range(len(queries))]
        found, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return np.where(labels < 0, _FARTHEST, found).astype(np.int64)

    size = faiss.serialize_index_binary(index).nbytes
    lists = index.nlist if kind == "ivf" else 0
    return _Built(f"FAISS {type(index).__name__}", lists, build_s, size / len(codes), distances)
