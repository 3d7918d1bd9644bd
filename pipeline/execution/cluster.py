"""Rounds as tasks on a `distributed` cluster: one task a shard, partial sums combined in the fixed tree, parameters sent once."""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import dask
import distributed
import numpy as np
from dask.task_spec import List, Task, TaskRef
from distributed import Client, Future

from pipeline.cluster.code import check_workers
from pipeline.data.sources import Source
from pipeline.execution.direct import call_workers, can_call
from pipeline.execution.executors import LOADING, Executor, in_task
from pipeline.execution.placement import Place, place
from tasks.loading import ShardLoad, load_on_worker
from tasks.partition import Shard
from tasks.reductions import Reduction, merge_nodes, n_nodes, reduce_on_worker, same
from tasks.threads import single_blas_thread

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset

INLINE_FLOATS: Final = 1000
CLIENT_COMBINE_BYTES: Final = 1 << 20
FAN_IN: Final = 8
MAX_RELOADS: Final = 10
MAX_STUCK: Final = 2
HELD_ROUNDS: Final = 16
SHORT_ROUND: Final = 0.05
CALLED_ROUND: Final = 0.2
CALLED_BYTES: Final = 4 << 20
STUCK_AFTER: Final = 5.0
# A client's messages leave at most every 10 ms; loads and the check that follows are several. What is idle sends nothing more often.
MESSAGE_INTERVAL: Final = 0.002
WAIT_FOR_WORKERS: Final = "dask-descent.wait-for-workers"


class StuckError(CancelledError):
    """Tasks wait, workers idle: loads that were meant for workers which died all at once are not given to those that came after them."""


class WorkersUnavailableError(TimeoutError):
    """No worker came, or none is left, for longer than the configured wait."""


