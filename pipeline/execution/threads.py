"""Rounds on threads in this process."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from itertools import chain
from multiprocessing.pool import Pool
from numbers import Integral
from typing import Any

import dask
import dask.threaded
import numpy as np
from dask.local import MultiprocessingPoolExecutor
from dask.system import cpu_count

from pipeline.cluster.task_threads import exclusive, in_task
from pipeline.execution.base import Executor, Pending
from pipeline.execution.residency.held import require_none
from pipeline.sources.errors import locations_named
from pipeline.sources.rows import Rows
from tasks.loading.mapping import PartitionMap, map_load
from tasks.loading.shards import ShardLoad
from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.reductions.reduction import Prepare, Reduction
from tasks.reductions.tree import Node, Tree
from tasks.rows.digests import partition_digests, shard_digest
from tasks.rows.partition import Group, Shard


class ThreadExecutor(Executor):
    """Threads in this process; the kernels release the GIL. Groups go to whichever thread is free, the tree keeps the order.

    n_threads: by default `default_threads()`.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads or default_threads()
        self._last = threading.Event()

    @property
    def tasks_per_round(self) -> int:
        return self.n_threads

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        yield

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def release(self, rows: Rows) -> None:
        shard: Shard | None = rows.source.resident.pop("threads", None)
        if shard is not None:
            shard.release()

    def submit(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Pending:
        self._last.set()
        shard = self._resident(rows)
        groups = shard.groups(rows.subset)
        if rows.content not in (None, shard_digest(shard, rows.subset)):
            rows.require_contents(np.concatenate(list(map(partition_digests, groups))))
        run = SubtreeQueue(groups, Tree(len(groups), reduction.combine), reduction, broadcast, self.n_threads)
        if reduction.subtree(broadcast) is None:
            n_helpers = min(self.n_threads, len(run.parts)) - 1
            return ThreadRound(run, [helpers(n_helpers) for _ in range(n_helpers)], self._prepare)
        return ThreadRound(run, [helpers(self.n_threads - 1)] if self.n_threads > 1 else [], self._prepare)  # beside other rounds

    def first_done(self, rows: Rows, pending: Sequence[Pending]) -> int:
        """The first round that a helper has done; if there is none, the oldest: whoever asks for its result helps."""
        return next((i for i, each in enumerate(pending) if isinstance(each, ThreadRound) and each.done), 0)

    def map_partitions(self, rows: Rows, partition_map: PartitionMap) -> Iterator[tuple[int, Any]]:
        source, first = rows.source, dict[Any, Any]()
        require_none(source.outside)

        def persist(graph: dict[Any, Any], keys: list[Any]) -> None:
            get: Any = dask.get if self.n_threads == 1 else partial(dask.threaded.get, num_workers=self.n_threads)
            with single_blas_thread():  # the source's own graph may call BLAS
                first.update(zip(keys, get(graph, keys), strict=True))

        def found(load: ShardLoad) -> list[Any]:
            with single_blas_thread():
                return map_load(load, rows.subset, partition_map, iter([first[key] for key in load.keys]))

        with locations_named(source.location):
            loads = source.load_plans([(number,) for number in range(source.n_groups)], persist)
            yield from enumerate(chain.from_iterable(results_in_order(self.n_threads, (partial(found, load) for load in loads))))

    def _prepare(self, run: SubtreeQueue, n_helpers: int) -> None:
        """Let a helper make ready what the next round can have before it is asked for."""
        prepare = run.reduction.ahead(run.broadcast)
        if prepare is not None and n_helpers:
            self._last = threading.Event()
            helpers(n_helpers).submit(prepare_subtrees, run.parts, prepare, self._last)

    def _resident(self, rows: Rows) -> Shard:
        source = rows.source
        shard: Shard | None = source.resident.get("threads")
        if shard is None:
            with exclusive(source.lock):
                shard = source.resident.get("threads")
                if shard is None:
                    require_none(source.outside)
                    with single_blas_thread():  # the source's own graph may call BLAS
                        shard = source.resident["threads"] = source.load_local(self.n_threads)
        return shard


class ThreadRound(Pending):
    """A round on threads: helpers begin at once, each of its pool, and whoever wants the sums helps until they are there. after: what
    follows the sums."""

    def __init__(self, run: SubtreeQueue, pools: Sequence[ThreadPoolExecutor], after: Callable[[SubtreeQueue, int], None]) -> None:
        self.run = run
        self.helping = [pool.submit(run.drain) for pool in pools]
        self.after = after

    @property
    def done(self) -> bool:
        """Whether helpers have done it."""
        return bool(self.helping) and all(helper.done() for helper in self.helping)

    def result(self) -> Any:
        try:
            self.run.drain()
        finally:
            began = settle(self.helping)
        for helper in began:
            helper.result()
        self.after(self.run, len(self.helping))
        return self.run.reduction.whole(self.run.tree.nodes, len(self.run.groups), self.run.broadcast)

    def cancel(self) -> None:
        self.run.stopped = True
        settle(self.helping)


def prepare_subtrees(parts: Sequence[tuple[Node, list[Group]]], prepare: Prepare, enough: threading.Event) -> None:
    """What can be done for the next round while the parameters move, until that round is there: the last parts first, for it begins with
    the others."""
    for _, subtree in reversed(parts):
        if enough.is_set():
            return
        prepare(subtree)


class SubtreeQueue:
    """Subtrees of groups that several threads take one by one, and the tree that their sums go into."""

    def __init__(self, groups: tuple[Group, ...], tree: Tree, reduction: Reduction, broadcast: Any, n_threads: int) -> None:
        self.groups = groups
        wanted = [(number, groups[number]) for number in reduction.numbers(broadcast, len(groups))]
        self.parts = list(reduction.parts(wanted, len(groups), broadcast, n_threads))
        self.waiting = iter(self.parts)
        self.tree = tree
        self.reduction = reduction
        self.broadcast = broadcast
        self.lock = threading.Lock()
        self.stopped = False

    def drain(self) -> None:
        """Take subtrees until none is left, or until any thread failed."""
        try:
            with single_blas_thread():
                while not self.stopped:
                    with self.lock:
                        node, subtree = next(self.waiting, ((-1, -1), []))
                    if not subtree:
                        return
                    sums = mapped(self.reduction.name, self.reduction.map, subtree, self.broadcast)
                    with self.lock:
                        self.tree.add(node, sums)
        except BaseException:
            self.stopped = True
            raise


def results_in_order(n_threads: int, calls: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """The results of calls, in order, as many of them under way as there are threads."""
    if n_threads == 1:
        yield from (call() for call in calls)
        return
    under_way: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
    try:
        for call in calls:
            under_way.append((helpers(n_threads).submit(call), call))
            if len(under_way) > n_threads:
                yield outcome_of(*under_way.popleft())
        while under_way:
            yield outcome_of(*under_way.popleft())
    finally:
        settle([future for future, _ in under_way])


def outcome_of(future: Future[Any], call: Callable[[], Any]) -> Any:
    """The result of a call. One that no thread has begun is made here: all of them may wait for this very thread, from inside a call."""
    return call() if future.cancel() else future.result()


def settle(futures: Iterable[Future[Any]]) -> list[Future[Any]]:
    """Give up the calls that no thread has begun, wait for the others, and return those. None waits for a free thread: see `outcome_of`."""
    began = [future for future in futures if not future.cancel()]
    concurrent.futures.wait(began)
    return began


@cache
def helpers(n_threads: int) -> ThreadPoolExecutor:
    """The threads beside the caller's, kept from round to round: starting them would cost a tenth of a short round."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="dask-descent")


if sys.platform != "win32":
    os.register_at_fork(after_in_child=helpers.cache_clear)  # a forked child has none of its parent's threads


def default_threads() -> int:
    """The number of threads that Dask's threaded scheduler would use: those of the `pool` in Dask's configuration, else its `num_workers`,
    else the cores that this process may use by affinity and cgroup. 1 inside a Dask task. Raises ValueError for a number that is none."""
    if in_task():
        return 1
    pool = dask.config.get("pool", None)
    given = dask.config.get("num_workers", None) if pool is None else threads_of(pool)
    if given is None:
        return cpu_count()
    if not isinstance(given, Integral) or given < 1:
        raise ValueError(f"num_workers in Dask's configuration must be a whole number of threads, 1 or more, got {given!r}")
    return int(given)


def threads_of(pool: Any) -> int | None:
    """How many threads, or processes, a pool has, of concurrent.futures or multiprocessing; None for one that does not say."""
    executor = MultiprocessingPoolExecutor(pool) if isinstance(pool, Pool) else pool
    found: int | None = getattr(executor, "_max_workers", None)
    return found
