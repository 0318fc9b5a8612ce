"""The compiled scan: XOR and population count on whole vector registers, made by numba at the user's machine.

A block of codes that fits the first cache is transposed into columns of 64-bit words, `GROUP` rows side by side;
then every query of the batch walks over it. Eight rows lie in a register, so a word of them costs one XOR, one
count and one add, and no sum over lanes is ever taken. One or two queries do not repay the transposition: they
read the rows as they lie, and the lanes of a row are added pairwise.

Per query a histogram of the distances kept so far gives the k-th best at any moment. Whatever is as far or
farther is dropped with one comparison a register; rows come in ascending order, so of equals the first stay.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils as typed_cgutils

# Beyond what types can say: an intrinsic is declared with the compiler's context and called without.
_intrinsic: Any = extending.intrinsic
cgutils: Any = typed_cgutils

Codes = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LANES = 8  # 64-bit words of a 512-bit register; narrower machines split it
GROUP = 32  # rows whose distances are compared with the threshold at once
# Codes that are transposed at once: half of a first-level data cache of 32 KiB.
_BLOCK_BYTES = 16_384
# Widths whose rows fill registers without a rest: only these are read as they lie.
_ROW_WORDS = (1, 2, 4, 8, 16)
_FEW_QUERIES = 2

_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, LANES)


def _splat(builder: Any, value: Any) -> Any:
    """A vector with the value in every lane."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, one, one, [0] * LANES)