@dataclass(eq=False)
class Resident:
    """The shards of a source on one cluster: where each was meant to be, and the future that holds it.

    n_partials: how many they send in a round. homes: the workers that hold them, for calls; None while that is not known. last_round:
    its seconds.
    """

    places: list[Place]
    futures: list[Future[Shard]]
    n_partials: int
    homes: list[str] | None = None
    last_round: float = np.inf

    def release(self) -> None:
        """Let the cluster forget the rows."""
        for future in self.futures:
            future.release()


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
        self._held: list[Any] = []

    @property
    def tasks_per_round(self) -> int:
        return self._tasks

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with thread_given_back(), nullcontext() if in_task() else distributed.span(name):
            try:
                yield
            finally:
                self._held.clear()

    def map_reduce(self, dataset: Dataset, reduction: Reduction, shared: Any) -> Any:
        source = dataset.source
        stuck = 0
        for attempt in range(MAX_RELOADS):
            with thread_given_back(), lost_client(self.client):
                resident = self._resident(source, mend=attempt > 0)
                try:
                    return self._round(resident, dataset, reduction, shared)
                except CancelledError as error:  # rows were lost with their worker, or futures with a restart: they are made again
                    stuck += isinstance(error, StuckError)
                except BaseException:
                    if any(future.status == "error" for future in resident.futures):
                        self.release(dataset)  # what could not be read now may be readable later
                    raise
                if (stuck or any(future.cancelled() for future in resident.futures)) and not source.in_client:
                    self.release(dataset)
                if stuck > MAX_STUCK:
                    break
        if stuck > MAX_STUCK:
            raise ConnectionError(
                "tasks wait while all workers are idle: what they need may be bound to workers that are gone (persist(workers=...)),"
                " or to resources that no worker has"
            )
        raise ConnectionError(
            f"the cluster lost the rows {MAX_RELOADS} times in one round: its workers seem to die when they load them;"
            " give them more memory, or make the partitions smaller"
        )

    def release(self, dataset: Dataset) -> None:
        resident: Resident | None = dataset.source.resident.pop(self.client.id, None)
        if resident is not None:
            resident.release()

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

    def _resident(self, source: Source, mend: bool) -> Resident:
        """The shards, loaded or mended where need be. One thread at a time: two fits on one dataset load it once."""
        with LOADING:
            resident: Resident | None = source.resident.get(self.client.id)
            if resident is None:
                resident = source.resident[self.client.id] = self._load(source)
            elif mend and source.in_client:
                self._send_again(source, resident)
            return resident

    def _load(self, source: Source) -> Resident:
        threads = self._threads()
        check_workers(self.client, threads)
        messages: Any = self.client.scheduler_comm
        messages.interval = min(messages.interval, MESSAGE_INTERVAL)
        places = place(source.group_sizes, threads, self._held_bytes(source))
        first: list[Future[Any]] = []  # held until the shards that need them are asked for; then the scheduler knows how to remake them

        def persist(graph: dict[Any, Any], keys: list[Any]) -> None:
            first.extend(self.client.get(graph, keys, sync=False))

        loads = source.load_plans([numbers for numbers, _ in places], persist)
        name = f"load-{uuid.uuid4().hex}"
        workers = [worker for _, worker in places]
        n_partials = sum(n_nodes(numbers, source.n_groups) for numbers, _ in places)
        if source.in_client:
            return Resident(places, list(map(self._send, loads, workers)), n_partials)
        keys = [(name, i) for i in range(len(loads))]
        return Resident(places, list(map(self._submit, loads, keys, workers)), n_partials)

    def _held_bytes(self, source: Source) -> list[dict[str, float]]:
        """For each group, the bytes that workers hold of what it is made from."""
        needed = source.held_keys
        keys: list[Any] = sorted(set().union(*needed), key=str)
        if not keys:
            return [{} for _ in needed]
        futures: list[Future[Any]] = [Future(key, self.client) for key in keys]
        try:
            self._wait(futures)  # rows that are still being persisted: they are needed in any case
            holders = self.client.who_has(futures)
            sizes = self.client.nbytes([key for key in keys if holders.get(key)], summary=False)
        except (CancelledError, KeyError):
            raise ValueError("persisted rows of this data are gone (cancelled, or lost with their client); persist them again") from None
        held: list[dict[str, float]] = [defaultdict(float) for _ in needed]
        for bytes_of, group in zip(held, needed, strict=True):
            for key in group:
                for worker in holders.get(key, ()):
                    bytes_of[worker] += sizes[key]
        return held

    def _wait(self, futures: list[Any]) -> None:
        """Until all are done. Raises WorkersUnavailableError when no worker is left, StuckError when tasks wait beside idle workers."""
        while True:
            try:
                distributed.wait(futures, timeout=min(self.patience, STUCK_AFTER))
                return
            except TimeoutError:
                self._threads()  # slow is fine, nobody there is not
                if not any(self.client.processing().values()):
                    raise StuckError from None

    def _submit(self, load: ShardLoad, key: tuple[str, int], worker: str) -> Future[Shard]:
        values: list[Future[Any]] = [Future(key, self.client) for key in load.keys]  # type: ignore[arg-type]
        return self.client.submit(
            load_on_worker,
            load,
            *values,
            key=key,
            workers=[worker],
            allow_other_workers=True,
        )

    def _send(self, load: ShardLoad, worker: str) -> Future[Shard]:
        shard = load.function(*load.arguments)
        try:
            (future,) = self.client.scatter([shard], workers=[worker], hash=False)
        except (OSError, KeyError):  # that worker has just died (TimeoutError is an OSError): any other will do
            self._threads()
            (future,) = self.client.scatter([shard], hash=False)
        return future

    def _send_again(self, source: Source, resident: Resident) -> None:
        """Rows that came from this process and went down with a worker; here they still are."""
        threads = self._threads()
        holders = self.client.who_has([future for future in resident.futures if not future.cancelled()])
        loads = source.load_plans([numbers for numbers, _ in resident.places], lambda graph, keys: None)
        for i, load in enumerate(loads):
            if not holders.get(resident.futures[i].key):
                resident.futures[i] = self._send(load, threads[i % len(threads)])
        resident.homes = None

    # -- rounds ----------------------------------------------------------------------------------------------------------------------

    def _round(self, resident: Resident, dataset: Dataset, reduction: Reduction, shared: Any) -> Any:
        start = time.monotonic()
        results = self._by_calls(resident, dataset, reduction, shared)
        if results is None:
            results = self._by_tasks(resident, dataset, reduction, shared)
        with single_blas_thread():
            (partial,) = merge_nodes(results, dataset.source.n_groups, reduction.combine).values()
        resident.last_round = time.monotonic() - start
        return partial

    def _by_calls(self, resident: Resident, dataset: Dataset, reduction: Reduction, shared: Any) -> list[Any] | None:
        """The partials of a round after a short one, if its workers can be called."""
        keys = [future.key for future in resident.futures]
        n_floats = floats(shared) * len(keys) + reduction.floats(shared, dataset.n_columns) * resident.n_partials
        if resident.last_round > CALLED_ROUND or 8 * n_floats > CALLED_BYTES or in_task() or not can_call(self.client):
            return None
        homes = resident.homes or self._find_homes(resident)
        if homes is None:
            return None
        packed = cloudpickle.dumps((reduction, shared))
        results = call_workers(self.client, homes, keys, dataset.part, dataset.source.n_groups, packed)
        resident.homes = None if results is None else homes
        self._tasks = max(self._tasks, len(keys))
        return results

    def _find_homes(self, resident: Resident) -> list[str] | None:
        """A worker that holds each shard, all of them checked; None while one has none."""
        holders = self.client.who_has(resident.futures)
        found = [min(holders.get(future.key, ()), default=None) for future in resident.futures]
        homes = [home for home in found if home is not None]
        if len(homes) < len(found):
            return None
        check_workers(self.client, homes)
        return homes

    def _by_tasks(self, resident: Resident, dataset: Dataset, reduction: Reduction, shared: Any) -> list[Any]:
        n_groups = dataset.source.n_groups
        token = uuid.uuid4().hex
        graph: dict[Any, Any] = {}
        large = []
        if floats(shared) > INLINE_FLOATS:  # one copy to the cluster, from where each worker fetches it once
            graph[f"parameters-{token}"] = Task(f"parameters-{token}", same, shared)
            large = [TaskRef(f"parameters-{token}")]
        packed = cloudpickle.dumps((reduction, None if large else shared))
        names = []
        for i, future in enumerate(resident.futures):
            name = (f"{reduction.name}-{token}", i)
            graph[name] = Task(name, reduce_on_worker, TaskRef(future.key), dataset.part, n_groups, packed, *large)
            names.append(name)
        result_bytes = 8 * reduction.floats(shared, dataset.n_columns) * resident.n_partials
        if len(names) > 1 and result_bytes > CLIENT_COMBINE_BYTES:
            names = self._combine_on_cluster(graph, names, n_groups, reduction, token)
        self._tasks = max(self._tasks, len(graph))
        return self._gather(graph, names, held=1 if result_bytes > CLIENT_COMBINE_BYTES else HELD_ROUNDS)

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

    def _gather(self, graph: dict[Any, Any], names: list[Any], held: int) -> list[Any]:
        """Results of the round; on any exception, Ctrl-C among them, no task of it stays behind.

        A client's messages leave a while apart, and letting go of a round's futures is a message, which the next round would have to
        wait behind. So the futures of up to `held` short rounds are let go together; of short ones only, because what is held
        is computed again when its worker dies.
        """
        start = time.monotonic()
        futures = self.client.get(graph, names, sync=False)
        try:
            self._wait(futures)
            results = self.client.gather(futures)
        except BaseException:
            if self.client.status == "running":
                self.client.cancel(futures, force=True)
            raise
        self._held.append(futures)
        if len(self._held) >= held or time.monotonic() - start > SHORT_ROUND:
            self._held.clear()
        return results


@contextmanager
def lost_client(client: Client) -> Iterator[None]:
    """Whatever fails in the block fails as ConnectionError when the client was closed, or lost its scheduler, meanwhile."""
    try:
        yield
    except Exception as error:
        if client.status == "running" or isinstance(error, ConnectionError):
            raise
        raise ConnectionError("the client was closed, or lost its scheduler, during the fit") from error


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
