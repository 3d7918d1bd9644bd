"""Words of 64 bits or fewer, folded into digests."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

ODD: Final = np.uint64(0x9E3779B185EBCA87)  # of xxHash
LEFT, RIGHT = np.uint64(29), np.uint64(35)


@njit(inline="always", cache=True)
def mix(digest: Any, word: Any) -> Any:
    """Another digest for every other word, and for every other digest before: one word that differs is never missed."""
    digest = (digest ^ np.uint64(word)) * ODD
    return (digest << LEFT) | (digest >> RIGHT)


@njit(nogil=True, cache=True, error_model="numpy")
def fold(words: Any, bounds: Any, digests: Any) -> None:
    """digests[k] takes in words[bounds[k]:bounds[k + 1]] and how many they are, along eight lanes, since a product waits for the last."""
    for k in range(len(digests)):
        own = words[bounds[k] : bounds[k + 1]]
        last = len(own) - len(own) % 8
        first = mix(digests[k], len(own))
        a, b, c, d = mix(first, 1), mix(first, 2), mix(first, 3), mix(first, 4)
        e, f, g, h = mix(first, 5), mix(first, 6), mix(first, 7), mix(first, 8)
        for i in range(0, last, 8):
            a, b, c, d = mix(a, own[i]), mix(b, own[i + 1]), mix(c, own[i + 2]), mix(d, own[i + 3])
            e, f, g, h = mix(e, own[i + 4]), mix(f, own[i + 5]), mix(g, own[i + 6]), mix(h, own[i + 7])
        for i in range(last, len(own)):
            a = mix(a, own[i])
        digests[k] = mix(mix(mix(mix(mix(mix(mix(mix(first, a), b), c), d), e), f), g), h)
