"""A function of groups, one after the other: of those of a shard, or of groups that are made for it and not kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tasks.loading.shards import ShardLoad
from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.rows.partition import Group, Shard


class GroupMap(NamedTuple):
    """What is computed of each group: function(group, broadcast), under a name for errors and tasks."""

    name: str
    function: Callable[[Group, Any], Any]
    broadcast: Any

    def of(self, group: Group) -> Any:
        """The function's result. Raises OutOfMemoryError instead of MemoryError."""
        return mapped(self.name, lambda groups, broadcast: self.function(groups[0], broadcast), (group,), self.broadcast)


def map_shard(shard: Shard, subset: int, packed: bytes) -> list[Any]:
    """Task: the results of each group of a shard. packed: a pickle of the `GroupMap`."""
    group_map: GroupMap = pickle.loads(packed)
    with single_blas_thread():
        return [group_map.of(group) for group in shard.groups(subset)]


def map_loads(loads: Sequence[ShardLoad], subset: int, packed: bytes, *values: Any) -> list[Any]:
    """Task: the results of each group that these loads make, one each. packed: as for `map_shard`; values: those of the keys of all loads,
    in order."""
    group_map: GroupMap = pickle.loads(packed)
    given = iter(values)
    return [map_load(load, subset, group_map, given) for load in loads]


def map_load(load: ShardLoad, subset: int, group_map: GroupMap, given: Iterator[Any]) -> Any:
    """The result of the one group that a load makes. given: begins with the values of the load's keys."""
    pairs = [(key, next(given)) for key in load.keys]
    with single_blas_thread():  # the source's own graph may call BLAS
        (group,) = load.function(*load.arguments, pairs).groups(subset)
        return group_map.of(group)
