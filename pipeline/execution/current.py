"""Where work runs now: the executor that Dask's users expect, and Dask collections computed there in bounded time."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import dask
import distributed
from dask.callbacks import Callback
from distributed import CancelledError

from pipeline.cluster.pulse import watched
from pipeline.cluster.task_threads import check_no_coroutine, current_client, in_task, is_of_worker, thread_given_back
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.gathering import gather
from pipeline.execution.residency.held import await_held, require_none
from pipeline.execution.threads import ThreadExecutor, threads_of
from pipeline.sources.graphs import Outside


def compute(collections: Sequence[Any], outside: Outside) -> list[Any]:
    """The values of Dask collections, where rounds would run; outside: what they need and do not make. Raises ValueError for what of that
    is gone, WorkersUnavailableError and SchedulerLostError as rounds do."""
    executor = current_executor()
    if not isinstance(executor, ClusterExecutor):
        require_none(outside)
        return list(dask.compute(*collections))
    client, workers = executor.client, executor.workers
    with thread_given_back(), watched(client):
        try:
            workers.threads()
            await_held(client, workers, outside)
        except BaseException:
            workers.end_demand()
            raise
        futures = client.compute(list(collections))
        try:
            workers.wait(futures)
            found = gather(client, workers, futures)
        except BaseException as error:
            if client.status == "running":
                client.cancel(futures, force=True)
                if isinstance(error, CancelledError):
                    await_held(client, workers, outside)
            raise
        return found


def executor_in_place_of_dask() -> Executor | None:
    """The executor for what Dask would compute on threads, or on a cluster that this library can use; None where its user has it compute
    otherwise, in processes, say, or watches it by a callback."""
    scheduler = configured_scheduler()
    if callable(scheduler) or isinstance(scheduler, concurrent.futures.ProcessPoolExecutor):
        return None
    if isinstance(scheduler, str) and scheduler not in (*THREADED, "distributed", "dask.distributed"):
        return None  # in processes, or by nothing that Dask knows
    with suppress(ValueError):  # an asynchronous client, say
        executor = current_executor()
        return executor if isinstance(executor, ClusterExecutor) or not Callback.active else None
    return None


def configured_scheduler() -> Any:
    """The `scheduler` of Dask's configuration, as Dask takes it: names in any case."""
    scheduler = dask.config.get("scheduler", None)
    return scheduler.lower() if isinstance(scheduler, str) else scheduler


THREADED: Final = ("threads", "threading", "sync", "synchronous", "single-threaded")
IN_PROCESS_SCHEDULERS: Final = (*THREADED, "processes", "multiprocessing")


def current_executor(*, in_memory: bool = False) -> Executor:
    """The cluster of the current `distributed.Client`, as Dask users expect; without one, threads in this process.

    A `scheduler` in Dask's configuration ("threads", "synchronous", an Executor, a client) wins over the current client. Inside a task,
    in_memory data is worked on by that task's own thread, other data through the worker's client. Raises ValueError for an asynchronous
    client, and for data that is not in memory in a coroutine of a worker.
    """
    scheduler = configured_scheduler()
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
