"""Dense blocks of rows: predictions from them and weighted sums of them, while the block is in cache.

float32 is converted in registers. The order of all sums depends on shapes alone, never on an address.
"""

from __future__ import annotations

from typing import Final

from tasks.kernels.compiling import compiled_leaf
from tasks.kernels.edges import load_some
from tasks.kernels.lanes import LANES, fma, load, load_part, splat, store_part, total
from tasks.kernels.several import add_outputs_of_rows, dot_outputs
from tasks.typing import Array, Float64

WIDTH: Final = 4 * LANES  # four vectors at a time hide the latency of fma


@compiled_leaf
def dot_rows(X: Array, start: int, count: int, coef: Float64, intercept: float, raw: Float64) -> None:
    """Compute raw[i] = X[start + i] @ coef[0] + intercept, by the columns that coef has; reads straight on, as memory likes it."""
    p = coef.shape[1]
    wide, whole = p - p % WIDTH, p - p % LANES
    for i in range(count):
        at = (start + i) * X.shape[1]
        s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for j in range(0, wide, WIDTH):
            s0 = fma(load(X, at + j), load(coef, j), s0)
            s1 = fma(load(X, at + j + 8), load(coef, j + 8), s1)
            s2 = fma(load(X, at + j + 16), load(coef, j + 16), s2)
            s3 = fma(load(X, at + j + 24), load(coef, j + 24), s3)
        for j in range(wide, whole, LANES):
            s0 = fma(load(X, at + j), load(coef, j), s0)
        if whole < p:
            s1 = fma(load_part(X, at + whole, p - whole), load_part(coef, whole, p - whole), s1)
        raw[i] = total((s0 + s1) + (s2 + s3)) + intercept


@compiled_leaf
def add_rows(X: Array, start: int, count: int, factor: Float64, sums: Float64) -> None:
    """Add up sums += Σ_i factor[i] X[start + i], row after row, by the columns that sums has."""
    p = X.shape[1]
    for low in range(0, len(sums), WIDTH):  # four vectors of sums stay in registers while we go down the rows
        n = len(sums) - low
        s0, s1 = load_part(sums, low, n), load_part(sums, low + 8, n - 8)
        s2, s3 = load_part(sums, low + 16, n - 16), load_part(sums, low + 24, n - 24)
        for i in range(count):
            at = (start + i) * p + low
            f = splat(factor[i])
            if n >= WIDTH:
                s0 = fma(f, load(X, at), s0)
                s1 = fma(f, load(X, at + 8), s1)
                s2 = fma(f, load(X, at + 16), s2)
                s3 = fma(f, load(X, at + 24), s3)
            else:
                s0 = fma(f, load_some(X, at, n), s0)
                s1 = fma(f, load_some(X, at + 8, n - 8), s1)
                s2 = fma(f, load_some(X, at + 16, n - 16), s2)
                s3 = fma(f, load_some(X, at + 24, n - 24), s3)
        store_part(sums, low, s0, n)
        store_part(sums, low + 8, s1, n - 8)
        store_part(sums, low + 16, s2, n - 16)
        store_part(sums, low + 24, s3, n - 24)


@compiled_leaf
def sum_of(values: Float64) -> float:
    """The sum of values, lane by lane."""
    s = splat(0.0)
    for i in range(0, len(values), LANES):
        s = s + load_part(values, i, min(LANES, len(values) - i))
    return total(s)


@compiled_leaf
def dense_take(X: Array, start: int, count: int, block: Float64) -> None:
    """Copy block (count, p) = X[start : start + count] as float64."""
    for i in range(count):
        for j in range(X.shape[1]):
            block[i, j] = X[start + i, j]


@compiled_leaf
def dense_block_rows(X: Array) -> int:
    """Rows of a block: it stays in cache between its two uses."""
    rows: int = max(16, min(512, 32768 // max(1, X.shape[1]) // LANES * LANES))
    return rows


@compiled_leaf
def dense_scratch_size(X: Array) -> int:
    """The size of the scratch memory: none is needed."""
    return 0


@compiled_leaf
def dense_predict(X: Array, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64, scratch: Float64) -> None:
    """Compute raw (m, count) flat = coef @ X[start : start + count].T + intercept."""
    if len(coef) == 1:
        dot_rows(X, start, count, coef, intercept[0], raw)
    else:
        dot_outputs(X, start, count, coef, intercept, raw)


@compiled_leaf
def dense_add(X: Array, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64) -> None:
    """Add up sums (m p,) += factor (m, count) flat @ X[start : start + count], of at least one row."""
    m = len(factor) // count
    if m == 1:
        add_rows(X, start, count, factor, sums)
    else:
        add_outputs_of_rows(X, start, count, factor, sums, m)
