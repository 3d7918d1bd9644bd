"""Reading a Dask graph so that one task can make a whole shard of it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dask._task_spec import convert_legacy_graph
from dask.base import is_dask_collection, tokenize
from dask.core import flatten
from dask.delayed import Delayed
from dask.sizeof import sizeof
from dask.task_spec import DataNode, GraphNode, Task, TaskRef

from tasks.loading.quarantine import Guarded, Screen
from tasks.loading.shards import Step

Graph = dict[Hashable, GraphNode]


class Outside(NamedTuple):
    """Keys of values that a graph needs and does not make, so that a cluster must hold them; given: by name, the collections that brought
    them, lazy or in memory."""

    keys: frozenset[Hashable]
    given: Mapping[str, Any]

    def names(self, keys: Iterable[Hashable]) -> list[str]:
        """The names of the collections that need any of these keys."""
        return [name for name, each in self.given.items() if is_dask_collection(each) and not needs_of(each).isdisjoint(keys)]


SMALL: Final = 100_000
"""Bytes of a constant that may be sent with every shard that needs it."""


def blocks_graph(blocks: Sequence[Delayed]) -> Graph:
    """The low-level graph of all blocks together: what they need, and nothing else."""
    graph: Graph = dict(convert_legacy_graph(merged(blocks)))
    return {key: graph[key] for key in ancestors(graph, [block.key for block in blocks])}


def merged(blocks: Sequence[Delayed]) -> dict[Hashable, object]:
    """The graphs of all blocks together, as they are."""
    found: dict[Hashable, object] = {}
    for collection in {id(block.dask): block.dask for block in blocks}.values():  # mostly there is one graph for all blocks
        found.update(collection)
    return found


def futures_in(graph: Mapping[Any, Any]) -> dict[Any, Any]:
    """The futures of a graph that Dask has not read yet: what holds on to the values of what is persisted, and is in no other graph."""
    return {key: node for key, node in graph.items() if isinstance(node, TaskRef)}


def ancestors(graph: Graph, keys: Iterable[Hashable], stop: Collection[Hashable] = ()) -> list[Hashable]:
    """The keys of all that `keys` need, each after what it needs itself (depth first); not beyond the keys in `stop`."""
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


def screened(graph: Graph, keys: Sequence[Hashable], screen: Screen) -> tuple[Graph, list[Hashable]]:
    """The graph with a screen behind each of `keys`, which are those of blocks; and the keys of what passes. All other keys get names of
    their own, for their values may stand for failures now. What only runs as it is, a shuffle, fails as a whole."""
    names: dict[Any, Any] = {} if needs_own_tasks(graph) else {key: _guarded_name(key) for key in graph}
    guarded: Graph = {} if names else dict(graph)
    for key, name in names.items():
        node, needs = graph[key], tuple(sorted(graph[key].dependencies, key=str))
        refs = [TaskRef(names.get(needed, needed)) for needed in needs]
        guarded[name] = DataNode(name, node.value) if isinstance(node, DataNode) else Task(name, Guarded(node, needs), *refs)
    token = tokenize(list(keys), screen)
    passed: list[Any] = [(f"screened-{token}", partition) for partition in range(len(keys))]
    for partition, key in enumerate(keys):
        name = passed[partition]
        guarded[name] = Task(name, screen, TaskRef(names.get(key, key)), partition)
    return guarded, passed


def _guarded_name(key: Hashable) -> Hashable:
    return ("guarded", *key) if isinstance(key, tuple) else f"guarded-{key}" if isinstance(key, str) else ("guarded", key)


def plan_groups(
    graph: Graph, groups: Sequence[Sequence[Hashable]], first: Collection[Hashable]
) -> tuple[list[tuple[Step, ...]], set[Hashable]]:
    """The steps that make the blocks of each group of a shard, in order, each value made once and dropped after its last use, and the keys
    that must be given."""
    made: set[Hashable] = set(first)
    orders = []
    for blocks in groups:
        orders.append(ancestors(graph, blocks, made))
        made.update(orders[-1])
    inside = {key for order in orders for key in order}
    last_use: dict[Hashable, Hashable] = {}
    given = {key for blocks in groups for key in blocks if key in first}
    for order in orders:
        for key in order:
            for needed in graph[key].dependencies:
                if needed in inside:
                    last_use[needed] = key
                else:
                    given.add(needed)
    drops: dict[Hashable, list[Hashable]] = {}
    for needed, key in last_use.items():
        drops.setdefault(key, []).append(needed)
    return [tuple(Step(key, graph[key], tuple(drops.get(key, ()))) for key in order) for order in orders], given


def outside_keys(graph: Graph, keys: Sequence[Hashable], limit: int = 32) -> list[frozenset[Hashable]]:
    """What each of `keys` needs and the graph does not make: values that the cluster holds. What needs more than `limit` of
    them, a mean over all rows say, lives nowhere in particular and counts for none."""
    found: dict[Hashable, frozenset[Hashable]] = {}
    for key in ancestors(graph, keys):
        needed = frozenset[Hashable]().union(*(found.get(other, frozenset({other})) for other in graph[key].dependencies))
        found[key] = needed if len(needed) <= limit else frozenset()
    return [found.get(key, frozenset({key})) for key in keys]


def all_outside(graph: Graph) -> frozenset[Hashable]:
    """The keys that the nodes of a graph need and the graph does not make: values that a cluster holds."""
    return frozenset(needed for node in graph.values() for needed in node.dependencies if needed not in graph)


def outside_of(given: Mapping[str, Any]) -> Outside:
    """The keys that the lazy ones of these collections need from outside their graphs."""
    return Outside(frozenset[Hashable]().union(*map(needs_of, filter(is_dask_collection, given.values()))), given)


def needs_of(collection: Any) -> frozenset[Hashable]:
    """The keys that one collection needs and its graph does not make; of what is persisted these are its own keys."""
    graph: Graph = dict(convert_legacy_graph(collection.__dask_graph__()))
    keys = list(flatten(collection.__dask_keys__()))
    return all_outside({key: graph[key] for key in ancestors(graph, keys)}) | {key for key in keys if key not in graph}


def shared_keys(graph: Graph, shards: Sequence[Sequence[Hashable]]) -> set[Hashable]:
    """Keys that several shards need as they are: a mean over all rows, a chunk at the border of two shards, one read of a whole file.

    Made inside the shards, each would be made several times. What only they need is not among them.
    """
    order = ancestors(graph, [key for keys in shards for key in keys])
    users: dict[Hashable, set[int]] = {key: set() for key in order}
    for shard, keys in enumerate(shards):
        for key in keys:
            users[key].add(shard)
    shared: set[Hashable] = set()
    for key in reversed(order):  # each key after all keys that need it
        if len(users[key]) > 1 and not _is_small(graph[key]):
            shared.add(key)
            continue
        for needed in graph[key].dependencies:
            if needed in users:
                users[needed] |= users[key]
    return shared


def _is_small(node: GraphNode) -> bool:
    return isinstance(node, DataNode) and sizeof(node.value) <= SMALL


def needs_own_tasks(graph: Graph) -> bool:
    """Whether some tasks only run as tasks of the scheduler (a peer-to-peer shuffle keeps state between its tasks)."""
    return any("shuffle" in getattr(getattr(node, "func", None), "__module__", "") for node in graph.values())
