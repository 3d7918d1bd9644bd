"""What each shard makes itself, what is made once for all, and in which order."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed
from dask.task_spec import Task, TaskRef

from pipeline.data.collections import from_dask
from pipeline.sources.graphs import Graph, ancestors, blocks_graph, outside_keys, plan_groups, shared_keys
from tasks.loading.shards import Step


def graph_of(**needs: str) -> Graph:
    """Keys with the keys that they need, e.g. c="a b"."""
    graph: dict[Any, Any] = {}
    for key, needed in needs.items():
        graph[key] = Task(key, lambda *values, key=key: f"{key}({','.join(values)})", *(TaskRef(name) for name in needed.split()))
    return graph


def run(steps: tuple[Step, ...], values: dict[Any, Any]) -> None:
    for step in steps:
        assert step.key not in values, "made twice"
        values[step.key] = step.run(values)
        for key in step.drop:
            del values[key]


def test_ancestors_come_before_what_needs_them() -> None:
    graph = graph_of(a="", b="a", c="a", d="b c", e="")
    assert ancestors(graph, ["d"]) == ["a", "b", "c", "d"]
    assert ancestors(graph, ["d"], stop=["b"]) == ["a", "c", "d"]


def test_a_mean_is_shared_but_not_the_rows_under_it() -> None:
    graph = graph_of(r0="", r1="", s0="r0", s1="r1", mean="s0 s1", b0="r0 mean", b1="r1 mean")
    assert shared_keys(graph, [["b0"], ["b1"]]) == {"mean"}
    assert shared_keys(graph, [["b0", "b1"]]) == set()


def test_a_chunk_at_the_border_of_two_shards_is_shared() -> None:
    graph = graph_of(r0="", r1="", r2="", b0="r0", b1="r0 r1", b2="r1", b3="r2")
    assert shared_keys(graph, [["b0", "b1"], ["b2", "b3"]]) == {"r1"}


def test_small_constants_travel_with_every_shard() -> None:
    small, large = (da.from_array(np.ones(n), chunks=-1) for n in (10, 100_000))
    for constant, n_shared in ((small, 0), (large, 1)):
        (value,) = constant.to_delayed(optimize_graph=False)
        blocks = [delayed(np.sum)(value, i) for i in range(2)]
        assert len(shared_keys(blocks_graph(blocks), [[block.key] for block in blocks])) == n_shared


def test_what_the_cluster_holds_of_each_block() -> None:
    graph = graph_of(s0="r0", s1="r1", mean="s0 s1", b0="r0 mean", b1="r1 mean", b2="own", own="")
    assert outside_keys(graph, ["b0", "b2", "r1"]) == [{"r0", "r1"}, set(), {"r1"}]
    assert outside_keys(graph, ["b0", "b1"], limit=1) == [{"r0"}, {"r1"}]  # a mean over all rows lives nowhere


def test_each_value_of_a_shard_is_made_once_and_dropped_after_its_last_use() -> None:
    graph = graph_of(file="", mean="", r0="file", r1="file", b0="r0 mean", b1="r1 mean", b2="r1")
    plans, given = plan_groups(graph, [["b0"], ["b1", "b2"]], {"mean"})
    assert given == {"mean"}
    values: dict[Any, Any] = {"mean": "m"}
    run(plans[0], values)
    assert values == {"mean": "m", "file": "file()", "b0": "b0(r0(file()),m)"}
    run(plans[1], values)
    assert values == {"mean": "m", "b0": "b0(r0(file()),m)", "b1": "b1(r1(file()),m)", "b2": "b2(r1(file()))"}


def test_blocks_made_elsewhere_are_only_given() -> None:
    graph = graph_of(r="", b0="r", b1="r")
    assert plan_groups(graph, [["b0"], ["b1"]], {"b0", "b1"}) == ([(), ()], {"b0", "b1"})


def test_a_thousand_partitions() -> None:
    rows = da.random.random((10_000, 4), chunks=(10, 4))
    blocks = from_dask((rows - rows.mean(0)) / rows.std(0), rows[:, 0], None, None).blocks
    keys = [block.key for block in blocks]
    shards = [keys[i : i + 100] for i in range(0, 1000, 100)]
    assert 1 <= len(shared_keys(blocks_graph(blocks), shards)) <= 4
