"""CSR blocks of rows: X is the triple (data, indices, indptr) of a scipy.sparse.csr_array.

What goes over the stored values does so whatever rows they are of, eight at a time, through scratch memory: a loop that ends where its row
does, each time after another number of values, is mispredicted by the CPU, which takes longer than the arithmetic of some ten values.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tasks.kernels.compiling import compiled_leaf
from tasks.kernels.lanes import LANES, add_at, fma, gather, load, load_part, prefetch, splat, store, total, totals
from tasks.kernels.tree import mark
from tasks.typing import Array, Float64, UInt64

Csr = tuple[Array, Array, Array]

PIECE: Final = 64
"""Rows that go through scratch memory together, at most."""
SCRATCH: Final = 2048
"""Their stored values, at most: they stay in the first cache. A row of more goes by itself, without scratch memory."""
SHORT: Final = 4 * LANES
"""Stored values of a row that are taken without asking how many they are."""
WIDE: Final = 1 << 15
"""What belongs to more columns lies in no near cache, and is brought before it is used."""


@compiled_leaf
def csr_block_rows(X: Csr) -> int:
    """The number of rows of a block: it stays in cache between its two uses."""
    return 256


@compiled_leaf
def csr_scratch_size(X: Csr) -> int:
    """The size of the scratch memory. What is stored for the last row may reach beyond it by SHORT."""
    return SCRATCH + SHORT


@compiled_leaf
def csr_predict(X: Csr, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64, scratch: Float64) -> None:
    """Compute raw (m, count) flat = coef @ X[start : start + count].T + intercept."""
    data, indices, indptr = X
    for a in range(len(coef)):
        predict_rows(data, indices, indptr, start, count, coef[a], intercept[a], raw[a * count : (a + 1) * count], scratch)


@compiled_leaf
def predict_rows(
    data: Array,
    indices: Array,
    indptr: Array,
    start: int,
    count: int,
    coef: Float64,
    intercept: float,
    raw: Float64,
    scratch: Float64,
) -> None:
    """Compute raw (count,) = X[start : start + count] @ coef + intercept."""
    low, end = start, start + count
    ahead = first_of(indptr, end) - first_of(indptr, start)
    while low < end:
        high = piece_end(indptr, low, end)
        first, last = first_of(indptr, low), first_of(indptr, high)
        if last - first > SCRATCH:
            raw[low - start] = dot_long(data, indices, first, last, coef) + intercept
        else:
            if len(coef) > WIDE:
                bring(indices, first, last, coef)
            multiply(data, indices, first, last, coef, scratch, ahead)
            whole = high - (high - low) % LANES
            for i in range(low, whole, LANES):
                eight = totals(
                    lanes_of_row(scratch, indptr, i, first),
                    lanes_of_row(scratch, indptr, i + 1, first),
                    lanes_of_row(scratch, indptr, i + 2, first),
                    lanes_of_row(scratch, indptr, i + 3, first),
                    lanes_of_row(scratch, indptr, i + 4, first),
                    lanes_of_row(scratch, indptr, i + 5, first),
                    lanes_of_row(scratch, indptr, i + 6, first),
                    lanes_of_row(scratch, indptr, i + 7, first),
                )
                store(raw, i - start, eight + splat(intercept))
            for i in range(whole, high):
                raw[np.uint64(i - start)] = total(lanes_of_row(scratch, indptr, i, first)) + intercept
        low = high


@compiled_leaf
def first_of(indptr: Array, row: int) -> int:
    """The position of the first stored value of a row."""
    return int(indptr[np.uint64(row)])  # unsigned, in all hot loops: numba looks at the sign of other indices


@compiled_leaf
def piece_end(indptr: Array, start: int, end: int) -> int:
    """The end of the rows from `start` on whose stored values fit into scratch memory, or of one row that does not."""
    stop = min(start + PIECE, end)
    while stop > start + 1 and first_of(indptr, stop) - first_of(indptr, start) > SCRATCH:
        stop = start + (stop - start) // 2
    return stop


@compiled_leaf
def multiply(data: Array, indices: Array, first: int, last: int, coef: Float64, products: Float64, ahead: int) -> None:
    """Compute products[j - first] = data[j] coef[indices[j]], and have memory bring what lies that far ahead."""
    whole = last - (last - first) % LANES
    for j in range(first, whole, LANES):
        prefetch(data, j + ahead)
        prefetch(indices, j + ahead)
        store(products, j - first, load(data, j) * gather(coef, indices, j))
    for j in range(whole, last):
        products[np.uint64(j - first)] = data[np.uint64(j)] * coef[np.uint64(indices[np.uint64(j)])]


@compiled_leaf
def lanes_of_row(products: Float64, indptr: Array, row: int, first: int) -> Any:
    """The sum of the products of a row, in lanes; products begin with that of stored value number `first`."""
    at = first_of(indptr, row)
    return lanes_of(products, at - first, first_of(indptr, row + 1) - at)


@compiled_leaf
def lanes_of(values: Float64, at: int, n: int) -> Any:
    """The sum of values[at : at + n], in lanes."""
    s0 = load_part(values, at, n) + load_part(values, at + 16, n - 16)
    s1 = load_part(values, at + 8, n - 8) + load_part(values, at + 24, n - 24)
    for j in range(SHORT, n, LANES):
        s0 = s0 + load_part(values, at + j, n - j)
    return s0 + s1


@compiled_leaf
def dot_long(data: Array, indices: Array, first: int, last: int, coef: Float64) -> float:
    """The sum of data[j] coef[indices[j]] over first .. last - 1."""
    s, rest = splat(0.0), 0.0
    whole = last - (last - first) % LANES
    for j in range(first, whole, LANES):
        s = fma(load(data, j), gather(coef, indices, j), s)
    for j in range(whole, last):
        rest += data[np.uint64(j)] * coef[np.uint64(indices[np.uint64(j)])]
    return total(s) + rest


@compiled_leaf
def csr_add(X: Csr, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64) -> None:
    """Add up sums (m p,) += factor (m, count) flat @ X[start : start + count], of at least one row, row after row."""
    data, indices, indptr = X
    m = len(factor) // count
    p = len(sums) // m
    for a in range(m):
        add_rows_times(data, indices, indptr, start, count, factor[a * count : (a + 1) * count], sums[a * p : (a + 1) * p], scratch)


@compiled_leaf
def add_rows_times(
    data: Array, indices: Array, indptr: Array, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64
) -> None:
    """Add up sums (p,) += factor (count,) @ X[start : start + count]."""
    low, end = start, start + count
    while low < end:
        high = piece_end(indptr, low, end)
        first, last = first_of(indptr, low), first_of(indptr, high)
        if last - first > SCRATCH:
            for j in range(first, last):
                sums[np.uint64(indices[np.uint64(j)])] += factor[low - start] * data[np.uint64(j)]
        else:
            if len(sums) > WIDE:
                bring(indices, first, last, sums)
            for i in range(low, high):
                at = first_of(indptr, i)
                scale(data, at, first_of(indptr, i + 1) - at, factor[np.uint64(i - start)], scratch, at - first)
            scatter(indices, first, last, scratch, sums)
        low = high


@compiled_leaf
def bring(indices: Array, first: int, last: int, values: Float64) -> None:
    """Have memory bring values[indices[j]] for j in first .. last - 1."""
    for j in range(first, last):
        prefetch(values, indices[np.uint64(j)])


@compiled_leaf
def scale(data: Array, at: int, n: int, factor: float, scaled: Float64, to: int) -> None:
    """Compute scaled[to : to + n] = factor data[at : at + n]; zeros follow, up to SHORT values together."""
    f = splat(factor)
    for j in range(0, SHORT, LANES):
        store(scaled, to + j, f * load_part(data, at + j, n - j))
    for j in range(SHORT, n, LANES):
        store(scaled, to + j, f * load_part(data, at + j, n - j))


@compiled_leaf
def scatter(indices: Array, first: int, last: int, values: Float64, sums: Float64) -> None:
    """Add up sums[indices[j]] += values[j - first], one after the other."""
    whole = last - (last - first) % LANES
    for j in range(first, whole, LANES):
        add_at(sums, indices, j, load(values, j - first))
    for j in range(whole, last):
        sums[np.uint64(indices[np.uint64(j)])] += values[np.uint64(j - first)]


@compiled_leaf
def csr_mark(X: Csr, start: int, stop: int, k: int, m: int, p: int, marks: UInt64) -> None:
    """Mark the pages, if there are any, of the sums [loss (k), weight (1), coef (m p), intercept (m)] of rows start .. stop - 1."""
    _, indices, indptr = X
    if len(marks):
        for number in range(k + 1):
            mark(marks, number)
        for a in range(m):
            mark(marks, k + 1 + m * p + a)
            first = k + 1 + a * p
            for at in range(first_of(indptr, start), first_of(indptr, stop)):
                mark(marks, first + np.int64(indices[np.uint64(at)]))


@compiled_leaf
def csr_take(X: Csr, start: int, count: int, block: Float64) -> None:
    """Copy block (count, p) = X[start : start + count] as dense float64."""
    data, indices, indptr = X
    block[:] = 0.0
    for i in range(count):
        for j in range(indptr[start + i], indptr[start + i + 1]):
            block[i, indices[j]] += data[j]