def _shuffle(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def _load(builder: Any, address: Any, offset_bytes: int) -> Any:
    """Eight words at an address that need not be aligned."""
    place = builder.add(address, ir.Constant(_I64, offset_bytes))
    return builder.load(builder.inttoptr(place, _VECTOR.as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any, offset_bytes: int) -> None:
    place = builder.add(address, ir.Constant(_I64, offset_bytes))
    builder.store(value, builder.inttoptr(place, _VECTOR.as_pointer()), align=1)


def _count(builder: Any, value: Any) -> Any:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.ctpop.v{LANES}i64"
    )
    return builder.call(function, [value])


def _halves(builder: Any, vectors: list[Any]) -> tuple[list[Any], list[Any]]:
    """The even and the odd elements of a sequence of vectors, each in their order."""
    even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    return [_shuffle(builder, a, b, even) for a, b in pairs], [_shuffle(builder, a, b, odd) for a, b in pairs]


def _nearer(builder: Any, distances: list[Any], limit: Any, out: Any) -> Any:
    """A bit for each of `GROUP` rows that is nearer than the limit; distances go to `out` when there is one."""
    threshold = _splat(builder, limit)
    bits = ir.Constant(_I64, 0)
    for number, vector in enumerate(distances):
        lanes = builder.bitcast(builder.icmp_unsigned("<", vector, threshold), ir.IntType(LANES))
        bits = builder.or_(bits, builder.shl(builder.zext(lanes, _I64), ir.Constant(_I64, number * LANES)))
    with builder.if_then(builder.icmp_unsigned("!=", bits, ir.Constant(_I64, 0)), likely=False):
        for number, vector in enumerate(distances):
            _store(builder, vector, out, number * LANES * 8)
    return bits


def _nearer_of_columns_code(typing: Any, words: Any, columns: Any, query: Any, limit: Any, out: Any) -> Any:
    """Which of `GROUP` transposed rows are nearer to a query than a limit, as bits; addresses are integers.

    columns: uint64[words, GROUP]; query: uint64[words]; out: uint64[GROUP] gets the distances if any is nearer.
    """
    signature = types.uint64(types.intp, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, columns, query, limit, out = arguments
        zero = ir.Constant(_VECTOR, [0] * LANES)
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(GROUP // LANES)]
        for place in sums:
            builder.store(zero, place)
        with cgutils.for_range(builder, words) as loop:
            here = builder.add(query, builder.mul(loop.index, ir.Constant(_I64, 8)))
            word = _splat(builder, builder.load(builder.inttoptr(here, _I64.as_pointer())))
            row = builder.add(columns, builder.mul(loop.index, ir.Constant(_I64, GROUP * 8)))
            for number, place in enumerate(sums):
                different = builder.xor(_load(builder, row, number * LANES * 8), word)
                builder.store(builder.add(builder.load(place), _count(builder, different)), place)
        return _nearer(builder, [builder.load(place) for place in sums], limit, out)

    return signature, codegen


nearer_of_columns: Any = _intrinsic(_nearer_of_columns_code)


def _nearer_of_rows_code(typing: Any, words: Any, rows: Any, query: Any, limit: Any, out: Any) -> Any:
    """As `nearer_of_columns` for `GROUP` rows as they lie; `words` is a literal of `_ROW_WORDS`.

    rows: uint64[GROUP, words]; query: uint64[max(words, LANES)], a code shorter than that repeated.
    """
    if not isinstance(words, types.IntegerLiteral):
        return None
    width = words.literal_value
    signature = types.uint64(words, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, query, limit, out = arguments
        pieces = max(width // LANES, 1)
        code = [_load(builder, query, number * LANES * 8) for number in range(pieces)]
        distances = []
        for first in range(0, GROUP * width // LANES, min(width, LANES) * pieces):
            counts = []
            for number in range(first, first + min(width, LANES) * pieces, pieces):
                words = [
                    _count(
                        builder, builder.xor(_load(builder, rows, (number + piece) * LANES * 8), code[piece])
                    )
                    for piece in range(pieces)
                ]
                counts.append(words[0] if pieces == 1 else builder.add(words[0], words[1]))
            while len(counts) > 1:
                counts = [builder.add(a, b) for a, b in zip(*_halves(builder, counts), strict=True)]
            distances += counts
        return _nearer(builder, distances, limit, out)

    return signature, codegen


nearer_of_rows: Any = _intrinsic(_nearer_of_rows_code)


def _transpose_rows_code(typing: Any, words: Any, rows: Any, columns: Any) -> Any:
    """Turn `GROUP` rows into columns within registers; `words` is a literal of `_ROW_WORDS`.

    rows: uint64[GROUP, words] at any address; columns: uint64[words, GROUP].
    """
    if not isinstance(words, types.IntegerLiteral):
        return None
    width = words.literal_value

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, columns = arguments
        for first in range(0, GROUP // LANES):
            vectors = [_load(builder, rows, (first * width + number) * LANES * 8) for number in range(width)]
            for word, vector in enumerate(_sorted_by_word(builder, vectors)):
                _store(builder, vector, columns, (word * GROUP + first * LANES) * 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.intp), codegen


transpose_rows: Any = _intrinsic(_transpose_rows_code)


def _sorted_by_word(builder: Any, vectors: list[Any]) -> list[Any]:
    """Eight rows of as many words as there are vectors, one after the other, to a vector for each word."""
    if len(vectors) == 1:
        return vectors
    even, odd = (_sorted_by_word(builder, half) for half in _halves(builder, vectors))
    return [vector for pair in zip(even, odd, strict=True) for vector in pair]


def _load_word_code(typing: Any, address: Any) -> Any:
    """The 64-bit word at an address that need not be aligned."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _I64.as_pointer()), align=1)

    return types.uint64(types.intp), codegen


load_word: Any = _intrinsic(_load_word_code)


def _load_byte_code(typing: Any, address: Any) -> Any:
    """The byte at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.intp), codegen


load_byte: Any = _intrinsic(_load_byte_code)


@numba.njit(cache=True, nogil=True)
def _transpose(address: int, width: int, rows: int, columns: npt.NDArray[np.uint64]) -> None:
    """Turn up to `GROUP` rows of `width` bytes into columns uint64[words, GROUP], zeros where none are."""
    words = columns.shape[0]
    if rows == GROUP and width == 8 * words and words in _ROW_WORDS:
        _transpose_fast(words, address, columns.ctypes.data)
        return
    columns[:] = 0
    for row in range(rows):
        start = address + row * width
        for word in range(width // 8):
            columns[word, row] = load_word(start + 8 * word)
        for byte in range(width // 8 * 8, width):
            columns[words - 1, row] |= np.uint64(load_byte(start + byte)) << np.uint64(8 * (byte % 8))


@numba.njit(cache=True, nogil=True)
def _transpose_fast(words: int, address: int, out: int) -> None:
    if words == 1:
        transpose_rows(1, address, out)
    elif words == 2:
        transpose_rows(2, address, out)
    elif words == 4:
        transpose_rows(4, address, out)
    elif words == 8:
        transpose_rows(8, address, out)
    else:
        transpose_rows(16, address, out)


@numba.njit(cache=True, nogil=True)
def _nearer_of_rows(words: int, rows: int, query: int, limit: int, out: int) -> Any:
    if words == 1:
        return nearer_of_rows(1, rows, query, limit, out)
    if words == 2:
        return nearer_of_rows(2, rows, query, limit, out)
    if words == 4:
        return nearer_of_rows(4, rows, query, limit, out)
    if words == 8:
        return nearer_of_rows(8, rows, query, limit, out)
    return nearer_of_rows(16, rows, query, limit, out)


@numba.njit(cache=True, nogil=True)
def _compact(query: int, k: int, best: Any) -> None:
    """Keep the first k of a query's candidates by (distance, row), in the order of rows."""
    limit, within, seen, filled, distances, rows = best
    farthest = limit[query]
    ties = k - (within[query] - seen[query, farthest])
    kept = 0
    for place in range(filled[query]):
        distance = distances[query, place]
        if distance > farthest or (distance == farthest and ties <= 0):
            continue
        if distance == farthest:
            ties -= 1
        distances[query, kept] = distance
        rows[query, kept] = rows[query, place]
        kept += 1
    filled[query] = kept


@numba.njit(cache=True, nogil=True)
def _offer(query: int, k: int, found: Any, first: int, last: int, out: Any, live: Any, best: Any) -> None:
    """Take in the rows of a group whose bit is set in `found`, unless they are not live or there are k nearer."""
    limit, within, seen, filled, distances, rows = best
    row = first
    while found:
        if found & np.uint64(1) and row < last and (len(live) == 0 or live[row]):
            distance = np.int64(out[row - first])
            if distance < limit[query]:
                if filled[query] == distances.shape[1]:
                    _compact(query, k, best)
                distances[query, filled[query]] = distance
                rows[query, filled[query]] = row
                filled[query] += 1
                seen[query, distance] += 1
                within[query] += 1
                # The limit is the smallest distance that k candidates do not exceed.
                while within[query] - seen[query, limit[query]] >= k:
                    within[query] -= seen[query, limit[query]]
                    limit[query] -= 1
        found >>= np.uint64(1)
        row += 1


@numba.njit(cache=True, nogil=True)
def _scan_columns(codes: Any, start: int, queries: Any, k: int, live: Any, best: Any) -> None:
    """Offer all rows from `start` on to all queries, a transposed block at a time."""
    count, width = codes.shape
    words = queries.shape[1]
    groups = max(1, _BLOCK_BYTES // (GROUP * words * 8))
    block = np.empty((groups, words, GROUP), np.uint64)
    out = np.empty(GROUP, np.uint64)
    for first in range(start, count, groups * GROUP):
        filled = min(groups, (count - first + GROUP - 1) // GROUP)
        for group in range(filled):
            row = first + group * GROUP
            _transpose(codes.ctypes.data + row * width, width, min(GROUP, count - row), block[group])
        for query in range(queries.shape[0]):
            code = queries.ctypes.data + query * words * 8
            for group in range(filled):
                columns = block.ctypes.data + group * words * GROUP * 8
                found = nearer_of_columns(words, columns, code, best[0][query], out.ctypes.data)
                if found:
                    _offer(query, k, found, first + group * GROUP, count, out, live, best)


@numba.njit(cache=True, nogil=True)
def _scan_rows(codes: Any, queries: Any, k: int, live: Any, best: Any) -> Any:
    """Offer all whole groups of rows to all queries as they lie; returns where the rest begins."""
    count, width = codes.shape
    words = width // 8
    repeated = np.empty((queries.shape[0], max(words, LANES)), np.uint64)
    for lane in range(repeated.shape[1]):
        repeated[:, lane] = queries[:, lane % words]
    out = np.empty(GROUP, np.uint64)
    for first in range(0, count - GROUP + 1, GROUP):
        for query in range(queries.shape[0]):
            code = repeated[query].ctypes.data
            found = _nearer_of_rows(
                words, codes.ctypes.data + first * width, code, best[0][query], out.ctypes.data
            )
            if found:
                _offer(query, k, found, first, count, out, live, best)
    return count // GROUP * GROUP


@numba.njit(cache=True, nogil=True)
def _in_order(k: int, bits: int, best: Any, sorted_distances: Any, sorted_rows: Any) -> None:
    """Write each query's first k candidates by (distance, row)."""
    _, _, _, filled, distances, rows = best
    for query in range(len(filled)):
        _compact(query, k, best)
        places = np.zeros(bits + 2, np.int64)
        for place in range(filled[query]):
            places[distances[query, place] + 1] += 1
        places = np.cumsum(places)
        for place in range(filled[query]):
            distance = distances[query, place]
            sorted_distances[query, places[distance]] = distance
            sorted_rows[query, places[distance]] = rows[query, place]
            places[distance] += 1


class PopcountKernel:
    """The compiled scan on the calling thread, which does not hold the interpreter's lock meanwhile."""

    name = "popcount"

    def nearest(
        self, codes: Codes, queries: Codes, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`."""
        count, width = codes.shape
        words = -(-width // 8)
        padded = np.zeros((len(queries), words * 8), np.uint8)
        padded[:, :width] = queries
        asked = padded.view(np.uint64)
        best = _nothing_yet(len(queries), width * 8, min(k + min(max(k, 64), 8192), count))
        alive = np.empty(0, np.bool_) if live is None else live
        start = 0
        if len(queries) <= _FEW_QUERIES and width == 8 * words and words in _ROW_WORDS:
            start = _scan_rows(codes, asked, k, alive, best)
        _scan_columns(codes, start, asked, k, alive, best)
        distances, rows = (np.full((len(queries), k), -1, np.int64) for _ in range(2))
        _in_order(k, width * 8, best, distances, rows)
        return distances, rows


def _nothing_yet(queries: int, bits: int, room: int) -> tuple[npt.NDArray[Any], ...]:
    """The candidates of all queries before the first row.

    limit: int64[Q], only what is nearer is taken; within: int64[Q], candidates not farther than the limit;
    seen: int32[Q, bits + 2], how many were taken at each distance; filled: int64[Q]; distances, rows: [Q, room].
    """
    return (
        np.full(queries, bits + 1, np.int64),
        np.zeros(queries, np.int64),
        np.zeros((queries, bits + 2), np.int32),
        np.zeros(queries, np.int64),
        np.empty((queries, room), np.uint16),
        np.empty((queries, room), np.uint32),
    )
