"""Fits in a simulated world, and what goes wrong there."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from random import Random
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple
from unittest.mock import patch

from pipeline.cluster import workers as workers_module
from pipeline.execution import calls as direct
from pipeline.execution import graph, sending
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.residency import following, loader
from tasks.reductions import reduction as reductions
from tasks.workers import calls as direct_calls
from tasks.workers import messages, participants, slices
from tests.simulation.client import Client
from tests.simulation.loop import FOREVER, PROCESS, Clock, Loop, Process
from tests.simulation.network import End
from tests.simulation.scheduler import TIME_TO_LIVE, Scheduler
from tests.simulation.workers import Worker

Kind = Literal[
    "kill",
    "kill all",
    "restart",
    "stop",
    "cut",
    "slow link",
    "slow",
    "twice",
    "lose",
    "misplace",
    "join",
    "retire",
    "stop client",
    "change",
]
KINDS: Final[tuple[Kind, ...]] = Kind.__args__  # type: ignore[attr-defined]
Moment = Literal["any", "connect", "enter", "send", "receive", "compute", "answer", "write", "read", "client", "move"]
MOMENTS: Final[tuple[Moment, ...]] = Moment.__args__  # type: ignore[attr-defined]
WORLDS: Final[list[World]] = []
"""The one that there is."""
ACTING: Final = -1
"""Whoever takes the step at which a fault comes."""
MOST_STEPS: Final = 200_000
SETTLED: Final = 30.0
"""Seconds after which whoever runs has left a session that is over: at each of three hops, news may take several."""


class Fault(NamedTuple):
    """Comes at the first step of the kind `moment` after so many steps, if there is one. who: the number of a worker, or `ACTING`;
    seconds: until a stopped process goes on, or a dead worker's successor joins; of a slow link, per message.

    Steps: a connection is opened; a participant says that it has entered a session; it sends half of a message, receives, computes; the
    root answers the client; any other message; the client asks the scheduler; a piece of the rows moves.
    """

    kind: Kind
    moment: Moment = "any"
    after: int = 0
    who: int = ACTING
    seconds: float = FOREVER


class Schedule(NamedTuple):
    """A world and its faults. mode: how rounds may run; message_time: seconds, of most messages; capacity: bytes that are under way on a
    connection before its sender waits; small: limits above which inputs and sums take other ways are as good as zero; restless: the client
    looks after the workers all the time, not once a second; in_client: the rows come from the client; silent: in the end the client says
    nothing, instead of taking its leave; again: another fit follows on the same rows."""

    seed: int = 0
    n_workers: int = 3
    n_threads: int = 1
    mode: Literal["sessions", "calls", "tasks"] = "sessions"
    message_time: float = 1e-3
    capacity: int = 1 << 20
    small: bool = False
    restless: bool = False
    in_client: bool = False
    silent: bool = False
    again: bool = False
    faults: tuple[Fault, ...] = ()


@dataclass(eq=False)
class World:
    """All that a schedule decides."""

    schedule: Schedule

    def __post_init__(self) -> None:
        self.random = Random(self.schedule.seed)
        self.loop = Loop(MOST_STEPS)
        self.capacity = self.schedule.capacity
        self.happened: Counter[str] = Counter()
        self.workers: dict[str, Worker] = {}
        self.checked = False  # the client knows the digest of the rows
        self.rows_changed = False
        self.slow_links: dict[Process, float] = {}
        self.scheduler = Scheduler(self)
        self.client = Client(self, None if self.schedule.mode == "sessions" else self.schedule.mode == "calls")
        self._waiting = sorted(self.schedule.faults, key=lambda fault: fault.after)
        self._n_steps = 0
        self._number = 0
        self._last_death = -FOREVER
        for _ in range(self.schedule.n_workers):
            self.join()

    def next_number(self) -> int:
        self._number += 1
        return self._number

    # -- time --------------------------------------------------------------------------------------------------------------------------

    def message_time(self) -> float:
        """Of most messages about as long, of some much longer."""
        return self.schedule.message_time * self.random.choice((0.5, 1.0, 1.0, 1.5, 10.0))

    def latency(self, end: End) -> float:
        return self.message_time() + self.slow_links.get(end.process, 0.0) + self.slow_links.get(end.peer.process, 0.0)

    def duration(self) -> float:
        """Of a computation."""
        return self.random.choice((1e-4, 1e-3, 1e-2))

    def bytes_at_once(self) -> int:
        return 7 if self.random.random() < 0.1 else 1 << 20

    def computing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as the process that calls it computes it."""

        def compute(*arguments: Any) -> Any:
            process = PROCESS.get()
            assert process is not None
            return self.workers[process.name].compute(function, *arguments)

        return compute

    # -- faults ------------------------------------------------------------------------------------------------------------------------

    def step(self, what: str, process: Process | None, end: End | None = None) -> None:
        """Something is about to happen: a fault may come first."""
        self._n_steps += 1
        if self._waiting and self._waiting[0].after <= self._n_steps:
            what = self._moment(what, end) if what == "write" and end is not None else what
            ready = [each for each in self._waiting if each.after <= self._n_steps and each.moment in ("any", what)]
            self._waiting = [each for each in self._waiting if each not in ready]
            for fault in ready:
                worker = self._who(fault, process)
                if worker is not None:
                    self.happened[f"{fault.kind} at {what}"] += 1
                    self._cause(fault, worker, end)

    def _moment(self, what: str, end: End) -> str:
        """Which message of a session it is, if it is of one."""
        if not any(each.worker.process is end.process for each in participants.live):
            return what
        if end.peer.process is not self.client.process or end.n_written == 1:
            return "enter"
        return "answer"

    def _who(self, fault: Fault, process: Process | None) -> Worker | None:
        there = [worker for worker in self.workers.values() if worker.process.alive]
        if fault.who == ACTING and process is not None and process.name in self.workers:
            acting = self.workers[process.name]
            return acting if acting.process.alive else None
        return there[fault.who % len(there)] if there else None

    def _cause(self, fault: Fault, worker: Worker, end: End | None) -> None:
        if fault.kind in ("kill", "kill all"):
            for dying in list(self.workers.values()) if fault.kind == "kill all" else [worker]:
                self.kill(dying)
            if fault.seconds < FOREVER:
                self.loop.at(self.loop.now + min(fault.seconds, 20.0), self.join)
        elif fault.kind == "restart":
            self._restart(min(fault.seconds, 5.0))
        elif fault.kind == "stop":
            self._stop(worker, fault.seconds)
        elif fault.kind == "stop client":
            self.client.process.stopped_until = self.loop.now + min(fault.seconds, 2 * participants.SILENCE)
        elif fault.kind == "cut":
            ends = [end] if end is not None else [each for each in worker.process.ends if not each.is_closed][-1:]
            for each in ends:
                each.cut()
        elif fault.kind == "slow link":
            self.slow_links[worker.process] = min(fault.seconds, 5.0)
        elif fault.kind == "slow":
            worker.slowness = 30.0
        elif fault.kind == "twice":
            worker.twice += 3
        elif fault.kind == "join":
            self.join()
        elif fault.kind == "retire":
            self._retire(worker)
        elif fault.kind == "change":
            self.rows_changed = self.checked  # those that are read from here on
        else:
            self._take_rows(worker, keep=fault.kind == "misplace")

    def join(self) -> None:
        """A new worker."""
        worker = Worker(self, f"worker-{self.next_number():03d}", self.schedule.n_threads)
        self.workers[worker.address] = self.scheduler.workers[worker.address] = worker
        self.scheduler.changed()

    def kill(self, worker: Worker) -> None:
        """What it has sent still arrives, or is lost."""
        if worker.process.alive:
            worker.process.alive = False
            self.happened["two deaths at once"] += self.loop.now - self._last_death < self.schedule.message_time
            self._last_death = self.loop.now
            lost = self.random.random() < 0.3
            for end in worker.process.ends:
                if not end.is_closed:
                    end.cut() if lost else end.end()
            self.loop.at(self.loop.now + 2 * self.message_time(), self.scheduler.remove, worker)

    def _restart(self, seconds: float) -> None:
        """What `distributed.Client.restart` of anybody does: all results are forgotten, and all workers are others after a while."""
        self.scheduler.forget_all()
        for worker in [worker for worker in self.workers.values() if worker.process.alive]:
            self.kill(worker)
            self.scheduler.remove(worker)
            self.loop.at(self.loop.now + seconds, self.join)

    def _stop(self, worker: Worker, seconds: float) -> None:
        until = self.loop.now + seconds
        worker.process.stopped_until = max(worker.process.stopped_until, until)
        if seconds < FOREVER:
            self.loop.at(until, self.kill if seconds >= TIME_TO_LIVE else Worker.runs, worker)  # something happens then
        if seconds >= TIME_TO_LIVE:
            self.loop.at(self.loop.now + TIME_TO_LIVE, self.scheduler.remove, worker)

    def _retire(self, worker: Worker) -> None:
        """Its rows go to others before it does."""
        others = [other for other in self.scheduler.workers.values() if other is not worker and other.runs()]
        if others and worker.runs():
            for entry in [entry for entry in self.scheduler.tasks.values() if entry.who_has == [worker]]:
                self.scheduler.copy(entry, worker, self.random.choice(others))
            worker.status.name = "closing_gracefully"
            self.scheduler.remove(worker)
            self.loop.at(self.loop.now + 1.0, self.kill, worker)

    def _take_rows(self, worker: Worker, *, keep: bool) -> None:
        """A piece of the rows goes to another worker, or is lost."""
        held = [entry for entry in self.scheduler.tasks.values() if worker in entry.who_has and not entry.needs and entry.wanted]
        others = [other for other in self.scheduler.workers.values() if other is not worker and other.runs()]
        if held and (others or not keep):
            entry = self.random.choice(held)
            if keep:
                self.scheduler.copy(entry, worker, self.random.choice(others))
            self.scheduler.drop(entry, worker)

    # -- what is left --------------------------------------------------------------------------------------------------------------------

    def watch_leaving(self) -> None:
        """The client has closed a session: whoever runs leaves it in bounded time, or, when somebody between them is stopped, when it has
        heard nothing for long."""
        there = [each for each in participants.live if each.worker.runs()]
        for seconds in (SETTLED, SETTLED + participants.SILENCE):
            self.loop.at(self.loop.now + seconds, self._check_left, there, seconds > participants.SILENCE)

    def _check_left(self, there: list[participants.Participant], after_silence: bool) -> None:
        if after_silence or not any(worker.process.stopped_until for worker in self.workers.values()):
            left = [each for each in there if each in participants.live and each.worker.process.alive]
            left = [each for each in left if not each.worker.process.stopped_until]
            assert not left, f"participants {[each.rank for each in left]} have not left"

    def settle(self) -> None:
        """The fit is over, and whatever has stopped goes on, if ever."""
        stops = [worker.process.stopped_until for worker in self.workers.values()]
        self.loop.pass_time(max([0.0, *(until - self.loop.now for until in stops if until < FOREVER)]))
        self.loop.pass_time(SETTLED + participants.SILENCE)
        self._check_left(list(participants.live), after_silence=True)


