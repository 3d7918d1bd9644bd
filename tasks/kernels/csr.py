"""CSR blocks of rows: X is the triple (data, indices, indptr) of a scipy.sparse.csr_array."""

from __future__ import annotations

from tasks.kernels.compiling import compiled, compiled_leaf
from tasks.typing import Array, Float64

Csr = tuple[Array, Array, Array]


@compiled
def csr_block_rows(X: Csr, m: int) -> int:
    """The number of rows of a block."""
    return 256


@compiled
def csr_scratch_size(X: Csr, m: int, rows: int) -> int:
    """The size of the scratch memory: zero, for nothing is converted."""
    return 0


@compiled
def csr_predict(X: Csr, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64, scratch: Float64) -> None:
    """Compute raw (m, count) flat = coef @ X[start : start + count].T + intercept; four sums a row, which need not wait for one another."""
    data, indices, indptr = X
    for i in range(count):
        first, last = indptr[start + i], indptr[start + i + 1]
        whole = last - (last - first) % 4
        for a in range(len(coef)):
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            for j in range(first, whole, 4):
                s0 += data[j] * coef[a, indices[j]]
                s1 += data[j + 1] * coef[a, indices[j + 1]]
                s2 += data[j + 2] * coef[a, indices[j + 2]]
                s3 += data[j + 3] * coef[a, indices[j + 3]]
            for j in range(whole, last):
                s0 += data[j] * coef[a, indices[j]]
            raw[a * count + i] = ((s0 + s1) + (s2 + s3)) + intercept[a]


@compiled_leaf
def csr_add(X: Csr, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64, product: Float64) -> None:
    """Add up sums (m p,) += factor (m, count) flat @ X[start : start + count], row after row."""
    data, indices, indptr = X
    m = len(factor) // count
    p = len(sums) // m
    for i in range(count):
        for a in range(m):
            f = factor[a * count + i]
            at = a * p
            for j in range(indptr[start + i], indptr[start + i + 1]):
                sums[at + indices[j]] += f * data[j]


@compiled
def csr_take(X: Csr, start: int, count: int, block: Float64) -> None:
    """Copy block (count, p) = X[start : start + count] as dense float64."""
    data, indices, indptr = X
    block[:] = 0.0
    for i in range(count):
        for j in range(indptr[start + i], indptr[start + i + 1]):
            block[i, indices[j]] += data[j]
