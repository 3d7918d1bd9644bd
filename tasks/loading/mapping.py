"""A function of partitions, one after the other: of those of a shard, or of partitions that are made for it and not kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tasks.loading.shards import ShardLoad
from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.rows.partition import Group, Shard


class PartitionMap(NamedTuple):
    """What is computed of each partition: function(partition, broadcast), under a name for errors and tasks; a partition is a group of
    one."""

    name: str
    function: Callable[[Group, Any], Any]
    broadcast: Any

    def of(self, groups: Iterable[Group]) -> list[Any]:
        """The function's results, of each partition of the groups. Raises OutOfMemoryError instead of MemoryError."""

        def of_one(partition: Sequence[Group], broadcast: Any) -> Any:
            return self.function(partition[0], broadcast)

        return [mapped(self.name, of_one, (partition,), self.broadcast) for group in groups for partition in group.partitions()]


def map_shard(shard: Shard, subset: int, packed: bytes) -> list[Any]:
    """Task: the results of each partition of a shard. packed: a pickle of the `PartitionMap`."""
    partition_map: PartitionMap = pickle.loads(packed)
    with single_blas_thread():
        return partition_map.of(shard.groups(subset))


def map_loads(loads: Sequence[ShardLoad], subset: int, packed: bytes, *values: Any) -> list[Any]:
    """Task: the results of each partition that these loads make, load after load. packed: as for `map_shard`; values: those of the keys of
    all loads, in order."""
    partition_map: PartitionMap = pickle.loads(packed)
    given = iter(values)
    with single_blas_thread():  # the source's own graph may call BLAS
        return [result for load in loads for result in map_load(load, subset, partition_map, given)]


def map_load(load: ShardLoad, subset: int, partition_map: PartitionMap, given: Iterator[Any]) -> list[Any]:
    """The results of each partition that a load makes. given: begins with the values of the load's keys."""
    pairs = [(key, next(given)) for key in load.keys]
    return partition_map.of(load.function(*load.arguments, pairs).groups(subset))
