"""The fixed tree: one order of addition, whoever holds what and whatever comes first."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.reductions.reduction import NodeSums, merge_sums
from tasks.reductions.tree import Tree


def tree_of(leaves: list[Any]) -> Any:
    """The definition, level by level."""
    while len(leaves) > 1:
        leaves = [tuple(leaves[i : i + 2]) if i + 1 < len(leaves) else leaves[i] for i in range(0, len(leaves), 2)]
    return leaves[0]


def pair(left: Any, right: Any) -> Any:
    return (left, right)


@given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_any_order_of_arrival_builds_the_same_expression(n: int, random: Any) -> None:
    order = list(range(n))
    random.shuffle(order)
    tree = Tree(n, pair)
    for leaf in order:
        tree.add((0, leaf), leaf)
    assert tree.result() == tree_of(list(range(n)))


@given(st.integers(1, 200), st.lists(st.integers(1, 199), max_size=12))
def test_any_cut_into_shards_builds_the_same_expression(n: int, cuts: list[int]) -> None:
    bounds = sorted({0, n, *(c for c in cuts if c < n)})
    shards = []
    for start, stop in pairwise(bounds):
        tree = Tree(n, pair)
        for leaf in range(start, stop):
            tree.add((0, leaf), leaf)
        assert len(tree.nodes) <= 2 * max(1, n.bit_length())
        shards.append(NodeSums(tree.nodes, {}))
    half = len(shards) // 2
    parts = [merge_sums(shards[half:], n, pair), merge_sums(shards[:half], n, pair)]
    (node,) = merge_sums(parts, n, pair).nodes.values()
    assert node == tree_of(list(range(n)))


def test_an_aligned_shard_returns_one_partial() -> None:
    tree = Tree(1024, pair)
    for leaf in range(512, 1024):
        tree.add((0, leaf), leaf)
    assert list(tree.nodes) == [(9, 1)]


def test_float_sums_differ_from_left_to_right_but_not_by_shard() -> None:
    """The test would pass trivially with numbers that add up exactly; these do not."""
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(-8, 8, 1000)

    def total(bounds: list[int]) -> float:
        parts = []
        for start, stop in pairwise(bounds):
            tree = Tree(1000, np.add)
            for i in range(start, stop):
                tree.add((0, i), values[i])
            parts.append(NodeSums(tree.nodes, {}))
        (result,) = merge_sums(parts, 1000, np.add).nodes.values()
        return float(result)

    assert total([0, 1000]) == total([0, 1, 500, 501, 1000]) == total([0, 333, 334, 900, 1000])
    assert total([0, 1000]) != float(np.cumsum(values)[-1])
