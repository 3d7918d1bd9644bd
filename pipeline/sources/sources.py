"""Sources: where partitions come from, and how a shard of them is made again whenever it is lost."""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, ClassVar, Self

import dask.threaded
import numpy as np
from dask.delayed import Delayed
from dask.task_spec import DataNode

from pipeline.sources.errors import locations_named
from pipeline.sources.graphs import (
    Graph,
    Outside,
    all_outside,
    ancestors,
    blocks_graph,
    futures_in,
    merged,
    needs_own_tasks,
    outside_keys,
    plan_groups,
    screened,
    shared_keys,
)
from pipeline.sources.locations import Locations, rows_between
from tasks.loading.blocks import Split
from tasks.loading.quarantine import Screen
from tasks.loading.shards import GroupPlan, ShardLoad, group_subsets, load_shard, shard_of
from tasks.rows.partition import Block, Group, Shard, join_shards, make_group, nbytes, row_slice
from tasks.typing import Array, Design, Float64

Persist = Callable[[dict[Any, Any], list[Any]], None]

# The limits of groups: (number of groups, bytes of each) beyond which more groups only cost. A worker thread has one group at least, and
# each costs a call in every round. Where sizes are not known, a partition counts as 8 MiB.
GROUP_LIMITS = ((16, 1 << 19), (256, 1 << 25), (4096, np.inf))


