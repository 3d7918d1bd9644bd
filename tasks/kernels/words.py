"""Words of 64 bits or fewer, folded into digests."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types

from tasks.kernels.compiling import compiled_pass
from tasks.kernels.lanes import F64, LANES, ask_for, constant, lanes, load, operation, store

ODD: Final = np.uint64(0x9E3779B185EBCA87)  # of xxHash
LEFT, RIGHT = np.uint64(29), np.uint64(35)
AHEAD: Final = 512
"""Bytes that memory is asked for ahead of what is folded."""

_WORDS = ir.VectorType(ir.IntType(64), LANES)


@njit(inline="always", cache=True)
def mix(digest: Any, word: Any) -> Any:
    """Another digest for every other word, and for every other digest before: one word that differs is never missed."""
    digest = (digest ^ np.uint64(word)) * ODD
    return (digest << LEFT) | (digest >> RIGHT)


@operation
def mix_lanes(context: Any, digests: Any, words: Any, index: Any) -> Any:
    """mix_lanes(digests, words, index): `mix` of each of eight digests, which are the bits of the lanes, with words[index .. index + 7]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = words.dtype.bitwidth
        place = builder.gep(context.make_array(words)(context, builder, args[1]).data, [args[2]])
        ask_for(builder, builder.gep(builder.bitcast(place, ir.IntType(8).as_pointer()), [ir.IntType(64)(AHEAD)]), 3)
        vector = ir.VectorType(ir.IntType(width), LANES)
        found = builder.load(builder.bitcast(place, vector.as_pointer()), align=width // 8)
        found = found if width == 64 else builder.zext(found, _WORDS)
        digest = builder.mul(builder.xor(builder.bitcast(args[0], _WORDS), found), constant(_WORDS, int(ODD)))
        turned = builder.or_(builder.shl(digest, constant(_WORDS, int(LEFT))), builder.lshr(digest, constant(_WORDS, int(RIGHT))))
        return builder.bitcast(turned, F64)

    return lanes(lanes, words, types.int64), codegen


@compiled_pass
def fold(words: Any, bounds: Any, digests: Any) -> None:
    """digests[k] takes in words[bounds[k]:bounds[k + 1]] and how many they are, along eight lanes, since a product waits for the last.
    Words are unsigned: lanes fill up the narrow ones with zeros."""
    own = np.empty(LANES, np.uint64)
    for k in range(len(digests)):
        start, stop = bounds[k], bounds[k + 1]
        last = stop - (stop - start) % LANES
        first = mix(digests[k], stop - start)
        for lane in range(LANES):
            own[lane] = mix(first, lane + 1)
        eight = load(own.view(np.float64), 0)
        for i in range(start, last, LANES):
            eight = mix_lanes(eight, words, i)
        store(own.view(np.float64), 0, eight)
        for i in range(last, stop):
            own[0] = mix(own[0], words[i])
        digest = first
        for lane in range(LANES):
            digest = mix(digest, own[lane])
        digests[k] = digest
