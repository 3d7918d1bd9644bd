"""Shares of groups, rounded to whole rows so that all groups together have the rows that they should.

A group rounds its share down, or up where a draw of its own says so. With independent draws small groups are not favoured, but the total is
a matter of chance, and may be none. So whoever knows the rows of all groups chooses one number, a bar, so that as many groups round up
as the total needs (sequential Poisson sampling: E. Ohlsson, J. Official Statistics 14 (1998)). With that number each group knows its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

INDEPENDENT: Final = 1.0
"""The bar with which each group rounds up with the probability of what it would lose, whatever the others do."""


def whole_and_bar(share: float, draw: float) -> tuple[int, float]:
    """The whole rows in a share, and the lowest bar at which they are one more, infinite for a whole number; draw: in [0, 1)."""
    whole = math.floor(share)
    rest = share - whole
    return whole, (1.0 - draw) / rest if rest else math.inf


def rounded(share: float, draw: float, bar: float) -> int:
    """The rows of a group that has this share and this draw."""
    whole, needed = whole_and_bar(share, draw)
    return whole + (needed <= bar)


def bar_for(total: int, shares: Sequence[float], draws: Sequence[float]) -> float:
    """The finite bar at which the shares of all groups, rounded, add up to the total: one of their sum, rounded down or up."""
    found = [whole_and_bar(share, draw) for share, draw in zip(shares, draws, strict=True)]
    bars = sorted(needed for _, needed in found if needed < math.inf)
    more = min(total - sum(whole for whole, _ in found), len(bars))
    return bars[more - 1] if more > 0 else 0.0
