"""Shares of groups in whole rows: exact together, and fair to small groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.rows.shares import INDEPENDENT, bar_for, rounded

SIZES = [1, 1, 1, 2, 3, 5, 0, 10, 20, 7, 1]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 1 / 3, 0.5, 0.9])
def test_shares_add_up_to_the_total(fraction: float) -> None:
    shares = [n * fraction for n in SIZES]
    for seed in range(50):
        draws = np.random.default_rng(seed).random(len(SIZES)).tolist()
        for total in {math.floor(sum(shares)), round(sum(shares)), math.ceil(sum(shares))}:
            bar = bar_for(total, shares, draws)
            rows = [rounded(share, draw, bar) for share, draw in zip(shares, draws, strict=True)]
            assert sum(rows) == total
            assert math.isfinite(bar)
            for n, share, own in zip(SIZES, shares, rows, strict=True):
                assert math.floor(share) <= own <= min(n, math.ceil(share))


def test_small_groups_are_not_favoured() -> None:
    """Over many draws a group has its share: of one row in ten, each of twenty groups of a row has a tenth."""
    random = np.random.default_rng(0)
    shares = [0.1] * 20
    rows = np.zeros(20)
    for _ in range(4000):
        draws = random.random(20).tolist()
        bar = bar_for(2, shares, draws)
        rows += [rounded(share, draw, bar) for share, draw in zip(shares, draws, strict=True)]
    assert rows.sum() == 8000
    np.testing.assert_allclose(rows / 4000, 0.1, atol=5 * math.sqrt(0.09 / 4000))


def test_independent_groups_round_by_their_own_draw() -> None:
    """As `floor(share + draw)` does."""
    random = np.random.default_rng(1)
    for share, draw in zip((random.random(500) * 8).tolist(), random.random(500).tolist(), strict=True):
        assert rounded(share, draw, INDEPENDENT) == math.floor(share + draw)


def test_whole_shares_are_never_rounded() -> None:
    shares, draws = [4.0, 0.0, 3.0], [0.999999, 0.5, 0.0]
    bar = bar_for(9, shares, draws)
    assert [rounded(share, draw, bar) for share, draw in zip(shares, draws, strict=True)] == [4, 0, 3]
