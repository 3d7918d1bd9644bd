"""Rows from one worker to another, without their being made anew."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import cloudpickle
from distributed import Client

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the scheduler may lack this library

Move = tuple[Any, str, str]
"""Key, the address of the worker that has it, and of the one that shall."""


def move(client: Client, moves: Sequence[Move]) -> bool:
    """Move what the cluster holds under these keys; what is gone meanwhile is left alone. False where the scheduler runs no functions."""
    try:
        client.run_on_scheduler(move_on_scheduler, moves=list(moves))
    except (TypeError, ValueError):
        return False
    return True


async def move_on_scheduler(moves: Sequence[Move], dask_scheduler: Any) -> None:
    """Copy, then let the first holder forget. Copies alone would do no harm, but Dask removes surplus ones from either."""
    copies: dict[str, list[Any]] = defaultdict(list)
    for key, _, target in moves:
        if key in dask_scheduler.tasks and target in dask_scheduler.workers:
            copies[target].append(key)
    for target, keys in copies.items():
        await dask_scheduler.replicate(keys=keys, n=1, workers=[target], delete=False)
    left: dict[str, list[Any]] = defaultdict(list)
    for key, source, target in moves:
        task = dask_scheduler.tasks.get(key)
        held_by = set() if task is None else {worker.address for worker in task.who_has or ()}
        if {source, target} <= held_by:
            left[source].append(key)
    for source, keys in left.items():
        await dask_scheduler.delete_worker_data(source, keys, "dask-descent-move")
