"""A simulated client: only as much of distributed's as `pipeline.execution` uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dask._expr import LLGExpr
from dask.task_spec import Task
from distributed.comm import CommClosedError

from pipeline.execution.sessions import hang_up
from tests.simulation.loop import Process
from tests.simulation.network import End
from tests.simulation.scheduler import Entry, Scheduler
from tests.simulation.workers import connect, moved

if TYPE_CHECKING:
    from tests.simulation.world import World


class Future:
    """A distributed.Future: what nobody holds one of is forgotten, and whoever has let go of one sees it cancelled."""

    def __init__(self, scheduler: Scheduler, entry: Entry) -> None:
        self.scheduler = scheduler
        self.entry = entry
        self.key = entry.key
        self.held = True
        entry.wanted += 1

    @property
    def status(self) -> str:
        if self.cancelled():
            return "cancelled"
        return "error" if self.entry.error is not None else "finished" if self.entry.who_has else "pending"

    def cancelled(self) -> bool:
        return self.entry.cancelled or not self.held

    def done(self) -> bool:
        return self.status != "pending"

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
        self.scheduler = SimpleNamespace(address="simulated", identity=self._identity)
        self.loop = SimpleNamespace(add_callback=self._add_callback)

    def _add_callback(self, function: Callable[..., Any], *arguments: Any) -> None:
        def call() -> None:
            function(*arguments)
            if function is hang_up:  # which closes a session
                self.world.watch_leaving()

        self.world.loop.call_soon(call, context=self.world.loop.context_of(self.process))

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

    async def _identity(self, n_workers: int) -> dict[str, Any]:
        await asyncio.sleep(2 * self.world.message_time())
        return {"workers": {address: {"last_seen": self.world.loop.now} for address in self.world.scheduler.workers}}

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
        self,
        graph: LLGExpr,
        keys: Sequence[Any],
        *,
        workers: Sequence[str] = (),
        allow_other_workers: bool = False,
        sync: bool,
        fifo_timeout: float = 60.0,
    ) -> list[Future]:
        assert fifo_timeout == 0, "a worker here does first what came first"
        return self._begin(graph.operand("dsk"), keys, workers[0] if workers else None)

    def submit(self, function: Callable[[], Any], *, key: str) -> Future:
        (future,) = self._begin({key: Task(key, function)}, [key], None)
        return future

    def _begin(self, graph: Mapping[Any, Any], keys: Sequence[Any], prefers: str | None) -> list[Future]:
        self.world.step("client", self.process)
        return [Future(self.world.scheduler, entry) for entry in self.world.scheduler.add_graph(graph, keys, prefers)]

    def cancel(self, futures: Sequence[Future], force: bool) -> None:
        for future in futures:
            self.world.scheduler.cancel(future.entry)

    def scatter(self, values: Sequence[Any], *, workers: Sequence[str] = (), hash: bool) -> list[Future]:  # noqa: A002
        scheduler = self._ask()
        if not (workers or scheduler.workers):
            raise TimeoutError("No valid workers found")
        worker = scheduler.workers[workers[0]] if workers else self.world.random.choice(list(scheduler.workers.values()))
        while not worker.runs():
            self.world.loop.pass_time(0.1, self.process)
            if not worker.process.alive or worker.address not in scheduler.workers:
                raise CommClosedError("closed")
        entries = [scheduler.add(("sent", self.world.next_number()), None) for _ in values]
        for entry, value in zip(entries, values, strict=True):
            worker.data[entry.key] = moved(value)
            entry.who_has.append(worker)
        return [Future(scheduler, entry) for entry in entries]

    def as_current(self) -> AbstractContextManager[None]:
        return nullcontext()

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

    async def gather(self, futures: Sequence[Future], *, asynchronous: bool) -> list[Any]:
        """Waits for what was lost, and for workers that are stopped."""
        self.world.step("client", self.process)
        await asyncio.sleep(2 * self.world.message_time())
        found: list[Any] = []
        for future in futures:
            entry = future.entry
            while not can_be_had(entry):
                await asyncio.sleep(0.05)
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
        assert comm.closed()

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


def can_be_had(entry: Entry) -> bool:
    """Whether there is something to gather, or never will be."""
    return entry.error is not None or entry.cancelled or any(worker.runs() for worker in entry.who_has)
