"""Where partitions come from, and how a shard of them is made again whenever it is lost."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dask.threaded
import numpy as np
from dask.delayed import Delayed
from dask.task_spec import DataNode

from pipeline.data.graphs import Graph, ancestors, blocks_graph, needs_own_tasks, plan_groups, shared_keys
from tasks.blocks import Split
from tasks.loading import GroupPlan, ShardLoad, group_parts, load_shard, shard_of
from tasks.partition import Block, Group, Shard, make_group, nbytes
from tasks.typing import Array, Design, Float64

# More groups than this only cost; more than FEW_GROUPS of less than GROUP_BYTES each do so, too.
MAX_GROUPS = 256
FEW_GROUPS = 16
GROUP_BYTES = 1 << 19


@dataclass(eq=False)
class Source(ABC):
    """Partitions in a fixed order, cut into groups by their number and size alone: group g is partitions [g 2^L, (g + 1) 2^L).

    resident: what executors keep of it, by executor; two datasets made by one split share it.
    """

    n_partitions: int
    split: Split | None = None
    resident: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def group_starts(self) -> list[int]:
        """First partition of each group, and n_partitions at the end."""
        level = 0
        while self._too_many(-(-self.n_partitions // (1 << level))):
            level += 1
        return [*range(0, self.n_partitions, 1 << level), self.n_partitions]

    def _too_many(self, groups: int) -> bool:
        return groups > MAX_GROUPS or (groups > FEW_GROUPS and self.n_bytes < groups * GROUP_BYTES)

    @property
    @abstractmethod
    def n_bytes(self) -> float:
        """Of X; infinite while it is not known."""

    @property
    def n_groups(self) -> int:
        return len(self.group_starts) - 1

    @abstractmethod
    def with_split(self, split: Split) -> Source:
        """The same partitions, each cut in two."""

    @abstractmethod
    def load_local(self) -> Shard:
        """All groups, in this process."""

    @abstractmethod
    def load_plans(self, bounds: Sequence[tuple[int, int]], persist: Callable[[dict[Any, Any], list[Any]], None]) -> list[ShardLoad]:
        """For each run of groups [a, b) how to make its shard; `persist(graph, keys)` has keys that many shards need made first."""

    @abstractmethod
    def delayed_blocks(self) -> list[Delayed]:
        """The block of each partition, lazy, before any split."""

    @property
    @abstractmethod
    def group_sizes(self) -> Sequence[int]:
        """Relative sizes of the groups, as far as they are known, for cutting shards."""


@dataclass(eq=False)
class ArraySource(Source):
    """Rows in this process's memory. rows: (n_partitions + 1,) bounds of the partitions."""

    X: Design = field(default_factory=lambda: np.zeros((0, 0)))
    y: Array | None = None
    sample_weight: Float64 | None = None
    rows: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    def with_split(self, split: Split) -> ArraySource:
        return replace(self, split=split, resident={})

    def load_local(self) -> Shard:
        return self._shard(0, self.n_groups)

    def load_plans(self, bounds: Sequence[tuple[int, int]], persist: Any = None) -> list[ShardLoad]:
        return [ShardLoad(self._shard, bound, (), True) for bound in bounds]

    def delayed_blocks(self) -> list[Delayed]:
        keys = [f"rows-{self._token}-{i}" for i in range(self.n_partitions)]
        return [Delayed(key, {key: DataNode(key, self._block(i))}) for i, key in enumerate(keys)]

    @cached_property
    def _token(self) -> str:
        return uuid.uuid4().hex

    @property
    def n_bytes(self) -> float:
        return nbytes(self.X)

    @property
    def group_sizes(self) -> Sequence[int]:
        return [int(n) for n in np.diff(self.rows[self.group_starts])]

    def _slice(self, start: int, stop: int) -> Block:
        rows = slice(int(self.rows[start]), int(self.rows[stop]))
        y = None if self.y is None else self.y[rows]
        return Block(self.X[rows], y, None if self.sample_weight is None else self.sample_weight[rows])

    def _block(self, partition: int) -> Block:
        return self._slice(partition, partition + 1)

    def _shard(self, first: int, stop: int) -> Shard:
        return shard_of(first, [self._group(g) for g in range(first, stop)])

    def _group(self, index: int) -> list[Group]:
        start, stop = self.group_starts[index : index + 2]
        if self.split is not None:
            return group_parts([self._block(i) for i in range(start, stop)], start, self.split)
        group = make_group([self._slice(start, stop)], start)  # a view on the user's rows, not a copy
        group.offsets = (self.rows[start : stop + 1] - self.rows[start]).astype(np.int64)
        return [group]


@dataclass(eq=False)
class GraphSource(Source):
    """Blocks as keys of a Dask graph: Dask collections and files alike.

    blocks: one Delayed a partition; keep: collections whose futures must stay alive; sizes: rows of the partitions, if known;
    row_bytes: bytes of a row of X.
    """

    blocks: Sequence[Delayed] = ()
    keep: tuple[Any, ...] = ()
    sizes: Sequence[int] | None = None
    row_bytes: int = 8

    def with_split(self, split: Split) -> GraphSource:
        return replace(self, split=split, resident={})

    @property
    def n_bytes(self) -> float:
        return np.inf if self.sizes is None else sum(self.sizes) * self.row_bytes

    @cached_property
    def _graph(self) -> Graph:
        return blocks_graph(self.blocks)

    @cached_property
    def _keys(self) -> list[Hashable]:
        return [block.key for block in self.blocks]

    def load_local(self) -> Shard:
        one_thread = dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded")
        get: Any = dask.get if one_thread else dask.threaded.get
        blocks = list(get(self._graph, self._keys))
        groups = []
        for start, stop in zip(self.group_starts[:-1], self.group_starts[1:], strict=True):
            groups.append(group_parts(blocks[start:stop], start, self.split))
            blocks[start:stop] = [None] * (stop - start)  # freed as the groups are stacked
        return shard_of(0, groups)

    def load_plans(self, bounds: Sequence[tuple[int, int]], persist: Callable[[dict[Any, Any], list[Any]], None]) -> list[ShardLoad]:
        graph = self._graph
        own_tasks = needs_own_tasks(graph)
        first = set(self._keys) if own_tasks else shared_keys(graph, [self._shard_keys(a, b) for a, b in bounds])
        if first:
            keys = sorted(first, key=str)
            persist({key: graph[key] for key in ancestors(graph, keys)}, keys)
        return [self._shard_load(graph, first, a, b) for a, b in bounds]

    def _shard_keys(self, first_group: int, stop_group: int) -> list[Hashable]:
        return self._keys[self.group_starts[first_group] : self.group_starts[stop_group]]

    def _shard_load(self, graph: Graph, first: set[Hashable], start: int, stop: int) -> ShardLoad:
        groups = [self._shard_keys(group, group + 1) for group in range(start, stop)]
        steps, given = plan_groups(graph, groups, first)
        plans = tuple(
            GroupPlan(self.group_starts[start + i], made, tuple(keys)) for i, (made, keys) in enumerate(zip(steps, groups, strict=True))
        )
        return ShardLoad(load_shard, (start, plans, self.split), tuple(sorted(given, key=str)), False)

    def delayed_blocks(self) -> list[Delayed]:
        return list(self.blocks)

    @property
    def group_sizes(self) -> Sequence[int]:
        if self.sizes is None:
            return [b - a for a, b in zip(self.group_starts[:-1], self.group_starts[1:], strict=True)]
        total = np.concatenate([[0], np.cumsum(self.sizes)])
        return [int(n) for n in np.diff(total[self.group_starts])]
