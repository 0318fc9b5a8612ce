"""A snapshot of an index, open for search."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from geoloc.core import storage
from geoloc.core.arrays import Codes, Embeddings, HalfArray, IntArray
from geoloc.core.errors import ArtifactError, CorruptArtifact, QueryError
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.local_cache import cache_directory, ensure_local
from geoloc.index.format.manifest import Manifest, ShardEntry, read_manifest
from geoloc.index.format.shard import Shard
from geoloc.index.search import multi_code, topk
from geoloc.index.search import scan as scanning
from geoloc.index.search.cut_files import MappedFiles
from geoloc.index.search.inverted_lists import InvertedLists, open_lists
from geoloc.index.search.kernels.dot_products import default_products
from geoloc.index.search.kernels.gpu_scan import search_kernel
from geoloc.index.search.kernels.scan_kernel import Kernel
from geoloc.index.search.kernels.weighted_scan import WeightedKernel, Weights, similarities
from geoloc.index.search.matches import Comparison, Matches
from geoloc.index.search.region import Region

BlockResult = tuple[IntArray, IntArray, Embeddings]
Scalar = TypeVar("Scalar", bound=np.generic)

# Up to so many tiles are compared by weights without a look at the codes first; of more only the nearest by codes are.
WEIGHED_TILES = 2_000_000
WEIGHED_SHORTLIST = 5_000


class Snapshot:
    """An immutable set of tiles with their codes, safe to use from many threads.

    The answer to a search depends on the snapshot, the query and the search's parameters alone. Rows are
    numbered through the shards in the manifest's order.
    """

    def __init__(
        self,
        index_uri: str,
        snapshot_id: str,
        manifest: Manifest,
        cache: Path,
        kernel: Kernel | None = None,
        threads: int | None = None,
        *,
        skip_broken: bool = False,
    ) -> None:
        self.index_uri = index_uri
        self.snapshot_id = snapshot_id
        self.manifest = manifest
        self._cache = cache
        self._kernel = kernel or search_kernel()
        self._weighted = WeightedKernel()
        self._threads = threads or scanning.thread_count()
        self.skip_broken = skip_broken
        self._shards: list[Shard] = []
        self._mapped: dict[int, MappedFiles] = {}
        self._broken: dict[str, str] = {}  # what is wrong, by the shard's directory
        # Reading and hashing run in parallel; afterwards there is a verdict and only mapping is left.
        with ThreadPoolExecutor(self._threads) as pool:
            places = list(pool.map(self._local_files, manifest.shards))
        if manifest.embedding_dim is not None:
            default_products()  # compiled now, not in the first request
        first_row = 0
        for entry, place in zip(manifest.shards, places, strict=True):
            if place is not None:
                self._shards.append(Shard(entry, place[0], manifest.bits, first_row, place[1]))
                self._check(self._shards[-1])
                self._mapped[first_row] = MappedFiles(place)
            first_row += entry.count
        self._rows = first_row
        self._lists: dict[int, InvertedLists] = {}
        for shard in self._shards:
            if lists := shard.entry.lists:
                opened = open_lists(shard.directory, lists, len(shard), manifest.bits)
                self._lists[shard.first_row] = opened

    @classmethod
    def open(
        cls,
        index_uri: str,
        snapshot_id: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        kernel: Kernel | None = None,
        threads: int | None = None,
        skip_broken: bool = False,
    ) -> Snapshot:
        """Open the current snapshot of an index, or `snapshot_id`.

        Every file's size and checksum is verified before it is parsed; the verdict is kept on this host, so later
        openings only map. `cache_dir` (default: `GEOLOC_CACHE`, else `~/.cache/geoloc`) holds the verdicts and
        the copies of indexes that are not local. `threads` limits a search (default: all CPUs we may use).
        `skip_broken` leaves out shards whose files are damaged, now or later; `broken_shards` counts them.

        Raises `ArtifactError` (nothing there, or a newer format) and `CorruptArtifact` naming the bad file.
        """
        index_uri = storage.absolute(index_uri)
        snapshot_id = snapshot_id or current_snapshot(index_uri)
        manifest = read_manifest(index_uri, snapshot_id)
        return cls(
            index_uri,
            snapshot_id,
            manifest,
            cache_directory(cache_dir),
            kernel,
            threads,
            skip_broken=skip_broken,
        )

    def _local_files(self, entry: ShardEntry) -> tuple[Path, Path | None] | None:
        """Directories of a shard's files and marks; None for a damaged shard that is left out."""
        try:
            return local_files(self.index_uri, entry, self._cache)
        except CorruptArtifact as error:
            if not self.skip_broken:
                raise
            self._broken[entry.directory] = str(error)
            return None

    def broken_shards(self) -> dict[str, str]:
        """The shards that are left out of searches, by directory, with what is wrong; empty when all are whole.

        Files are looked at anew, for their size alone. Raises `CorruptArtifact` unless opened with `skip_broken`.
        """
        for shard in self._shards:
            if shard.entry.directory not in self._broken and (cut := self._mapped[shard.first_row].cut()):
                problem = f"{cut!r} was cut while it was open; restore the file or build the index again."
                if not self.skip_broken:
                    raise CorruptArtifact(problem)
                self._broken[shard.entry.directory] = problem
        return dict(self._broken)

    def _check(self, shard: Shard) -> None:
        dim = None if shard.embeddings is None else shard.embeddings.shape[1]
        if dim != self.manifest.embedding_dim:
            raise ArtifactError(
                f"The embeddings of {shard.entry.directory!r} have dimension {dim}, the snapshot "
                f"{self.snapshot_id} says {self.manifest.embedding_dim}; build the index again."
            )

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.manifest.bits

    @property
    def embedding_dim(self) -> int | None:
        """Dimension of the re-rank embeddings; None for an index without."""
        return self.manifest.embedding_dim

    @property
    def any_heading_bits(self) -> int | None:
        """Bits of the rotation invariant codes; None for an index without, or of which only a part has them."""
        return self.manifest.any_heading_bits or None

    @property
    def count(self) -> int:
        """Number of tiles; those that were removed do not count."""
        return self.manifest.count

    @property
    def rows(self) -> int:
        """Number of rows: tiles and what is left of removed ones; matches name rows below this."""
        return self._rows

    @property
    def located(self) -> bool:
        """Whether the tiles have coordinates; without them an index retrieves, but cannot locate."""
        return self.manifest.located

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The open shards in the order of their rows, to read all tiles."""
        return tuple(self._shards)

    @property
    def shared_model_uri(self) -> str:
        """The model of the codes, where it lies in the index: what a driver gives to its workers."""
        return storage.join(self.index_uri, self.manifest.model.directory)

    @cached_property
    def model_uri(self) -> str:
        """The model of the codes, verified, as a local directory (copied into the cache from elsewhere).

        The directory is of this host alone. Other hosts open `shared_model_uri`.
        """
        model = self.manifest.model
        return str(ensure_local(self.shared_model_uri, model.files, self._cache))

    def search(
        self,
        codes: Codes,
        *,
        k: int,
        region: Region | None = None,
        embeddings: Embeddings | None = None,
        rerank: int = 0,
        probes: int | None = None,
        weights: Weights | None = None,
    ) -> Matches:
        """The k nearest tiles of each query by Hamming distance, exact, in the order (distance, tile_id).

        codes: uint8[Q, bits // 8]. `region` leaves only tiles whose centre lies inside. With `embeddings`
        (float32[Q, D]) and `rerank` > 0 the max(rerank, k) nearest by Hamming distance are ordered anew by
        (-dot product, tile_id), and the first k of them returned. Memory: a block of queries times the
        candidates; never queries times tiles.

        With `weights` (int8[Q, bits] of `bit_weights`) the distance is the weighted one of the photo's real numbers
        (kernels/weighted_scan.py), before or instead of embeddings. Up to `WEIGHED_TILES` tiles in the region or the
        index are all compared so; of more the `WEIGHED_SHORTLIST` (at least k or rerank) nearest by Hamming distance.

        `probes` makes it approximate, for an index that was built with lists: of each shard only so many lists
        are scanned (search/inverted_lists.py). Shards without lists, which updates add, are scanned whole.

        Raises `QueryError` for arrays of another shape, k < 0, a region or re-ranking that the index cannot serve.
        """
        codes = self._checked_codes(codes)
        self._check_counts(k, rerank)
        self._check_probes(probes)
        if rerank:
            embeddings = self._checked_embeddings(embeddings, len(codes))
        if weights is not None:
            self._check_weights(weights, len(codes))
        selections = self._select(region)
        parts: list[BlockResult] = []
        for start in range(0, len(codes), scanning.QUERY_BLOCK):
            block = slice(start, start + scanning.QUERY_BLOCK)
            floats = embeddings[block] if rerank and embeddings is not None else None
            weighed = None if weights is None else weights[block]
            parts.append(self._search_block(selections, codes[block], k, floats, rerank, probes, weighed))
        ordered_by: Comparison = "embeddings" if rerank else "codes" if weights is None else "logits"
        return self._matches(parts, k, ordered_by)

    def search_scored(
        self,
        codes: Codes,
        score: multi_code.Score,
        *,
        k: int,
        shortlist: int,
        region: Region | None = None,
        any_heading: Codes | None = None,
    ) -> Matches:
        """The k best tiles of each query by the caller's score, out of the nearest max(shortlist, k) by codes.

        codes: uint8[Q, R, bits // 8]; a tile's distance is the smallest over the R codes of a query. `score` gets the
        number of a query and stored embeddings float16[M, D], and gives float32[M]: they are the similarities of
        the answer, which has the order (-score, tile_id). With `any_heading` uint8[Q, any_heading_bits // 8] the
        shortlist is of the nearest by those codes instead. Exact and of bounded memory as `search`; raises as it does.
        """
        count, each = codes.shape[:2]
        self._checked_codes(np.ascontiguousarray(codes).reshape(count * each, -1))
        self._check_counts(k, shortlist)
        if self.embedding_dim is None:
            raise _without_embeddings()
        selections, wanted = self._select(region), max(k, shortlist)
        compared = codes
        if any_heading is not None:
            compared = self._checked_any_heading(any_heading)[:, None]
            selections = [replace(chosen, codes=chosen.shard.any_heading) for chosen in selections]
        step = max(1, scanning.QUERY_BLOCK // max(1, compared.shape[1]))
        parts: list[BlockResult] = []
        for start in range(0, count, step):
            block = slice(start, start + step)
            rows = self._nearest_to_any(selections, compared[block], wanted)
            similarity = multi_code.scores_of(self._shards, rows, score, start)
            order = self._best(rows, topk.descending(np.nan_to_num(similarity)), len(selections), k)
            rows = _take(rows, order, -1)
            distances = multi_code.distances_of(self._shards, rows, codes[block])
            parts.append((rows, distances, _take(similarity, order, np.nan)))
        return self._matches(parts, k, "embeddings")

    def _nearest_to_any(self, selections: list[scanning.Selection], codes: Codes, k: int) -> IntArray:
        """Rows [Q, k] that are nearest to any of a query's codes uint8[Q, R, B]."""
        queries, each = codes.shape[:2]
        flat = np.ascontiguousarray(codes).reshape(queries * each, -1)
        found, distances, _ = self._search_block(selections, flat, k, None, 0, None)
        rows, distances = multi_code.without_repeats(
            found.reshape(queries, -1), distances.reshape(queries, -1)
        )
        return _take(rows, self._best(rows, distances, len(selections), k), -1)

    def _best(self, rows: IntArray, scores: npt.NDArray[np.integer], shards: int, k: int) -> IntArray:
        candidates = scanning.Candidates(scores.astype(np.int64), rows, shards)
        return scanning.best_columns(self._shards, candidates, k)

    def embeddings_of(self, rows: IntArray) -> HalfArray:
        """Stored embeddings float16[M, D] of rows [M]; `QueryError` for an index without."""
        if self.embedding_dim is None:
            raise _without_embeddings()
        return multi_code.embeddings_of(self._shards, rows)

    def _search_block(
        self,
        selections: list[scanning.Selection],
        codes: Codes,
        k: int,
        embeddings: Embeddings | None,
        rerank: int,
        probes: int | None,
        weights: Weights | None = None,
    ) -> BlockResult:
        """(rows, Hamming distances, similarities) of a block of queries, [Q, k] each."""
        wanted = max(k, rerank) if embeddings is not None and k else k
        if weights is None:
            candidates = self._scan(selections, codes, wanted, probes)
        else:
            candidates = self._weigh(selections, codes, weights, wanted, probes)
        columns = scanning.best_columns(self._shards, candidates, wanted)
        rows, distances = _take(candidates.rows, columns, -1), _take(candidates.scores, columns, -1)
        similarity = np.full(rows.shape, np.nan, np.float32)
        if weights is not None:
            similarity = np.where(rows >= 0, similarities(distances, weights), similarity)
            distances = multi_code.distances_of(self._shards, rows, codes[:, None])
        if embeddings is None:
            return rows, distances, similarity
        similarity = scanning.rerank(self._shards, rows, embeddings, self._threads)
        scores = topk.descending(np.nan_to_num(similarity)).astype(np.int64)
        order = scanning.best_columns(self._shards, scanning.Candidates(scores, rows, candidates.shards), k)
        return _take(rows, order, -1), _take(distances, order, -1), _take(similarity, order, np.nan)

    def _weigh(
        self,
        selections: list[scanning.Selection],
        codes: Codes,
        weights: Weights,
        k: int,
        probes: int | None,
    ) -> scanning.Candidates:
        """Candidates by weighted distance: of all rows, or of the nearest by codes where the rows are many."""
        if probes is None and sum(map(len, selections)) <= WEIGHED_TILES:
            return scanning.scan(selections, weights, k, self._weighted, self._threads)
        wanted = max(k, WEIGHED_SHORTLIST)
        near = self._scan(selections, codes, wanted, probes)
        rows = _take(near.rows, scanning.best_columns(self._shards, near, wanted), -1)
        distances = multi_code.weighted_distances_of(self._shards, rows, weights)
        return scanning.Candidates(distances, rows, near.shards)

    def _scan(
        self, selections: list[scanning.Selection], codes: Codes, k: int, probes: int | None
    ) -> scanning.Candidates:
        whole, listed = selections, []
        if probes is not None:
            pairs = [(chosen, self._lists.get(chosen.shard.first_row)) for chosen in selections]
            listed = [(chosen, lists) for chosen, lists in pairs if lists is not None]
            whole = [chosen for chosen, lists in pairs if lists is None]
        found = scanning.scan(whole, codes, k, self._kernel, self._threads)
        if not listed or probes is None:
            return found
        near = scanning.scan_lists(listed, codes, k, probes, self._kernel, self._threads)
        return scanning.together(found, near)

    def _matches(self, parts: list[BlockResult], k: int, ordered_by: Comparison) -> Matches:
        empty = np.empty((0, k), np.int64)
        rows, bits, similarity = (
            np.concatenate(column)
            for column in zip((empty, empty, empty.astype(np.float32)), *parts, strict=True)
        )
        tile_ids = np.full(rows.shape, None, dtype=object)
        found = rows >= 0
        tile_ids[found] = scanning.take_ids(self._shards, rows[found]).to_numpy(zero_copy_only=False)
        lat, lon = scanning.take_positions(self._shards, rows)
        distances = bits.astype(np.int32)
        return Matches(self.snapshot_id, rows, tile_ids, lat, lon, distances, similarity, ordered_by)

    def _select(self, region: Region | None) -> list[scanning.Selection]:
        if region is not None and not self.located:
            raise QueryError(
                "This index holds tiles without coordinates, so a search cannot be restricted to a region; "
                "leave the region out.",
                reason="not_located",
            )
        broken = self.broken_shards()
        whole = [shard for shard in self._shards if shard.entry.directory not in broken]
        return scanning.select(whole, region)

    def _checked_codes(self, codes: Codes) -> Codes:
        width = self.bits // 8
        if codes.ndim != 2 or codes.shape[1] != width or codes.dtype != np.uint8:
            raise QueryError(
                f"The query codes are {codes.dtype}{list(codes.shape)}, this index takes uint8[Q, {width}] "
                f"({self.bits} bits); encode the queries with its own model.",
                reason="wrong_code",
            )
        return codes

    def _check_weights(self, weights: Weights, queries: int) -> None:
        if weights.dtype != np.int8 or weights.shape != (queries, self.bits):
            raise QueryError(
                f"The weights of the queries are {weights.dtype}{list(weights.shape)}, this index takes "
                f"int8[{queries}, {self.bits}]; give `bit_weights` of the logits that the codes came from.",
                reason="wrong_logits",
            )

    def _checked_any_heading(self, codes: Codes) -> Codes:
        bits = self.any_heading_bits
        if bits is None or codes.ndim != 2 or codes.shape[1] != bits // 8 or codes.dtype != np.uint8:
            raise QueryError(
                f"The codes for any heading are {codes.dtype}{list(codes.shape)}, this index has {bits or 0} bits of "
                "them for every tile; search by the codes of all headings, or build it with any_heading_bits.",
                reason="wrong_code",
            )
        return codes

    def _checked_embeddings(self, embeddings: Embeddings | None, queries: int) -> Embeddings:
        if self.embedding_dim is None:
            raise _without_embeddings()
        if embeddings is None:
            raise QueryError(
                "Re-ranking needs the float embeddings of the queries; pass them.", reason="wrong_embedding"
            )
        array = np.asarray(embeddings, dtype=np.float32)
        if array.shape != (queries, self.embedding_dim) or not np.isfinite(array).all():
            raise QueryError(
                f"The query embeddings are float{list(array.shape)}, this index takes finite numbers of shape "
                f"[{queries}, {self.embedding_dim}].",
                reason="wrong_embedding",
            )
        return array

    def _check_probes(self, probes: int | None) -> None:
        if probes is not None and probes < 1:
            raise QueryError(f"probes is {probes}; it must be 1 or more.", reason="probes_out_of_range")
        if probes is not None and not self._lists and self.count:
            raise QueryError(
                "This index was built without lists, so probes has no meaning; leave it out for the exact search, "
                "or build the index with lists.",
                reason="no_lists",
            )

    def _check_counts(self, k: int, rerank: int) -> None:
        if k < 0 or rerank < 0:
            raise QueryError(
                f"k is {k} and rerank is {rerank}; both must be 0 or more.", reason="k_out_of_range"
            )


def local_files(index_uri: str, entry: ShardEntry, cache: Path) -> tuple[Path, Path | None]:
    """Local directories of a shard's files and of its marks, all verified."""
    directory = ensure_local(storage.join(index_uri, entry.directory), entry.files, cache)
    if entry.marks is None:
        return directory, None
    return directory, ensure_local(storage.join(index_uri, entry.marks.directory), [entry.marks.file], cache)


def open_shard(index_uri: str, entry: ShardEntry, bits: int, cache: Path) -> Shard:
    """One shard of a snapshot, its rows numbered from 0."""
    directory, marks = local_files(index_uri, entry, cache)
    return Shard(entry, directory, bits, 0, marks)


def _without_embeddings() -> QueryError:
    return QueryError(
        "This index keeps no embeddings, so it cannot re-rank; search without, or build it with them.",
        reason="no_embeddings",
    )


def _take(values: npt.NDArray[Scalar], columns: IntArray, padding: float) -> npt.NDArray[Scalar]:
    """values[q, columns[q, j]], padding where the column is -1."""
    taken = np.full(columns.shape, padding, values.dtype)
    query, place = np.nonzero(columns >= 0)
    taken[query, place] = values[query, columns[query, place]]
    return taken