@cache
def modules_with_clocks() -> list[ModuleType]:
    """Those that look at the time."""
    import_module("pipeline.execution.pump")  # which fits import late
    there = [module for name, module in sorted(sys.modules.items()) if name.startswith(("tasks.", "pipeline."))]
    return [module for module in there if vars(module).get("time") is time]


@contextmanager
def simulated(schedule: Schedule) -> Iterator[World]:
    """A world in the place of the real one."""
    loop_before = asyncio._get_running_loop()
    with ExitStack() as stack:
        stack.enter_context(patch.object(direct_calls, "numeric_digest", lambda: ""))
        world = World(schedule)
        clock = Clock(world.loop, world.client.process)
        for module in modules_with_clocks():
            stack.enter_context(patch.object(module, "time", clock))
        for function in (reductions.reduce_shards, reductions.reduce_joined):
            stack.enter_context(patch.object(participants, function.__name__, world.computing(function)))
        for module in (following, loader):
            stack.enter_context(patch.object(module, "usable_workers", lambda client, threads, late=False: threads))
        for module in (sending, loader):
            stack.enter_context(patch.object(module, "send_users_modules", lambda *arguments, anew=False: None))
        stack.enter_context(patch.object(workers_module, "distributed", world.client))
        stack.enter_context(patch.object(slices, "BLOCK", 1))
        if schedule.small:
            stack.enter_context(patch.object(messages, "LARGE", 16))
            stack.enter_context(patch.object(graph, "INLINE_BYTES", 0))
            stack.enter_context(patch.object(graph, "CLIENT_COMBINE_BYTES", 0))
            stack.enter_context(patch.object(graph, "FAN_IN", 2))
        if schedule.restless:
            stack.enter_context(patch.object(following, "FOLLOW_EVERY", 0.0))
        asyncio._set_running_loop(world.loop)
        WORLDS.append(world)
        try:
            yield world
        finally:
            WORLDS.clear()
            world.scheduler.closed = True
            world.loop.close()
            participants.live.clear()
            asyncio._set_running_loop(loop_before)


def executor_in(world: World) -> ClusterExecutor:
    """The real one."""
    executor = ClusterExecutor(world.client)  # type: ignore[arg-type]
    if world.schedule.mode == "calls":
        executor.sessions.due = lambda: False  # type: ignore[method-assign]
    return executor


assert direct.PATIENCE < TIME_TO_LIVE
