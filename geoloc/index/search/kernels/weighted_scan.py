"""Asymmetric comparison: a photo's real numbers against the bits of the tiles, compiled and exact.

A bit of a tile says on which side of zero its logit lies. The photo's own logit also says how sure that side is. The
distance of a tile is therefore the sum of the photo's weights |logit| over all bits that differ, and the tile with the
smallest sum has the greatest product of the photo's logits with the tile's signs.

Weights are whole numbers (`bit_weights`), so the sums are exact in any order and equal on every machine. For each half
byte of the code and each query a table has 16 partial sums (asymmetric distance computation: Jégou, Douze, Schmid,
Product quantization for nearest neighbor search, TPAMI 2011; half bytes in registers: André, Kermarrec, Le Scouarnec,
Cache locality is not enough, VLDB 2015). A block of codes that fits the first-level cache is transposed into columns of
bytes, `GROUP` rows side by side, and one instruction looks up a half byte of all of them.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from geoloc.core.arrays import BoolArray, Codes, IntArray
from geoloc.core.errors import QueryError
from geoloc.index.search import topk
from geoloc.index.search.kernels.dot_products import prefetch_line
from geoloc.index.search.kernels.llvm_ops import I64, cgutils, declare, load_byte

Weights = npt.NDArray[np.int8]

GROUP = 32  # rows side by side: the bytes of a 256-bit register
_PIECE = 16  # bytes of a row that are transposed together
_BLOCK_BYTES = 16_384  # half of a first-level data cache of 32 KiB
# Logits beyond this many times their mean count as this many: one odd logit must not leave the others no levels.
_CLIP = 4.0
# The greatest weight by code length: the sums of a half byte fit 8 bits and the sums of a code 16 bits.
_LEVELS = ((1024, 63), (2048, 31), (4096, 15))
_FARTHEST = 65_535
_AHEAD_BYTES = 4_096  # how far ahead rows are prefetched

_BYTES = ir.VectorType(ir.IntType(8), GROUP)
_TABLE = ir.VectorType(ir.IntType(8), _PIECE)
_HALF = ir.VectorType(ir.IntType(16), GROUP // 2)
_SUMS = ir.VectorType(ir.IntType(16), GROUP)
_NUMBER = ir.IntType(32)


def bit_weights(logits: npt.NDArray[np.floating]) -> Weights:
    """Logits float[..., bits] as whole numbers int8[..., bits]: how much each bit counts, with the bit's sign.

    Linear and rounded; the greatest weight (63 up to 1,024 bits) stands for four times the mean |logit| of a code or
    more. A logit that is rounded to zero counts nothing. Raises `QueryError` for NaN and infinite numbers, and for
    codes longer than 4,096 bits.
    """
    bits = logits.shape[-1]
    top = next((most for limit, most in _LEVELS if bits <= limit), None)
    if top is None or not np.isfinite(logits).all():
        raise QueryError(
            f"The code logits are float{list(logits.shape)}; give finite numbers, at most {_LEVELS[-1][0]} to a code.",
            reason="wrong_logits",
        )
    # float64, scaled by the greatest first: means of huge or tiny numbers neither overflow nor vanish.
    wide = np.asarray(logits, np.float64)
    greatest = np.abs(wide).max(axis=-1, keepdims=True, initial=0.0)
    share = wide / np.where(greatest > 0, greatest, 1.0)
    limit = np.minimum(_CLIP * np.abs(share).mean(axis=-1, keepdims=True), 1.0) if bits else share
    scaled = np.clip(share / np.where(limit > 0, limit, 1.0), -1.0, 1.0)
    return np.rint(scaled * top).astype(np.int8)


def similarities(distances: IntArray, weights: Weights) -> npt.NDArray[np.float32]:
    """Weighted distances int64[Q, K] of queries int8[Q, bits] as float32[Q, K]: 1 where all bits agree, -1 where none.

    For random projections this estimates the cosine of the embeddings. A query without weights gives 0.
    """
    total = np.abs(weights.astype(np.int64)).sum(axis=-1, keepdims=True)
    return np.asarray((total - 2 * distances) / np.maximum(total, 1), dtype=np.float32)


def _shuffle(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_NUMBER, len(lanes)), lanes))


def _load(builder: Any, kind: Any, address: Any, offset_bytes: int) -> Any:
    place = builder.add(address, ir.Constant(I64, offset_bytes))
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any, offset_bytes: int) -> None:
    place = builder.add(address, ir.Constant(I64, offset_bytes))
    builder.store(value, builder.inttoptr(place, value.type.as_pointer()), align=1)


def _transpose_bytes_code(typing: Any, rows: Any, width: Any, columns: Any) -> Any:
    """Turn `_PIECE` bytes of `GROUP` rows, `width` bytes apart, into columns uint8[_PIECE, GROUP]."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, width, columns = arguments
        vectors = []
        for row in range(_PIECE):
            halves = []
            for number in (row, row + _PIECE):
                place = builder.add(rows, builder.mul(width, ir.Constant(I64, number)))
                halves.append(_load(builder, _TABLE, place, 0))
            vectors.append(_shuffle(builder, halves[0], halves[1], list(range(GROUP))))
        # Four rounds of a butterfly within each half of the register: the address of a byte turns by a bit a round.
        low = [half + lane for half in (0, _PIECE) for pair in range(8) for lane in (pair, GROUP + pair)]
        high = [lane + 8 for lane in low]
        for _ in range(4):
            pairs = [(vectors[number], vectors[number + 8]) for number in range(8)]
            vectors = [_shuffle(builder, a, b, lanes) for a, b in pairs for lanes in (low, high)]
        for byte, vector in enumerate(vectors):
            _store(builder, vector, columns, byte * GROUP)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


