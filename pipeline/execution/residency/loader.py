"""Making the rows of a source resident on a cluster, and again when they are lost."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import numpy as np
from dask.task_spec import TaskRef
from distributed import Client, Future

from pipeline.cluster.code.code import require_packages, send_users_modules, usable_workers
from pipeline.cluster.workers import Workers
from pipeline.execution.opaque import begin, call, modules_in
from pipeline.execution.residency.held import await_held, held_bytes
from pipeline.execution.residency.placement import pieces, pieces_by_holder
from pipeline.execution.residency.resident import Resident
from pipeline.sources.rows import Rows
from pipeline.sources.sources import Source
from tasks.loading.mapping import map_loads
from tasks.loading.shards import load_on_worker
from tasks.rows.partition import Shard

# A client's messages leave at most every 10 ms; loads and the check that follows are several. What is idle sends nothing more often.
MESSAGE_INTERVAL: Final = 0.002
MAX_SENDS: Final = 5


class Loader:
    """Loads sources through one client."""

    def __init__(self, client: Client, workers: Workers) -> None:
        self.client = client
        self.workers = workers

    def load(self, source: Source, *, anywhere: bool = False) -> Resident:
        """Ask for all pieces of a source; rows of this process are sent. anywhere: by whichever worker there is when the time comes: Dask
        does not give what was meant for the dead to those that come after them, and so does not see, either, of what they die."""
        threads = usable_workers(self.client, self.workers.threads())
        messages: Any = self.client.scheduler_comm
        messages.interval = min(messages.interval, MESSAGE_INTERVAL)
        sizes = source.group_sizes
        numbers, thread_numbers = pieces(sizes, threads, self._held_bytes(source))
        assigned = [[i for i, own in enumerate(thread_numbers) if own == thread] for thread in range(len(threads))]
        if source.in_client:
            futures = self._send(source, numbers, thread_numbers, threads)
        else:
            futures = self._submit(source, numbers, thread_numbers, threads, anywhere=anywhere)
        weights = [float(sum(sizes[number] for number in each)) for each in numbers]
        return Resident(source.n_groups, numbers, weights, futures, threads, assigned, last_round=np.inf if source.in_client else 0.0)

    def plan_maps(self, rows: Rows, graph: dict[Any, Any], name: str, packed: Any) -> list[tuple[int, ...]]:
        """The numbers of the partitions of each task of a mapping, whose keys are (name, first number). graph gains the tasks, which make
        rows and do not keep them. packed: see `map_loads`; bytes, or a reference to them. It is one graph, in Dask's own order: what
        several partitions need does not wait in memory for all of them. Rows that workers hold stay where they are, partition by partition:
        moving half of them, so that neighbours meet, would take longer than most functions of them."""
        source = rows.source.by_partition()
        threads = usable_workers(self.client, self.workers.threads())
        held = self._held_bytes(source)
        numbers = pieces_by_holder(held, len(threads)) if any(held) else pieces(source.group_sizes, threads, held)[0]
        first: dict[Any, Any] = {}
        loads = source.load_plans([(number,) for number in range(source.n_groups)], lambda some, keys: first.update(some))
        needs = modules_in(first)
        graph.update(first)
        for each in numbers:
            some, key = [loads[number] for number in each], (name, each[0])
            keys: list[Any] = [key for load in some for key in load.keys]
            graph[key] = call(key, partial(map_loads, some, rows.subset), packed, *map(TaskRef, keys), needs=needs)
        self._supply(threads, needs)
        return numbers

    def _held_bytes(self, source: Source) -> list[dict[str, float]]:
        """The bytes that workers hold of what each group is made from."""
        holders = await_held(self.client, self.workers, source.outside)  # rows that are still being persisted, too: they are needed anyway
        needed = source.held_keys
        found = held_bytes(self.client, {key: holders[key] for key in set().union(*needed)})
        held: list[dict[str, float]] = [defaultdict(float) for _ in needed]
        for bytes_of, group in zip(held, needed, strict=True):
            for key in group:
                for worker, n_bytes in found.get(key, {}).items():
                    bytes_of[worker] += n_bytes
        return held

    def _submit(
        self, source: Source, numbers: Sequence[tuple[int, ...]], thread_numbers: Sequence[int], threads: Sequence[str], *, anywhere: bool
    ) -> list[Future[Shard]]:
        first: list[Future[Any]] = []  # held until the pieces that need them are asked for; then the scheduler knows how to remake them

        def persist(graph: dict[Any, Any], keys: list[Any]) -> None:
            self._supply(threads, modules_in(graph))
            first.extend(begin(self.client, graph, keys))

        name = f"load-{uuid.uuid4().hex}"
        graphs: dict[int, dict[Any, Any]] = defaultdict(dict)
        needs: set[str] = set()
        for i, load in enumerate(source.load_plans(numbers, persist)):
            given: Sequence[Any] = load.keys
            key = (name, f"{i:06}")  # Dask runs what is alike in the order of the keys as texts
            graphs[thread_numbers[i]][key] = call(key, partial(load_on_worker, load), *map(TaskRef, given), needs=needs)
        self._supply(threads, needs)
        futures: dict[Any, Future[Shard]] = {}
        for thread, graph in graphs.items():
            where: dict[str, Any] = {} if anywhere else {"workers": [threads[thread]], "allow_other_workers": True}
            found = begin(self.client, graph, list(graph), **where)
            futures.update(zip(graph, found, strict=True))
        return [futures[name, f"{i:06}"] for i in range(len(numbers))]

    def _supply(self, threads: Sequence[str], names: set[str]) -> None:
        """Have workers have the modules of these names."""
        require_packages(self.client, threads, names)
        send_users_modules(self.client, names, anew=True)

    def _send(
        self, source: Source, numbers: Sequence[tuple[int, ...]], thread_numbers: Sequence[int], threads: Sequence[str]
    ) -> list[Future[Shard]]:
        """The pieces of each worker thread in one message."""
        loads = source.load_plans(numbers, lambda graph, keys: None)
        sent: dict[int, Future[Shard]] = {}
        for thread in sorted(set(thread_numbers)):
            chosen = [i for i, own in enumerate(thread_numbers) if own == thread]
            shards = [loads[i].function(*loads[i].arguments) for i in chosen]
            futures = self._scatter(shards, threads[thread])
            sent.update(zip(chosen, futures, strict=True))
        return [sent[i] for i in range(len(numbers))]

    def _scatter(self, shards: list[Shard], worker: str) -> list[Future[Shard]]:
        """To this worker; to any other if it has just died."""
        wanted: list[str] | None = [worker]
        for _ in range(MAX_SENDS):
            with suppress(OSError, KeyError):  # TimeoutError is an OSError
                found: list[Future[Shard]] = self.client.scatter(shards, workers=wanted, hash=False)
                return found
            self.workers.threads()
            wanted = None
        return list(self.client.scatter(shards, hash=False))

    def send_again(self, source: Source, resident: Resident) -> None:
        """Rows that came from this process and went down with a worker; here they still are."""
        threads = self.workers.threads()
        holders: Mapping[Any, Any] = self.client.who_has([future for future in resident.futures if not future.cancelled()])
        lost = [i for i, future in enumerate(resident.futures) if not holders.get(future.key)]
        thread_numbers = [i % len(threads) for i in range(len(lost))]
        futures = self._send(source, [resident.numbers[i] for i in lost], thread_numbers, threads)
        with resident.lock:
            for i, future in zip(lost, futures, strict=True):
                resident.futures[i] = future
            resident.assign(resident.assigned)
            resident.located = False
