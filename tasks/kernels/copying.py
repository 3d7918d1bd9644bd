"""Copies of scattered pieces of several arrays, one below the other: bytes, so that one machine code does for all dtypes."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from tasks.kernels.compiling import compiled_pass
from tasks.kernels.lanes import ask_for, operation
from tasks.typing import Array, Int64

FURTHER: Final = 24
"""Memory is asked for so many pieces before it is copied: rows drawn at random are in no cache, and no hardware foresees them."""
FURTHER_BYTES: Final = 16384
"""And so many bytes at most, of pieces of one element: they are to stay in the nearest cache until then."""
LINE: Final = 64

_byte = ir.IntType(8)


def copy_pieces(addresses: Int64, bounds: Int64, starts: Int64, ends: Int64, out: Array) -> None:
    """Write elements starts[i] .. of array g into out[ends[i] : ends[i + 1]], for all i in bounds[g] : bounds[g + 1].

    addresses (g,) int64: of C-contiguous arrays of out's dtype and of its shape behind the first axis, along which elements are counted,
    without Python objects, that the caller holds. bounds (g + 1,), starts (n,), ends (n + 1,) int64. It holds no GIL.
    """
    assert len(bounds) == len(addresses) + 1
    assert len(ends) == len(starts) + 1 == bounds[-1] + 1
    assert ends[-1] <= len(out)
    width = out.dtype.itemsize * math.prod(out.shape[1:])
    _machine_code()(addresses, bounds, starts, ends, width, out.reshape(-1).view(np.uint8))


@cache
def _machine_code() -> Any:
    vector = types.Array(types.int64, 1, "C", readonly=True)
    return copy_pass.compile((vector, vector, vector, vector, types.int64, types.Array(types.uint8, 1, "C")))


@operation
def copy_bytes(context: Any, out: Any, at: Any, source: Any, size: Any) -> Any:
    """copy_bytes(out, at, source, size): so many bytes from an address to out[at:]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = builder.gep(context.make_array(out)(context, builder, args[0]).data, [args[1]])
        cgutils.raw_memcpy(builder, target, builder.inttoptr(args[2], _byte.as_pointer()), args[3], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.int64, types.int64), codegen


@operation
def prefetch_at(context: Any, address: Any) -> Any:
    """prefetch_at(address): have the memory there come to the cache; of an address without memory, nothing comes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        ask_for(builder, builder.inttoptr(args[0], _byte.as_pointer()), 3)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@compiled_pass
def copy_pass(addresses: Int64, bounds: Int64, starts: Int64, ends: Int64, width: int, out: Array) -> None:
    """What `copy_pieces` does; width: bytes of an element."""
    further = max(1, min(FURTHER, FURTHER_BYTES // max(1, width)))
    for g in range(len(addresses)):
        address, stop = addresses[g], bounds[g + 1]
        for i in range(bounds[g], stop):
            j = i + further
            if j < stop:
                first, size = address + starts[j] * width, (ends[j + 1] - ends[j]) * width
                for at in range(first, first + size, LINE):
                    prefetch_at(at)
            copy_bytes(out, ends[i] * width, address + starts[i] * width, (ends[i + 1] - ends[i]) * width)
