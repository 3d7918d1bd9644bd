"""Short rounds: the client calls the workers that hold the shards, which takes a fraction of the time that tasks take to be scheduled."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from distributed import Client

from pipeline.cluster.asking import forget_frames
from pipeline.execution.residency.resident import Work
from tasks.reductions.reduction import Sums
from tasks.workers.calls import OPERATION

PATIENCE: Final = 2.0
"""Seconds for all answers of a round; whoever takes longer, or cannot be reached from here, gets a task."""
MAX_FAILURES: Final = 2

_failures: WeakKeyDictionary[Client, int] = WeakKeyDictionary()  # in a row; behind a gateway, every call fails


def can_call(client: Client) -> bool:
    """Whether calls have a chance: the user has not ruled them out, and they have not failed again and again."""
    return client.direct_to_workers is not False and _failures.get(client, 0) < MAX_FAILURES


def count_call(client: Client, *, lost: bool) -> None:
    """Take note of a call that somebody answered, or that was lost."""
    _failures[client] = _failures.get(client, 0) + 1 if lost else 0


def call_workers(client: Client, work: Sequence[Work], part: int, n_groups: int, packed: bytes) -> list[Sums] | None:
    """The partial sums of what each worker thread has to do; None if any worker did not answer, or lacks its rows."""

    async def call(each: Work) -> Any:
        operation = getattr(client.rpc(each.worker), OPERATION)
        return await operation(keys=each.keys, slot=each.slot, part=part, n_groups=n_groups, packed=packed)

    async def call_all() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*map(call, work), return_exceptions=True), PATIENCE)

    try:
        answers = client.sync(call_all)
    except TimeoutError as error:
        forget_frames(error)
        answers = [error]
    count_call(client, lost=any(isinstance(answer, OSError) for answer in answers))  # TimeoutError and CommClosedError are
    return [pickle.loads(answer) for answer in answers] if all(isinstance(answer, bytes) for answer in answers) else None
