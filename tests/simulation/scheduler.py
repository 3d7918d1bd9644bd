"""A simulated scheduler: it makes lost results again, and moves what workers hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.workers import Worker, moved

if TYPE_CHECKING:
    from tests.simulation.world import World

TIME_TO_LIVE: Final = 300.0
"""Seconds without a word from a worker, after which the scheduler takes it for dead."""


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
    """Gives tasks to workers, and gives them again when workers die. `tasks`, `workers`, `gather_on_worker` and `delete_worker_data` are
    distributed's, for `pipeline.execution.residency.moving`."""

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

    def add_graph(self, graph: Mapping[Any, Any], keys: Sequence[Any], prefers: str | None) -> list[Entry]:
        waiting = dict(graph)
        while waiting:  # needs first
            for key, run in list(waiting.items()):
                if not any(need in waiting for need in run.dependencies):
                    self.add(key, run, list(run.dependencies), prefers)
                    del waiting[key]
        self.changed()
        return [self.tasks[key] for key in keys]

    def cancel(self, entry: Entry) -> None:
        entry.cancelled = True
        self.changed()

    def forget_all(self) -> None:
        for entry in self.tasks.values():
            entry.cancelled = True
        self.tasks.clear()

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
            self.world.happened["workers gone"] += 1
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
