"""Weighted Gram matrices Σ_i h_i x_i x_iᵀ of a block, by BLAS, only their lower half."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import get_cython_function_address

from tasks.kernels.compiling import compiled
from tasks.typing import Array, Float64

# Numba knows gemm alone, which does twice the work of syrk. Compiled code has the symbol, not its address, so that it can be cached.
llvmlite.binding.add_symbol("dask_descent_dsyrk", get_cython_function_address("scipy.linalg.cython_blas", "dsyrk"))
_dsyrk: Any = types.ExternalFunction("dask_descent_dsyrk", types.void(*[types.uintp] * 10))


@compiled
def gram_rows(p: int) -> int:
    """The number of rows of a block, which with its weighted copy fits the L2 cache."""
    return max(32, min(512, 65536 // max(1, p) // 8 * 8))


@compiled
def add_squares(letters: Array, factors: Float64, sizes: Array, root: Float64, gram: Float64) -> None:
    """Add to the lower half of gram: gram (p, p) += sign root.T @ root; letters: UN (uint8); factors: sign, 1; sizes (int32): p, rows of
    root, elements from a row of gram to the next.

    Fortran sees root.T and gram.T, whose upper half is our lower one. What is pointed to belongs to the caller: numba frees an array after
    its last use, and does not count its address as one.
    """
    letter, factor, size = letters.ctypes.data, factors.ctypes.data, sizes.ctypes.data
    _dsyrk(letter, letter + 1, size, size + 4, factor, root.ctypes.data, size, factor + 8, gram.ctypes.data, size + 8)


@compiled
def add_gram(block: Float64, h: Float64, sign: float, gram: Float64) -> None:
    """Add to the lower half of gram: gram (p, p) += block.T @ (h block), for sign h (count,) that is negative by rounding only; gram may be
    a part of a larger matrix."""
    count, p = block.shape
    root = np.empty((count, p))
    for i in range(count):
        size = sign * h[i]
        factor = 0.0 if size < 0.0 else np.sqrt(size)  # NaN stays NaN
        for j in range(p):
            root[i, j] = factor * block[i, j]
    sizes = np.array([p, count, gram.strides[0] // 8], np.int32)
    add_squares(np.array([85, 78], np.uint8), np.array([sign, 1.0]), sizes, root, gram)


@compiled
def mirror(H: Float64, p: int, c: int) -> None:
    """Make H exactly symmetric from what the passes fill: lower triangles of the coef blocks (a, b <= a), intercept rows."""
    for a in range(c):
        for b in range(a):
            block = H[a * p : (a + 1) * p, b * p : (b + 1) * p]
            for i in range(p):
                for j in range(i):
                    block[j, i] = block[i, j]
    size = len(H)
    for i in range(size):
        for j in range(i):
            H[j, i] = H[i, j]
