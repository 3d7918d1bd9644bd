"""Rounds on threads in this process."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from multiprocessing.pool import Pool
from numbers import Integral
from typing import Any

import dask
import numpy as np
from dask.local import MultiprocessingPoolExecutor
from dask.system import cpu_count

from pipeline.cluster.task_threads import exclusive, in_task
from pipeline.execution.base import Advance, Executor, one_round
from pipeline.execution.residency.held import require_none
from pipeline.sources.rows import Rows
from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import mapped
from tasks.reductions.reduction import Prepare, Reduction, lanes
from tasks.reductions.tree import Tree
from tasks.rounds.fitting import Fit
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

    def advance(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance:
        return one_round(self, rows, fit, states)

    def map_reduce(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Any:
        self._last.set()
        shard = self._resident(rows)
        groups = shard.groups(rows.subset)
        if rows.content not in (None, shard_digest(shard, rows.subset)):
            rows.require_contents(np.concatenate(list(map(partition_digests, groups))))
        run = LaneQueue(groups, Tree(len(groups), reduction.combine), reduction, broadcast)
        n_threads = min(self.n_threads, -(-len(groups) >> reduction.level(broadcast)))
        with single_blas_thread():
            others = [helpers(n_threads - 1).submit(run.drain) for _ in range(n_threads - 1)]
            try:
                run.drain()
            finally:
                concurrent.futures.wait(others)
            for other in others:
                other.result()
        prepare = reduction.ahead(broadcast)
        if prepare is not None and n_threads > 1:
            self._last = threading.Event()
            helpers(n_threads - 1).submit(prepare_lanes, groups, reduction.level(broadcast), prepare, self._last)
        return reduction.whole(run.tree.nodes, len(groups), broadcast)

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


def prepare_lanes(groups: Sequence[Group], level: int, prepare: Prepare, enough: threading.Event) -> None:
    """What can be done for the next round while the parameters move, until that round is there."""
    for _, lane in lanes(enumerate(groups), len(groups), level):
        if enough.is_set():
            return
        prepare(lane)


class LaneQueue:
    """Lanes of groups that several threads take one by one, and the tree that their partials go into."""

    def __init__(self, groups: tuple[Group, ...], tree: Tree, reduction: Reduction, broadcast: Any) -> None:
        self.waiting = lanes(enumerate(groups), len(groups), reduction.level(broadcast))
        self.tree = tree
        self.reduction = reduction
        self.broadcast = broadcast
        self.lock = threading.Lock()
        self.stopped = False

    def drain(self) -> None:
        """Take lanes until none is left, or until any thread failed."""
        try:
            while not self.stopped:
                with self.lock:
                    node, lane = next(self.waiting, ((-1, -1), []))
                if not lane:
                    return
                partial = mapped(self.reduction.name, self.reduction.map, lane, self.broadcast)
                with self.lock:
                    self.tree.add(node, partial)
        except BaseException:
            self.stopped = True
            raise


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
