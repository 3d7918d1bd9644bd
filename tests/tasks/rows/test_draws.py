"""Draws that depend on seed, purpose and partition alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.rows.draws import generator, sample, split_rows, take
from tasks.rows.partition import Block, Group


def test_streams() -> None:
    draw = generator(1, "split", 2).random(3)
    np.testing.assert_array_equal(draw, generator(1, "split", 2).random(3))
    for other in (generator(2, "split", 2), generator(1, "sample", 2), generator(1, "split", 3), generator(1, "split", 2, 0)):
        assert not np.array_equal(other.random(3), draw)


def test_draws_stay_as_they_are() -> None:
    """Other values here would change everybody's splits."""
    assert generator(0, "split", 0).integers(0, 1 << 62) == 4255948975077702817
    assert split_rows(10, 0.3, 0, 0)[1].tolist() == [6, 7, 9]


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 10, 1001])
@pytest.mark.parametrize("test_size", [0.01, 0.25, 0.5, 0.99])
def test_parts_are_disjoint_and_whole(n_rows: int, test_size: float) -> None:
    train, test = split_rows(n_rows, test_size, 0, 3)
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(test) > 0)
    assert sorted([*train, *test]) == list(range(n_rows))
    assert abs(len(test) - n_rows * test_size) < 1


def test_small_partitions_give_their_share() -> None:
    sizes = [len(split_rows(3, 0.25, 7, partition)[1]) for partition in range(4000)]
    assert set(sizes) == {0, 1}
    assert sum(sizes) == pytest.approx(3000, rel=0.05)


def test_every_row_is_as_likely() -> None:
    counts = np.bincount(np.concatenate([split_rows(10, 0.3, seed, 0)[1] for seed in range(3000)]), minlength=10)
    assert np.all(np.abs(counts - 900) < 120)  # four standard deviations


def test_take() -> None:
    X = np.arange(8.0).reshape(4, 2)
    for rows in (X, sp.csr_array(X)):
        block = take(Block(rows, np.array(list("abcd")), np.arange(4.0)), np.array([1, 3]))
        found = block.X.toarray() if isinstance(block.X, sp.csr_array) else block.X
        assert found.tolist() == [[2, 3], [6, 7]]
        assert block.y is not None
        assert block.y.tolist() == ["b", "d"]
        assert block.sample_weight is not None
        assert block.sample_weight.tolist() == [1, 3]
    assert take(Block(X), np.zeros(0, np.int64)).X.shape == (0, 2)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_a_sample_takes_every_so_manieth_row_of_each_partition(sparse: bool) -> None:
    X = np.arange(160.0).reshape(160, 1)
    offsets = np.array([0, 100, 100, 102, 103, 160])
    group = Group(sp.csr_array(X) if sparse else X, X[:, 0].astype(str), X[:, 0], offsets, 5)
    taken = sample(group, 3)
    expected = np.concatenate([np.arange(a, b, 3) for a, b in pairwise(offsets)])
    assert taken.sample_weight is not None
    np.testing.assert_array_equal(taken.sample_weight, expected)
    np.testing.assert_array_equal(taken.y, expected.astype(float).astype(str))
    np.testing.assert_array_equal(taken.X.toarray() if sparse else taken.X, expected[:, None])
    assert taken.offsets.tolist() == [0, 34, 34, 35, 36, 55]
    assert taken.first_partition == 5
    assert sample(group, 3) is taken
