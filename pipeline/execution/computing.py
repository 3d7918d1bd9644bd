"""Dask collections computed in bounded time: Dask itself would wait for ever for a first worker, or for another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
from distributed import CancelledError

from pipeline.cluster.pulse import watched
from pipeline.cluster.task_threads import thread_given_back
from pipeline.data.graphs import Outside
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.executors import current_executor
from pipeline.execution.gathering import gather
from pipeline.execution.held import await_held, require_none


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
