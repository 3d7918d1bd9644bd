"""Reading a Dask graph so that one task can make a whole shard of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import dask
from dask._task_spec import convert_legacy_graph
from dask.delayed import Delayed
from dask.task_spec import DataNode, GraphNode

from tasks.loading import Step

Graph = dict[Hashable, GraphNode]


def blocks_graph(blocks: Sequence[Delayed]) -> Graph:
    """The optimised low-level graph of all blocks together."""
    optimised = dask.optimize(*blocks)
    merged: dict[Hashable, object] = {}
    for block in optimised:
        merged.update(block.__dask_graph__())
    return dict(convert_legacy_graph(merged))


def ancestors(graph: Graph, keys: Iterable[Hashable], stop: set[Hashable]) -> list[Hashable]:
    """Everything that `keys` need, each after what it needs itself (depth first); not beyond the keys in `stop`."""
    order: list[Hashable] = []
    seen: set[Hashable] = set(stop)
    work: list[tuple[Hashable, bool]] = [(key, False) for key in reversed(list(keys))]
    while work:
        key, ready = work.pop()
        if ready:
            order.append(key)
        elif key not in seen and key in graph:
            seen.add(key)
            work.append((key, True))
            work.extend((needed, False) for needed in sorted(graph[key].dependencies, key=str, reverse=True))
    return order


def plan_group(graph: Graph, blocks: Sequence[Hashable], first: set[Hashable]) -> tuple[tuple[Step, ...], set[Hashable]]:
    """The steps that make the blocks of one group, each value dropped after its last use, and the keys that must be given."""
    order = ancestors(graph, blocks, first)
    position = {key: i for i, key in enumerate(order)}
    last_use: dict[Hashable, int] = {}
    given = set(first & set(blocks))
    for i, key in enumerate(order):
        for needed in graph[key].dependencies:
            if needed in position:
                last_use[needed] = i
            else:
                given.add(needed)
    drops: dict[int, list[Hashable]] = {}
    for key, i in last_use.items():
        if key not in blocks:
            drops.setdefault(i, []).append(key)
    return tuple(Step(key, graph[key], tuple(drops.get(i, ()))) for i, key in enumerate(order)), given


def wide_shared_keys(graph: Graph, shards: Sequence[Sequence[Hashable]]) -> set[Hashable]:
    """Keys that several shards need and that themselves need at least as many tasks as there are partitions.

    A mean over all rows is one: were it left inside, every shard would read all the data. Of a chain of such keys the last counts.
    """
    n_partitions = sum(len(keys) for keys in shards)
    users = Counter(key for keys in shards for key in set(ancestors(graph, keys, set())))
    shared = [key for key, count in users.items() if count > 1 and not isinstance(graph[key], DataNode)]
    wide = {key for key in shared if n_partitions > 1 and len(ancestors(graph, [key], set())) > n_partitions}
    blocks = {key for keys in shards for key in keys}
    needed_outside = {needed for key in users if key not in wide for needed in graph[key].dependencies}
    return {key for key in wide if key in needed_outside or key in blocks}


def needs_own_tasks(graph: Graph) -> bool:
    """Whether some tasks only run as tasks of the scheduler (a peer-to-peer shuffle keeps state between its tasks)."""
    return any("shuffle" in getattr(getattr(node, "func", None), "__module__", "") for node in graph.values())
