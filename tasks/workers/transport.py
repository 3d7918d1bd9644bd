"""What a session needs of the process that a participant is in: connections, their bytes, and threads that wait for them. A
`distributed.Worker` has it; so has whoever simulates one."""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

logger = logging.getLogger("dask-descent")


class Stream(Protocol):
    """The bytes of a connection, for a thread of its own."""

    @property
    def sendall(self) -> Callable[[Any], None]:
        """Send these bytes. Raises OSError when the other end is gone."""

    @property
    def recv_into(self) -> Callable[[memoryview], int]:
        """Wait for some bytes, and return how many came: 0 when the other end is gone. May raise OSError instead."""

    def is_open(self) -> bool:
        """False when the other end is gone, and has left nothing to be read."""

    def end(self) -> None:
        """Wake up whoever waits, here and at the other end, with an error."""


class Inbox(Protocol):
    """What the threads of a participant hand to one of them."""

    def put(self, message: Any) -> None:
        """From any thread; waits for nobody."""

    def get(self) -> Any:
        """The oldest message. Waits for one."""


class Transport(Protocol):
    """How a participant reaches others."""

    def inbox(self) -> Inbox:
        """A new one."""

    async def connect(self, address: str) -> Any:
        """A distributed Comm, or what is like one, that nobody else uses. Raises OSError where nobody answers."""

    def release(self, address: str, comm: Any) -> None:
        """Close what `connect` returned. May be repeated."""

    def stream(self, comm: Any) -> Stream:
        """The bytes of a Comm that only the stream is used of from here on, until the Comm is closed."""

    async def in_own_thread(self, function: Callable[[], Any]) -> Any:
        """function() in a thread that nobody waits for when the process ends."""


class Socket:
    """The socket of a distributed Comm over TCP or TLS, taken from its event loop.

    Raises AttributeError for a Comm that has no socket (UCX, or within one process).
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.socket: socket.socket = comm.stream.socket
        comm.stream.io_loop.remove_handler(self.socket)
        self.socket.settimeout(None)
        self.sendall: Callable[[Any], None] = self.socket.sendall
        self.recv_into: Callable[[memoryview], int] = self.socket.recv_into

    def is_open(self) -> bool:
        try:
            return bool(socket.socket.recv(self.socket, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT))  # beneath TLS
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False

    def end(self) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class WorkerTransport:
    """That of a distributed.Worker."""

    def __init__(self, dask_worker: Any) -> None:
        self.rpc = dask_worker.rpc

    def inbox(self) -> Inbox:
        return queue.SimpleQueue()

    async def connect(self, address: str) -> Any:
        return await self.rpc.connect(address)

    def release(self, address: str, comm: Any) -> None:
        comm.abort()
        self.rpc.reuse(address, comm)  # which forgets what is closed

    def stream(self, comm: Any) -> Stream:
        return Socket(comm)

    async def in_own_thread(self, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def tell(error: Exception | None, result: Any) -> None:
            if not done.done():
                done.set_result(result) if error is None else done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = function()
            except Exception as raised:
                error = raised
                if not isinstance(error, OSError):
                    logger.debug("a session ends", exc_info=True)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, error, result)

        threading.Thread(target=run, name="dask-descent-session", daemon=True).start()
        return await done
