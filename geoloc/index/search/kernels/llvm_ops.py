"""Operations of the compiled scan on vector registers of 8 words of 64 bits, written as LLVM instructions.

Left to itself, LLVM vectorises these loops with half registers and sums over lanes. On a machine with narrower
registers, or without a vector population count, LLVM emits more instructions with the same result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils as typed_cgutils

# Any: an intrinsic is declared with the compiler's context and called without it, which types cannot express.
declare: Any = extending.intrinsic
cgutils: Any = typed_cgutils

LANES = 8  # 64-bit words of a 512-bit register; narrower machines split it
GROUP = 64  # rows whose distances are compared with the limit at once
# Widths whose rows fill registers without a remainder: only these are read without transposing.
ROW_WORDS = (1, 2, 4, 8, 16)
# How far ahead rows are prefetched; half and double are as good, four times is worse.
_AHEAD_BYTES = 2048

I64 = ir.IntType(64)
_VECTOR = ir.VectorType(I64, LANES)


def _splat(builder: Any, value: Any) -> Any:
    """A vector with the value in every lane."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, one, one, [0] * LANES)


def _shuffle(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def _load(builder: Any, address: Any, offset_bytes: int) -> Any:
    """Eight words at an address that need not be aligned."""
    place = builder.add(address, ir.Constant(I64, offset_bytes))
    return builder.load(builder.inttoptr(place, _VECTOR.as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any, offset_bytes: int) -> None:
    place = builder.add(address, ir.Constant(I64, offset_bytes))
    builder.store(value, builder.inttoptr(place, _VECTOR.as_pointer()), align=1)


def prefetch(builder: Any, address: Any, offset_bytes: int) -> None:
    """Prefetch a cache line: the hardware's own prefetching stops at a page boundary."""
    line = ir.IntType(8).as_pointer()
    number = ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [line, number, number, number]), "llvm.prefetch.p0"
    )
    place = builder.inttoptr(builder.add(address, ir.Constant(I64, offset_bytes)), line)
    builder.call(function, [place, number(0), number(3), number(1)])


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


def _nearer(builder: Any, distances: list[Any], limit: Any) -> Any:
    """A bit for each of `GROUP` rows that is nearer than the limit."""
    threshold = _splat(builder, limit)
    bits = ir.Constant(I64, 0)
    for number, vector in enumerate(distances):
        lanes = builder.bitcast(builder.icmp_unsigned("<", vector, threshold), ir.IntType(LANES))
        bits = builder.or_(bits, builder.shl(builder.zext(lanes, I64), ir.Constant(I64, number * LANES)))
    return bits


def _keep(builder: Any, found: Any, distances: list[Any], out: Any) -> None:
    """Write the distances of a group out if any of its rows is nearer than the limit."""
    with builder.if_then(builder.icmp_unsigned("!=", found, ir.Constant(I64, 0)), likely=False):
        for number, vector in enumerate(distances):
            _store(builder, vector, out, number * LANES * 8)


def _nearer_of_columns_code(
    typing: Any, first: Any, words: Any, columns: Any, query: Any, limit: Any, out: Any
) -> Any:
    """Which of `GROUP` transposed rows are nearer to a query than a limit, as bits; addresses are integers.

    columns: uint64[words, GROUP]; query: uint64[words]; out: uint64[GROUP] gets the distances if any is nearer.
    The function stops after `first` words if no row can be nearer any more.
    """
    signature = types.uint64(*[types.intp] * 6)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, words, columns, query, limit, out = arguments
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(GROUP // LANES)]
        found = cgutils.alloca_once(builder, I64)
        for place in sums:
            builder.store(ir.Constant(_VECTOR, [0] * LANES), place)
        zero = ir.Constant(I64, 0)
        _add_words(builder, sums, zero, first, columns, query)
        builder.store(_nearer(builder, [builder.load(place) for place in sums], limit), found)
        may_be = builder.icmp_unsigned("!=", builder.load(found), zero)
        with builder.if_then(builder.and_(may_be, builder.icmp_unsigned("<", first, words))):
            _add_words(builder, sums, first, words, columns, query)
            builder.store(_nearer(builder, [builder.load(place) for place in sums], limit), found)
        _keep(builder, builder.load(found), [builder.load(place) for place in sums], out)
        return builder.load(found)

    return signature, codegen


def _add_words(builder: Any, sums: list[Any], start: Any, stop: Any, columns: Any, query: Any) -> None:
    """Add up the differing bits of words start to stop of `GROUP` rows."""
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(I64, 1), inc=True) as (index, _):
        here = builder.add(query, builder.mul(index, ir.Constant(I64, 8)))
        word = _splat(builder, builder.load(builder.inttoptr(here, I64.as_pointer())))
        row = builder.add(columns, builder.mul(index, ir.Constant(I64, GROUP * 8)))
        for number, place in enumerate(sums):
            different = builder.xor(_load(builder, row, number * LANES * 8), word)
            builder.store(builder.add(builder.load(place), _count(builder, different)), place)


nearer_of_columns: Any = declare(_nearer_of_columns_code)


def _nearer_of_rows_code(typing: Any, words: Any, rows: Any, query: Any, limit: Any, out: Any) -> Any:
    """As `nearer_of_columns` for `GROUP` rows that are not transposed; `words` is a literal of `ROW_WORDS`.

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
            for number in range(first, first + min(width, LANES) * pieces):
                prefetch(builder, rows, number * LANES * 8 + _AHEAD_BYTES)
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
        found = _nearer(builder, distances, limit)
        _keep(builder, found, distances, out)
        return found

    return signature, codegen


nearer_of_rows: Any = declare(_nearer_of_rows_code)


def _transpose_rows_code(typing: Any, words: Any, rows: Any, columns: Any) -> Any:
    """Turn `GROUP` rows into columns within registers; `words` is a literal of `ROW_WORDS`.

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


transpose_rows: Any = declare(_transpose_rows_code)


def _sorted_by_word(builder: Any, vectors: list[Any]) -> list[Any]:
    """Eight rows of as many words as there are vectors, one after the other, to a vector for each word."""
    if len(vectors) == 1:
        return vectors
    even, odd = (_sorted_by_word(builder, half) for half in _halves(builder, vectors))
    return [vector for pair in zip(even, odd, strict=True) for vector in pair]


def _load_word_code(typing: Any, address: Any) -> Any:
    """The 64-bit word at an address that need not be aligned."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], I64.as_pointer()), align=1)

    return types.uint64(types.intp), codegen


load_word: Any = declare(_load_word_code)


def _load_byte_code(typing: Any, address: Any) -> Any:
    """The byte at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.intp), codegen


load_byte: Any = declare(_load_byte_code)


def _count_ones_code(typing: Any, word: Any) -> Any:
    """How many bits of a 64-bit word are set, in one instruction."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


count_ones: Any = declare(_count_ones_code)
