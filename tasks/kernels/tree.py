"""The fixed tree of sums over the partitions of a group, as a binary counter.

After leaf j as many sums merge as j + 1 has trailing zero bits, so stack[0], stack[1], ... are the whole subtrees found so far,
largest first. At the end they collapse from the right: what has no right sibling passes up unchanged.

Sums of wide sparse rows are mostly zeros. Theirs are kept in pages of eight numbers, and `marks` (levels, n_words), one bit a page, says
which may hold something else: the others are neither cleared nor added. The bits of the sums are the same, for one that begins at 0.0 is
never -0.0. Of other sums there are no marks, (levels, 0).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.kernels.compiling import compiled, compiled_leaf
from tasks.kernels.lanes import LANES, load, lowest_bit, splat, store
from tasks.typing import Float64, UInt64

WORD: Final = 64 * LANES
"""Numbers of the pages that a word of marks tells of."""
PAGED: Final = 1 << 15
"""Sums of more numbers are kept in pages, where rows are sparse."""


@compiled
def new_stack(n_leaves: int, size: int) -> Float64:
    """Room for every subtree that is open at once, (about log2(n_leaves) + 1, size)."""
    levels = 1
    while (1 << levels) - 1 < n_leaves:
        levels += 1
    stack = np.empty((levels, size))
    if n_leaves == 0:  # there is nothing that would be cleared
        stack[0] = 0.0
    return stack


@compiled
def no_marks(stack: Float64) -> UInt64:
    """The marks of sums that have no pages."""
    return np.empty((len(stack), 0), np.uint64)


@compiled_leaf
def _merge(stack: Float64, marks: UInt64, top: int) -> None:
    left, right, size = stack[top - 1], stack[top], stack.shape[1]
    if marks.shape[1] == 0:
        for i in range(size):
            left[i] += right[i]
    for word in range(marks.shape[1]):
        bits = marks[top, word]
        marks[top - 1, word] |= bits
        while bits:
            at = word * WORD + lowest_bit(bits) * LANES
            bits &= bits - np.uint64(1)
            if at + LANES <= size:
                store(left, at, load(left, at) + load(right, at))
            else:
                for i in range(at, size):
                    left[i] += right[i]


@compiled_leaf
def push(stack: Float64, marks: UInt64, top: int, leaf: int) -> int:
    """Take in leaf number `leaf`, which is complete in stack[top]; returns the place of the next one."""
    rest = leaf + 1
    while rest & 1 == 0:
        _merge(stack, marks, top)
        top -= 1
        rest >>= 1
    return top + 1


@compiled_leaf
def clear(stack: Float64, marks: UInt64, top: int) -> None:
    """Clear stack[top], where a leaf begins."""
    own, size = stack[top], stack.shape[1]
    if marks.shape[1] == 0:
        for i in range(size):
            own[i] = 0.0
    for word in range(marks.shape[1]):
        bits = marks[top, word]
        marks[top, word] = 0
        while bits:
            at = word * WORD + lowest_bit(bits) * LANES
            bits &= bits - np.uint64(1)
            if at + LANES <= size:
                store(own, at, splat(0.0))
            else:
                for i in range(at, size):
                    own[i] = 0.0


@compiled_leaf
def mark(marks: UInt64, number: int) -> None:
    """Mark the page of a number: marks (n_words,)."""
    at = np.uint64(number)
    marks[at // np.uint64(WORD)] |= np.uint64(1) << (at // np.uint64(LANES) % np.uint64(64))


@compiled_leaf
def collapse(stack: Float64, marks: UInt64, top: int) -> None:
    """Make stack[0] the sum over all leaves, after the last push returned `top`."""
    for level in range(top - 1, 0, -1):
        _merge(stack, marks, level)


@compiled
def total_of(stack: Float64) -> Float64:
    """stack[0], in memory that holds nothing else."""
    total: Float64 = stack.reshape(stack.size) if len(stack) == 1 else stack[0].copy()
    return total
