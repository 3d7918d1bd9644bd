"""The fixed blocks of a vector. Slices consist of whole ones, so that what belongs to a block is in one place, whoever has it: the sum that
is its part of a penalty's value (these parts add up in order), and the random numbers and scales of codecs."""

from __future__ import annotations

BLOCK: int = 1 << 15
"""Numbers of a block."""


def blocks(n: int) -> list[slice]:
    """The blocks of n numbers."""
    return [slice(begin, min(begin + BLOCK, n)) for begin in range(0, n, BLOCK)]