@dataclass(eq=False)
class Source(ABC):
    """Partitions in a fixed order, cut into groups by their number and size alone: group g is partitions [g 2^L, (g + 1) 2^L).

    resident: what executors keep of it, by executor; two datasets made by one split share it. screen: of partitions that are to be left out
    where they cannot be used. home: the device that rows are to live on (`tasks.loading.residence`), None for the one that they come
    from. lock: for whoever loads or checks the rows, so that several fits at the same time do it once; rows that are resident are used
    without it. version: counts how often the rows were found to be others than before.
    """

    in_client: ClassVar[bool]
    """Whether the rows are in this process, which then can always supply them again."""

    n_partitions: int
    split: Split | None = None
    resident: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    screen: Screen | None = None
    home: str | None = None
    lock: Any = field(default_factory=threading.RLock, init=False, repr=False)
    version: int = field(default=0, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the rows that are resident here: another process reads them by itself."""
        return {name: value for name, value in vars(self).items() if name not in ("resident", "lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, resident={}, lock=threading.RLock())

    def release(self) -> None:
        """Free the rows wherever they are resident; the next use reads them again."""
        while self.resident:
            _, rows = self.resident.popitem()
            rows.release()

    def forget(self) -> None:
        """Free the rows, and what was found of them: they are not what they were."""
        self.release()
        self.version += 1

    @cached_property
    def group_starts(self) -> list[int]:
        """First partition of each group, and n_partitions at the end."""
        level = 0
        while self._too_many(-(-self.n_partitions // (1 << level))):
            level += 1
        return [*range(0, self.n_partitions, 1 << level), self.n_partitions]

    def _too_many(self, groups: int) -> bool:
        n_bytes = self.n_bytes if np.isfinite(self.n_bytes) else self.n_partitions * (8 << 20)
        return any(groups > limit and n_bytes < groups * size for limit, size in GROUP_LIMITS)

    @property
    @abstractmethod
    def n_bytes(self) -> float:
        """The bytes of X; infinite while they are not known."""

    @property
    def n_groups(self) -> int:
        return len(self.group_starts) - 1

    @abstractmethod
    def location(self, partition: int, row: int | None = None) -> str:
        """The location that a partition comes from, in words, or one of its rows before any split, as far as that is known better."""

    def partitions_of(self, groups: Iterable[int]) -> list[int]:
        """The numbers of all partitions of some groups."""
        return [partition for group in groups for partition in range(*self.group_starts[group : group + 2])]

    def by_partition(self) -> Self:
        """The same partitions, each a group by itself."""
        source = copy(self)
        source.group_starts = list(range(self.n_partitions + 1))
        return source

    def locations_of(self, first: int, last: int) -> str:
        """Partitions first to last, and where they come from."""
        if first == last:
            return f"partition {first} ({self.location(first)})"
        return f"partitions {first} to {last} ({self.location(first)} to {self.location(last)})"

    @abstractmethod
    def with_split(self, split: Split) -> Source:
        """The same partitions, each cut in two."""

    @abstractmethod
    def load_local(self, n_threads: int) -> Shard:
        """A shard of all groups, in this process, read by so many threads."""

    @abstractmethod
    def load_plans(self, shards: Sequence[Sequence[int]], persist: Persist) -> list[ShardLoad]:
        """The plans to make each shard, which is given by the numbers of its groups; `persist(graph, keys)` has keys that many shards need
        made first."""

    @abstractmethod
    def delayed_blocks(self) -> list[Delayed]:
        """The block of each partition, lazy, before any split."""

    @property
    @abstractmethod
    def partition_rows(self) -> Sequence[int] | None:
        """Rows of each partition before any split, if they are known without reading."""

    @property
    def group_sizes(self) -> Sequence[int]:
        """Relative sizes of the groups, as far as they are known, for cutting shards."""
        rows = self.partition_rows
        total = np.concatenate([[0], np.cumsum([1] * self.n_partitions if rows is None else rows)])
        return [int(n) for n in np.diff(total[self.group_starts])]

    @property
    @abstractmethod
    def held_keys(self) -> list[frozenset[Hashable]]:
        """The keys of each group's rows that the cluster holds already; empty where none does."""

    @property
    @abstractmethod
    def outside(self) -> Outside:
        """The values that a cluster must hold before the rows can be made."""


@dataclass(eq=False)
class ArraySource(Source):
    """A source of rows in this process's memory. rows: (n_partitions + 1,) bounds of the partitions."""

    in_client = True

    X: Design = field(default_factory=lambda: np.zeros((0, 0)))
    y: Array | None = None
    sample_weight: Float64 | None = None
    rows: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    def location(self, partition: int, row: int | None = None) -> str:
        start, stop = (int(bound) for bound in self.rows[partition : partition + 2])
        return f"{rows_between(start, stop) if row is None else f'row {start + row}'} of X"

    def with_split(self, split: Split) -> ArraySource:
        return replace(self, split=split, resident={})

    def load_local(self, n_threads: int) -> Shard:
        return self._shard(range(self.n_groups))

    def load_plans(self, shards: Sequence[Sequence[int]], persist: Persist) -> list[ShardLoad]:
        return [ShardLoad(self._shard, (numbers,), self.n_partitions) for numbers in shards]

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
    def partition_rows(self) -> Sequence[int]:
        return [int(n) for n in np.diff(self.rows)]

    @property
    def held_keys(self) -> list[frozenset[Hashable]]:
        return [frozenset()] * self.n_groups

    @property
    def outside(self) -> Outside:
        return Outside(frozenset(), {})

    def _slice(self, start: int, stop: int) -> Block:
        rows = slice(int(self.rows[start]), int(self.rows[stop]))
        y = None if self.y is None else self.y[rows]
        return Block(row_slice(self.X, rows.start, rows.stop), y, None if self.sample_weight is None else self.sample_weight[rows])

    def _block(self, partition: int) -> Block:
        return self._slice(partition, partition + 1)

    def _shard(self, numbers: Sequence[int], given: Sequence[Any] = ()) -> Shard:
        return shard_of(numbers, [self._group(number) for number in numbers])

    def _group(self, index: int) -> list[Group]:
        start, stop = self.group_starts[index : index + 2]
        if self.split is not None:
            return group_subsets([self._block(i) for i in range(start, stop)], start, self.split, from_client=True, home=self.home)
        group = make_group([self._slice(start, stop)], start, from_client=True, home=self.home)  # a view on the user's rows, not a copy
        group.offsets = (self.rows[start : stop + 1] - self.rows[start]).astype(np.int64)
        return [group]


@dataclass(eq=False)
class GraphSource(Source):
    """A source of blocks as keys of a Dask graph: Dask collections and files alike.

    blocks: one Delayed a partition; given: by name, the collections that they are made from, whose futures must stay alive; sizes: rows of
    the partitions, if known; row_bytes: bytes of a row of X; locations: where partitions come from.
    """

    in_client = False

    blocks: Sequence[Delayed] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[int] | None = None
    row_bytes: int = 8
    locations: Locations | None = None

    def location(self, partition: int, row: int | None = None) -> str:
        return self.blocks[partition].key if self.locations is None else self.locations(partition, row)

    def with_split(self, split: Split) -> GraphSource:
        return replace(self, split=split, resident={})

    @property
    def n_bytes(self) -> float:
        return np.inf if self.sizes is None else sum(self.sizes) * self.row_bytes

    @cached_property
    def _blocks(self) -> tuple[Graph, list[Hashable]]:
        """The graph, and the key of each partition's block."""
        graph, keys = blocks_graph(self.blocks), [block.key for block in self.blocks]
        return (graph, keys) if self.screen is None else screened(graph, keys, self.screen)

    def by_partition(self) -> Self:
        _ = self._blocks  # made once, for all copies
        return super().by_partition()

    @property
    def _graph(self) -> Graph:
        return self._blocks[0]

    @property
    def _keys(self) -> list[Hashable]:
        return self._blocks[1]

    def load_local(self, n_threads: int) -> Shard:
        """A shard of all groups: each thread makes a run of neighbouring groups; what several need is made first. Raises PartitionError."""
        runs = [[int(number) for number in run] for run in np.array_split(range(self.n_groups), min(n_threads, self.n_groups))]
        first: dict[Any, Any] = {}

        def persist(graph: dict[Any, Any], keys: list[Any]) -> None:
            get: Any = dask.get if len(runs) == 1 else partial(dask.threaded.get, pool=threads)
            first.update(zip(keys, get(graph, keys), strict=True))

        def load(each: ShardLoad) -> Shard:
            return each.function(*each.arguments, [(key, first[key]) for key in each.keys])

        with locations_named(self.location), ThreadPoolExecutor(len(runs)) as threads:  # threads start when they get work
            try:
                loads = self.load_plans(runs, persist)
            except Exception:
                if len(runs) == 1:
                    raise
                return self.load_local(1)  # a single thread names the partition that failed
            if len(loads) == 1:
                return load(*loads)
            return join_shards(list(threads.map(load, loads)))

    def load_plans(self, shards: Sequence[Sequence[int]], persist: Persist) -> list[ShardLoad]:
        graph = self._graph
        own_tasks = needs_own_tasks(graph)
        first = set(self._keys) if own_tasks else shared_keys(graph, [list(chain(*map(self._group_keys, numbers))) for numbers in shards])
        if first:
            keys = sorted(first, key=str)
            persist({key: graph[key] for key in ancestors(graph, keys)}, keys)
        return [self._shard_load(graph, first, numbers) for numbers in shards]

    def _group_keys(self, number: int) -> list[Hashable]:
        return self._keys[self.group_starts[number] : self.group_starts[number + 1]]

    def _shard_load(self, graph: Graph, first: set[Hashable], numbers: Sequence[int]) -> ShardLoad:
        groups = [self._group_keys(number) for number in numbers]
        steps, given = plan_groups(graph, groups, first)
        starts = [self.group_starts[number] for number in numbers]
        plans = tuple(GroupPlan(start, made, tuple(keys)) for start, made, keys in zip(starts, steps, groups, strict=True))
        return ShardLoad(load_shard, (tuple(numbers), plans, self.split, self.home), self.n_partitions, tuple(sorted(given, key=str)))

    def delayed_blocks(self) -> list[Delayed]:
        if self.screen is None:
            return list(self.blocks)
        graph = {**futures_in(merged(self.blocks)), **self._graph}
        return [Delayed(key, graph) for key in self._keys]

    @property
    def partition_rows(self) -> Sequence[int] | None:
        return self.sizes

    @property
    def held_keys(self) -> list[frozenset[Hashable]]:
        held = outside_keys(self._graph, self._keys)
        bounds = zip(self.group_starts[:-1], self.group_starts[1:], strict=True)
        return [frozenset[Hashable]().union(*held[start:stop]) for start, stop in bounds]

    @property
    def outside(self) -> Outside:
        return Outside(all_outside(self._graph), self.given)
