"""Dense blocks of rows: predictions from them and weighted sums of them, while the block is in cache.

With one model the loops are ours and convert float32 in registers; with several, and for Hessians, BLAS works on the block, which
for float32 is converted into `scratch` first. The order of all sums depends on shapes alone, never on an address.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from tasks.kernels.lanes import LANES, fma, load, load_part, splat, store, store_part, total
from tasks.typing import Array, Float64


@njit(nogil=True, cache=True, error_model="numpy")
def dot_rows(X: Array, start: int, count: int, coef: Float64, intercept: float, raw: Float64) -> None:
    """raw[i] = X[start + i] @ coef[0] + intercept."""
    p = X.shape[1]
    whole = p - p % LANES
    rest = p - whole
    for i in range(0, count - 3, 4):  # four rows at once share the loads of coef
        at = (start + i) * p
        s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for j in range(0, whole, LANES):
            w = load(coef, j)
            s0 = fma(load(X, at + j), w, s0)
            s1 = fma(load(X, at + p + j), w, s1)
            s2 = fma(load(X, at + 2 * p + j), w, s2)
            s3 = fma(load(X, at + 3 * p + j), w, s3)
        if rest:
            w = load_part(coef, whole, rest)
            s0 = fma(load_part(X, at + whole, rest), w, s0)
            s1 = fma(load_part(X, at + p + whole, rest), w, s1)
            s2 = fma(load_part(X, at + 2 * p + whole, rest), w, s2)
            s3 = fma(load_part(X, at + 3 * p + whole, rest), w, s3)
        raw[i] = total(s0) + intercept
        raw[i + 1] = total(s1) + intercept
        raw[i + 2] = total(s2) + intercept
        raw[i + 3] = total(s3) + intercept
    for i in range(count - count % 4, count):
        at = (start + i) * p
        s = splat(0.0)
        for j in range(0, whole, LANES):
            s = fma(load(X, at + j), load(coef, j), s)
        if rest:
            s = fma(load_part(X, at + whole, rest), load_part(coef, whole, rest), s)
        raw[i] = total(s) + intercept


@njit(nogil=True, cache=True, error_model="numpy")
def add_rows(X: Array, start: int, count: int, factor: Float64, sums: Float64) -> None:
    """sums += Σ_i factor[i] X[start + i], row after row."""
    p = X.shape[1]
    whole = p - p % LANES
    rest = p - whole
    for i in range(0, count - 3, 4):  # four rows for each load and store of sums
        at = (start + i) * p
        f0, f1, f2, f3 = splat(factor[i]), splat(factor[i + 1]), splat(factor[i + 2]), splat(factor[i + 3])
        for j in range(0, whole, LANES):
            s = fma(f0, load(X, at + j), load(sums, j))
            s = fma(f1, load(X, at + p + j), s)
            s = fma(f2, load(X, at + 2 * p + j), s)
            s = fma(f3, load(X, at + 3 * p + j), s)
            store(sums, j, s)
        if rest:
            s = fma(f0, load_part(X, at + whole, rest), load_part(sums, whole, rest))
            s = fma(f1, load_part(X, at + p + whole, rest), s)
            s = fma(f2, load_part(X, at + 2 * p + whole, rest), s)
            s = fma(f3, load_part(X, at + 3 * p + whole, rest), s)
            store_part(sums, whole, s, rest)
    for i in range(count - count % 4, count):
        at = (start + i) * p
        f = splat(factor[i])
        for j in range(0, whole, LANES):
            store(sums, j, fma(f, load(X, at + j), load(sums, j)))
        if rest:
            s = fma(f, load_part(X, at + whole, rest), load_part(sums, whole, rest))
            store_part(sums, whole, s, rest)


@njit(nogil=True, cache=True, error_model="numpy")
def sum_of(values: Float64) -> float:
    """Σ values, lane by lane."""
    s = splat(0.0)
    for i in range(0, len(values), LANES):
        s = s + load_part(values, i, min(LANES, len(values) - i))
    return total(s)  # type: ignore[no-any-return]


def float64_block(X: Array, start: int, count: int, scratch: Float64, fill: bool) -> Any:
    """Rows of X as float64 (count, p): themselves, or the copy that `fill` has put into scratch."""


@overload(float64_block, strict=False)  # type: ignore[untyped-decorator]
def _float64_block(X: Any, start: Any, count: Any, scratch: Any, fill: Any) -> Any:
    def themselves(X: Any, start: Any, count: Any, scratch: Any, fill: Any) -> Any:
        return X[start : start + count]

    def copy(X: Any, start: Any, count: Any, scratch: Any, fill: Any) -> Any:
        block = scratch[: count * X.shape[1]].reshape(count, X.shape[1])
        if fill:
            block[:] = X[start : start + count]
        return block

    return themselves if X.dtype == types.float64 else copy


@njit(nogil=True, cache=True, error_model="numpy")
def dense_block_rows(X: Array, m: int) -> int:
    """Rows of a block: it stays in cache between its two uses."""
    p = max(1, X.shape[1])
    budget = 4096 if m == 1 else 32768  # elements; BLAS likes bigger blocks
    return max(16, min(512, budget // p // LANES * LANES))


@njit(nogil=True, cache=True, error_model="numpy")
def dense_scratch_size(X: Array, m: int, rows: int) -> int:
    return rows * X.shape[1] if m > 1 and X.itemsize == 4 else 0


@njit(nogil=True, cache=True, error_model="numpy")
def dense_predict(X: Array, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64, scratch: Float64) -> None:
    """raw (m, count) flat = coef @ X[start : start + count].T + intercept."""
    m = len(coef)
    if m == 1:
        dot_rows(X, start, count, coef, intercept[0], raw)
        return
    out = raw[: m * count].reshape(m, count)
    np.dot(coef, float64_block(X, start, count, scratch, True).T, out)
    for a in range(m):
        for i in range(count):
            out[a, i] += intercept[a]


@njit(nogil=True, cache=True, error_model="numpy")
def dense_add(X: Array, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64, product: Float64) -> None:
    """sums (m p,) += factor (m, count) flat @ X[start : start + count]; scratch holds the block since `dense_predict`."""
    p = X.shape[1]
    m = len(product) // max(1, p)
    if m <= 1:
        add_rows(X, start, count, factor, sums)
        return
    np.dot(factor[: m * count].reshape(m, count), float64_block(X, start, count, scratch, False), product.reshape(m, p))
    for i in range(m * p):
        sums[i] += product[i]


@njit(nogil=True, cache=True, error_model="numpy")
def dense_take(X: Array, start: int, step: int, count: int, block: Float64) -> None:
    """block (count, p) = rows start, start + step, ... as float64."""
    for i in range(count):
        for j in range(X.shape[1]):
            block[i, j] = X[start + i * step, j]