transpose_bytes: Any = declare(_transpose_bytes_code)


def _nearer_of_bytes_code(typing: Any, width: Any, columns: Any, tables: Any, limit: Any, out: Any) -> Any:
    """Which of `GROUP` transposed rows are nearer than a limit, as bits; `out` uint16[GROUP] gets all distances.

    columns: uint8[width, GROUP]; tables: uint8[width, 2, 16], the partial sums of low and high half bytes.
    Only for processors with 256-bit shuffles of bytes (`has_shuffles`).
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        width, columns, tables, limit, out = arguments
        look_up = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_BYTES, [_BYTES, _BYTES]), "llvm.x86.avx2.pshuf.b"
        )
        eight, mask = ir.Constant(_HALF, [8] * (GROUP // 2)), ir.Constant(_BYTES, [15] * GROUP)
        # Sums of 16 bits in pairs of bytes: `both` adds whole pairs, `odd` their upper bytes; overflow cancels out.
        both, odd = (cgutils.alloca_once(builder, _HALF) for _ in range(2))
        for place in (both, odd):
            builder.store(ir.Constant(_HALF, [0] * (GROUP // 2)), place)
        step = ir.Constant(I64, 1)
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), width, step, inc=True) as (index, _):
            here = builder.add(columns, builder.mul(index, ir.Constant(I64, GROUP)))
            table = builder.add(tables, builder.mul(index, ir.Constant(I64, 2 * _PIECE)))
            codes = _load(builder, _BYTES, here, 0)
            upper = builder.bitcast(
                builder.lshr(builder.bitcast(codes, _HALF), ir.Constant(_HALF, [4] * 16)), _BYTES
            )
            for number, half in enumerate((codes, upper)):
                sums = _load(builder, _TABLE, table, number * _PIECE)
                both_lanes = _shuffle(builder, sums, sums, [*range(_PIECE), *range(_PIECE)])
                found = builder.bitcast(builder.call(look_up, [both_lanes, builder.and_(half, mask)]), _HALF)
                builder.store(builder.add(builder.load(both), found), both)
                builder.store(builder.add(builder.load(odd), builder.lshr(found, eight)), odd)
        upper_sums = builder.load(odd)
        even = builder.sub(builder.load(both), builder.shl(upper_sums, eight))
        in_order = [lane for pair in range(GROUP // 2) for lane in (pair, GROUP // 2 + pair)]
        distances = _shuffle(builder, even, upper_sums, in_order)
        _store(builder, distances, out, 0)
        one = builder.insert_element(
            ir.Constant(_SUMS, ir.Undefined), builder.trunc(limit, ir.IntType(16)), ir.Constant(_NUMBER, 0)
        )
        threshold = _shuffle(builder, one, one, [0] * GROUP)
        nearer = builder.bitcast(builder.icmp_unsigned("<", distances, threshold), ir.IntType(GROUP))
        return builder.zext(nearer, I64)

    return types.uint64(*[types.intp] * 5), codegen


nearer_of_bytes: Any = declare(_nearer_of_bytes_code)


class _Candidates(NamedTuple):
    """The nearest rows so far of Q queries: limit int64[Q], only nearer rows are taken; filled int64[Q]; keys [Q, k].

    A key holds the distance in its high and the row in its low 32 bits (topk.py).
    """

    limit: IntArray
    filled: IntArray
    keys: IntArray


@numba.njit(cache=True, nogil=True)
def _distance(code: int, width: int, tables: int) -> int:  # pragma: no cover - compiled
    """The weighted distance of a code of `width` bytes at an address, from a query's tables uint8[width, 2, 16]."""
    total = 0
    for byte in range(width):
        value = np.int64(load_byte(code + byte))
        table = tables + 32 * byte
        total += load_byte(table + (value & 15)) + load_byte(table + 16 + (value >> 4))
    return total


