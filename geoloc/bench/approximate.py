"""Inverted lists on given codes: their recall and their speed."""

from __future__ import annotations

import time

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench.measure import Spread, ratios
from geoloc.core.arrays import Codes
from geoloc.core.errors import ConfigError
from geoloc.index.build import list_build
from geoloc.index.search import inverted_lists, topk
from geoloc.index.search.kernels.scan_kernel import Kernel

_LEAST_CODES = 20


class ListsResult(BaseModel):
    """Search with lists against the exact scan, one thread, query by query.

    A tile is a hit when it is no farther than the k-th true neighbour, so ties do not matter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: str = Field(description="Which codes they are.")
    tiles: int
    bits: int
    lists: int
    probes: int
    build_s: float
    recall_at_1: float
    recall_at_10: float
    queries_per_s: float
    faster: Spread = Field(description="Time of the exact scan over that of the lists.")


def measure_lists(
    codes: Codes, name: str, *, kernel: Kernel, threads: int, rounds: int, queries: int = 200
) -> list[ListsResult]:
    """Recall and speed for several numbers of probes.

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
    began = time.perf_counter()
    lists = list_build.make_lists(codes, min(list_build.usual_lists(len(codes)), len(codes)), threads=threads)
    build_s = time.perf_counter() - began
    exact_s, truth = [], np.empty((0, k), np.int64)
    for _ in range(rounds):
        began = time.perf_counter()
        truth = np.concatenate(
            [kernel.nearest(codes, held_codes[q : q + 1], k)[0] for q in range(len(held_codes))]
        )
        exact_s.append(time.perf_counter() - began)
    results = []
    for probes in (4, 16, 64):
        spent, keys = [], np.empty((0, k), np.int64)
        for _ in range(rounds):
            began = time.perf_counter()
            keys = inverted_lists.scan_lists(codes, lists, held_codes, k, probes, kernel, None)
            spent.append(time.perf_counter() - began)
        found, _ = topk.unpack(keys)
        results.append(
            ListsResult(
                codes=name,
                tiles=len(codes),
                bits=codes.shape[1] * 8,
                lists=len(lists),
                probes=probes,
                build_s=build_s,
                recall_at_1=float((found[:, 0] <= truth[:, 0]).mean()),
                recall_at_10=float((found <= truth[:, -1:]).mean()),
                queries_per_s=len(held_codes) / float(np.median(spent)),
                faster=ratios(exact_s, spent),
            )
        )
    return results
