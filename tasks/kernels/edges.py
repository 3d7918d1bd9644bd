"""Eight elements of an array, or fewer where it ends: whole ones take no mask, which is faster."""

from __future__ import annotations

from typing import Any

from tasks.kernels.compiling import compiled_leaf
from tasks.kernels.lanes import LANES, load, load_part, store, store_part
from tasks.typing import Array, Float64


@compiled_leaf
def load_some(array: Array, index: int, n: int) -> Any:
    """Load eight elements, or the first n by a mask, which is slower."""
    return load(array, index) if n >= LANES else load_part(array, index, n)


@compiled_leaf
def store_some(array: Float64, index: int, value: Any, n: int) -> None:
    """Store eight elements, or the first n: the reverse of `load_some`."""
    if n >= LANES:
        store(array, index, value)
    else:
        store_part(array, index, value, n)
