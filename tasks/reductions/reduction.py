"""Reductions: what to compute where the rows live, and how it adds up along the one fixed tree (`tasks.reductions.tree`)."""

from __future__ import annotations

import copy
import itertools
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.reductions.tree import Node, Tree, result_of
from tasks.rows.digests import MODULUS, shard_digest
from tasks.rows.partition import Group, Shard, join_groups

Prepare = Callable[[Sequence[Group]], None]


def single_groups(broadcast: Any) -> int:
    """The level of lanes that are groups."""
    return 0


def nothing_ahead(broadcast: Any) -> None:
    """Prepare nothing for the next round."""
    return


def as_they_are(sums: Any, broadcast: Any) -> Any:
    """The sums themselves, of a reduction without a last step."""
    return sums


class Reduction(NamedTuple):
    """What to compute on each subtree of groups and how partial sums add up. Sums are what it says: arrays, tuples, any objects.

    name     what the dashboard shows, e.g. "gradient"
    map      (groups, broadcast) -> sums, a pure function of one lane: a whole subtree of groups, mostly a single one
    combine  (left, right) -> sums, plain addition wherever it can be; may reuse the memory of `left`
    n_bytes  (broadcast, n_columns) -> about how many bytes sums have: large ones meet on the cluster, not in the client
    level    (broadcast) -> lanes are subtrees of 2^level groups, which one worker thread has together
    ahead    (broadcast) -> what can be prepared for each lane's next round while sums are on their way, or None
    finish   (sums, broadcast) -> sums, the last step, once, at the root: what a stage puts on in `map` it takes off here
    """

    name: str
    map: Callable[[Sequence[Group], Any], Any]
    combine: Callable[[Any, Any], Any]
    n_bytes: Callable[[Any, int], int]
    level: Callable[[Any], int] = single_groups
    ahead: Callable[[Any], Prepare | None] = nothing_ahead
    finish: Callable[[Any, Any], Any] = as_they_are

    def whole(self, nodes: Mapping[Node, Any], n_groups: int, broadcast: Any) -> Any:
        """The finished sums of all groups, from the node that has them all. Raises ValueError where some are missing."""
        return self.finish(result_of(nodes, n_groups), broadcast)


Stage = Callable[[Reduction], Reduction]
"""Puts something on the sums of a reduction: marks, ..."""


def of_group(function: Callable[[Group, Any], Any]) -> Callable[[Sequence[Group], Any], Any]:
    """The map of a reduction whose lanes are single groups."""
    return partial(_map_group, function)


def _map_group(function: Callable[[Group, Any], Any], groups: Sequence[Group], broadcast: Any) -> Any:
    (group,) = groups
    return function(group, broadcast)


def lanes(groups: Iterable[tuple[int, Group]], n_groups: int, level: int) -> Iterator[tuple[Node, list[Group]]]:
    """The numbered groups, ascending, as whole subtrees of 2^level."""
    for index, members in itertools.groupby(groups, key=lambda numbered: numbered[0] >> level):
        lane = [group for _, group in members]
        assert len(lane) == min(1 << level, n_groups - (index << level)), "a lane is on one worker thread"
        yield (level, index), lane


def reduce_groups(groups: Iterable[tuple[int, Group]], n_groups: int, reduction: Reduction, broadcast: Any) -> dict[Node, Any]:
    """Map the numbered groups, ascending, and add them up as far as they are whole subtrees."""
    tree = Tree(n_groups, reduction.combine)
    for node, lane in lanes(groups, n_groups, reduction.level(broadcast)):
        tree.add(node, mapped(reduction.name, reduction.map, lane, broadcast))
    return tree.nodes


class Sums(NamedTuple):
    """nodes: partials of whole subtrees; seconds: what they took, by the number of the worker thread; content: of which rows they are, the
    sum of their partitions' digests (`tasks.rows.digests`), where whoever asked has use for it."""

    nodes: dict[Node, Any]
    seconds: dict[int, float]
    content: int = 0


def reduce_on_worker(shards: Sequence[Shard], slot: int, part: int, n_groups: int, packed: bytes, broadcast: Any = None) -> Sums:
    """Task: `reduce_shards`, with the digest of the rows.

    packed: a pickle of the reduction and of the broadcast. As objects, the client and the scheduler would search, hash and pickle them
    anew for each task, which costs more than a short round computes. None is packed for what comes as `broadcast`, from another task.
    """
    reduction, here = pickle.loads(packed)
    sums = reduce_shards(shards, slot, part, n_groups, reduction, broadcast if here is None else here)
    return sums._replace(content=content_of(shards, part))


def content_of(shards: Iterable[Shard], part: int) -> int:
    """The sum of the digests of all their partitions."""
    return sum(shard_digest(shard, part) for shard in shards) % MODULUS


def reduce_shards(shards: Sequence[Shard], slot: int, part: int, n_groups: int, reduction: Reduction, broadcast: Any) -> Sums:
    """The partials of the largest whole subtrees that these shards hold together. slot: the number of the worker thread."""
    start = time.perf_counter()
    with single_blas_thread():
        nodes = reduce_groups(in_order(shards, part), n_groups, reduction, broadcast)
    return Sums(nodes, {slot: time.perf_counter() - start})


def in_order(shards: Sequence[Shard], part: int) -> Iterator[tuple[int, Group]]:
    """The numbered groups of these shards, ascending."""
    ascending = sorted(shards, key=lambda shard: shard.numbers)
    return chain.from_iterable(zip(shard.numbers, shard.groups(part), strict=True) for shard in ascending)


def prepare_shards(shards: Sequence[Shard], part: int, n_groups: int, reduction: Reduction, broadcast: Any) -> None:
    """What can be done for the next round before its input is there."""
    prepare = reduction.ahead(broadcast)
    if prepare is not None:
        for _, lane in lanes(in_order(shards, part), n_groups, reduction.level(broadcast)):
            prepare(lane)


def joined(shards: Sequence[Shard], part: int, n_groups: int) -> dict[Node, Group]:
    """Copies of the groups of these shards, siblings put together as far as they are there: fewer calls for many small groups. Only for
    maps that add up partitions along the tree, so that groups may be cut anywhere."""
    tree = Tree(n_groups, join_groups)
    for shard in shards:
        for number, group in zip(shard.numbers, shard.groups(part), strict=True):
            tree.add((0, number), group)
    return tree.nodes


def reduce_joined(groups: Mapping[Node, Group], slot: int, n_groups: int, reduction: Reduction, broadcast: Any) -> Sums:
    """Reduce groups that are joined, as `reduce_shards` does shards."""
    start = time.perf_counter()
    tree = Tree(n_groups, reduction.combine)
    with single_blas_thread():
        for node, group in groups.items():
            tree.add(node, mapped(reduction.name, reduction.map, (group,), broadcast))
    return Sums(tree.nodes, {slot: time.perf_counter() - start})


def merge_sums(parts: Sequence[Sums], n_groups: int, combine: Callable[[Any, Any], Any]) -> Sums:
    """Put together the partials of several threads, or of several such merges.

    They are copied first: a worker still holds them as results of tasks, and the merge may run twice.
    """
    tree = Tree(n_groups, combine)
    for part in parts:
        tree.merge(copy.deepcopy(part.nodes))
    seconds = {slot: seconds for part in parts for slot, seconds in part.seconds.items()}
    return Sums(tree.nodes, seconds, sum(part.content for part in parts) % MODULUS)
