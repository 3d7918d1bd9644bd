"""Weighted mean, scatter and largest value of each column of a group, one pass over the rows.

Each partition measures its columns from a row of its own, so that large means cost no digits, and once more from their means where that
row was far from them; partitions are combined along the fixed tree by T. Chan, G. Golub and R. LeVeque, Updating formulae and a pairwise
algorithm for computing sample variances (1979).
A node of the tree is one flat vector [weight (1), mean (p), scatter (p), largest (p)], scatter being Σ w (x - mean)².
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import overload

from tasks.kernels.compiling import PART, compiled_apart, compiled_leaf, compiled_pass
from tasks.kernels.csr import Csr, first_of
from tasks.kernels.dense import sum_of
from tasks.kernels.edges import load_some, store_some
from tasks.kernels.lanes import LANES, fma, larger, prefetch, splat
from tasks.typing import Array, Float64, Int64

ROWS: Final = 8
"""Rows that are gone through together, at least: more of narrow ones, up to BLOCK numbers."""
BLOCK: Final = 512
STORED, ORIGIN, SUM, SQUARE, LARGEST = range(5)
FIELDS: Final = 5
"""Numbers of a column of CSR rows, side by side: weight of the stored values, the origin that they are measured from, and their sums."""
AHEAD: Final = 64
"""Stored values whose columns memory is asked for ahead."""
CANCELLED: Final = 1e-3
"""The share of a sum of squares about an origin which, when it is all that is left about the mean, has lost digits."""


@compiled_pass
def spread_pass(X: Any, p: int, weight: Float64, offsets: Int64, stack: Float64, scratch: Float64) -> None:
    """Make stack[0] the node of all partitions; weight is empty for ones. Columns with a value that is not finite, or whose squares
    overflow, have NaN as their largest. stack: room for as many subtrees as are open at once; scratch (FIELDS p,)."""
    top = 0
    for j in range(len(offsets) - 1):
        stack[top] = 0.0
        if offsets[j + 1] > offsets[j]:
            add_partition(X, offsets[j], offsets[j + 1], p, weight, stack[top], scratch)
        rest = j + 1
        while rest & 1 == 0:
            merge_spreads(stack[top - 1], stack[top])
            top -= 1
            rest >>= 1
        top += 1
    for level in range(top - 1, 0, -1):
        merge_spreads(stack[level - 1], stack[level])


@compiled_leaf
def merge_spreads(left: Float64, right: Float64) -> None:
    """Make left the node of both; the two are neighbours, in order."""
    p = len(left) // 3
    total = left[0] + right[0]
    share = right[0] / total if total > 0.0 else 0.0
    both = left[0] * share
    for j in range(1, 1 + p):
        shift = right[j] - left[j]
        if left[0] == 0.0:  # exactly the other's, where one side has no weight
            left[j] = right[j]
        elif right[0] > 0.0:
            left[j] += shift * share
        left[p + j] = left[p + j] + right[p + j] + shift * shift * both
        here, there = left[2 * p + j], right[2 * p + j]
        left[2 * p + j] = here if here >= there or here != here else there
    left[0] = total


def add_partition(X: Any, start: int, stop: int, p: int, weight: Float64, node: Float64, scratch: Float64) -> Any:
    """Make node, which is zero, that of the rows start .. stop - 1."""


@overload(add_partition, jit_options=PART, strict=False)
def _add_partition(X: Any, start: Any, stop: Any, p: Any, weight: Any, node: Any, scratch: Any) -> Any:
    add = _dense_partition if isinstance(X, types.Array) else _csr_partition
    return lambda X, start, stop, p, weight, node, scratch: add(X, start, stop, p, weight, node, scratch)


@compiled_apart
def _dense_partition(X: Array, start: int, stop: int, p: int, weight: Float64, node: Float64, scratch: Float64) -> None:
    first = start
    while len(weight) and weight[first] == 0.0 and first < stop - 1:
        first += 1
    origin = scratch[:p]
    for j in range(p):
        origin[j] = X[first, j]
    node[0] = sum_of(weight[start:stop]) if len(weight) else float(stop - start)
    _measure_dense(X, start, stop, weight, origin, node)
    cancelled = False
    for j in range(p):
        cancelled |= _finish_column(node, j, p, origin[j], node[0])
    if cancelled:
        for j in range(p):
            origin[j] = node[1 + j]
        _measure_dense(X, start, stop, weight, origin, node)
        for j in range(p):
            _finish_column(node, j, p, origin[j], node[0])


@compiled_leaf
def _measure_dense(X: Array, start: int, stop: int, weight: Float64, origin: Float64, node: Float64) -> None:
    """Put sums of w (x - origin) in the place of the means, of its squares in that of the scatters, and the largest |x|."""
    p = X.shape[1]
    n_rows = max(ROWS, BLOCK // p)
    node[1:] = 0.0
    for at in range(start, stop, n_rows):
        _add_rows(X, at, min(n_rows, stop - at), weight, origin, node[1 : 1 + p], node[1 + p : 1 + 2 * p], node[1 + 2 * p :])


@compiled_leaf
def _add_rows(
    X: Array, start: int, count: int, weight: Float64, origin: Float64, sums: Float64, squares: Float64, largest: Float64
) -> None:
    """Add `count` rows from `start` on to the sums: as memory lies, with the sums in registers from row to row."""
    p = X.shape[1]
    for low in range(0, p, LANES):
        n = p - low
        o, s, q, most = load_some(origin, low, n), load_some(sums, low, n), load_some(squares, low, n), load_some(largest, low, n)
        for i in range(start, start + count):
            prefetch(X, (i + count) * p + low)
            x = load_some(X, i * p + low, n) if p > 1 else splat(np.float64(X[i, 0]))  # a single one goes faster without a mask
            d = x - o
            wd = splat(weight[i]) * d if len(weight) else d
            s = s + wd
            q = fma(wd, d, q)
            most = larger(x, most)
        store_some(sums, low, s, n)
        store_some(squares, low, q, n)
        store_some(largest, low, most, n)


@compiled_leaf
def _finish_column(node: Float64, j: int, p: int, origin: float, weight: float) -> bool:
    """Turn the sums about `origin`, over rows of that weight together, into mean and scatter; say whether that cost digits, because the
    origin was far away, as one row may be, above all if it weighs little."""
    s, q = node[1 + j], node[1 + p + j]
    if not abs(q) < np.inf:
        node[1 + 2 * p + j] = np.nan
    offset = s / weight if weight > 0.0 else 0.0
    node[1 + j] = origin + offset if weight > 0.0 else 0.0
    left: float = q - s * offset
    node[1 + p + j] = max(0.0, left)
    return left < CANCELLED * q


@compiled_apart
def _csr_partition(X: Csr, start: int, stop: int, p: int, weight: Float64, node: Float64, scratch: Float64) -> None:
    """The spread of a partition in CSR: stored values are measured from the first of their column that counts, then combined with the
    zeros."""
    data, indices, indptr = X
    columns = scratch[: FIELDS * p]
    for i in range(len(columns)):
        columns[i] = 0.0
    _measure_csr(data, indices, indptr, start, stop, weight, columns, True)
    for i in range(start, stop):  # in the order of what is stored: without zeros the two are equal
        node[0] += weight[i] if len(weight) else 1.0
    if _finish_csr(columns, p, node):
        for j in range(p):
            columns[FIELDS * j + ORIGIN] = node[1 + j]
            columns[FIELDS * j + SUM] = columns[FIELDS * j + SQUARE] = 0.0
        _measure_csr(data, indices, indptr, start, stop, weight, columns, False)
        _finish_csr(columns, p, node)
    for j in range(p):
        stored = columns[FIELDS * j + STORED]
        zeros, mean = node[0] - stored, node[1 + j]
        if zeros > 0.0 and stored != 0.0:
            node[1 + j] = mean * (stored / node[0])
            node[1 + p + j] += mean * mean * (stored * (zeros / node[0]))


@compiled_leaf
def _finish_csr(columns: Float64, p: int, node: Float64) -> bool:
    """Make node that of the stored values; say whether any column has lost digits."""
    cancelled = False
    for j in range(p):
        stored, origin = columns[FIELDS * j + STORED], columns[FIELDS * j + ORIGIN]
        node[1 + j] = columns[FIELDS * j + SUM]
        node[1 + p + j] = columns[FIELDS * j + SQUARE]
        node[1 + 2 * p + j] = columns[FIELDS * j + LARGEST]
        if stored != 0.0 or node[1 + p + j] != 0.0:  # few of many columns have values here
            cancelled |= _finish_column(node, j, p, origin, stored)
    return cancelled


@compiled_leaf
def _measure_csr(data: Array, indices: Array, indptr: Array, start: int, stop: int, weight: Float64, columns: Float64, first: bool) -> None:
    """Add the stored values to their columns as `_measure_dense` does. first: and their weights, to STORED; a column without weight so far
    has its origin in the value that comes next."""
    last = first_of(indptr, stop)
    for i in range(start, stop):
        w = weight[i] if len(weight) else 1.0
        for at in range(first_of(indptr, i), first_of(indptr, i + 1)):
            if at + AHEAD < last:
                prefetch(columns, FIELDS * np.int64(indices[np.uint64(at + AHEAD)]))
            j, x = np.uint64(FIELDS) * np.uint64(indices[np.uint64(at)]), np.float64(data[np.uint64(at)])
            own = columns[j : j + np.uint64(FIELDS)]
            if first:
                if own[STORED] == 0.0:
                    own[ORIGIN] = x
                own[STORED] += w
            d = x - own[ORIGIN]
            own[SUM] += w * d
            own[SQUARE] += w * d * d
            own[LARGEST] = max(own[LARGEST], abs(x))
