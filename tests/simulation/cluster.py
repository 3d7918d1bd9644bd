"""A simulated Dask cluster: workers that answer calls and take part in sessions, a scheduler that makes lost results again, and a client.

Only as much of distributed as `pipeline.execution` and `tasks` use. What moves from process to process is copied, to memory that is not
aligned and cannot be written, as it is with a network.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from tasks.direct import prepare_worker
from tasks.participants import OPERATION as SESSION
from tasks.reductions import Sums
from tests.simulation.loop import STRAND, Process, Strand, current_strand
from tests.simulation.network import End, connection, pause

if TYPE_CHECKING:
    from tests.simulation.world import World

TIME_TO_LIVE: Final = 300.0
"""Seconds without a word from a worker, after which the scheduler takes it for dead."""
CONNECT_TIMEOUT: Final = 30.0


def moved(value: Any) -> Any:
    """As it arrives elsewhere."""
    buffers: list[Any] = []
    message = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(message, buffers=[memoryview(b"x" + bytes(buffer.raw()))[1:] for buffer in buffers])


# -- workers ---------------------------------------------------------------------------------------------------------------------------


class Worker:
    """What a session, a call and a task need of a distributed.Worker, and the `tasks.transport.Transport` of its participants.

    slowness: how much longer than others it computes; twice: of its next computations, how many it does twice.
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
        self.twice = 0
        prepare_worker(self, self)

    def runs(self) -> bool:
        return self.process.alive and self.process.stopped_until <= self.world.loop.now

    def submit(self, function: Callable[..., Any], *arguments: Any) -> ThreadFuture[Any]:
        """In a thread of this worker: it takes time, in which other things happen."""
        future = StrandFuture()
        loop, seconds = self.world.loop, self._begin()
        later = partial(outcome, future, self._result, seconds, function, *arguments)
        loop.call_at(loop.now + seconds, later, context=loop.context_of(self.process))
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
        return result._replace(seconds=dict.fromkeys(result.seconds, seconds)) if isinstance(result, Sums) else result

    async def serve(self, comm: End) -> None:
        """One call."""
        try:
            message = dict(await comm.read())
            operation, reply = message.pop("op"), message.pop("reply", True)
            if operation == SESSION:
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

    async def in_own_thread(self, function: Callable[[], Any]) -> Any:
        future: ThreadFuture[Any] = ThreadFuture()
        Strand(self.world.loop, partial(outcome, future, function))
        return await asyncio.wrap_future(future)


class StrandFuture(ThreadFuture[Any]):
    """Whoever waits for it lets the others run."""

    def result(self, timeout: float | None = None) -> Any:
        while not self.done():
            strand = current_strand()
            self.add_done_callback(lambda _: strand.wake())
            strand.park()
        return super().result()


def outcome(future: ThreadFuture[Any], function: Callable[..., Any], *arguments: Any) -> None:
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
    near.read_by.append(lambda: accepted.done() or accepted.set_result(False))

    def accept() -> None:
        world.loop.create_task(worker.serve(far))
        world.loop.at(world.loop.now + world.message_time(), lambda: accepted.done() or accepted.set_result(True))

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


# -- the scheduler ---------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Entry:
    """What the scheduler knows of a key. run: how to make it, None for what the client has sent; needs: other keys; prefers: an address;
    wanted: by so many futures; who_has: the workers that hold it; worker: that makes it; attempt: number of its last making."""

    key: Any
    number: int
    run: Any
    needs: list[Entry]
    prefers: str | None = None
    wanted: int = 0
    who_has: list[Worker] = field(default_factory=list)
    worker: Worker | None = None
    attempt: int = 0
    error: Exception | None = None
    cancelled: bool = False
    nbytes: int = 1000

    @property
    def is_done(self) -> bool:
        return bool(self.who_has) or self.error is not None or self.cancelled


