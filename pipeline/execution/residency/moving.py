"""Rows from one worker to another, without their being made anew."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import cloudpickle
from distributed import Client

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the scheduler may lack this library

logger = logging.getLogger("dask-descent")

SLICE_BYTES: Final = 256 << 20
SLICE_SECONDS: Final = 60.0

Move = tuple[Any, str, str]
"""Key, the address of the worker that has it, and of the one that shall."""


def move(client: Client, moves: Sequence[Move]) -> None:
    """Move what the cluster holds under these keys, as far as that goes: a worker may die meanwhile, or the scheduler run no functions."""
    try:
        client.run_on_scheduler(move_on_scheduler, moves=list(moves))
    except Exception as error:  # noqa: BLE001  nothing is lost by a copy that was not made
        logger.warning("rows could not be moved: %r", error)


async def move_on_scheduler(moves: Sequence[Move], dask_scheduler: Any) -> None:
    """Some at a time: copy, then let the first holder forget. Copies alone would do no harm, but Dask removes surplus ones from either."""
    by_target: dict[str, list[tuple[Any, str]]] = defaultdict(list)
    for key, source, target in moves:
        by_target[target].append((key, source))
    await asyncio.gather(*(move_to(target, keys, dask_scheduler) for target, keys in by_target.items()))


async def move_to(target: str, keys: Sequence[tuple[Any, str]], scheduler: Any) -> None:
    """Ends soon when either side dies: a slice that fails, or takes a minute, is the last."""
    for some in slices(keys, scheduler):
        holders = {key: [worker.address for worker in scheduler.tasks[key].who_has or ()] for key, _ in some if key in scheduler.tasks}
        missing = {key: there for key, there in holders.items() if there and target not in there}
        if missing and target in scheduler.workers:
            try:
                failed = await asyncio.wait_for(scheduler.gather_on_worker(target, missing), SLICE_SECONDS)
            except (TimeoutError, OSError, ValueError):
                return
            if failed:
                return
        await forget(target, some, scheduler)


async def forget(target: str, keys: Sequence[tuple[Any, str]], scheduler: Any) -> None:
    """Let the first holders drop what the target has."""
    surplus: dict[str, list[Any]] = defaultdict(list)
    for key, source in keys:
        task = scheduler.tasks.get(key)
        held_by = set() if task is None else {worker.address for worker in task.who_has or ()}
        if source != target and {source, target} <= held_by:
            surplus[source].append(key)
    for source, dropped in surplus.items():
        await scheduler.delete_worker_data(source, dropped, "dask-descent-move")


def slices(keys: Sequence[tuple[Any, str]], scheduler: Any) -> Iterator[list[tuple[Any, str]]]:
    """Cut what moves into slices of about SLICE_BYTES, so that little is there twice."""
    some: list[tuple[Any, str]] = []
    n_bytes = 0
    for key, source in keys:
        some.append((key, source))
        n_bytes += scheduler.tasks[key].nbytes if key in scheduler.tasks else 0
        if n_bytes >= SLICE_BYTES:
            yield some
            some, n_bytes = [], 0
    if some:
        yield some
