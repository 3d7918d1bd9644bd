"""Weighted Gram matrices Σ_i h_i x_i x_iᵀ of a block, in BLAS, only about the lower half of them."""

from __future__ import annotations

import numpy as np

from tasks.kernels.compiling import compiled
from tasks.typing import Float64

PANEL = 96


@compiled
def gram_rows(p: int) -> int:
    """Rows of a block: it and its weighted copy fit the L2 cache."""
    return max(32, min(512, 49152 // max(1, p) // 8 * 8))


@compiled
def add_gram(block: Float64, h: Float64, gram: Float64) -> None:
    """gram (p, p) += block.T @ (h block), in panels of columns on and below the diagonal."""
    count, p = block.shape
    n_panels = max(1, (p + PANEL - 1) // PANEL)
    width = (p + n_panels - 1) // n_panels
    panels, weighted, out = np.empty(count * p), np.empty(count * width), np.empty(width * width)
    for low in range(0, p, width):
        w = min(p, low + width) - low
        panel = panels[count * low : count * (low + w)].reshape(count, w)  # each panel contiguous, one after the other
        left = weighted[: count * w].reshape(count, w)
        for i in range(count):
            for j in range(w):
                panel[i, j] = block[i, low + j]
                left[i, j] = h[i] * block[i, low + j]
        for other in range(0, low + 1, width):
            v = min(p, other + width) - other
            product = out[: w * v].reshape(w, v)
            np.dot(left.T, panels[count * other : count * (other + v)].reshape(count, v), product)
            for i in range(w):
                for j in range(v):
                    gram[low + i, other + j] += product[i, j]


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
