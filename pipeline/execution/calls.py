"""Short rounds: the client calls the workers that hold the shards, which takes a fraction of the time that tasks take to be scheduled."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

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

_failures: WeakKeyDictionary[Client, int] = WeakKeyDictionary()  # in a row; behind a gateway, every call fails


def can_call(client: Client) -> bool:
    """Whether calls have a chance: the user has not ruled them out, and they have not failed again and again."""
    return client.direct_to_workers is not False and _failures.get(client, 0) < MAX_FAILURES


def count_call(client: Client, *, lost: bool) -> None:
    """Take note of a call that somebody answered, or that was lost."""
    _failures[client] = _failures.get(client, 0) + 1 if lost else 0


class Calls:
    """The calls of a round, under way: one for each worker thread that has something to do."""

    def __init__(self, client: Client, work: Sequence[Work], subset: int, n_groups: int, packed: bytes) -> None:
        self.client = client
        self.work = work
        self.more = {"subset": subset, "n_groups": n_groups, "packed": packed}
        self.traffic = Traffic(len(packed) * len(work))
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
        count_call(self.client, lost=any(isinstance(answer, OSError) for answer in answers))  # TimeoutError and CommClosedError are
        if not all(isinstance(answer, bytes) for answer in answers):
            return None
        self.traffic = Traffic(self.traffic.sent, sum(map(len, answers)))
        return [pickle.loads(answer) for answer in answers]

    def cancel(self) -> None:
        """Expect no answer any more."""
        with suppress(RuntimeError):  # a client that is closed
            self._loop.add_callback(lambda: self._begin().cancel())
