"""Connections between simulated processes: slow ones, cut in the middle of a message, or open to a process that is stopped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from distributed.comm.core import CommClosedError
from distributed.protocol.serialize import ToPickle

from tests.simulation.loop import Loop, Process, current_strand


class World(Protocol):
    """What happens to whom."""

    loop: Loop

    def step(self, what: str, process: Process | None, end: End | None = None) -> None:
        """Something is about to happen: a fault may come first."""

    def latency(self, end: End) -> float:
        """Seconds of the next message from this end."""

    def bytes_at_once(self) -> int:
        """That a read returns at most."""

    capacity: int
    """Bytes that may be under way before a sender must wait."""


class End:
    """One end of a connection: a distributed Comm, and the stream that is left of it when a thread has taken it.

    What is on its way arrives before the news that the other end is closed, unless the connection is cut.
    """

    allow_offload = True

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.peer: End
        self.arrived: deque[Any] = deque()
        self.unread = 0
        self.is_closed = False
        self.peer_is_gone = False
        self.last_arrival = 0.0
        self.n_written = 0
        self.n_blocked = 0
        self.read_by: list[Callable[[], Any]] = []
        process.ends.append(self)

    # -- the network ---------------------------------------------------------------------------------------------------------------------

    def _send(self, item: Any, size: int) -> None:
        """Arrives in order, after a while."""
        loop = self.world.loop
        peer = self.peer
        peer.unread += size
        peer.last_arrival = max(peer.last_arrival, loop.now + self.world.latency(self))
        loop.at(peer.last_arrival, peer._arrive, item)

    def _arrive(self, item: Any) -> None:
        if item is None:
            self.peer_is_gone = True
        elif not self.is_closed:
            self.arrived.append(item)
        self._tell()

    def _tell(self) -> None:
        """Whoever waits here looks again."""
        waiting, self.read_by = self.read_by, []
        for wake in waiting:
            wake()

    def cut(self) -> None:
        """Both ends lose the connection, with what is on its way."""
        for end in (self, self.peer):
            end.is_closed = end.peer_is_gone = True
            end.arrived.clear()
            end._tell()

    # -- a Comm --------------------------------------------------------------------------------------------------------------------------

    async def write(self, message: Any) -> None:
        self.n_written += 1
        await step_in_task(self.world, "write", self)
        if self.is_closed or self.peer_is_gone:
            raise CommClosedError("closed")
        if isinstance(message, ToPickle):
            message = tuple(bytes(memoryview(part)) for part in message.data)  # others' memory
        self._send(message, 0)

    async def read(self) -> Any:
        while not self.arrived:
            if self.is_closed or self.peer_is_gone:
                raise CommClosedError("closed")
            more = self.world.loop.create_future()
            self.read_by.append(partial(decide, more, True))
            await more
        await step_in_task(self.world, "read", self)
        if self.is_closed:
            raise CommClosedError("closed")
        return self.arrived.popleft()

    def abort(self) -> None:
        if not self.n_blocked:  # else closing a socket wakes up nobody, neither here nor there
            self.end()

    def closed(self) -> bool:
        return self.is_closed or (self.peer_is_gone and not self.arrived)

    # -- a Stream ------------------------------------------------------------------------------------------------------------------------

    def sendall(self, data: Any) -> None:
        """In two halves, between which something may happen."""
        whole = bytes(memoryview(data))
        self._send_bytes(whole[: len(whole) // 2])
        step_in_strand(self.world, "send", self)
        self._send_bytes(whole[len(whole) // 2 :])

    def _send_bytes(self, data: bytes) -> None:
        """Waits while too much is under way."""
        while self.peer.unread > self.world.capacity and not (self.is_closed or self.peer_is_gone):
            self._wait(self, self.peer)
        if self.is_closed or self.peer_is_gone:
            raise BrokenPipeError("closed")
        if data:
            self._send(data, len(data))

    def _wait(self, *ends: End) -> None:
        """In a strand: until something happens at one of these."""
        strand = current_strand()
        for end in ends:
            if strand.wake not in end.read_by:
                end.read_by.append(strand.wake)
        self.n_blocked += 1
        strand.park()
        self.n_blocked -= 1

    def recv_into(self, buffer: memoryview) -> int:
        while not self.arrived:
            if self.is_closed or self.peer_is_gone:
                return 0
            self._wait(self)
        step_in_strand(self.world, "receive", self)
        if self.is_closed:
            return 0
        chunk: bytes = self.arrived.popleft()
        assert isinstance(chunk, bytes), "a message for the event loop, which a thread reads"
        size = min(len(chunk), len(buffer), self.world.bytes_at_once())
        buffer[:size] = chunk[:size]
        if size < len(chunk):
            self.arrived.appendleft(chunk[size:])
        self.unread -= size
        self._tell()
        return size

    def is_open(self) -> bool:
        return bool(self.arrived) or not (self.is_closed or self.peer_is_gone)

    def end(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.arrived.clear()
            self._tell()
            self._send(None, 0)


def connection(world: World, near: Process, far: Process) -> tuple[End, End]:
    """Both ends of a new one."""
    one, other = End(world, near), End(world, far)
    one.peer, other.peer = other, one
    return one, other


def decide(future: asyncio.Future[bool], result: bool) -> None:
    """For the first time."""
    if not future.done():
        future.set_result(result)


def step_in_strand(world: World, what: str, end: End) -> None:
    """A step after which this process may be dead, or stopped."""
    world.step(what, end.process, end)
    pause(world.loop, end.process)


def pause(loop: Loop, process: Process) -> None:
    """In a strand: wait until its process runs."""
    while not process.alive or process.stopped_until > loop.now:
        strand = current_strand()
        strand.wake()
        strand.park()


async def step_in_task(world: World, what: str, end: End) -> None:
    """As `step_in_strand`."""
    world.step(what, end.process, end)
    while not end.process.alive or end.process.stopped_until > world.loop.now:
        await asyncio.sleep(0)
