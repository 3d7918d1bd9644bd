"""Dense rows and several outputs: predictions of a block, and sums of it, in tiles whose sums stay in registers.

Each number of a row that is loaded is used for several outputs, and each coefficient for several rows: BLAS does so, too, but is made for
matrices that are large in all directions, which few outputs are not. float32 is converted in registers. The order of all sums is that of
one row and one output, whatever tile it is in: lane l of a prediction takes columns l, l + 8, ..., and sums take row after row.
Tiles go over several rows at once, which no hardware foresees: while a block is computed, the next one is asked for.
"""

from __future__ import annotations

from typing import Final

from tasks.kernels.compiling import compiled_apart
from tasks.kernels.edges import load_some
from tasks.kernels.lanes import LANES, fma, load_part, prefetch, splat, store_part, totals, upper_half
from tasks.typing import Array, Float64

ROWS: Final = 4
OUTPUTS: Final = 4
LINE: Final = 64
"""Bytes that memory brings at once."""


@compiled_apart
def dot_outputs(X: Array, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64) -> None:
    """Compute raw (m, count) flat = coef (m, p) @ X[start : start + count].T + intercept, by the first p columns: four rows by two
    outputs at a time. What lies beyond the last row, or output, is that one once more. Meanwhile memory is asked for as many rows that
    follow, as far as X has them: for each line once, some with each tile."""
    m, p = coef.shape
    width, line = X.shape[1], LINE // X.itemsize
    following = (start + count) * width
    n_lines = -(-min(count, len(X) - start - count) * width // line)
    n_tiles, due = (m + 1) // 2 * ((count + ROWS - 1) // ROWS), 0
    for a in range(0, m, 2):
        b = min(a + 1, m - 1)
        for i in range(0, count, ROWS):
            x0, x1 = (start + i) * width, (start + min(i + 1, count - 1)) * width
            x2, x3 = (start + min(i + 2, count - 1)) * width, (start + min(i + 3, count - 1)) * width
            s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            t0, t1, t2, t3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            due += n_lines
            while due >= n_tiles:
                prefetch(X, following)
                following, due = following + line, due - n_tiles
            for j in range(0, p, LANES):
                n = p - j
                u, v = load_some(coef, a * p + j, n), load_some(coef, b * p + j, n)
                r0, r1, r2, r3 = load_some(X, x0 + j, n), load_some(X, x1 + j, n), load_some(X, x2 + j, n), load_some(X, x3 + j, n)
                s0, s1, s2, s3 = fma(r0, u, s0), fma(r1, u, s1), fma(r2, u, s2), fma(r3, u, s3)
                t0, t1, t2, t3 = fma(r0, v, t0), fma(r1, v, t1), fma(r2, v, t2), fma(r3, v, t3)
            found, n = totals(s0, s1, s2, s3, t0, t1, t2, t3), min(ROWS, count - i)
            store_part(raw, a * count + i, found + splat(intercept[a]), n)
            store_part(raw, b * count + i, (upper_half(found) if b > a else found) + splat(intercept[b]), n)


@compiled_apart
def add_outputs_of_rows(X: Array, start: int, count: int, factor: Float64, sums: Float64, m: int) -> None:
    """Add up sums (m p,) += factor (m, count) flat @ X[start : start + count], by the first p columns, row after row: four outputs by
    sixteen columns at a time. What lies beyond the last output is that one once more, to the same bits."""
    width, p = X.shape[1], len(sums) // m
    for a in range(0, m, OUTPUTS):
        b, c, d = min(a + 1, m - 1), min(a + 2, m - 1), min(a + 3, m - 1)
        for low in range(0, p, 2 * LANES):
            n = p - low
            a0, a1 = load_part(sums, a * p + low, n), load_part(sums, a * p + low + 8, n - 8)
            b0, b1 = load_part(sums, b * p + low, n), load_part(sums, b * p + low + 8, n - 8)
            c0, c1 = load_part(sums, c * p + low, n), load_part(sums, c * p + low + 8, n - 8)
            d0, d1 = load_part(sums, d * p + low, n), load_part(sums, d * p + low + 8, n - 8)
            for i in range(count):
                at = (start + i) * width + low
                x, y = load_some(X, at, n), load_some(X, at + 8, n - 8)
                e, f = splat(factor[a * count + i]), splat(factor[b * count + i])
                g, h = splat(factor[c * count + i]), splat(factor[d * count + i])
                a0, a1, b0, b1 = fma(e, x, a0), fma(e, y, a1), fma(f, x, b0), fma(f, y, b1)
                c0, c1, d0, d1 = fma(g, x, c0), fma(g, y, c1), fma(h, x, d0), fma(h, y, d1)
            store_part(sums, a * p + low, a0, n)
            store_part(sums, a * p + low + 8, a1, n - 8)
            store_part(sums, b * p + low, b0, n)
            store_part(sums, b * p + low + 8, b1, n - 8)
            store_part(sums, c * p + low, c0, n)
            store_part(sums, c * p + low + 8, c1, n - 8)
            store_part(sums, d * p + low, d0, n)
            store_part(sums, d * p + low + 8, d1, n - 8)
