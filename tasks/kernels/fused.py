"""Dense rows and one output: one block is added up from the nearest caches while the next one is read from memory.

One after the other, memory would rest while a block is added up. The hardware foresees rows that are read straight on, but not beside
others: so each step asks for what lies AHEAD. The order of all sums is that of `dot_rows` and `add_rows`.
"""

from __future__ import annotations

from typing import Final

from tasks.kernels.compiling import compiled_apart, compiled_leaf
from tasks.kernels.dense import WIDTH, add_rows, dot_rows
from tasks.kernels.edges import load_some
from tasks.kernels.lanes import LANES, fma, load, load_part, prefetch_near, splat, store_part, total
from tasks.typing import Array, Float64

BLOCK: Final = 1600
"""Numbers of a block, but 8 rows at least: it stays in the nearest cache, of about 48 KB, beside the next one and what is brought ahead;
of more than 200 columns, in the second."""
NARROWEST: Final = 17
"""Columns at least: with fewer the arithmetic takes longer than the reading, and blocks are better larger."""
WIDEST: Final = 1024
"""Columns at most: of wider rows too few fit. Not bytes: what is summed together is the same for float32 and float64."""
AHEAD: Final = 12288
"""Bytes from what is read to what is asked for."""


@compiled_leaf
def worth_fusing(X: Array, m: int) -> bool:
    """Whether a block is added up while the next one is read."""
    return m == 1 and NARROWEST <= X.shape[1] <= WIDEST


@compiled_leaf
def fused_block_rows(X: Array) -> int:
    """Rows of a block."""
    rows: int = max(LANES, BLOCK // X.shape[1] // LANES * LANES)
    return rows


@compiled_leaf
def add_and_dot(
    X: Array,
    start: int,
    n_added: int,
    factor: Float64,
    sums: Float64,
    following: int,
    n_read: int,
    coef: Float64,
    intercept: float,
    raw: Float64,
) -> None:
    """Do `add_rows(X, start, n_added, factor, sums)` and `dot_rows(X, following, n_read, coef, intercept, raw)` side by side."""
    count = min(n_added, n_read)
    add_while_read(X, start, count, factor, sums, following, coef, intercept, raw)
    add_rows(X, start + count, n_added - count, factor[count:], sums)
    dot_rows(X, following + count, n_read - count, coef, intercept, raw[count:])


@compiled_apart
def add_while_read(
    X: Array, start: int, count: int, factor: Float64, sums: Float64, following: int, coef: Float64, intercept: float, raw: Float64
) -> None:
    """What `add_and_dot` does with as many rows of both: each step takes four vectors of a row of either."""
    p = X.shape[1]
    wide, whole = p - p % WIDTH, p - p % LANES
    at, j, row, ahead, line = following * p, 0, 0, AHEAD // X.itemsize, 64 // X.itemsize
    d0, d1, d2, d3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for low in range(0, p, WIDTH):
        n = p - low
        s0, s1 = load_part(sums, low, n), load_part(sums, low + 8, n - 8)
        s2, s3 = load_part(sums, low + 16, n - 16), load_part(sums, low + 24, n - 24)
        for i in range(count):
            own = (start + i) * p + low
            f = splat(factor[i])
            if n >= WIDTH:
                s0 = fma(f, load(X, own), s0)
                s1 = fma(f, load(X, own + 8), s1)
                s2 = fma(f, load(X, own + 16), s2)
                s3 = fma(f, load(X, own + 24), s3)
            else:
                s0 = fma(f, load_some(X, own, n), s0)
                s1 = fma(f, load_some(X, own + 8, n - 8), s1)
                s2 = fma(f, load_some(X, own + 16, n - 16), s2)
                s3 = fma(f, load_some(X, own + 24, n - 24), s3)
            for part in range(0, WIDTH, line):
                prefetch_near(X, at + j + ahead + part)
            if j < wide:
                d0 = fma(load(X, at + j), load(coef, j), d0)
                d1 = fma(load(X, at + j + 8), load(coef, j + 8), d1)
                d2 = fma(load(X, at + j + 16), load(coef, j + 16), d2)
                d3 = fma(load(X, at + j + 24), load(coef, j + 24), d3)
            else:
                for c in range(wide, whole, LANES):
                    d0 = fma(load(X, at + c), load(coef, c), d0)
                if whole < p:
                    d1 = fma(load_part(X, at + whole, p - whole), load_part(coef, whole, p - whole), d1)
            j += WIDTH
            if j >= p:
                raw[row] = total((d0 + d1) + (d2 + d3)) + intercept
                d0, d1, d2, d3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
                at, j, row = at + p, 0, row + 1
        store_part(sums, low, s0, n)
        store_part(sums, low + 8, s1, n - 8)
        store_part(sums, low + 16, s2, n - 16)
        store_part(sums, low + 24, s3, n - 24)
