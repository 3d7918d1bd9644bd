"""The one fixed tree along which partial results add up.

Floating-point addition is not associative, so the order of a sum is part of its result. Here the order depends on the data alone:
the leaves are groups of partitions, node (level, i) is the sum of nodes (level - 1, 2i) and (level - 1, 2i + 1), and a node whose
right sibling does not exist passes up unchanged. Whoever computes a leaf, and whenever it arrives, the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Node = tuple[int, int]


class Tree:
    """Partial results of the fixed tree over `n_leaves` leaves, added in any order, combined in one.

    Holds at most about 2 log2(n_leaves) sums when the leaves arrive in order.
    """

    def __init__(self, n_leaves: int, combine: Callable[[Any, Any], Any]) -> None:
        assert n_leaves > 0
        self.n_leaves = n_leaves
        self.combine = combine
        self.nodes: dict[Node, Any] = {}

    def _width(self, level: int) -> int:
        return (self.n_leaves + (1 << level) - 1) >> level

    def add(self, node: Node, partial: Any) -> None:
        """Put in the partial of a whole subtree, and combine upwards as far as siblings are there."""
        level, index = node
        while self._width(level) > 1:
            sibling = index ^ 1
            if sibling < self._width(level):
                if (level, sibling) not in self.nodes:
                    break
                other = self.nodes.pop((level, sibling))
                partial = self.combine(other, partial) if sibling < index else self.combine(partial, other)
            level, index = level + 1, index >> 1
        assert (level, index) not in self.nodes
        self.nodes[level, index] = partial

    def merge(self, nodes: dict[Node, Any]) -> None:
        for node in sorted(nodes):
            self.add(node, nodes[node])

    def result(self) -> Any:
        """The partial of all leaves."""
        return result_of(self.nodes, self.n_leaves)


def result_of(nodes: Mapping[Node, Any], n_leaves: int) -> Any:
    """The partial of all leaves, which must be the only one. Raises ValueError where some are missing."""
    ((level, index), partial), *others = nodes.items()
    if others or index or 1 << level < n_leaves:
        raise ValueError(f"the sums of {sorted(nodes)} are not those of all {n_leaves} groups")
    return partial


def n_nodes(numbers: Iterable[int], n_leaves: int) -> int:
    """How many sums are left of these leaves when what is whole has been added up."""
    tree = Tree(n_leaves, lambda left, right: None)
    for number in numbers:
        tree.add((0, number), None)
    return len(tree.nodes)


def tree_sum(leaves: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """The leaves added along the fixed tree: what a map does with the partitions of its group, so that groups may be cut anywhere."""
    tree = Tree(len(leaves), combine)
    for index, leaf in enumerate(leaves):
        tree.add((0, index), leaf)
    return tree.result()
