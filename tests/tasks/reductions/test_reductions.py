"""The fixed tree: one order of addition, whoever holds what and whatever comes first."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.reductions.reduction import NodeSums, merge_sums, subtrees
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


@given(st.integers(1, 70), st.integers(0, 3), st.integers(0, 6), st.sets(st.integers(0, 69), max_size=40))
def test_parts_are_the_largest_whole_subtrees(n: int, level: int, joint: int, missing: set[int]) -> None:
    """Of whole subtrees of 2^level, what is there is cut into as few parts of at most 2^joint as the tree has nodes for."""
    there = [number for number in range(n) if number >> level not in missing]
    parts = dict(subtrees(((number, number) for number in there), n, level, joint))  # type: ignore[misc, arg-type]
    assert [number for part in parts.values() for number in part] == there
    for (height, index), part in parts.items():
        assert part == list(range(index << height, min((index + 1) << height, n)))
        assert level <= height <= max(level, joint)
        above = list(range(index >> 1 << height + 1, min(((index >> 1) + 1) << height + 1, n)))
        assert height == max(level, joint) or above == part or not set(above) <= set(there)
