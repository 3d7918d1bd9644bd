"""A function of groups, one after the other: of those of a shard, or of groups that are made for it and not kept."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.loading.shards import ShardLoad
from tasks.machine.threads import single_blas_thread
from tasks.rows.partition import Shard


def map_shard(shard: Shard, subset: int, packed: bytes) -> list[Any]:
    """Task: the function's result of each group of a shard. packed: a pickle of the function and of the broadcast."""
    function, broadcast = pickle.loads(packed)
    with single_blas_thread():
        return [function(group, broadcast) for group in shard.groups(subset)]


def map_loads(loads: Sequence[ShardLoad], subset: int, packed: bytes, *values: Any) -> list[Any]:
    """Task: the function's result of each group that these loads make, one each. packed: as for `map_shard`; values: those of the keys of
    all loads, in order."""
    function, broadcast = pickle.loads(packed)
    given = iter(values)
    return [map_load(load, subset, function, broadcast, given) for load in loads]


def map_load(load: ShardLoad, subset: int, function: Any, broadcast: Any, given: Iterator[Any]) -> Any:
    """function(group, broadcast), of the one group that a load makes. given: begins with the values of the load's keys."""
    pairs = [(key, next(given)) for key in load.keys]
    with single_blas_thread():  # the source's own graph may call BLAS
        (group,) = load.function(*load.arguments, pairs).groups(subset)
        return function(group, broadcast)
