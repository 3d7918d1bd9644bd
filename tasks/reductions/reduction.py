"""Reductions: what to compute where the rows live, and how it adds up along the one fixed tree (`tasks.reductions.tree`)."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.reductions.tree import Node, Tree, result_of
from tasks.rows.digests import MODULUS, shard_digest
from tasks.rows.partition import Group, Shard, join_groups

MEASURED: Final = 8
"""Groups that are measured each round, at most."""

Prepare = Callable[[Sequence[Group]], None]


def single_groups(broadcast: Any) -> int:
    """The level of subtrees that are groups."""
    return 0


def all_subtrees(broadcast: Any) -> None:
    """No single subtree: all of them."""
    return


def nothing_ahead(broadcast: Any) -> None:
    """Prepare nothing for the next round."""
    return


def as_they_are(sums: Any, broadcast: Any) -> Any:
    """The sums themselves, of a reduction without a last step."""
    return sums


class Reduction(NamedTuple):
    """What to compute on each subtree of groups and how partial sums add up. Sums are what it says: arrays, tuples, any objects.

    name     what the dashboard shows, e.g. "gradient"
    map      (groups, broadcast) -> sums, a pure function of one subtree of groups, mostly a single one
    combine  (left, right) -> sums, plain addition wherever it can be; may reuse the memory of `left`
    n_bytes  (broadcast, n_columns) -> about how many bytes sums have: large ones meet on the cluster, not in the client
    level    (broadcast) -> subtrees are of 2^level groups, which one worker thread has together
    subtree  (broadcast) -> the number of the only subtree whose sums are wanted, or None for all of them
    ahead    (broadcast) -> what can be prepared for each subtree's next round while sums are on their way, or None
    joint    (broadcast, mean bytes of a group) -> `map` takes neighbouring subtrees at once, of up to 2^joint groups, and adds up their
             sums along the tree; None: it takes one by one
    finish   (sums, broadcast) -> sums, the last step, once, at the root: what a stage puts on in `map` it takes off here
    stays    whether maps remember something beside the rows, and so are for the workers that have them, not for holders of copies
    adds_up  whether sums of two are as large as those of one; others are combined in the client
    reads    whether it goes through the rows, so that what it takes says something of the rounds to come
    mends    whether it is sent again where rows are lost, and minds whether they have changed; otherwise there may be no sums
    """

    name: str
    map: Callable[[Sequence[Group], Any], Any]
    combine: Callable[[Any, Any], Any]
    n_bytes: Callable[[Any, int], int]
    level: Callable[[Any], int] = single_groups
    subtree: Callable[[Any], int | None] = all_subtrees
    ahead: Callable[[Any], Prepare | None] = nothing_ahead
    joint: Callable[[Any, float], int] | None = None
    finish: Callable[[Any, Any], Any] = as_they_are
    stays: bool = False
    adds_up: bool = True
    reads: bool = True
    mends: bool = True

    def whole(self, nodes: Mapping[Node, Any], n_groups: int, broadcast: Any) -> Any:
        """The finished sums of all groups, or of the only subtree, from their node. Raises ValueError where some are missing."""
        if self.subtree(broadcast) is None:
            return self.finish(result_of(nodes, n_groups), broadcast)
        (sums,) = nodes.values()
        return self.finish(sums, broadcast)

    def numbers(self, broadcast: Any, n_groups: int) -> range:
        """The numbers of the groups whose sums are wanted."""
        subtree, level = self.subtree(broadcast), self.level(broadcast)
        return range(n_groups) if subtree is None else range(subtree << level, min((subtree + 1) << level, n_groups))

    def n_subtrees(self, broadcast: Any, n_groups: int) -> int:
        """The number of the subtrees whose sums are wanted."""
        return -(-len(self.numbers(broadcast, n_groups)) >> self.level(broadcast))

    def parts(
        self, groups: Sequence[tuple[int, Group]], n_groups: int, broadcast: Any, n_threads: int = 1
    ) -> Iterator[tuple[Node, list[Group]]]:
        """The numbered groups, ascending, as `map` takes them: few calls, but enough for so many threads."""
        level = self.level(broadcast)
        most = self.joint(broadcast, bytes_of_one(groups)) if self.joint is not None and groups else level
        while most > level and -(-len(groups) >> most) < n_threads:
            most -= 1
        return subtrees(groups, n_groups, level, most)


Stage = Callable[[Reduction], Reduction]
"""Puts something on the sums of a reduction, or beside them: marks, say."""


def array_bytes(value: Any) -> int:
    """The bytes of the arrays in it, where it consists of arrays, tuples, lists and dictionaries."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    members = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return sum(map(array_bytes, members))


def of_group(function: Callable[[Group, Any], Any]) -> Callable[[Sequence[Group], Any], Any]:
    """The map of a reduction whose subtrees are single groups."""
    return partial(_map_group, function)


def _map_group(function: Callable[[Group, Any], Any], groups: Sequence[Group], broadcast: Any) -> Any:
    (group,) = groups
    return function(group, broadcast)


