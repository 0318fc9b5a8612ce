"""Inverted lists: an approximate search that scans only the lists whose centres are near; optional.

Each code of a shard belongs to the nearest of some hundred or thousand centres (build/list_build.py). A search
compares the query with the centres and scans, exactly, the lists of the `probes` nearest. The lists hold row
numbers, the codes stay where they are. How many true neighbours a search misses depends on the codes:
`geoloc bench search` measures it for a user's data.

    ivf-centres.npy   uint8[L, bits // 8]
    ivf-starts.npy    int64[L + 1], where each list begins in
    ivf-rows.npy      uint32[N], the rows of each list, ascending
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Codes, IntArray
from geoloc.core.errors import CorruptArtifact
from geoloc.index.format.manifest import LIST_CENTRES_NAME, LIST_ROWS_NAME, LIST_STARTS_NAME
from geoloc.index.format.shard import mapped_array
from geoloc.index.search import topk
from geoloc.index.search.kernels.scan_kernel import Kernel


@dataclass(frozen=True)
class InvertedLists:
    """The lists of a shard: centres uint8[L, B], starts int64[L + 1], rows uint32[N]."""

    centres: Codes
    starts: IntArray
    rows: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.centres)

    def near(self, queries: Codes, probes: int, kernel: Kernel) -> list[IntArray]:
        """For each query uint8[Q, B] the rows int64[M] of the `probes` lists with the nearest centres, ascending."""
        _, chosen = kernel.nearest(self.centres, queries, min(probes, len(self)))
        return [
            np.sort(np.concatenate([self.rows[self.starts[one] : self.starts[one + 1]] for one in lists]))
            for lists in chosen
        ]


def open_lists(directory: Path, lists: int, count: int, bits: int) -> InvertedLists:
    """The `lists` lists of a shard of `count` codes, mapped; `CorruptArtifact` unless they fit it."""
    centres = mapped_array(directory / LIST_CENTRES_NAME, (lists, bits // 8), np.uint8)
    starts = mapped_array(directory / LIST_STARTS_NAME, (lists + 1,), np.int64)
    rows = mapped_array(directory / LIST_ROWS_NAME, (count,), np.uint32)
    if int(starts[-1]) != count:
        raise CorruptArtifact(
            f"The lists in {str(directory)!r} hold {starts[-1]} codes, the shard {count}; build the index again."
        )
    return InvertedLists(centres, starts, rows)


def scan_lists(
    codes: Codes,
    lists: InvertedLists,
    queries: Codes,
    k: int,
    probes: int,
    kernel: Kernel,
    live: BoolArray | None,
) -> IntArray:
    """Packed keys int64[Q, k] of the nearest rows within the lists of the `probes` nearest centres.

    live: bool[N], the rows that take part, None for all of them.
    """
    keys = np.full((len(queries), k), topk.PADDING_KEY, np.int64)
    for query, rows in enumerate(lists.near(queries, probes, kernel)):
        mine = rows if live is None else rows[live[rows]]
        wanted = min(k, len(mine))
        if wanted:
            distances, places = kernel.nearest(codes[mine], queries[query : query + 1], wanted)
            keys[query, :wanted] = topk.pack(distances[0], mine[places[0]])
    return keys
