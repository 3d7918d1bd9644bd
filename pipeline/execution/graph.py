"""The graph of a round on a cluster: a task for each worker thread, and where sums are large a tree of tasks that adds them up."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from dask.task_spec import List, TaskRef

from pipeline.cluster.code.modules import dumps
from pipeline.execution.opaque import call, value
from pipeline.execution.residency.resident import Work
from tasks.reductions.memory import merged
from tasks.reductions.reduction import NodeSums, Reduction, array_bytes, merge_sums, reduce_on_worker

INLINE_BYTES: Final = 8000
CLIENT_COMBINE_BYTES: Final = 1 << 20
FAN_IN: Final = 8


class RoundGraph(NamedTuple):
    """The tasks of a round, and the keys of those that the client gathers; needs: modules that workers import for what
    they are sent; large: whether the sums are, and meet on the cluster; n_tasks: that work on rows; n_sent: bytes sent to them; shared:
    the key of what all of them are sent, or none; places: the worker of each, of a reduction that stays with its rows."""

    tasks: dict[Any, Any]
    keys: list[Any]
    needs: set[str]
    large: bool
    n_tasks: int
    n_sent: int
    shared: list[Any]
    places: dict[Any, str]


def round_graph(work: Sequence[Work], subset: int, n_groups: int, reduction: Reduction, broadcast: Any, result_bytes: float) -> RoundGraph:
    """One task for each worker thread. result_bytes: about those of all their sums."""
    token = uuid.uuid4().hex
    graph: dict[Any, Any] = {}
    needs: set[str] = set()
    shared = []
    if bytes_of(broadcast) > INLINE_BYTES:  # one copy to the cluster, from where each worker fetches it once
        shared = [f"parameters-{token}"]
        graph[shared[0]] = value(shared[0], broadcast, needs=needs)
    packed, modules = dumps((reduction, None if shared else broadcast))
    names = []
    for thread, _, keys in work:
        name = (f"{reduction.name}-{token}", thread)
        pieces = List(*map(TaskRef, keys))
        graph[name] = call(name, reduce_on_worker, pieces, thread, subset, n_groups, packed, *map(TaskRef, shared), needs=set())
        names.append(name)
    n_sent = len(packed) * len(work)
    if shared:
        n_sent += bytes_of(broadcast) * len({worker for _, worker, _ in work})
    large = result_bytes > CLIENT_COMBINE_BYTES and reduction.adds_up
    places = {name: worker for name, (_, worker, _) in zip(names, work, strict=True)} if reduction.stays else {}
    if large:
        names = combining(graph, names, n_groups, reduction, token)
    return RoundGraph(graph, names, needs | modules, large, len(work), n_sent, shared, places)


def combining(graph: dict[Any, Any], names: list[Any], n_groups: int, reduction: Reduction, token: str) -> list[Any]:
    """The key of the task that has the sums of all of `names`, alone in a list; graph: gains the tasks up to there."""
    merge, level = merging(reduction, n_groups), 0
    while len(names) > 1:
        above = []
        for i in range(0, len(names), FAN_IN):
            name = (f"tree-reduce-{token}", level, i // FAN_IN)
            graph[name] = call(name, merge, List(*map(TaskRef, names[i : i + FAN_IN])), needs=set())
            above.append(name)
        names, level = above, level + 1
    return names


def merging(reduction: Reduction, n_groups: int) -> Callable[[Sequence[NodeSums]], NodeSums]:
    """What makes one of the sums of several tasks."""
    return partial(merged, reduction.name, partial(merge_sums, n_groups=n_groups, combine=reduction.combine))


def bytes_of(broadcast: Any) -> int:
    """About how many bytes a broadcast has."""
    return array_bytes(tuple(broadcast)) if isinstance(broadcast, tuple) else 0
