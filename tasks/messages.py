"""Messages between the participants of a session: pickles whose large arrays travel, and are passed on, without copies."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

LARGE: Final = 1 << 16
"""Bytes of an array that travels beside the pickle; smaller ones are copied into it sooner than they are sent apart."""
ALIGNED: Final = 16

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


def unpacked(message: Message) -> Any:
    """The value. Its arrays are aligned, which those that a network delivers are not: other bits would come of them."""
    return pickle.loads(message[0], buffers=[aligned(buffer) for buffer in message[1:]])


def aligned(buffer: Any) -> Any:
    """The buffer, or a copy that begins at a multiple of `ALIGNED`."""
    address = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return bytearray(buffer) if address % ALIGNED else buffer


class Link:
    """One end of a connection that two processes keep to themselves.

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
