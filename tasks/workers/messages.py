"""Messages between the participants of a session: pickles whose large arrays travel, and are passed on, without copies."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from tasks.machine import buffers
from tasks.workers.transport import Stream

LARGE: Final = 1 << 16
"""Bytes of an array that travels beside the pickle; smaller ones are copied into it sooner than they are sent apart."""
ALIGNED: Final = 16
BUFFER: Final = 1 << 16

Message: TypeAlias = tuple[Any, ...]
"""The pickle, and the buffers that it refers to."""


def packed(value: Any) -> Message:
    """The value as a message. Its large arrays must not change before the message is sent."""
    apart: list[pickle.PickleBuffer] = []

    def keep_in(buffer: pickle.PickleBuffer) -> bool:
        large = buffer.raw().nbytes >= LARGE
        if large:
            apart.append(buffer)
        return not large

    return (pickle.dumps(value, protocol=5, buffer_callback=keep_in), *apart)


def n_bytes(message: Message) -> int:
    """The bytes of a message."""
    return sum(memoryview(part).nbytes for part in message)


def unpacked(message: Message) -> Any:
    """The value. Its arrays are aligned, which those that a network delivers are not: other bits would come of them."""
    return pickle.loads(message[0], buffers=[aligned(buffer) for buffer in message[1:]])


def aligned(buffer: Any) -> Any:
    """The buffer, or a copy that begins at a multiple of `ALIGNED`."""
    address = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return bytearray(buffer) if address % ALIGNED else buffer


class Wire:
    """Messages over a stream: a thread waits for it, and a short message takes an eighth of the time that it takes through the event loop.
    sent, received: bytes so far."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.buffer = memoryview(bytearray(BUFFER))
        self.ahead = 0  # bytes of the next message that are there
        self.sent = 0
        self.received = 0

    def send(self, message: Message) -> None:
        """Raises OSError when the other end is gone, as `receive` does."""
        sizes = [memoryview(part).nbytes for part in message]
        head = struct.pack(f"={1 + len(sizes)}Q", len(sizes), *sizes)
        self.stream.sendall(b"".join((head, message[0])))
        for part in message[1:]:
            self.stream.sendall(part)
        self.sent += len(head) + sum(sizes)

    def receive(self) -> Message:
        have = self._fill(self.buffer, self.ahead, 8)
        (n_parts,) = struct.unpack_from("=Q", self.buffer)
        start = 8 + 8 * n_parts
        have = self._fill(self.buffer, have, start)
        sizes = struct.unpack_from(f"={n_parts}Q", self.buffer, 8)
        rest, parts = self.buffer[start:have], []
        for size in sizes:
            part = buffers.empty((size,), np.uint8)
            there = min(size, len(rest))
            part[:there], rest = rest[:there], rest[there:]
            self._fill(part.data, there, size)
            parts.append(part)
        self.ahead = len(rest)
        if self.ahead:
            self.buffer[: self.ahead] = bytes(rest)
        self.received += start + sum(sizes)
        return tuple(parts)

    def _fill(self, buffer: memoryview, have: int, least: int) -> int:
        """How many bytes there are when there are at least so many."""
        while have < least:
            more = self.stream.recv_into(buffer[have:])
            if not more:
                raise ConnectionError("the other end of a session is gone")
            have += more
        return have


class Link:
    """One end of a connection that two processes keep to themselves, on an event loop.

    comm: a distributed Comm; envelope: distributed's class for what it shall pickle with buffers apart.
    """

    def __init__(self, comm: Any, envelope: Callable[[Message], Any]) -> None:
        self.comm = comm
        self.envelope: Any = envelope
        comm.allow_offload = False  # nothing is copied here that would be worth a thread

    async def send(self, message: Message) -> None:
        await self.comm.write(message[0] if len(message) == 1 else self.envelope(message))

    async def receive(self) -> Message:
        """Raises OSError when the other end is gone."""
        message = await self.comm.read()
        if isinstance(message, bytes):
            return (message,)
        return tuple(message.data if isinstance(message, self.envelope) else message)  # within one process envelopes stay closed
