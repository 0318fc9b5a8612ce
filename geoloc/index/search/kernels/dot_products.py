"""Dot products of queries with chosen rows of stored embeddings, without copying the rows.

Re-ranking reads some hundred rows per query, scattered over a mapped file, so memory latency sets the time. The
compiled loop prefetches the rows of the next candidates. Every product is exact in float64 and the sum goes over the
dimensions in a fixed order. A row's value depends on neither its shard, its neighbours nor the machine; it is rounded
to float32 once.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from geoloc.core.arrays import Embeddings, HalfArray, IntArray
from geoloc.index.search.kernels.llvm_ops import I64, LANES, cgutils, declare, prefetch

_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_NO_SCALES = np.empty(0, np.float32)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_LINE_BYTES = 64
_ROWS_AHEAD = 2
_STEPS = 4  # vectors that are summed side by side


def _vector(builder: Any, base: Any, index: Any, kind: Any, bytes_each: int) -> Any:
    """The elements from `index` on, as many as `kind` has, at an address that need not be aligned."""
    place = builder.add(base, builder.mul(index, ir.Constant(I64, bytes_each)))
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=1)


def _dot_code(typing: Any, stored_bytes: Any, query: Any, row: Any, dim: Any) -> Any:
    """The dot product of float64[dim] and a row of float16 or int8, as literal bytes of an element (2 or 1)."""
    if not isinstance(stored_bytes, types.IntegerLiteral):
        return None
    each = stored_bytes.literal_value
    signature = types.float64(stored_bytes, types.intp, types.intp, types.intp)
    scalar = ir.HalfType() if each == 2 else ir.IntType(8)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, query, row, dim = arguments

        def product(index: Any, lanes: int) -> Any:
            several = lanes > 1
            wide = ir.VectorType(ir.DoubleType(), lanes) if several else ir.DoubleType()
            stored = _vector(builder, row, index, ir.VectorType(scalar, lanes) if several else scalar, each)
            value = builder.fpext(stored, wide) if each == 2 else builder.sitofp(stored, wide)
            return builder.fmul(value, _vector(builder, query, index, wide, 8))

        sums = [cgutils.alloca_once(builder, _DOUBLES) for _ in range(_STEPS)]
        for place in sums:
            builder.store(ir.Constant(_DOUBLES, [0.0] * LANES), place)
        zero, step = ir.Constant(I64, 0), ir.Constant(I64, LANES * _STEPS)
        whole = builder.sub(dim, builder.urem(dim, step))
        with cgutils.for_range_slice(builder, zero, whole, step, inc=True) as (index, _):
            for number, place in enumerate(sums):
                here = builder.add(index, ir.Constant(I64, number * LANES))
                builder.store(builder.fadd(builder.load(place), product(here, LANES)), place)
        total = cgutils.alloca_once(builder, ir.DoubleType())
        builder.store(_sum_of_lanes(builder, [builder.load(place) for place in sums]), total)
        with cgutils.for_range_slice(builder, whole, dim, ir.Constant(I64, 1), inc=True) as (index, _):
            builder.store(builder.fadd(builder.load(total), product(index, 1)), total)
        return builder.load(total)

    return signature, codegen


def _sum_of_lanes(builder: Any, vectors: list[Any]) -> Any:
    """The sum over all lanes, in an order that is always the same."""
    while len(vectors) > 1:
        vectors = [builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    lanes = [builder.extract_element(vectors[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
    while len(lanes) > 1:
        lanes = [builder.fadd(a, b) for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


dot_with: Any = declare(_dot_code)


def _prefetch_line_code(typing: Any, address: Any) -> Any:
    """Prefetch the cache line at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        prefetch(builder, arguments[0], 0)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


prefetch_line: Any = declare(_prefetch_line_code)


