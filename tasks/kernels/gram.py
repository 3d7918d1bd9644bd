"""Weighted Gram matrices Σ_i h_i x_i x_iᵀ of a block, in BLAS, only about the lower half of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from tasks.typing import Float64

PANEL = 96


@njit(nogil=True, cache=True, error_model="numpy")
def gram_rows(p: int) -> int:
    """Rows of a block: it and its weighted copy fit the L2 cache."""
    return max(32, min(512, 49152 // max(1, p) // 8 * 8))


@njit(nogil=True, cache=True, error_model="numpy")
def add_gram(block: Float64, h: Float64, gram: Float64) -> None:
    """gram (p, p) += block.T @ (h block), in panels of columns on and below the diagonal."""
    count, p = block.shape
    n_panels = (p + PANEL - 1) // PANEL
    if n_panels <= 1:
        weighted = np.empty((count, p))
        for i in range(count):
            for j in range(p):
                weighted[i, j] = h[i] * block[i, j]
        gram += np.dot(weighted.T, block)
        return
    width = (p + n_panels - 1) // n_panels
    plain, weighted_panels, out = np.empty(count * p), np.empty(count * width), np.empty(width * width)
    for low in range(0, p, width):  # panel after panel, each contiguous
        high = min(p, low + width)
        plain[count * low : count * high].reshape(count, high - low)[:] = block[:, low:high]
    for low in range(0, p, width):
        high = min(p, low + width)
        left = weighted_panels[: count * (high - low)].reshape(count, high - low)
        for i in range(count):
            for j in range(high - low):
                left[i, j] = h[i] * block[i, low + j]
        for other in range(0, low + 1, width):
            end = min(p, other + width)
            right = plain[count * other : count * end].reshape(count, end - other)
            product = out[: (high - low) * (end - other)].reshape(high - low, end - other)
            np.dot(left.T, right, product)
            for i in range(high - low):
                for j in range(end - other):
                    gram[low + i, other + j] += product[i, j]


@njit(nogil=True, cache=True, error_model="numpy")
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
