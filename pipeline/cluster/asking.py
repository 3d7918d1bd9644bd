"""Questions to workers, some of which may be dead, stopped, or slow: those that do not answer in time are left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from distributed import Client

ANSWER_SECONDS: Final = 10.0
LOOK_EVERY: Final = 1.0


def ask(client: Client, function: Any, workers: Sequence[str], *arguments: Any) -> dict[str, Any]:
    """The function's results on each of these workers. Those that have just gone, or do not answer in time, are left out: the scheduler
    knows or will soon. Raises what the function raised on any of them."""
    return answers(client, lambda asked: client._run(function, *arguments, workers=list(asked), on_error="return"), workers)


def packages_of(client: Client, workers: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """The versions of packages on each of these workers, None where there is none."""
    scheduler: Any = client.scheduler
    message = {"op": "versions", "packages": list(packages)}
    found = answers(client, lambda asked: scheduler.broadcast(msg=message, workers=list(asked), on_error="ignore"), workers)
    return {worker: answer["packages"] for worker, answer in found.items() if answer}


def answers(client: Client, question: Callable[[Sequence[str]], Awaitable[dict[str, Any]]], workers: Sequence[str]) -> dict[str, Any]:
    """The answers to a question that is sent to all workers at once."""
    if not workers:
        return {}

    async def answered(asked: Sequence[str]) -> dict[str, Any]:
        """The answers of those of these workers that are there. A connection to a worker that is gone is tried for half a minute: as soon
        as the scheduler knows, the others are asked anew."""
        asking = asyncio.ensure_future(question(asked))
        deadline = time.monotonic() + ANSWER_SECONDS
        scheduler: Any = client.scheduler
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=LOOK_EVERY)
                if not asking.done() and time.monotonic() > deadline:
                    raise TimeoutError
                if not asking.done():
                    left = [worker for worker in asked if worker in (await scheduler.identity(n_workers=-1))["workers"]]
                    if len(left) < len(asked):
                        return await answered(left) if left else {}
            return asking.result()
        finally:
            asking.cancel()

    async def answered_each() -> dict[str, Any]:
        """The answers of all workers, each asked by itself: otherwise one that is stopped holds up the answers of all."""
        found = await asyncio.gather(*(answered([worker]) for worker in workers), return_exceptions=True)
        return {worker: answer for each in found if isinstance(each, dict) for worker, answer in each.items()}

    try:
        found: dict[str, Any] = client.sync(answered, workers)
    except TimeoutError as error:
        forget_frames(error)
        found = client.sync(answered_each)
    for answer in found.values():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer
    return {worker: answer for worker, answer in found.items() if not isinstance(answer, OSError)}


def forget_frames(error: BaseException) -> None:
    """Let go of the frames of an error that ends here: `Client.sync` keeps what it raises in a circle with its own frame, and with it the
    futures of all callers until the garbage collector comes by."""
    error.__traceback__ = None
