"""Results of tasks, in bounded time: `distributed.Client.gather` would wait for ever for what is lost with the last worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, Final

from distributed import BaseActorFuture, Client, Future

from pipeline.cluster.workers import STUCK_AFTER, Workers

FUTURES: Final = (Future, BaseActorFuture, concurrent.futures.Future)
"""Results that are, or will be, elsewhere."""


def gather(client: Client, workers: Workers, futures: list[Any]) -> list[Any]:
    """The results of futures that are done, or were: those that are lost on the way are made again. Raises as `Workers.wait` does."""
    task: asyncio.Task[list[Any]] | None = None
    try:
        while task is None or not task.done():
            if task is not None:
                workers.wait(futures)
            task = client.sync(gather_for, client, futures, task, STUCK_AFTER)
        return task.result()
    finally:
        if task is not None and not task.done():
            loop: Any = client.loop
            loop.add_callback(task.cancel)


async def gather_for(client: Client, futures: list[Any], begun: asyncio.Task[list[Any]] | None, seconds: float) -> asyncio.Task[list[Any]]:
    """Gather for so long, and perhaps go on later."""
    if begun is None:
        gathering: Any = client.gather(futures, asynchronous=True)
        begun = asyncio.ensure_future(gathering)
        begun.add_done_callback(take_note)
    await asyncio.wait({begun}, timeout=seconds)
    return begun


def take_note(task: asyncio.Task[Any]) -> None:
    """Take an error's note that nobody asks for any more, after an interrupt."""
    if not task.cancelled():
        task.exception()