@numba.njit(cache=True, nogil=True)
def _take(query: int, key: Any, best: Any) -> None:  # pragma: no cover - compiled
    """Add the key of a row that is nearer than the limit to a heap of k keys, whose root is the farthest."""
    limit, filled, keys = best
    heap, room = keys[query], keys.shape[1]
    if filled[query] < room:
        place = filled[query]
        filled[query] += 1
        while place > 0 and heap[(place - 1) >> 1] < key:
            heap[place] = heap[(place - 1) >> 1]
            place = (place - 1) >> 1
    else:
        place = 0
        while True:
            child = 2 * place + 1
            if child + 1 < room and heap[child + 1] > heap[child]:
                child += 1
            if child >= room or heap[child] <= key:
                break
            heap[place] = heap[child]
            place = child
    heap[place] = key
    if filled[query] == room:
        # Rows ascend: a later row at this distance comes behind all that are kept.
        limit[query] = heap[0] >> 32


@numba.njit(cache=True, nogil=True)
def _scan_rows(
    codes: int, first: int, last: int, width: int, tables: Any, live: int, best: Any
) -> None:  # pragma: no cover - compiled
    """Offer rows to all queries one by one: what is left of whole groups, and all rows on other processors."""
    for query in range(tables.shape[0]):
        table = tables[query].ctypes.data
        for row in range(first, last):
            if live == 0 or load_byte(live + row):
                distance = _distance(codes + row * width, width, table)
                if distance < best.limit[query]:
                    _take(query, (np.int64(distance) << 32) | row, best)