def _load_scale_code(typing: Any, address: Any) -> Any:
    """The float32 at an address, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(builder.inttoptr(arguments[0], ir.FloatType().as_pointer()), align=1)
        return builder.fpext(value, ir.DoubleType())

    return types.float64(types.intp), codegen


load_scale: Any = declare(_load_scale_code)


@numba.njit(cache=True, nogil=True)
def _fill(
    queries: Any, stored: int, each: int, scales: int, rows: Any, first: int, count: int, out: Any
) -> None:
    """Set out[q, j] for the rows that are stored here, which begin at row `first`; prefetches the next rows."""
    width, total = queries.shape[1], rows.size
    size = queries.shape[1] * each
    flat, products = rows.ravel(), out.ravel()
    for place in range(total):
        ahead = place + _ROWS_AHEAD
        if ahead < total and first <= flat[ahead] < first + count:
            start = stored + (flat[ahead] - first) * size
            for line in range(start, start + size, _LINE_BYTES):
                prefetch_line(line)
        row = flat[place] - first
        if 0 <= row < count and flat[place] >= 0:
            query = queries.ctypes.data + place // rows.shape[1] * width * 8
            if each == 2:
                products[place] = np.float32(dot_with(2, query, stored + row * size, width))
            else:
                products[place] = np.float32(
                    load_scale(scales + 4 * row) * dot_with(1, query, stored + row * size, width)
                )


@dataclass(frozen=True)
class Int8Rows:
    """Embeddings as int8 with a scale per row: values int8[N, D], scales float32[N]; half the bytes of float16."""

    values: npt.NDArray[np.int8]
    scales: Embeddings

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return self.values.shape[0], self.values.shape[1]

    def __getitem__(self, rows: IntArray) -> Embeddings:
        """The embeddings of rows int64[M] as float32[M, D]."""
        return np.asarray(self.values[rows] * self.scales[rows, None], dtype=np.float32)


Stored = HalfArray | Int8Rows


def quantize(embeddings: npt.NDArray[np.floating]) -> Int8Rows:
    """Embeddings float[N, D] rounded to 255 levels; the outermost level is a row's greatest absolute coordinate."""
    wide = np.asarray(embeddings, dtype=np.float32)
    scales = np.abs(wide).max(axis=1, initial=0.0) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    return Int8Rows(np.rint(wide / safe[:, None]).astype(np.int8), safe.astype(np.float32))


class Products(Protocol):
    """Dot products with stored rows."""

    name: str

    def fill(self, queries: Embeddings, stored: Stored, rows: IntArray, first: int, out: Embeddings) -> None:
        """Set out[q, j] to the product of query q with the row rows[q, j] - first, where that is stored.

        queries: float32[Q, D]; stored: N rows of D; rows: int64[Q, R]; out: float32[Q, R], C-contiguous.
        """
        ...


class CompiledProducts:
    """The compiled loop on the calling thread; it releases the interpreter lock."""

    name = "compiled"

    def fill(self, queries: Embeddings, stored: Stored, rows: IntArray, first: int, out: Embeddings) -> None:
        """See `Products.fill`: queries float32[Q, D], rows int64[Q, R], out float32[Q, R]."""
        scales = np.ascontiguousarray(stored.scales if isinstance(stored, Int8Rows) else _NO_SCALES)
        rows_of = stored.values if isinstance(stored, Int8Rows) else stored
        values: npt.NDArray[Any] = np.ascontiguousarray(rows_of)
        wide, wanted = np.ascontiguousarray(queries, np.float64), np.ascontiguousarray(rows, np.int64)
        # Addresses: mapped arrays are another type to the compiler than arrays in memory.
        where = (values.ctypes.data, values.itemsize, scales.ctypes.data)
        _fill(wide, *where, wanted, first, len(values), out)


class NumpyProducts:
    """NumPy's arithmetic on gathered rows."""

    name = "numpy"

    def fill(self, queries: Embeddings, stored: Stored, rows: IntArray, first: int, out: Embeddings) -> None:
        """See `Products.fill`: queries float32[Q, D], rows int64[Q, R], out float32[Q, R]."""
        for query in range(len(rows)):
            mine = np.flatnonzero((rows[query] >= first) & (rows[query] < first + stored.shape[0]))
            picked = stored[rows[query, mine] - first].astype(np.float64)
            out[query, mine] = picked @ queries[query].astype(np.float64)


@lru_cache(maxsize=1)
def default_products() -> Products:
    """The fastest implementation whose results are right on this machine, compiled before its first request."""
    return CompiledProducts() if _converts_halves() and _agrees(CompiledProducts()) else NumpyProducts()


def _converts_halves() -> bool:
    """Whether the processor converts float16 to float32; without it, LLVM calls a function that does not exist."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))


def _agrees(products: Products) -> bool:
    """Whether an implementation gives what NumPy gives, for all widths and for rows that other shards hold."""
    rng = np.random.default_rng(11)
    for dim in (3, 37, 512):
        stored = rng.normal(size=(40, dim)).astype(np.float16)
        queries, rows = rng.normal(size=(3, dim)).astype(np.float32), rng.integers(-1, 70, (3, 50))
        for rows_of in (stored, quantize(stored)):
            got, wanted = (np.full(rows.shape, np.nan, np.float32) for _ in range(2))
            products.fill(queries, rows_of, rows, 10, got)
            NumpyProducts().fill(queries, rows_of, rows, 10, wanted)
            if not np.allclose(got, wanted, rtol=1e-5, atol=1e-4, equal_nan=True):
                return False
    return True
