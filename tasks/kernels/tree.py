"""The fixed tree of sums over the partitions of a group, as a binary counter.

After leaf j as many sums merge as j + 1 has trailing zero bits, so stack[0], stack[1], ... are the whole subtrees found so far,
largest first. At the end they collapse from the right: what has no right sibling passes up unchanged.
"""

from __future__ import annotations

import numpy as np

from tasks.kernels.compiling import compiled, compiled_leaf
from tasks.typing import Float64


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


@compiled_leaf
def _merge(stack: Float64, top: int) -> None:
    left, right = stack[top - 1], stack[top]
    for i in range(len(left)):
        left[i] += right[i]


@compiled_leaf
def push(stack: Float64, top: int, leaf: int) -> int:
    """Take in leaf number `leaf`, which is complete in stack[top]; returns the place of the next one."""
    rest = leaf + 1
    while rest & 1 == 0:
        _merge(stack, top)
        top -= 1
        rest >>= 1
    return top + 1


@compiled_leaf
def clear(stack: Float64, top: int) -> None:
    """Clear stack[top], where a leaf begins."""
    for i in range(stack.shape[1]):
        stack[top, i] = 0.0


@compiled
def collapse(stack: Float64, top: int) -> Float64:
    """The sum over all leaves, in memory that holds nothing else, after the last push returned `top`."""
    for level in range(top - 1, 0, -1):
        _merge(stack, level)
    total: Float64 = stack.reshape(stack.size) if len(stack) == 1 else stack[0].copy()
    return total
