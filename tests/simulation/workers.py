"""Simulated workers, as calls, sessions and tasks see them."""

from __future__ import annotations

import asyncio
import pickle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from tasks.reductions.reduction import NodeSums
from tasks.workers.calls import prepare_worker
from tasks.workers.members import MEETING
from tasks.workers.participants import OPERATION as SESSION
from tests.simulation.loop import STRAND, Process, Strand, current_strand
from tests.simulation.network import End, connection, decide, pause

if TYPE_CHECKING:
    from tests.simulation.world import World

CONNECT_TIMEOUT: Final = 30.0


def moved(value: Any) -> Any:
    """As it arrives in another process: copied, to memory that is not aligned and cannot be written."""
    buffers: list[Any] = []
    message = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(message, buffers=[memoryview(b"x" + bytes(buffer.raw()))[1:] for buffer in buffers])


class Worker:
    """What a session, a call and a task need of a distributed.Worker, and the `tasks.workers.transport.Transport` of its participants.

    slowness: how much longer than others it computes; twice: of its next computations, how many it does twice; free_at: when each of the
    threads that run tasks and calls will have nothing to do.
    """

    def __init__(self, world: World, address: str, n_threads: int) -> None:
        self.world = world
        self.address = address
        self.n_threads = n_threads
        self.process = Process(address)
        self.data: dict[Any, Any] = {}
        self.executors = {"default": self}
        self.status = SimpleNamespace(name="running")
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.slowness = 1.0
        self.free_at = [0.0] * n_threads
        self.twice = 0
        prepare_worker(self, self)

    def runs(self) -> bool:
        return self.process.alive and self.process.stopped_until <= self.world.loop.now

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """In the first thread of this worker that is free: it takes time, in which other things happen."""
        future = StrandFuture()
        loop, seconds = self.world.loop, self._begin()
        later = partial(outcome, future, self._result, seconds, function, *arguments)
        thread = min(range(self.n_threads), key=self.free_at.__getitem__)
        self.free_at[thread] = max(self.free_at[thread], loop.now) + seconds
        loop.call_at(self.free_at[thread], later, context=loop.context_of(self.process))
        return future

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In the thread that asks for it."""
        strand = STRAND.get(None)
        if strand is None:  # it has been submitted
            return function(*arguments)
        seconds = self._begin()
        pause(self.world.loop, self.process)
        strand.spend(seconds)
        return self._result(seconds, function, *arguments)

    def _begin(self) -> float:
        """The seconds of a computation."""
        self.world.step("compute", self.process)
        return self.world.duration() * self.slowness

    def _result(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """It may be the second one."""
        if self.twice:
            self.twice -= 1
            function(*arguments)
        result = function(*arguments)
        return result._replace(seconds=dict.fromkeys(result.seconds, seconds)) if isinstance(result, NodeSums) else result

    async def serve(self, comm: End) -> None:
        """One call."""
        try:
            message = dict(await comm.read())
            operation, reply = message.pop("op"), message.pop("reply", True)
            if operation in (SESSION, MEETING):
                await self.handlers[operation](comm, **message)
            else:
                result = await self.handlers[operation](**message)
                if reply:
                    await comm.write(result)
        except OSError:
            pass

    # -- the transport ---------------------------------------------------------------------------------------------------------------

    async def connect(self, address: str) -> End:
        return await connect(self.world, self.process, address)

    def release(self, address: str, comm: End) -> None:
        comm.abort()

    def stream(self, comm: End) -> End:
        return comm

    def inbox(self) -> Inbox:
        return Inbox()

    async def in_own_thread(self, function: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        Strand(self.world.loop, partial(outcome, future, function))
        return await asyncio.wrap_future(future)


class Inbox:
    """Whoever waits for a message lets the others run."""

    def __init__(self) -> None:
        self.messages: deque[Any] = deque()
        self.waiting: Strand | None = None

    def put(self, message: Any) -> None:
        self.messages.append(message)
        if self.waiting is not None:
            self.waiting.wake()

    def get(self) -> Any:
        while not self.messages:
            self.waiting = current_strand()
            self.waiting.park()
        self.waiting = None
        return self.messages.popleft()


class StrandFuture(Future[Any]):
    """Whoever waits for it lets the others run."""

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            strand = current_strand()
            self.add_done_callback(lambda _: strand.wake())
            while not self.done():
                strand.park()
        return super().result()


def outcome(future: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
    """Put the result, or the error, of a call into the future."""
    try:
        result = function(*arguments)
    except Exception as error:  # noqa: BLE001
        if not future.cancelled():
            future.set_exception(error)
    else:
        if not future.cancelled():
            future.set_result(result)


async def connect(world: World, process: Process, address: str) -> End:
    """Raises OSError where nobody answers."""
    world.step("connect", process)
    await asyncio.sleep(world.message_time())
    worker = world.workers.get(address)
    if worker is None or not worker.process.alive:
        raise OSError(f"nobody listens at {address}")
    near, far = connection(world, process, worker.process)
    accepted = world.loop.create_future()
    near.read_by.append(partial(decide, accepted, False))

    def accept() -> None:
        world.loop.create_task(worker.serve(far))
        world.loop.at(world.loop.now + world.message_time(), decide, accepted, True)

    world.loop.call_soon(accept, context=world.loop.context_of(worker.process))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            if not await accepted:
                raise OSError("closed at once")
    except BaseException as error:
        near.abort()
        if isinstance(error, TimeoutError):
            raise OSError("nobody answers") from None
        raise
    return near
