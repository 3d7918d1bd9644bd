"""Rounds sent to a cluster once, as calls of its workers or as tasks; whoever sent one waits for its sums, or gives it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from distributed import Client

from pipeline.cluster.code.code import require_packages, send_users_modules
from pipeline.cluster.code.modules import dumps
from pipeline.cluster.workers import Workers
from pipeline.execution.calls import Calls, can_call
from pipeline.execution.gathering import gather
from pipeline.execution.graph import RoundGraph, bytes_of, merging, round_graph
from pipeline.execution.opaque import begin
from pipeline.execution.residency.failures import killers_named
from pipeline.execution.residency.resident import Resident
from pipeline.sources.rows import Rows
from tasks.machine.threads import single_blas_thread
from tasks.reductions.reduction import NodeSums, Reduction, array_bytes
from tasks.rounds.fitting import Traffic

HELD_ROUNDS: Final = 16
SHORT_ROUND: Final = 0.05
CALLED_ROUND: Final = 0.2
CALLED_BYTES: Final = 4 << 20


class Sender:
    """Sends rounds through one client.

    tasks: of the largest round so far. A client's messages leave a while apart, and letting go of a round's futures is a message, which the
    next round would have to wait behind. So the futures of up to `HELD_ROUNDS` short rounds of a fit are let go together; of short ones
    only, because what is held is computed again when its worker dies. fits: how many are running; inside: whether this is a worker's task.
    """

    def __init__(self, client: Client, workers: Workers, *, inside: bool) -> None:
        self.client = client
        self.workers = workers
        self.inside = inside
        self.tasks = 0
        self.fits = 0
        self._held: list[Any] = []
        self._sent: set[str] = set()

    def send(self, resident: Resident, rows: Rows, reduction: Reduction, broadcast: Any) -> Sent:
        """A round over these rows, under way."""
        return Sent(self, resident, rows, reduction, broadcast)

    def send_modules(self, names: Set[str]) -> None:
        """Send the user's modules of these names, each once more at its first use in a fit. Raises VersionMismatchError for workers that
        lack packages which they use."""
        if not names <= self._sent:
            require_packages(self.client, self.workers.threads(), names - self._sent)
        send_users_modules(self.client, names, anew=not names <= self._sent)
        self._sent |= names

    def by_calls(self, resident: Resident, n_bytes: float) -> bool:
        """Whether this round may be calls: the last one was short, little is sent, and it is known who holds what."""
        short = resident.last_round <= CALLED_ROUND and n_bytes <= CALLED_BYTES
        return short and resident.located and not self.inside and can_call(self.client)

    def hold(self, futures: list[Any], *, at_most: int) -> None:
        """Keep the futures of a round for a while; at_most: of so many rounds."""
        self._held.append(futures)
        if len(self._held) >= at_most or not self.fits:
            self._held.clear()

    def let_go(self) -> None:
        """Let go of the futures of all rounds."""
        self._held.clear()


class Way(Protocol):
    """A way that a round takes to the workers: calls, or tasks."""

    @property
    def done(self) -> bool:
        """Whether `results` need not wait."""

    @property
    def traffic(self) -> Traffic:
        """What was sent, and came back."""

    def results(self) -> Sequence[NodeSums] | None:
        """What the worker threads found; None where some cannot be reached so. What fails leaves nothing behind."""

    def cancel(self) -> None:
        """Expect nothing any more."""


class Sent:
    """A round that was sent, once. groups: whose digests come with the sums; None: those of all."""

    def __init__(self, sender: Sender, resident: Resident, rows: Rows, reduction: Reduction, broadcast: Any) -> None:
        self.began = time.monotonic()
        self.sender = sender
        self.resident = resident
        self.rows = rows
        self.reduction = reduction
        self.broadcast = broadcast
        with resident.lock:
            self.work, n_sums, self.groups = resident.share(reduction.numbers(broadcast, resident.n_groups))
        n_sums = n_sums if reduction.adds_up else reduction.n_subtrees(broadcast, resident.n_groups)
        self.n_bytes = reduction.n_bytes(broadcast, rows.n_columns) * n_sums
        called = sender.by_calls(resident, bytes_of(broadcast) * len(self.work) + self.n_bytes)
        self._way: Way = self._by_calls() if called else self._by_tasks()
        self._results: Sequence[NodeSums] | None = None

    def _by_calls(self) -> Way:
        packed, needs = dumps((self.reduction, self.broadcast))
        self.sender.send_modules(needs)
        self.sender.tasks = max(self.sender.tasks, len(self.work))
        return Calls(self.sender.client, self.work, self.rows.subset, self.resident.n_groups, packed)

    def _by_tasks(self) -> Way:
        graph = round_graph(self.work, self.rows.subset, self.resident.n_groups, self.reduction, self.broadcast, self.n_bytes)
        self.sender.send_modules(graph.needs)
        self.sender.tasks = max(self.sender.tasks, len(graph.tasks))
        return Tasks(self.sender, graph, partial(killers_named, self.reduction.name, graph.tasks, self.rows.source, self.resident))

    @property
    def done(self) -> bool:
        """Whether what is under way has come back, good or bad."""
        return self._way.done

    def arrived(self) -> bool:
        """Whether `sums` need not wait. Where calls did not come through, tasks follow. Raises as `sums`."""
        if self._results is None and self.done:
            self._take()
        return self._results is not None

    @property
    def traffic(self) -> Traffic:
        """What went between processes."""
        return self._way.traffic

    def sums(self) -> NodeSums:
        """The sums of all that was sent; where calls do not come through, tasks follow. Raises CancelledError or CommClosedError for what
        is lost with its worker."""
        while self._results is None:
            self._take()
        with single_blas_thread():
            sums = merging(self.reduction, self.resident.n_groups)(self._results)
        if not self.reduction.reads:
            self.resident.last_round = self.resident.last_round or np.inf  # the next one is the first, as far as anybody knows
            return sums
        seconds = time.monotonic() - self.began
        if self.groups is not None and np.isfinite(self.resident.last_round):  # others are under way: the slowest of the last ones counts
            seconds = max(seconds, 0.95 * self.resident.last_round)
        self.resident.last_round, self.resident.last_whole = seconds, self.groups is None
        with self.resident.lock:
            self.resident.measure(self.work, sums.seconds)
        return sums

    def _take(self) -> None:
        """Wait for what is under way."""
        self._results = self._way.results()
        if self._results is None:
            with self.resident.lock:
                self.resident.located = False
            self._way = self._by_tasks()

    def cancel(self) -> None:
        """Give the round up; no task of it stays behind."""
        self._way.cancel()


def begun(client: Client, graph: RoundGraph) -> tuple[list[Any], list[Any]]:
    """The futures of a graph's results, and those of tasks that these are made of, as far as those are to be held meanwhile. Tasks that
    stay with their rows run elsewhere where their worker is gone, or where Dask lets idle workers take them, which costs some rounds."""
    if not graph.places:
        return begin(client, graph.tasks, graph.keys), []
    held = begin(client, {key: graph.tasks[key] for key in graph.shared}, graph.shared) if graph.shared else []
    of_rows = []
    for name, worker in graph.places.items():
        of_rows += begin(client, {name: graph.tasks[name]}, [name], workers=[worker], allow_other_workers=True)
    above = {key: task for key, task in graph.tasks.items() if key not in graph.places and key not in graph.shared}
    return (begin(client, above, graph.keys), held + of_rows) if above else (of_rows, held)


class Tasks:
    """The tasks of a round, under way. named: a context in which errors get the names of partitions. Of their traffic the pickles and
    arrays count, not Dask's own messages."""

    def __init__(self, sender: Sender, graph: RoundGraph, named: Callable[[], AbstractContextManager[None]]) -> None:
        self.sender = sender
        self.large = graph.large
        self.traffic = Traffic(graph.n_sent)
        self.named = named
        self.n_tasks = graph.n_tasks
        self.began = time.monotonic()
        self.futures, self._beneath = begun(sender.client, graph)

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    def results(self) -> list[NodeSums]:
        try:
            with self.named():
                self.sender.workers.wait(self.futures)
                results: list[NodeSums] = gather(self.sender.client, self.sender.workers, self.futures)
        except BaseException:
            self.cancel()
            raise
        times = self.n_tasks if self.large else 1  # where sums were added up on the way, each task's went up, too
        self.traffic = Traffic(self.traffic.sent, times * sum(array_bytes(found.nodes) for found in results))
        short = time.monotonic() - self.began <= SHORT_ROUND and not self.large
        self.sender.hold(self.futures + self._beneath, at_most=HELD_ROUNDS if short else 1)
        self.futures, self._beneath = [], []
        return results

    def cancel(self) -> None:
        futures, self.futures, self._beneath = self.futures + self._beneath, [], []
        if futures and self.sender.client.status == "running":
            self.sender.client.cancel(futures, force=True)
