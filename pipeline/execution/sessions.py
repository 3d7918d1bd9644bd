"""The client's side of resident rounds (`tasks/workers/participants.py`): it opens a session, orders rounds, and watches."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import uuid4

from distributed import Client
from distributed.protocol.serialize import ToPickle

from pipeline.cluster.asking import forget_frames
from pipeline.cluster.code.modules import dumps
from pipeline.execution.calls import can_call, count_call, failures
from pipeline.execution.residency.resident import Work
from tasks.rounds.fitting import Fit
from tasks.workers.messages import Link, Message, packed, unpacked
from tasks.workers.participants import OPERATION, Done, Duty, Exchanged, Order, Plan
from tasks.workers.slices import cuts

PATIENCE: Final = 2.0
"""Seconds beyond those that were ordered: whoever has not answered by then has stopped."""
SHORTEST, LONGEST = 0.1, 2.0
"""Seconds of an order."""
SHARE: Final = 10.0
"""An order lasts this much longer than what it takes to carry the states."""
BYTES_PER_SECOND: Final = 25e6
"""Of the slowest network that is waited for."""


class SessionRows(NamedTuple):
    """What a session works on: a subset of a dataset with so many groups and columns, and which worker thread has which pieces, with
    subtrees up to `level` whole; content: see `tasks.workers.participants.Plan`."""

    work: list[Work]
    subset: int
    n_groups: int
    n_columns: int
    level: int
    content: int | None

    def duties(self) -> list[Duty]:
        """One for each worker, in the order of their threads' numbers: neighbours have neighbouring groups."""
        threads: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        for each in self.work:
            threads.setdefault(each.worker, []).append((each.thread, each.keys))
        return [Duty(worker, tuple(own)) for worker, own in threads.items()]


@dataclass(eq=False)
class Session:
    """An open one. states: those that the root has, too; overhead: seconds of the last order that were not spent on rounds."""

    client: Client
    root: str
    link: Link
    rows: SessionRows
    fit: Fit
    states: list[Any] | None = None
    overhead: float = 0.0

    def is_for(self, rows: SessionRows, fit: Fit) -> bool:
        """Whether it can do rounds of this fit, with the pieces where they are now."""
        return self.fit is fit and self.rows.work is rows.work and self.rows.subset == rows.subset

    def advance(self, states: list[Any], limit: int) -> Done:
        """At most `limit` rounds. Raises OSError when somebody in it is gone or has failed, TimeoutError, which is one, for no answer."""
        start = time.perf_counter()
        seconds = min(max(SHARE * self.overhead, SHORTEST), LONGEST)
        order = packed(Order(limit, seconds, None if states is self.states else states))
        carried = sum(len(pickle.PickleBuffer(part).raw()) for part in order) / BYTES_PER_SECOND
        done: Done = unpacked(self.client.sync(self._ask, order, seconds + PATIENCE + 2 * carried + 2 * self.overhead))
        self.states = done.states
        self.overhead = time.perf_counter() - start - done.elapsed
        return done

    async def _ask(self, order: Message, patience: float) -> Message:
        async with asyncio.timeout(patience):
            await self.link.send(order)
            return await self.link.receive()

    def close(self) -> None:
        """Whoever is in it notices at once, or when it can. Waits for nobody."""
        loop: Any = self.client.loop
        with suppress(RuntimeError):  # a client that is closed
            loop.add_callback(hang_up, self.client, self.root, self.link.comm)


def hang_up(client: Client, address: str, comm: Any) -> None:
    """Close a connection that was taken from the client's pool, and give it back."""
    comm.abort()
    client.rpc.reuse(address, comm)


async def enter(client: Client, duties: Sequence[Duty], plan: bytes) -> Link:
    """Start a session on these workers."""
    root = duties[0].worker
    async with asyncio.timeout(PATIENCE):
        comm = await client.rpc.connect(root)
        try:
            link = Link(comm, ToPickle)
            await comm.write({"op": OPERATION, "reply": False, "plan": plan, "rank": 0})
            await link.receive()
        except BaseException:
            hang_up(client, root, comm)
            raise
    return link


class Sessions:
    """The sessions of one fit after another, at most one at a time. After failures in a row it takes more and more rounds before the next
    is tried. traffic: what each participant of the last session that serves slices has sent and received."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.rounds = 0
        self.messages_per_round = 0
        self.hops_per_round = 0
        self.traffic: tuple[Exchanged, ...] = ()
        self._session: Session | None = None
        self._failures = 0
        self._wait = 0

    def due(self) -> bool:
        """Whether a session should be tried for the next rounds."""
        self._wait -= 1
        return self._wait < 0 and can_call(self.client)

    def advance(self, rows: SessionRows, fit: Fit, states: list[Any], limit: int, send_modules: Callable[[Set[str]], None]) -> Done | None:
        """At most `limit` rounds, or None if that failed; send_modules: those of the user's that a session needs. Raises TimeoutError when
        somebody does not answer."""
        try:
            if self._session is None or not self._session.is_for(rows, fit):
                self.close()
                self._session = self._open(rows, fit, send_modules)
            done = self._session.advance(states, limit)
        except BaseException as error:
            self.close()
            self._wait = 1 << min(self._failures, 10)
            self._failures += 1
            count_call(self.client, failures(self.client) if isinstance(error, TimeoutError) else None)
            forget_frames(error)
            if isinstance(error, TimeoutError) or not isinstance(error, Exception):
                raise
            return None
        self._failures = 0
        count_call(self.client)
        self.rounds += len(done.reports)
        if done.reports:
            self.messages_per_round, self.hops_per_round, self.traffic = done.messages, done.hops, done.traffic
        return done

    def _open(self, rows: SessionRows, fit: Fit, send_modules: Callable[[Set[str]], None]) -> Session:
        duties = rows.duties()
        slices = cuts(fit.objective.layout.size, len(duties)) if fit.served else ()
        plan, modules = dumps(
            Plan(fit, rows.subset, rows.n_groups, rows.n_columns, rows.level, duties, ToPickle, rows.content, uuid4().hex, slices)
        )
        send_modules(modules)
        return Session(self.client, duties[0].worker, self.client.sync(enter, self.client, duties, plan), rows, fit)

    def close(self) -> None:
        """Let go of the rows."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
