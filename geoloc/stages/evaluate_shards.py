"""The work of an evaluation on the index, as Ray tasks: comparing with shards, and searching as serving does.

Each machine that runs a task keeps the shards that it has compared with in its cache (`GEOLOC_CACHE`). The driver holds
one chunk of queries (`shard_scores.CHUNK_BYTES`) and the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import ray

from geoloc.core.errors import ArtifactError
from geoloc.evaluation.ranking.blockwise_scores import Blocks, Scanner
from geoloc.evaluation.ranking.photos_and_tiles import ScannedKind
from geoloc.evaluation.ranking.shard_scores import ShardedScanner, ShardTask, with_queries
from geoloc.evaluation.report.recall_table import KEPT_ANSWERS
from geoloc.index.format.local_cache import cache_directory
from geoloc.index.format.manifest import read_manifest
from geoloc.index.format.shard import Shard
from geoloc.index.search.snapshot import Snapshot, open_shard
from geoloc.localization.locator import EncodedQueries, Locator, SearchResult
from geoloc.runtime.ray_session import cpu_count
from geoloc.runtime.task_stream import results_in_order

_SEARCHED_AT_ONCE = 512  # queries of a task
_SHARDS_OPEN = 64  # in a worker


def shard_scanners(snapshot: Snapshot) -> Callable[[ScannedKind], Scanner]:
    """What compares queries with the shards of a snapshot in Ray tasks, one shard and a chunk of queries each."""
    sizes = [len(shard) for shard in snapshot.shards]
    index_uri, snapshot_id = snapshot.index_uri, snapshot.snapshot_id

    def scanner(kind: ScannedKind) -> Scanner:
        def run(tasks: Iterable[ShardTask]) -> Iterator[Any]:
            return results_in_order(_compare, _with_references(index_uri, snapshot_id, kind, tasks))

        return ShardedScanner(sizes, run, at_once=2 * cpu_count())

    return scanner


def _with_references(
    index_uri: str, snapshot_id: str, kind: ScannedKind, tasks: Iterable[ShardTask]
) -> Iterator[tuple[Any, ...]]:
    """Arguments of `_compare`; a chunk of queries goes into Ray's store once for all shards."""
    chunk, reference = None, None
    for task in tasks:
        if reference is None or task.queries is not chunk:
            chunk, reference = task.queries, ray.put(task.queries)
        yield index_uri, snapshot_id, kind, with_queries(task, None), reference


def _compare(index_uri: str, snapshot_id: str, kind: ScannedKind, task: ShardTask, queries: Any) -> Any:
    shard = _shard(index_uri, snapshot_id, task.shard)
    stored = shard.embeddings if kind == "embeddings" else shard.codes
    if stored is None:
        raise ArtifactError(f"Shard {task.shard} of {index_uri!r} has no embeddings; build the index again.")
    blocks: Blocks = lambda: [stored]  # noqa: E731  # a function of one line with a type
    return with_queries(task, queries).result(blocks)


@lru_cache(maxsize=_SHARDS_OPEN)
def _shard(index_uri: str, snapshot_id: str, number: int) -> Shard:
    manifest = _manifest(index_uri, snapshot_id)
    return open_shard(index_uri, manifest.shards[number], manifest.bits, cache_directory())


_manifest = lru_cache(maxsize=2)(read_manifest)


def searcher(locator: Locator) -> Callable[[EncodedQueries, int, int], SearchResult]:
    """`Locator.search` of a group of queries, k and rerank, in Ray tasks of a few hundred queries each."""
    index_uri, snapshot_id = locator.snapshot.index_uri, locator.snapshot.snapshot_id

    def search(queries: EncodedQueries, k: int, rerank: int) -> SearchResult:
        tasks = (
            (
                index_uri,
                snapshot_id,
                locator.asymmetric,
                queries.rows(slice(start, start + _SEARCHED_AT_ONCE)),
                k,
                rerank,
            )
            for start in range(0, len(queries), _SEARCHED_AT_ONCE)
        )
        return SearchResult.joined(list(results_in_order(_search, tasks)))

    return search


def _search(
    index_uri: str, snapshot_id: str, asymmetric: bool, queries: EncodedQueries, k: int, rerank: int
) -> SearchResult:
    found = _locator(index_uri, snapshot_id, asymmetric).search(queries, k=k, rerank=rerank)
    found.matches.tile_ids[:, KEPT_ANSWERS:] = None  # most of what the driver would hold of an answer
    return found


@lru_cache(maxsize=1)
def _locator(index_uri: str, snapshot_id: str, asymmetric: bool) -> Locator:
    return Locator(Snapshot.open(index_uri, snapshot_id, threads=1), asymmetric=asymmetric)