class Scheduler:
    """Gives tasks to workers, and gives them again when workers die. `tasks`, `workers`, `gather_on_worker` and `delete_worker_data` are those
    of distributed's, for `pipeline.execution.moving`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[Any, Entry] = {}
        self.workers: dict[str, Worker] = {}
        self.closed = False
        self._number = 0
        self._due = False

    # -- what the client asks ----------------------------------------------------------------------------------------------------------

    def add(self, key: Any, run: Any, needs: Sequence[Any] = (), prefers: str | None = None) -> Entry:
        entry = self.tasks.get(key)
        if entry is None:
            known = [self.tasks[need] for need in needs if need in self.tasks]
            self._number += 1
            entry = self.tasks[key] = Entry(key, self._number, run, sorted(known, key=lambda e: e.number), prefers)
            entry.cancelled = len(known) < len(needs)
        return entry

    def add_graph(self, graph: Mapping[Any, Any], keys: Sequence[Any], prefers: str | None) -> list[Future]:
        waiting = dict(graph)
        while waiting:  # needs first
            for key, run in list(waiting.items()):
                if not any(need in waiting for need in run.dependencies):
                    self.add(key, run, list(run.dependencies), prefers)
                    del waiting[key]
        self.changed()
        return [Future(self, self.tasks[key]) for key in keys]

    def cancel(self, entry: Entry) -> None:
        entry.cancelled = True
        self.changed()

    def changed(self) -> None:
        """Decide what to do next, soon."""
        if not self._due and not self.closed:
            self._due = True
            self.world.loop.at(self.world.loop.now, self._decide)

    # -- decisions ---------------------------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        self._due = False
        needed: set[Entry] = set()
        stack = [entry for entry in self.tasks.values() if entry.wanted and not entry.is_done]
        while stack:
            entry = stack.pop()
            if entry not in needed:
                needed.add(entry)
                stack += [need for need in entry.needs if not need.who_has]
        for entry in sorted(needed, key=lambda e: e.number):
            failed = next((need for need in entry.needs if need.error is not None), None)
            if entry.run is None or entry.cancelled or any(need.cancelled for need in entry.needs):
                entry.cancelled = True  # lost with its worker
            elif failed is not None:
                entry.error = failed.error
            elif entry.worker is None and self.workers and all(need.who_has for need in entry.needs):
                self._give(entry)
        self._forget(needed)

    def _give(self, entry: Entry) -> None:
        entry.worker = worker = self._place(entry)
        entry.attempt += 1
        context = self.world.loop.context_of(worker.process)
        start = self.world.loop.now + self.world.message_time()
        self.world.loop.call_at(start, lambda: self.world.loop.create_task(self._make(entry, entry.attempt, worker)), context=context)

    def _place(self, entry: Entry) -> Worker:
        """Mostly where the most of what it needs is."""
        if entry.prefers in self.workers:
            return self.workers[entry.prefers]
        workers = list(self.workers.values())
        if self.world.random.random() < 0.25:
            return self.world.random.choice(workers)
        return max(workers, key=lambda worker: sum(worker in need.who_has for need in entry.needs))

    def _forget(self, needed: set[Entry]) -> None:
        """Results that nobody wants, and then the tasks."""
        in_use = {need for entry in needed if not entry.cancelled for need in entry.needs}
        depended_on = {need for entry in self.tasks.values() for need in entry.needs}
        for entry in [e for e in self.tasks.values() if not e.wanted and e not in in_use]:
            for worker in entry.who_has:
                worker.data.pop(entry.key, None)
            entry.who_has.clear()
            if entry not in depended_on and entry not in needed:
                del self.tasks[entry.key]
                self.changed()

    async def _make(self, entry: Entry, attempt: int, worker: Worker) -> None:
        """On the worker: fetch what the task needs, and run it."""
        error = None
        try:
            for need in entry.needs:
                await self._fetch(need, worker)
            values = {need.key: worker.data[need.key] for need in entry.needs}
            worker.data[entry.key] = await asyncio.wrap_future(worker.submit(entry.run, values))
        except Exception as raised:  # noqa: BLE001
            error = raised
        self.world.loop.at(self.world.loop.now + self.world.message_time(), self._made, entry, attempt, worker, error)

    async def _fetch(self, need: Entry, worker: Worker) -> None:
        """Raises KeyError where nobody has it any more."""
        while need.key not in worker.data:
            await asyncio.sleep(self.world.message_time())
            holder = self.world.random.choice([None, *need.who_has])
            if holder is not None and holder.runs() and need.key in holder.data:
                worker.data[need.key] = moved(holder.data[need.key])
                self._note(need, worker)
            elif not need.who_has:
                raise KeyError(need.key)
            else:
                await asyncio.sleep(0.1)

    def _note(self, entry: Entry, worker: Worker) -> None:
        if worker.address in self.workers and self.tasks.get(entry.key) is entry:
            if worker not in entry.who_has:
                entry.who_has.append(worker)
        else:
            worker.data.pop(entry.key, None)

    def _made(self, entry: Entry, attempt: int, worker: Worker, error: Exception | None) -> None:
        if worker.address not in self.workers or entry.attempt != attempt:
            worker.data.pop(entry.key, None)
            return
        entry.worker = None
        if error is None:
            self._note(entry, worker)
        elif not isinstance(error, KeyError):
            entry.error = error
        self.changed()

    # -- workers that come and go --------------------------------------------------------------------------------------------------------

    def remove(self, worker: Worker) -> None:
        if self.workers.pop(worker.address, None) is not None:
            for entry in self.tasks.values():
                if worker in entry.who_has:
                    entry.who_has.remove(worker)
                if entry.worker is worker:
                    entry.worker = None
            self.changed()

    def copy(self, entry: Entry, source: Worker, target: Worker) -> None:
        target.data[entry.key] = moved(source.data[entry.key])
        self._note(entry, target)

    def drop(self, entry: Entry, worker: Worker) -> None:
        worker.data.pop(entry.key, None)
        if worker in entry.who_has:
            entry.who_has.remove(worker)
        self.changed()

    async def gather_on_worker(self, target: str, keys: Mapping[Any, Sequence[str]]) -> set[Any]:
        """The keys that could not be copied."""
        failed = set()
        for key, holders in keys.items():
            self.world.step("move", None)
            await asyncio.sleep(self.world.message_time())
            while target in self.workers and not self.workers[target].runs():
                await asyncio.sleep(0.1)
            source = next((w for w in map(self.workers.get, holders) if w is not None and w.runs() and key in w.data), None)
            if source is None or target not in self.workers or key not in self.tasks:
                failed.add(key)
            else:
                self.copy(self.tasks[key], source, self.workers[target])
                self.world.happened["pieces moved"] += 1
        return failed

    async def delete_worker_data(self, source: str, keys: Sequence[Any], stimulus: str) -> None:
        for key in keys:
            if key in self.tasks and source in self.workers:
                self.drop(self.tasks[key], self.workers[source])


# -- the client ------------------------------------------------------------------------------------------------------------------------


class Future:
    """A distributed.Future: what nobody holds one of is forgotten."""

    def __init__(self, scheduler: Scheduler, entry: Entry) -> None:
        self.scheduler = scheduler
        self.entry = entry
        self.key = entry.key
        self.held = True
        entry.wanted += 1

    @property
    def status(self) -> str:
        if self.entry.cancelled:
            return "cancelled"
        return "error" if self.entry.error is not None else "finished" if self.entry.who_has else "pending"

    def cancelled(self) -> bool:
        return self.entry.cancelled

    def release(self) -> None:
        if self.held:
            self.held = False
            self.entry.wanted -= 1
            self.scheduler.changed()

    def __del__(self) -> None:
        self.release()


class Client:
    """A distributed.Client, of whom there is one."""

    asynchronous = False
    status = "running"

    def __init__(self, world: World, direct_to_workers: bool | None) -> None:
        self.world = world
        self.direct_to_workers = direct_to_workers
        self.process = Process("client")
        self.id = "client"
        self.rpc = Pool(self)
        self.scheduler_comm = SimpleNamespace(interval=0.01)
        self.scheduler = SimpleNamespace(address="simulated")
        self.loop = SimpleNamespace(add_callback=self._add_callback)

    def _add_callback(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.world.loop.call_soon(function, *arguments, context=self.world.loop.context_of(self.process))

    def _ask(self) -> Scheduler:
        """There and back."""
        self.world.step("client", self.process)
        self.world.loop.pass_time(2 * self.world.message_time(), self.process)
        return self.world.scheduler

    def sync(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        return self.world.loop.run(function(*arguments, **more), self.process)

    def run_on_scheduler(self, function: Callable[..., Any], **arguments: Any) -> Any:
        scheduler = self._ask()
        return self.world.loop.run(function(dask_scheduler=scheduler, **arguments), Process("scheduler"))

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        workers = self._ask().workers
        return {"workers": {a: {"nthreads": w.n_threads, "status": w.status.name, "memory_limit": 1 << 30} for a, w in workers.items()}}

    def processing(self) -> dict[str, list[Any]]:
        scheduler = self._ask()
        return {address: [e.key for e in scheduler.tasks.values() if e.worker is worker] for address, worker in scheduler.workers.items()}

    def who_has(self, futures: Sequence[Future]) -> dict[Any, tuple[str, ...]]:
        self._ask()
        return {future.key: tuple(worker.address for worker in future.entry.who_has) for future in futures}

    def nbytes(self, keys: Sequence[Any], summary: bool) -> dict[Any, int]:
        """Raises KeyError for what the scheduler has forgotten."""
        tasks = self._ask().tasks
        return {key: tasks[key].nbytes for key in keys}

    def get(
        self, graph: Mapping[Any, Any], keys: Sequence[Any], *, workers: Sequence[str] = (), allow_other_workers: bool = False, sync: bool
    ) -> list[Future]:
        self.world.step("client", self.process)
        return self.world.scheduler.add_graph(graph, keys, workers[0] if workers else None)

    def cancel(self, futures: Sequence[Future], force: bool) -> None:
        for future in futures:
            self.world.scheduler.cancel(future.entry)

    def scatter(self, values: Sequence[Any], *, workers: Sequence[str] = (), hash: bool) -> list[Future]:  # noqa: A002
        scheduler = self._ask()
        worker = scheduler.workers[workers[0]] if workers else next(iter(scheduler.workers.values()), None)
        if worker is None or not worker.runs():
            self.world.loop.pass_time(CONNECT_TIMEOUT, self.process)
            raise TimeoutError("nobody takes the rows")
        entries = [scheduler.add(("sent", self.world.next_number()), None) for _ in values]
        for entry, value in zip(entries, values, strict=True):
            worker.data[entry.key] = moved(value)
            entry.who_has.append(worker)
        return [Future(scheduler, entry) for entry in entries]

    def wait(self, futures: Sequence[Future], timeout: float) -> None:
        """`distributed.wait`."""
        loop = self.world.loop
        self._ask()
        over: list[bool] = []
        loop.call_at(loop.now + timeout, over.append, True, context=loop.context_of(self.process))
        loop.run_until(lambda: bool(over) or all(future.status != "pending" for future in futures))
        if any(future.cancelled() for future in futures):
            raise CancelledError
        if any(future.status == "pending" for future in futures):
            raise TimeoutError

    def gather(self, futures: Sequence[Future]) -> list[Any]:
        """Waits for what was lost, and for workers that are stopped."""
        self._ask()
        found: list[Any] = []
        for future in futures:
            entry = future.entry
            self.world.loop.run_until(lambda e=entry: e.error is not None or e.cancelled or any(w.runs() for w in e.who_has))
            if entry.cancelled:
                raise CancelledError
            if entry.error is not None:
                raise entry.error
            found.append(moved(next(w for w in entry.who_has if w.runs()).data[entry.key]))
        return found


class Pool:
    """The client's connections to workers."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def connect(self, address: str) -> End:
        return await connect(self.client.world, self.client.process, address)

    def reuse(self, address: str, comm: End) -> None:
        assert comm.is_closed

    def __call__(self, address: str) -> Any:
        return Remote(self, address)


class Remote:
    """A worker, whose operations can be called."""

    def __init__(self, pool: Pool, address: str) -> None:
        self.pool = pool
        self.address = address

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            comm = await self.pool.connect(self.address)
            try:
                await comm.write({"op": operation, **arguments})
                return await comm.read()
            finally:
                comm.abort()

        return call
