"""Weighted Gram matrices Σ_i h_i x_i x_iᵀ of blocks of rows, only their lower half: as fast as BLAS, faster where columns are few, and with
the same bits on every CPU."""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.kernels.compiling import compiled, compiled_leaf
from tasks.kernels.lanes import LANES
from tasks.kernels.tiles import TILE_ROWS, TILE_VECTORS, add_tile
from tasks.typing import Float64

GRAM_ROWS: Final = 256
"""Rows of a block: a strip of it lies in the fastest cache, while the others go by."""


@compiled_leaf
def gram_width(p: int) -> int:
    """Elements from a row of a block to the next: p in whole vectors, an odd number of them, or the rows of a strip would share places in
    the cache."""
    return LANES * (-(-p // LANES) | 1)


@compiled
def new_block(p: int) -> Float64:
    """A block (GRAM_ROWS, gram_width(p)) of zeros, which begins where a line of the cache does."""
    size = GRAM_ROWS * gram_width(p)
    memory = np.zeros(size + LANES)
    first = -(memory.ctypes.data // 8) % LANES
    return memory[first : first + size].reshape(GRAM_ROWS, gram_width(p))


@compiled_leaf
def scale_rows(block: Float64, h: Float64, scaled: Float64) -> None:
    """Compute scaled (count, width) = h block."""
    for i in range(len(block)):
        for j in range(block.shape[1]):
            scaled[i, j] = h[i] * block[i, j]


@compiled_leaf
def add_gram(scaled: Float64, block: Float64, gram: Float64) -> None:
    """Add to the lower half of gram (p, p) += scaled.T @ block, both (count, gram_width(p)), the first being the second times a factor of
    each row; gram may be a part of a larger matrix. What is above the diagonal means nothing."""
    p = len(gram)
    for j in range(0, p, TILE_VECTORS * LANES):
        for i in range(j, p, TILE_ROWS):
            add_tile(scaled, block, gram, i, j, min(TILE_VECTORS, (i - j) // LANES + 1))


@compiled_leaf
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
