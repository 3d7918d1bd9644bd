"""Members: a participant's place among the others, from the call that opens a session to the end of all connections."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from functools import partial
from typing import Any, Final

from tasks.workers import participants
from tasks.workers.messages import Link, Wire, packed, unpacked
from tasks.workers.participants import LOOK_EVERY, OPERATION, Done, Order, Participant, Plan, live
from tasks.workers.serving import ServingParticipant
from tasks.workers.transport import Transport

logger = logging.getLogger("dask-descent")

MEETING: Final = "dask_descent_meeting"
PATIENCE: Final = 2.0
"""Seconds that a participant is waited for who must have been told of the session."""
LOOK_FOR: Final = 0.002


async def take_part(dask_worker: Any, transport: Transport, comm: Any, plan: bytes, rank: int) -> None:
    """Take part in rounds until the session ends, by whatever: `comm` leads to the parent, or to the client."""
    try:
        found: Plan = await transport.in_own_thread(partial(pickle.loads, plan))
        if found.cuts:
            participant: Participant = ServingParticipant(dask_worker, found, rank, transport.inbox())
        else:
            participant = Participant(dask_worker, found, rank)
        members = Members(participant, transport, Link(comm, found.envelope))
        try:
            await members.enter(plan)
            await (members.lead() if rank == 0 else members.follow())
        finally:
            members.leave()
    except Exception as error:  # noqa: BLE001  the end of a session, whatever it is
        note_end(error)
    finally:
        comm.abort()


def note_end(error: Exception) -> None:
    """Log what ended a session here, unless it is what always does: a connection that is closed."""
    others = error.split(OSError)[1] if isinstance(error, ExceptionGroup) else None if isinstance(error, OSError) else error
    if others is not None:
        logger.debug("a session ends", exc_info=others)


async def meet(dask_worker: Any, transport: Transport, comm: Any, name: str) -> None:
    """Hear what another participant of the session of that name says to the one here, until it is gone."""
    try:
        async with asyncio.timeout(PATIENCE):
            while (found := server_here(dask_worker, name)) is None:  # the session is about to be entered here
                await asyncio.sleep(LOOK_FOR)
        await comm.write(True)
        wire = Wire(transport.stream(comm))
        found.incoming.append(wire)
        await transport.in_own_thread(partial(found.listen, wire))
    except Exception as error:  # noqa: BLE001  the end of a session, whatever it is
        note_end(error)
    finally:
        comm.abort()


def server_here(dask_worker: Any, name: str) -> ServingParticipant | None:
    """The participant of the session of that name in this worker."""
    here = (each for each in live if isinstance(each, ServingParticipant) and each.worker is dask_worker and each.plan.name == name)
    return next(here, None)


class Members:
    """A participant's place among the others: connections, and the end of all when one ends. Lives on the worker's event loop."""

    def __init__(self, participant: Participant, transport: Transport, parent: Link) -> None:
        self.participant = participant
        self.transport = transport
        self.parent = parent
        self.below: list[tuple[str, Any]] = []
        self.watch = asyncio.ensure_future(self._watch())
        live.add(participant)

    async def enter(self, plan: bytes) -> None:
        """Bring in those below, and tell the parent when all are there."""
        own = self.participant
        async with asyncio.TaskGroup() as together:
            for rank in own.plan.below(own.rank):
                together.create_task(self._say(rank, {"op": OPERATION, "reply": False, "plan": plan, "rank": rank}))
        if isinstance(own, ServingParticipant):
            await self._meet_all(own)
        for _, comm in self.below[: len(own.plan.below(own.rank))]:
            await comm.read()
            own.children.append(Wire(self.transport.stream(comm)))
        await self.parent.send(packed(True))

    async def _say(self, rank: int, message: dict[str, Any]) -> Any:
        """Connect to another participant's worker, and begin with that; returns the connection."""
        address = self.participant.plan.duties[rank].worker
        comm = await self.transport.connect(address)
        self.below.append((address, comm))
        await comm.write(message)
        return comm

    async def _meet_all(self, own: ServingParticipant) -> None:
        """Have a connection to each participant to whom there will be something to say."""
        async with asyncio.TaskGroup() as together:
            for rank in own.partners:
                together.create_task(self._meet(own, rank))

    async def _meet(self, own: ServingParticipant, rank: int) -> None:
        """Have a connection to one of them."""
        comm = await self._say(rank, {"op": MEETING, "reply": False, "name": own.plan.name})
        await comm.read()
        own.outgoing[rank] = Wire(self.transport.stream(comm))

    async def follow(self) -> None:
        """Take part in rounds, for ever."""
        self.participant.parent = Wire(self.transport.stream(self.parent.comm))
        await self.transport.in_own_thread(self.participant.follow)

    async def lead(self) -> None:
        """Do what the client orders, for ever."""
        states: list[Any] = []
        while True:
            order: Order = unpacked(await self.parent.receive())
            self.participant.heard = time.monotonic()
            states = states if order.states is None else order.states
            done: Done = await self.transport.in_own_thread(partial(self.participant.advance, order, states))
            states = done.states
            await self.parent.send(packed(done))

    def leave(self) -> None:
        """End all connections, and with them the session. May be repeated."""
        own = self.participant
        live.discard(own)
        self.watch.cancel()
        own.leave()
        self.parent.comm.abort()
        while self.below:
            self.transport.release(*self.below.pop())

    async def _watch(self) -> None:
        """Who waits for a child does not see that the parent is gone, or that nobody wants anything any more."""
        own = self.participant
        while own.worker.status.name == "running" and time.monotonic() < own.heard + participants.SILENCE:
            if self.parent.comm.closed() or not (own.parent is None or own.parent.stream.is_open()):
                break
            await asyncio.sleep(LOOK_EVERY)
        self.leave()