def bytes_of_one(groups: Sequence[tuple[int, Group]]) -> float:
    """The mean bytes of some of the numbered groups, here and there among them: any single one may have no rows."""
    some = groups[:: -(-len(groups) // MEASURED)]
    return sum(group.derived("bytes", sys.getsizeof) for _, group in some) / len(some)


def subtrees(
    groups: Iterable[tuple[int, Group]], n_groups: int, level: int, joint: int | None = None
) -> Iterator[tuple[Node, list[Group]]]:
    """The numbered groups, ascending, as whole subtrees of 2^level; of up to 2^joint, as far as they are there."""
    most = level if joint is None else max(level, joint)
    for index, numbered in itertools.groupby(groups, key=lambda numbered: numbered[0] >> most):
        members = list(numbered)
        if len(members) == min(1 << most, n_groups - (index << most)):
            yield (most, index), [group for _, group in members]
        else:
            assert most > level, "a subtree is on one worker thread"
            yield from subtrees(members, n_groups, level, most - 1)


def reduce_groups(groups: Iterable[tuple[int, Group]], n_groups: int, reduction: Reduction, broadcast: Any) -> dict[Node, Any]:
    """Map those of the numbered groups, ascending, whose sums are wanted, and add them up as far as they are whole subtrees."""
    tree, wanted = Tree(n_groups, reduction.combine), reduction.numbers(broadcast, n_groups)
    for node, subtree in reduction.parts([numbered for numbered in groups if numbered[0] in wanted], n_groups, broadcast):
        tree.add(node, mapped(reduction.name, reduction.map, subtree, broadcast))
    return tree.nodes


class NodeSums(NamedTuple):
    """nodes: sums of whole subtrees; seconds: what they took, by the number of the worker thread; content: of which rows they are, the
    sum of their partitions' digests (`tasks.rows.digests`), where whoever asked has use for it."""

    nodes: dict[Node, Any]
    seconds: dict[int, float]
    content: int = 0


def reduce_on_worker(shards: Sequence[Shard], thread: int, subset: int, n_groups: int, packed: bytes, broadcast: Any = None) -> NodeSums:
    """Task: `reduce_shards`, with the digest of the rows.

    packed: a pickle of the reduction and of the broadcast. As objects, the client and the scheduler would search, hash and pickle them
    anew for each task, which costs more than a short round computes. None is packed for what comes as `broadcast`, from another task.
    """
    reduction, here = pickle.loads(packed)
    sums = reduce_shards(shards, thread, subset, n_groups, reduction, broadcast if here is None else here)
    return sums._replace(content=content_of(shards, subset))


def content_of(shards: Iterable[Shard], subset: int) -> int:
    """The sum of the digests of all their partitions."""
    return sum(shard_digest(shard, subset) for shard in shards) % MODULUS


def reduce_shards(shards: Sequence[Shard], thread: int, subset: int, n_groups: int, reduction: Reduction, broadcast: Any) -> NodeSums:
    """The sums of the largest whole subtrees that these shards hold together. thread: the number of the worker thread."""
    start = time.perf_counter()
    with single_blas_thread():
        nodes = reduce_groups(in_order(shards, subset), n_groups, reduction, broadcast)
    return NodeSums(nodes, {thread: time.perf_counter() - start})


def in_order(shards: Sequence[Shard], subset: int) -> Iterator[tuple[int, Group]]:
    """The numbered groups of these shards, ascending."""
    ascending = sorted(shards, key=lambda shard: shard.numbers)
    return chain.from_iterable(zip(shard.numbers, shard.groups(subset), strict=True) for shard in ascending)


def prepare_shards(shards: Sequence[Shard], subset: int, n_groups: int, reduction: Reduction, broadcast: Any) -> None:
    """What can be done for the next round before its input is there."""
    prepare = reduction.ahead(broadcast)
    if prepare is not None:
        for _, subtree in reduction.parts(list(in_order(shards, subset)), n_groups, broadcast):
            prepare(subtree)


def joined(shards: Sequence[Shard], subset: int, n_groups: int) -> dict[Node, Group]:
    """Copies of the groups of these shards, siblings put together as far as they are there: fewer calls for many small groups. Only for
    maps that add up partitions along the tree, so that groups may be cut anywhere."""
    tree = Tree(n_groups, join_groups)
    for shard in shards:
        for number, group in zip(shard.numbers, shard.groups(subset), strict=True):
            tree.add((0, number), group)
    return tree.nodes


def reduce_joined(groups: Mapping[Node, Group], thread: int, n_groups: int, reduction: Reduction, broadcast: Any) -> NodeSums:
    """Reduce groups that are joined, as `reduce_shards` does shards."""
    start = time.perf_counter()
    tree = Tree(n_groups, reduction.combine)
    with single_blas_thread():
        for node, group in groups.items():
            tree.add(node, mapped(reduction.name, reduction.map, (group,), broadcast))
    return NodeSums(tree.nodes, {thread: time.perf_counter() - start})


def merge_sums(found: Sequence[NodeSums], n_groups: int, combine: Callable[[Any, Any], Any]) -> NodeSums:
    """Put together the sums of several threads, or of several such merges.

    They are copied first: a worker still holds them as results of tasks, and the merge may run twice.
    """
    tree = Tree(n_groups, combine)
    for each in found:
        tree.merge(copy.deepcopy(each.nodes))
    seconds = {thread: seconds for each in found for thread, seconds in each.seconds.items()}
    return NodeSums(tree.nodes, seconds, sum(each.content for each in found) % MODULUS)
