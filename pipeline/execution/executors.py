"""The executors: one reduction in, the partial of the whole dataset out."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from multiprocessing.pool import Pool
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import distributed
import numpy as np
from dask.local import MultiprocessingPoolExecutor
from dask.system import cpu_count

from pipeline.cluster.task_threads import check_no_coroutine, current_client, exclusive, in_task, is_of_worker
from pipeline.execution.held import require_none
from tasks.digests import partition_digests, shard_digest
from tasks.fitting import Fit, Report
from tasks.memory import mapped
from tasks.partition import Group, Shard
from tasks.reductions import Prepare, Reduction, Tree, lanes
from tasks.threads import single_blas_thread

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset

IN_PROCESS_SCHEDULERS = ("threads", "threading", "sync", "synchronous", "single-threaded", "processes", "multiprocessing")


class Advance(NamedTuple):
    """The states after some rounds, and what there is to say of each."""

    states: list[Any]
    reports: list[Report]


class Executor(ABC):
    """Runs rounds on a dataset that it makes resident first, once. Same tree whatever the executor, hence the same bits."""

    @abstractmethod
    def map_reduce(self, dataset: Dataset, reduction: Reduction, shared: Any) -> Any:
        """One barrier round: the reduction's partial over all groups of the dataset."""

    @abstractmethod
    def advance(self, dataset: Dataset, fit: Fit, states: list[Any], limit: int) -> Advance:
        """The next round of a fit, or several, at most `limit`. There must be one to do."""

    @abstractmethod
    def span(self, name: str) -> Any:
        """A context in which the tasks of one fit belong together on the dashboard."""

    @abstractmethod
    def waiting(self) -> AbstractContextManager[None]:
        """A context in which this thread waits for rounds. Locks are taken inside, and so let go before it ends."""

    @abstractmethod
    def release(self, dataset: Dataset) -> None:
        """Forget what is resident of the dataset."""

    @property
    @abstractmethod
    def tasks_per_round(self) -> int:
        """Tasks, or calls of workers, of the largest round so far."""


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

    def release(self, dataset: Dataset) -> None:
        shard: Shard | None = dataset.source.resident.pop("threads", None)
        if shard is not None:
            shard.release()

    def advance(self, dataset: Dataset, fit: Fit, states: list[Any], limit: int) -> Advance:
        return one_round(self, dataset, fit, states)

    def map_reduce(self, dataset: Dataset, reduction: Reduction, shared: Any) -> Any:
        self._last.set()
        shard = self._resident(dataset)
        groups = shard.parts[dataset.part]
        if dataset.content not in (None, shard_digest(shard, dataset.part)):
            dataset.require_content(np.concatenate(list(map(partition_digests, groups))))
        run = LaneQueue(groups, Tree(len(groups), reduction.combine), reduction, shared)
        n_threads = min(self.n_threads, -(-len(groups) >> reduction.level(shared)))
        with single_blas_thread():
            others = [helpers(n_threads - 1).submit(run.drain) for _ in range(n_threads - 1)]
            try:
                run.drain()
            finally:
                concurrent.futures.wait(others)
            for other in others:
                other.result()
        prepare = reduction.ahead(shared)
        if prepare is not None and n_threads > 1:
            self._last = threading.Event()
            helpers(n_threads - 1).submit(prepare_lanes, groups, reduction.level(shared), prepare, self._last)
        return run.tree.result()

    def _resident(self, dataset: Dataset) -> Shard:
        source = dataset.source
        shard: Shard | None = source.resident.get("threads")
        if shard is None:
            with exclusive(source.lock):
                shard = source.resident.get("threads")
                if shard is None:
                    require_none(source.outside)
                    with single_blas_thread():  # the source's own graph may call BLAS
                        shard = source.resident["threads"] = source.load_local(self.n_threads)
        return shard


def one_round(executor: Executor, dataset: Dataset, fit: Fit, states: list[Any]) -> Advance:
    """The next round, moved on from here."""
    start = time.perf_counter()
    asked = fit.ask(states)
    assert asked is not None
    partial = executor.map_reduce(dataset, asked.reduction, asked.shared)
    states = fit.update(states, asked, partial)
    return Advance(states, [fit.report(asked, partial, states, time.perf_counter() - start)])


def prepare_lanes(groups: Sequence[Group], level: int, prepare: Prepare, enough: threading.Event) -> None:
    """What can be done for the next round while the parameters move, until that round is there."""
    for _, lane in lanes(enumerate(groups), len(groups), level):
        if enough.is_set():
            return
        prepare(lane)


class LaneQueue:
    """Lanes of groups that several threads take one by one, and the tree that their partials go into."""

    def __init__(self, groups: tuple[Group, ...], tree: Tree, reduction: Reduction, shared: Any) -> None:
        self.waiting = lanes(enumerate(groups), len(groups), reduction.level(shared))
        self.tree = tree
        self.reduction = reduction
        self.shared = shared
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
                partial = mapped(self.reduction, lane, self.shared)
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
    """As many threads as Dask's threaded scheduler would use: those of the `pool` in Dask's configuration, else its `num_workers`, else the
    cores that this process may use by affinity and cgroup. 1 inside a Dask task. Raises ValueError for a number that is none."""
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


def current_executor(*, in_memory: bool = False) -> Executor:
    """The cluster of the current `distributed.Client`, as Dask users expect; without one, threads in this process.

    A `scheduler` in Dask's configuration ("threads", "synchronous", an Executor, a client) wins over the current client. Inside a task,
    in_memory data is worked on by that task's own thread, other data through the worker's client. Raises ValueError for an asynchronous
    client, and for data that is not in memory in a coroutine of a worker.
    """
    from pipeline.execution.cluster import ClusterExecutor  # it imports this module

    scheduler = dask.config.get("scheduler", None)
    if isinstance(scheduler, str):
        scheduler = scheduler.lower()
    if isinstance(scheduler, distributed.Client):
        return ClusterExecutor(scheduler)
    if isinstance(scheduler, concurrent.futures.Executor):
        return ThreadExecutor(threads_of(scheduler))
    if scheduler in ("sync", "synchronous", "single-threaded", dask.get):
        return ThreadExecutor(1)
    if scheduler in IN_PROCESS_SCHEDULERS or callable(scheduler) or (in_memory and in_task()):
        return ThreadExecutor()
    check_no_coroutine()
    try:
        client = current_client()
    except ValueError:
        return ThreadExecutor()
    if in_memory and is_of_worker(client):  # a thread that a task has started
        return ThreadExecutor(1)
    return ClusterExecutor(client)
