"""Virtual time: one event loop for all simulated processes, and threads of which one runs at a time. What ran once runs so again."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Final

FOREVER: Final = 1e9
"""Seconds."""
LONGEST: Final = 1e4
"""Seconds of a fit: some workers may be stopped for minutes, one after the other."""


LONGEST_SLEEP: Final = 0.1
"""Seconds between two looks when nothing happens."""


class HangError(AssertionError):
    """What must end in bounded time does not."""


class KilledError(BaseException):
    """Ends the threads of processes that are dead."""


@dataclass(eq=False)
class Process:
    """stopped_until: nothing of it runs before; ends: its ends of connections, which close when it dies."""

    name: str
    alive: bool = True
    stopped_until: float = 0.0
    ends: list[Any] = field(default_factory=list)


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
STRAND: ContextVar[Strand] = ContextVar("STRAND")


class Loop(asyncio.AbstractEventLoop):
    """Runs what is due in the order of virtual time, and of asking where that is the same. What belongs to a process that is dead never
    runs, and what belongs to one that is stopped runs when it goes on."""

    def __init__(self, most_steps: int) -> None:
        self.now = 0.0
        self.steps = 0
        self.most_steps = most_steps
        self.outside = copy_context()
        self.errors: list[BaseException] = []
        self.strands: list[Strand] = []
        self.back = threading.Lock()
        self.back.acquire()
        self._queue: list[tuple[float, int, asyncio.Handle]] = []
        self._number = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._kept: list[Any] = []  # what the dead would have done: it must not be collected, and end, in the middle

    # -- what asyncio asks of a loop -------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._queue, (max(when, self.now), self._number, handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_at(self.now, callback, *args, context=context)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name="simulated", context=context)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "handle" in context:  # a callback, not a task that nobody waits for
            self.errors.append(context["exception"])

    # -- running ---------------------------------------------------------------------------------------------------------------------

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """What no process does, but the world."""
        self.call_at(when, callback, *args, context=self.outside)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Raises HangError where that does not come."""
        while not done():
            if not self._queue:
                raise HangError("nothing will ever happen")
            when, number, handle = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            if handle.cancelled():
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and not process.alive:
                self._kept.append(handle)
                continue
            if process is not None and process.stopped_until > self.now:
                heapq.heappush(self._queue, (process.stopped_until, number, handle))
                continue
            self.steps += 1
            if self.steps > self.most_steps or self.now > LONGEST:
                raise HangError(f"no end after {self.most_steps} steps and {self.now:.0f} s")
            handle._run()
            if self.errors:
                raise self.errors[0]

    def run(self, coroutine: Any, process: Process) -> Any:
        """The result of a coroutine of this process."""
        task = self.create_task(coroutine, context=self.context_of(process))
        self.run_until(task.done)
        return task.result()

    def pass_time(self, seconds: float, process: Process | None = None) -> None:
        """For whoever is in no coroutine: let the others go on. A process that is stopped meanwhile waits until it goes on."""
        over: list[bool] = []
        context = self.outside.copy() if process is None else self.context_of(process)
        self.call_later(seconds, over.append, True, context=context)
        self.run_until(lambda: bool(over))

    def seconds_to_next(self, most: float) -> float:
        """Until something may happen, but at most so many."""
        return max(0.0, min(self._queue[0][0] - self.now, most)) if self._queue else most

    def context_of(self, process: Process) -> Context:
        context = self.outside.copy()
        context.run(PROCESS.set, process)
        return context

    def close(self) -> None:
        """End all threads, and whatever else waits."""
        for task in self._tasks:
            if not task.done():
                task.get_coro().close()
        for strand in self.strands:
            strand.kill()
        self._queue.clear()
        self._tasks.clear()
        self._kept.clear()


class Carriers:
    """Threads for strands, used again: starting one takes as long as a simulated round."""

    def __init__(self) -> None:
        self.idle: list[Carrier] = []

    def carry(self, work: Callable[[], None]) -> None:
        carrier = self.idle.pop() if self.idle else Carrier(self)
        carrier.work = work
        carrier.go.release()


class Carrier(threading.Thread):
    def __init__(self, owner: Carriers) -> None:
        super().__init__(name="simulation", daemon=True)
        self.owner = owner
        self.work: Callable[[], None] = lambda: None
        self.go = threading.Lock()
        self.go.acquire()
        self.start()

    def run(self) -> None:
        while True:
            self.go.acquire()
            self.work()


CARRIERS: Final = Carriers()


class Strand:
    """A thread of a simulated process. It runs while the loop waits for it, and the loop while it waits."""

    def __init__(self, loop: Loop, function: Callable[[], None]) -> None:
        self.loop = loop
        self.function = function
        self.go = threading.Lock()
        self.go.acquire()
        self.started = self.ended = self.killed = self.due = False
        self.context = copy_context()
        self.context.run(STRAND.set, self)
        loop.strands.append(self)
        self.wake()

    def wake(self) -> None:
        """Have it look, when its process runs, whether what it waits for is there."""
        if not self.due:
            self.due = True
            self.loop.call_soon(self._resume, context=self.context)

    def park(self) -> None:
        """In the strand itself: wait for whoever wakes it, for whatever."""
        if self.killed:
            raise KilledError
        self.loop.back.release()
        self.go.acquire()
        if self.killed:
            raise KilledError

    def spend(self, seconds: float) -> None:
        """In the strand itself: so much time passes."""
        end = self.loop.now + seconds
        self.loop.call_at(end, self._resume, context=self.context)
        while self.loop.now < end:
            self.park()

    def kill(self) -> None:
        self.killed = True
        if self.started:
            self._resume()

    def _resume(self) -> None:
        self.due = False
        if self.ended:
            return
        if self.started:
            self.go.release()
        else:
            self.started = True
            CARRIERS.carry(self._run)
        self.loop.back.acquire()

    def _run(self) -> None:
        carrier = threading.current_thread()
        try:
            self.context.copy().run(self.function)
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001  the loop raises it
            self.loop.errors.append(error)
        self.ended = True
        if isinstance(carrier, Carrier):
            CARRIERS.idle.append(carrier)
        self.loop.back.release()


def current_strand() -> Strand:
    return STRAND.get()


class Clock:
    """In the place of the module `time`."""

    def __init__(self, loop: Loop, client: Process) -> None:
        self.loop = loop
        self.client = client

    def monotonic(self) -> float:
        return self.loop.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        """Whoever looks again and again need not before something happens, but for what time itself brings."""
        self.loop.pass_time(max(seconds, self.loop.seconds_to_next(LONGEST_SLEEP)), self.client)
