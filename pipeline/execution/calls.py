"""Short rounds: the client calls the workers that hold the shards, which takes a fraction of the time that tasks take to be scheduled."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from distributed import Client

from pipeline.cluster.asking import forget_frames
from pipeline.execution.gathering import take_note
from pipeline.execution.residency.resident import Work
from tasks.reductions.reduction import NodeSums
from tasks.rounds.fitting import Traffic
from tasks.workers.calls import OPERATION

PATIENCE: Final = 2.0
"""Seconds for all answers of a round; whoever takes longer, or cannot be reached from here, gets a task."""
MAX_FAILURES: Final = 2
AGAIN: Final = 10.0
"""Seconds without calls after so many failures in a row; after each further one twice as many."""


class Lost(NamedTuple):
    """The calls that were lost in a row: behind a gateway all are, beside workers that die those of a while. until: no call before that."""

    failures: int = 0
    until: float = -np.inf


_lost: WeakKeyDictionary[Client, Lost] = WeakKeyDictionary()


def can_call(client: Client) -> bool:
    """Whether calls have a chance: the user has not ruled them out, and they have not just failed again and again."""
    return client.direct_to_workers is not False and time.monotonic() >= _lost.get(client, Lost()).until


def failures(client: Client) -> int:
    """How many calls in a row have been lost."""
    return _lost.get(client, Lost()).failures


def count_call(client: Client, lost_after: int | None = None) -> None:
    """Take note of a call that somebody answered; or that was lost, after so many failures by the time it began: those that were under way
    together count as one."""
    before = failures(client)
    if lost_after is None:
        _lost[client] = Lost()
    elif lost_after >= before:
        further = before + 1 - MAX_FAILURES
        _lost[client] = Lost(before + 1, time.monotonic() + AGAIN * 2.0**further if further >= 0 else -np.inf)


class Calls:
    """The calls of a round, under way: one for each worker thread that has something to do."""

    def __init__(self, client: Client, work: Sequence[Work], subset: int, n_groups: int, packed: bytes) -> None:
        self.client = client
        self.work = work
        self.more = {"subset": subset, "n_groups": n_groups, "packed": packed}
        self.traffic = Traffic(len(packed) * len(work))
        self._failures = failures(client)
        self._answers: asyncio.Task[list[Any]] | None = None
        self._loop.add_callback(self._start)

    @property
    def _loop(self) -> Any:
        return self.client.loop

    def _start(self) -> None:
        self._begin()  # not returned: the loop would log what it fails of

    def _begin(self) -> asyncio.Task[list[Any]]:
        if self._answers is None:
            self._answers = asyncio.ensure_future(self._call_all())
            self._answers.add_done_callback(take_note)
        return self._answers

    async def _call_all(self) -> list[Any]:
        async with asyncio.timeout(PATIENCE):  # `wait_for` would have the loop log a round that is given up
            return await asyncio.gather(*map(self._call, self.work), return_exceptions=True)

    async def _call(self, each: Work) -> Any:
        operation = getattr(self.client.rpc(each.worker), OPERATION)
        return await operation(keys=each.keys, thread=each.thread, **self.more)

    async def _wait(self) -> list[Any]:
        return await self._begin()

    @property
    def done(self) -> bool:
        return self._answers is not None and self._answers.done()

    def results(self) -> list[NodeSums] | None:
        """The partial sums of what each worker thread had to do; None if any worker did not answer, or lacks its rows."""
        try:
            answers = self.client.sync(self._wait)
        except TimeoutError as error:
            forget_frames(error)
            answers = [error]
        except BaseException:
            self.cancel()
            raise
        lost = any(isinstance(answer, OSError) for answer in answers)  # TimeoutError and CommClosedError are
        count_call(self.client, self._failures if lost else None)
        if not all(isinstance(answer, bytes) for answer in answers):
            return None
        self.traffic = Traffic(self.traffic.sent, sum(map(len, answers)))
        return [pickle.loads(answer) for answer in answers]

    def cancel(self) -> None:
        """Expect no answer any more."""
        with suppress(RuntimeError):  # a client that is closed
            self._loop.add_callback(lambda: self._begin().cancel())
