"""Dask collections computed in bounded time: Dask itself would wait for ever for a first worker, or for another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask

from pipeline.cluster.pulse import watched
from pipeline.cluster.task_threads import thread_given_back
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.executors import current_executor
from pipeline.execution.gathering import gather


def compute(collections: Sequence[Any]) -> list[Any]:
    """The values of Dask collections, where rounds would run. Raises WorkersUnavailableError and SchedulerLostError as rounds do."""
    executor = current_executor()
    if not isinstance(executor, ClusterExecutor):
        return list(dask.compute(*collections))
    client, workers = executor.client, executor.workers
    with thread_given_back(), watched(client):
        workers.threads()
        futures = client.compute(list(collections))
        try:
            workers.wait(futures)
            found = gather(client, workers, futures)
        except BaseException:
            if client.status == "running":
                client.cancel(futures, force=True)
            raise
        return found
