"""Rounds as tasks on a `distributed` cluster: one task a shard, partial sums combined in the fixed tree, parameters sent once."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import dask
import distributed
import numpy as np
from dask.task_spec import List, Task, TaskRef
from distributed import Client, Future

from pipeline.cluster.code import check_workers
from pipeline.data.sources import ArraySource, Source
from pipeline.execution.executors import Executor, in_task
from tasks.loading import ShardLoad, load_on_worker
from tasks.partition import Shard
from tasks.reductions import Reduction, Tree, merge_nodes, reduce_on_worker, same
from tasks.threads import single_blas_thread

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset

INLINE_FLOATS: Final = 1000
CLIENT_COMBINE_BYTES: Final = 1 << 20
FAN_IN: Final = 8
MAX_RELOADS: Final = 10
WAIT_FOR_WORKERS: Final = "dask-descent.wait-for-workers"


class WorkersUnavailableError(TimeoutError):
    """No worker came, or none is left, for longer than the configured wait."""


@dataclass(eq=False)
class Resident:
    """The shards of a source on one cluster: the bounds of their groups, and where each is."""

    bounds: list[tuple[int, int]]
    futures: list[Future[Shard]]


class ClusterExecutor(Executor):
    """The graph executor. Waits at most `dask-descent.wait-for-workers` (Dask configuration, seconds, default 30) for a first worker,
    and as long again if all are lost. A worker that dies costs the recompute of its shards.

    Raises ConnectionError when the scheduler is lost, ValueError for an asynchronous or closed client, WorkersUnavailableError when no
    worker comes.
    """

    def __init__(self, client: Client) -> None:
        if client.asynchronous and not in_task():
            raise ValueError("the current distributed.Client is asynchronous; fit needs a synchronous one: Client(address)")
        if client.status in ("closing", "closed"):
            raise ValueError("the current distributed.Client is closed; connect again, or leave its with block to work in this process")
        self.client = client
        self.patience = float(dask.config.get(WAIT_FOR_WORKERS, 30.0))
        self._tasks = 0

    @property
    def tasks_per_round(self) -> int:
        return self._tasks

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with thread_given_back(), nullcontext() if in_task() else distributed.span(name):
            yield

    def release(self, dataset: Dataset) -> None:
        dataset.source.resident.pop(self.client.id, None)

    def map_reduce(self, dataset: Dataset, reduction: Reduction, shared: Any) -> Any:
        source = dataset.source
        for attempt in range(MAX_RELOADS):
            try:
                with thread_given_back():
                    if self.client.id not in source.resident:
                        source.resident[self.client.id] = self._load(source)
                    return self._round(source, dataset.part, reduction, shared)
            except CancelledError:  # rows that only a dead worker held; here they still are
                if attempt == MAX_RELOADS - 1:
                    raise
                self._reload_lost(source)
        raise AssertionError("unreachable")

    # -- loading ---------------------------------------------------------------------------------------------------------------------

    def _threads(self) -> list[str]:
        """The address of each worker thread, workers in turn grouped together. Waits for a first worker."""
        deadline = time.monotonic() + self.patience
        while True:
            workers = self.client.scheduler_info(n_workers=-1).get("workers")
            if workers is None or self.client.status != "running":
                raise ConnectionError("the connection to the scheduler is lost; connect again and repeat the fit")
            running = {address: w for address, w in workers.items() if w.get("status", "running") == "running"}
            if running:
                return [address for address in sorted(running) for _ in range(running[address]["nthreads"])]
            if time.monotonic() > deadline:
                raise WorkersUnavailableError(self._no_workers())
            time.sleep(0.1)

    def _no_workers(self) -> str:
        return (
            f"no worker joined {self.client.scheduler.address} in {self.patience:.0f} s; start workers (dask worker ADDRESS), "  # type: ignore[union-attr]
            f"or raise {WAIT_FOR_WORKERS} in Dask's configuration"
        )

    def _load(self, source: Source) -> Resident:
        threads = self._threads()
        check_workers(self.client)
        bounds = cut(source.group_sizes, len(threads))
        first: list[Future[Any]] = []  # held until the shards that need them are asked for; then the scheduler knows how to remake them

        def persist(graph: dict[Any, Any], keys: list[Any]) -> None:
            first.extend(self.client.get(graph, keys, sync=False))

        loads = source.load_plans(bounds, persist)
        token = uuid.uuid4().hex
        futures = [self._make_shard(load, f"load-{token}", i, threads[i * len(threads) // len(loads)]) for i, load in enumerate(loads)]
        return Resident(bounds, futures)

    def _make_shard(self, load: ShardLoad, name: str, index: int, worker: str) -> Future[Shard]:
        if load.from_client:
            (future,) = self.client.scatter([load.function(*load.arguments)], workers=[worker], hash=False)
            return future
        values: list[Future[Any]] = [Future(key, self.client) for key in load.keys]  # type: ignore[arg-type]
        return self.client.submit(
            load_on_worker,
            load,
            *values,
            key=(name, index),
            workers=[worker],
            allow_other_workers=True,
        )

    def _reload_lost(self, source: Source) -> None:
        """Send the rows again that came from this process and went down with a worker."""
        resident: Resident | None = source.resident.get(self.client.id)
        if resident is None or not isinstance(source, ArraySource):
            return
        threads = self._threads()
        for i, load in enumerate(source.load_plans(resident.bounds)):
            future = resident.futures[i]
            if future.cancelled() or not self.client.who_has([future])[future.key]:
                resident.futures[i] = self._make_shard(load, "", i, threads[i % len(threads)])

    # -- rounds ----------------------------------------------------------------------------------------------------------------------

    def _round(self, source: Source, part: int, reduction: Reduction, shared: Any) -> Any:
        resident: Resident = source.resident[self.client.id]
        token = uuid.uuid4().hex
        graph: dict[Any, Any] = {}
        size = floats(shared)
        argument = shared
        if size > INLINE_FLOATS:  # one copy to the cluster, from where each worker fetches it once
            graph[f"parameters-{token}"] = Task(f"parameters-{token}", same, shared)
            argument = TaskRef(f"parameters-{token}")
        names = []
        for i, future in enumerate(resident.futures):
            name = (f"{reduction.name}-{token}", i)
            graph[name] = Task(name, reduce_on_worker, TaskRef(future.key), part, source.n_groups, reduction, argument)
            names.append(name)
        if len(names) > 1 and size * 8 * len(names) > CLIENT_COMBINE_BYTES:
            names = self._combine_on_cluster(graph, names, source.n_groups, reduction, token)
        self._tasks = len(graph)
        tree = Tree(source.n_groups, reduction.combine)
        with single_blas_thread():
            for nodes in self._gather(graph, names):
                tree.merge(nodes)
        return tree.result()

    def _combine_on_cluster(self, graph: dict[Any, Any], names: list[Any], n_groups: int, reduction: Reduction, token: str) -> list[Any]:
        level = 0
        while len(names) > 1:
            merged = []
            for i in range(0, len(names), FAN_IN):
                name = (f"tree-reduce-{token}", level, i // FAN_IN)
                graph[name] = Task(name, merge_nodes, List(*map(TaskRef, names[i : i + FAN_IN])), n_groups, reduction.combine)
                merged.append(name)
            names, level = merged, level + 1
        return names

    def _gather(self, graph: dict[Any, Any], names: list[Any]) -> list[Any]:
        """Results of the round; on any exception, Ctrl-C among them, no task of it stays behind."""
        futures = self.client.get(graph, names, sync=False)
        try:
            while True:
                try:
                    distributed.wait(futures, timeout=self.patience)
                    return self.client.gather(futures)
                except TimeoutError:
                    self._threads()  # slow is fine, nobody there is not
        except BaseException:
            self.client.cancel(futures, force=True)
            raise


_given_back = threading.local()


@contextmanager
def thread_given_back() -> Iterator[None]:
    """Inside a Dask task: let other tasks, those of our own rounds among them, use this task's thread while it waits."""
    if vars(_given_back).get("active") or not in_task():
        yield
        return
    _given_back.active = True
    distributed.secede()
    try:
        yield
    finally:
        _given_back.active = False
        distributed.rejoin()


def floats(shared: Any) -> int:
    """About how many floats a round's input holds."""
    arrays = [a for a in shared if isinstance(a, np.ndarray)] if isinstance(shared, tuple) else []
    return sum(a.size for a in arrays)


def cut(sizes: Sequence[int], n_shards: int) -> list[tuple[int, int]]:
    """Cut groups into at most n_shards runs of about equal size, at the borders of large subtrees where that costs little.

    A run that is a whole subtree comes back as one partial.
    """
    total = np.concatenate([[0], np.cumsum(sizes)]).astype(np.float64)
    n_shards = min(n_shards, len(sizes))
    share = total[-1] / n_shards
    bounds = [0]
    for i in range(1, n_shards):
        lowest, highest = bounds[-1] + 1, len(sizes) - (n_shards - i)
        near = [b for b in range(lowest, highest + 1) if abs(total[b] - i * share) <= 0.05 * share]
        best = int(np.clip(np.searchsorted(total, i * share), lowest, highest))
        bounds.append(max(near, key=lambda b: (b & -b, -abs(total[b] - i * share)), default=best))
    bounds.append(len(sizes))
    return list(pairwise(bounds))
