"""Dynamic similarity sampling (Sample4Geo, ICCV 2023, section 3.3): for each photo the tiles that the model confuses.

Tiles and photos are encoded by all workers, each its share, and compared by their codes with the index's own scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from geoloc.core.arrays import BoolArray, Codes, Int32Array, IntArray, Pixels
from geoloc.core.scratch import scratch_array
from geoloc.index.search.kernels.gpu_scan import search_kernel
from geoloc.index.search.kernels.scan_kernel import Kernel
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import gather_rows, is_distributed
from geoloc.training.neighbours import NeighbourLists, first_of
from geoloc.training.pair_index import PairIndex
from geoloc.training.pair_store import PairStore, encode_tiles
from geoloc.training.sampler import share_of

PART_ROWS = 65_536  # pairs of one part of the lists
_TILES = 256  # encoded by a worker between two messages
_PAIRS = 256  # searched at once
_MEMORY_BYTES = 2**29  # of all codes; above, they lie in a file
_LOOK_PX = 8  # side of the small picture by which equal tiles are recognised
_EQUAL_LEVELS = 2.0  # mean difference of small pictures, of 255, below which two tiles look the same


@dataclass(frozen=True)
class _Tiles:
    """What is kept of all tiles: codes uint8[T, bits // 8], small pictures uint8[T, 192], one pair int64[T] of each.

    `kernel` scans the codes.
    """

    codes: Codes
    looks: Pixels
    pair: IntArray
    kernel: Kernel


@dataclass(frozen=True)
class Miner:
    """What one of `workers` workers mines with: the model as it is now, the recipe and the pairs of all workers.

    All workers must call a method together. The time of a mining grows with photos times tiles. Memory: codes and small
    pictures, 256 bytes a tile, above 0.5 GB in a file; 12 bytes a pair.
    """

    model: GeoLocalizer
    recipe: Recipe
    store: PairStore
    workers: int
    rank: int
    device: torch.device

    def parts(self, wanted: int, number: int) -> Iterator[tuple[int, Int32Array]]:
        """Parts (first row, int32[n, wanted]) of this worker: pairs whose tiles are most like each pair's photo.

        Padded with -1. Left out are pairs of the same place (`PairIndex.same_place`). Left out are also pairs whose
        tile looks the same as the photo's own: no model can tell them apart. `number` of the mining seeds its draws.
        """
        encoder = Encoder(self.model, self.recipe, "in training", device=str(self.device))
        seed = (self.recipe.seed, 3, number)
        tiles = _gathered_tiles(encoder, self.store, self.workers, self.rank, seed)
        distance_m = self.recipe.training.negative_distance_m
        own = share_of(len(self.store), self.workers, self.rank)
        for first in range(own.start, own.stop, PART_ROWS):
            stop = min(first + PART_ROWS, own.stop)
            blocks = [
                _similar(
                    encoder,
                    self.store,
                    tiles,
                    np.arange(start, min(start + _PAIRS, stop)),
                    wanted,
                    distance_m,
                )
                for start in range(first, stop, _PAIRS)
            ]
            yield first, np.concatenate(blocks)

    def mine(self, lists: NeighbourLists, wanted: int, number: int) -> None:
        """Write the lists of mining `number` (from 1); `lists.mined(number)` has them then."""
        shape = (len(self.store), wanted)
        parts = [lists.write_part(number, first, block, shape) for first, block in self.parts(wanted, number)]
        lists.note_parts(number, self.rank, parts)
        if is_distributed():
            dist.barrier()
        if self.rank == 0:
            lists.finish(number, self.workers, shape)
        if is_distributed():
            dist.barrier()


def _gathered_tiles(
    encoder: Encoder, store: PairStore, workers: int, rank: int, seed: tuple[int, ...]
) -> _Tiles:
    """All tiles, of which this worker encodes its share of each block."""
    count, width = len(store.tiles), encoder.bits // 8
    codes: Codes = scratch_array((count, width), np.uint8, _MEMORY_BYTES)
    looks: Pixels = scratch_array((count, 3 * _LOOK_PX**2), np.uint8, _MEMORY_BYTES)
    each = min(_TILES, -(-count // workers))
    for start in range(0, count, each * workers):
        rows = np.arange(start, start + each * workers) % count  # a whole block: all messages are alike
        own = rows[rank * each : (rank + 1) * each]
        both = np.concatenate([encode_tiles(encoder, store, own).code, _looks(store.tiles[own])], axis=1)
        gathered = gather_rows(torch.from_numpy(both).to(encoder.device)).cpu().numpy()
        stop = min(start + len(rows), count)
        codes[start:stop], looks[start:stop] = np.split(gathered[: stop - start], [width], axis=1)
    codes.flags.writeable = False  # so a device may keep a copy of them
    return _Tiles(codes, looks, _one_pair_of_each(store.index, count, seed), search_kernel())


def _looks(tiles: Pixels) -> Pixels:
    """Small pictures uint8[n, 192] of tiles uint8[n, s, s, 3]."""
    pictures = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.adaptive_avg_pool2d(pictures, _LOOK_PX)
    looks: Pixels = small.round().to(torch.uint8).flatten(1).numpy()
    return looks


def _one_pair_of_each(index: PairIndex, tiles: int, seed: tuple[int, ...]) -> IntArray:
    """A pair int64[T] of each tile, drawn at random; -1 for a tile without pairs."""
    order = np.argsort(index.tile, kind="stable")
    starts = np.searchsorted(np.asarray(index.tile)[order], np.arange(tiles + 1))
    counts = np.diff(starts)
    drawn = starts[:-1] + (np.random.default_rng(seed).random(tiles) * counts).astype(np.int64)
    return np.where(counts > 0, order[np.minimum(drawn, len(order) - 1)], -1)


def _similar(
    encoder: Encoder, store: PairStore, tiles: _Tiles, rows: IntArray, wanted: int, distance_m: float
) -> Int32Array:
    """The lists int32[n, wanted] of the pairs at rows int64[n]."""
    index = store.index
    photos, place = np.unique(index.photo[rows], return_inverse=True)  # pairs of one photo follow each other
    codes = encoder.encode(store.photos[photos], "panorama").code
    reach = min(len(tiles.codes), wanted + wanted // 4 + 8)
    nearest = tiles.kernel.nearest(tiles.codes, codes, reach)[1][place]
    candidates = tiles.pair[nearest]
    left_out = index.same_place(rows[:, None], candidates, distance_m)
    left_out |= _look_equal(tiles.looks, index.tile[rows], nearest) | (candidates < 0)
    return first_of(candidates, ~left_out, wanted)


def _look_equal(looks: Pixels, own: IntArray, others: IntArray) -> BoolArray:
    """bool[n, k]: whether tiles int64[n] and others int64[n, k] look the same."""
    equal = np.empty(others.shape, dtype=bool)
    for row, tile in enumerate(own):
        differ = np.abs(looks[others[row]].astype(np.int16) - looks[tile].astype(np.int16))
        equal[row] = differ.mean(1) < _EQUAL_LEVELS
    return equal