@numba.njit(cache=True, nogil=True)
def _scan_groups(
    codes: int, count: int, width: int, tables: Any, live: int, best: Any
) -> Any:  # pragma: no cover - compiled
    """Offer all whole groups of rows to all queries, a transposed block at a time; returns the first row left."""
    groups = max(1, _BLOCK_BYTES // (GROUP * width))
    block = np.empty((groups, width, GROUP), np.uint8)
    out = np.empty(GROUP, np.uint16)
    whole = count // GROUP * GROUP
    for first in range(0, whole, groups * GROUP):
        filled = min(groups, (whole - first) // GROUP)
        for group in range(filled):
            _transpose(codes + (first + group * GROUP) * width, width, block[group])
        for query in range(tables.shape[0]):
            table = tables[query].ctypes.data
            for group in range(filled):
                limit = best.limit[query]
                found = nearer_of_bytes(width, block[group].ctypes.data, table, limit, out.ctypes.data)
                row = first + group * GROUP
                place = 0
                while found:
                    nearer = found & np.uint64(1) and out[place] < best.limit[query]
                    if nearer and (live == 0 or load_byte(live + row + place)):
                        _take(query, (np.int64(out[place]) << 32) | (row + place), best)
                    found >>= np.uint64(1)
                    place += 1
    return whole


@numba.njit(cache=True, nogil=True)
def _transpose(codes: int, width: int, columns: Any) -> None:  # pragma: no cover - compiled
    """Turn `GROUP` rows of `width` bytes into columns uint8[width, GROUP]."""
    whole = width // _PIECE * _PIECE
    for line in range(codes + _AHEAD_BYTES, codes + _AHEAD_BYTES + GROUP * width, 64):
        prefetch_line(line)
    for byte in range(0, whole, _PIECE):
        transpose_bytes(codes + byte, width, columns[byte].ctypes.data)
    for byte in range(whole, width):
        for row in range(GROUP):
            columns[byte, row] = load_byte(codes + row * width + byte)


@numba.njit(cache=True, nogil=True)
def _nearest(
    codes: int, count: int, width: int, tables: Any, live: int, shuffles: bool, keys: Any
) -> None:  # pragma: no cover - compiled
    """Fill the heaps `keys` int64[Q, k] with the nearest rows; the whole scan in a single call from Python."""
    queries = tables.shape[0]
    best = _Candidates(np.full(queries, _FARTHEST, np.int64), np.zeros(queries, np.int64), keys)
    first = 0
    if shuffles:
        first = _scan_groups(codes, count, width, tables, live, best)
    _scan_rows(codes, first, count, width, tables, live, best)


@lru_cache(maxsize=1)
def has_shuffles() -> bool:
    """Whether numba compiles for a processor with 256-bit shuffles of bytes (AVX2)."""
    chosen = numba.config.CPU_NAME  # type: ignore[attr-defined]  # set by whoever wants code for another processor
    if platform.machine().lower() not in ("x86_64", "amd64") or chosen not in (None, "", "host"):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx2", False))


class WeightedKernel:
    """The compiled scan on the calling thread; it releases the interpreter lock. A `scan_kernel.Kernel` of weights.

    shuffles: look up half bytes of `GROUP` rows at once; None: where the processor can. The answers are the same.
    """

    name = "weighted"

    def __init__(self, shuffles: bool | None = None) -> None:
        self._shuffles = has_shuffles() if shuffles is None else shuffles

    def nearest(
        self, codes: Codes, queries: Weights, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """(weighted distances, rows) int64[Q, k] of the first k rows by (distance, row), padded with -1.

        codes: uint8[M, B]; queries: int8[Q, 8 B] of `bit_weights`; 1 <= k <= M. live: bool[M], the rows that take part.
        """
        count, width = codes.shape
        tables = _tables(queries)
        codes = np.ascontiguousarray(codes)
        live = None if live is None else np.ascontiguousarray(live, dtype=np.bool_)
        # Addresses: mapped arrays are another type to the compiler than arrays in memory.
        marks = 0 if live is None else live.ctypes.data
        keys = np.full((len(queries), k), topk.PADDING_KEY, np.int64)
        _nearest(codes.ctypes.data, count, width, tables, marks, self._shuffles, keys)
        distances, rows = topk.unpack(np.sort(keys, axis=1))
        return np.where(rows < 0, -1, distances), rows


def weighted_distances(queries: Weights, codes: Codes) -> IntArray:
    """Weighted distances int64[Q, N] of queries int8[Q, 8 B] to codes uint8[N, B]."""
    distances = np.empty((len(queries), len(codes)), np.int64)
    codes = np.ascontiguousarray(codes)
    _fill(codes.ctypes.data, codes.shape[1], _tables(queries), has_shuffles(), distances)
    return distances


@numba.njit(cache=True, nogil=True)
def _fill(
    codes: int, width: int, tables: Any, shuffles: bool, out: Any
) -> None:  # pragma: no cover - compiled
    count = out.shape[1]
    block, sums = np.empty((width, GROUP), np.uint8), np.empty(GROUP, np.uint16)
    whole = count // GROUP * GROUP if shuffles else 0
    for first in range(0, whole, GROUP):
        _transpose(codes + first * width, width, block)
        for query in range(tables.shape[0]):
            table = tables[query].ctypes.data
            nearer_of_bytes(width, block.ctypes.data, table, 0, sums.ctypes.data)
            out[query, first : first + GROUP] = sums
    for query in range(tables.shape[0]):
        for row in range(whole, count):
            out[query, row] = _distance(codes + row * width, width, tables[query].ctypes.data)


def _tables(queries: Weights) -> npt.NDArray[np.uint8]:
    """Partial sums uint8[Q, B, 2, 16] for the low and the high half of each byte, by the value of the half."""
    count, bits = queries.shape
    # Bit 0 of a code is the highest of its byte. A bit costs its weight where it differs from the weight's sign.
    set_costs = np.where(queries < 0, -queries.astype(np.int16), 0).reshape(count, bits // 8, 2, 4)[
        :, :, ::-1
    ]
    clear_costs = np.where(queries > 0, queries.astype(np.int16), 0).reshape(count, bits // 8, 2, 4)[
        :, :, ::-1
    ]
    values = np.unpackbits(np.arange(16, dtype=np.uint8)[:, None], axis=1)[:, 4:].astype(np.int16)
    return np.ascontiguousarray(set_costs @ values.T + clear_costs @ (1 - values).T, dtype=np.uint8)
