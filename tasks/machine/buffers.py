"""Memory of large results, used again: fresh pages cost a fault each, which for a gradient of 1 MB is a good part of its arithmetic."""

from __future__ import annotations

import math
import os
import sys
from typing import Any, Final

import numpy as np

from tasks.typing import Array

LIMIT: Final = 64 << 20  # bytes that lie idle, at most (threads that give back at the same moment may each add one buffer)
SMALLEST: Final = 64 << 10  # below, malloc serves from warm memory anyway

_idle: Final[dict[int, list[Array]]] = {}  # by size in bytes; only atomic calls touch it, so no lock is needed: arrays die at any moment


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array as of numpy.empty. The memory is used again once the array *and every view of it* is gone, so nobody has to give it back.

    Pickles and copies are ordinary arrays.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= size <= LIMIT:
        return np.empty(shape, dtype)
    try:
        memory = _idle[size].pop()
    except (KeyError, IndexError):
        memory = np.empty(size, np.uint8)
    return np.asarray(_Loan(memory, shape, dtype))


class _Loan:
    """The base of such an array, which NumPy hands on to its views: it dies with the last of them."""

    __slots__ = ("__array_interface__", "memory")

    def __init__(self, memory: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.memory = memory
        self.__array_interface__ = {"version": 3, "data": (memory.ctypes.data, False), "shape": shape, "typestr": dtype.str}

    def __del__(self, idle: dict[int, list[Array]] = _idle, limit: int = LIMIT) -> None:
        # The defaults are bound because the module's names may be gone at the end of the process.
        size = self.memory.nbytes
        if size + sum(other * len(memories) for other, memories in list(idle.items())) > limit:
            for other in [other for other in list(idle) if other != size]:  # buffers of an earlier fit
                idle.pop(other, None)
        memories = idle.setdefault(size, [])
        if size * (len(memories) + 1) <= limit:
            memories.append(self.memory)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_idle.clear)
