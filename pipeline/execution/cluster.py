"""Rounds on a `distributed` cluster: one task, or one call, a worker thread; partial sums combined in the fixed tree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import distributed
import numpy as np
from distributed import Client

from pipeline.cluster.asking import forget_frames
from pipeline.cluster.pulse import pulse
from pipeline.cluster.task_threads import in_task, is_of_worker, thread_given_back
from pipeline.cluster.workers import STUCK_AFTER, Workers
from pipeline.execution.attempts import ClusterRound
from pipeline.execution.base import Advance, Executor, Pending
from pipeline.execution.mapping import map_on_cluster
from pipeline.execution.residency.following import Follower
from pipeline.execution.sending import Sender
from pipeline.execution.sessions import SessionRows, Sessions
from pipeline.execution.threads import ThreadExecutor
from pipeline.sources.rows import Rows
from tasks.loading.mapping import PartitionMap
from tasks.reductions.reduction import Reduction, array_bytes
from tasks.rounds.fitting import Fit, Round
from tasks.workers.participants import ROUND_BYTES, round_too_large

SESSION_ROUND: Final = 0.5
LOOK_EVERY: Final = 0.001
"""Seconds between two looks at rounds under way: it costs microseconds, and who is told by Dask's callbacks learns of it later."""


class ClusterExecutor(Executor):
    """The graph executor. Waits at most `dask-descent.wait-for-workers` (Dask configuration, by default 30 s) for a first worker,
    and as long again if all are lost. A worker that dies costs the recompute of its rows; rows move to workers that join, and from slow
    workers to fast ones.

    Raises SchedulerLostError when the scheduler is lost, ValueError for an asynchronous or closed client, WorkersUnavailableError when no
    worker comes.
    """

    def __init__(self, client: Client) -> None:
        if client.asynchronous:
            raise ValueError("the current distributed.Client is asynchronous; fit needs a synchronous one: Client(address)")
        if client.status in ("closing", "closed"):
            raise ValueError("the current distributed.Client is closed; connect again, or leave its with block to work in this process")
        self.client = client
        self.inside = in_task() or is_of_worker(client)
        self.workers = Workers(client)
        self.sessions = Sessions(client)
        self.follower = Follower(client, self.workers, before_move=self.sessions.close)
        self.sender = Sender(client, self.workers, inside=self.inside)

    @property
    def tasks_per_round(self) -> int:
        return self.sender.tasks

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with self.waiting(), nullcontext() if self.inside else distributed.span(name):
            self.sender.fits += 1
            try:
                yield
            finally:
                self.sender.fits -= 1
                self.sender.let_go()
                self.workers.end_demand()
                self.sessions.close()
                self.follower.release_level()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        with thread_given_back(), pulse(self.client):
            yield

    def submit(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Pending:
        return ClusterRound(self.follower, self.sender, rows, reduction, broadcast)

    def first_done(self, rows: Rows, pending: Sequence[Pending]) -> int:
        """The first round whose sums have arrived; the oldest where nobody works on any: its result then says why."""
        with thread_given_back(), self.follower.watched(rows):
            look_at = time.monotonic() + STUCK_AFTER
            while True:
                for position, each in enumerate(pending):
                    if isinstance(each, ClusterRound) and each.arrived():
                        return position
                if time.monotonic() > look_at:
                    if not self.workers.busy():
                        return 0
                    look_at = time.monotonic() + STUCK_AFTER
                time.sleep(LOOK_EVERY)

    def map_partitions(self, rows: Rows, partition_map: PartitionMap) -> Iterator[tuple[int, Any]]:
        if rows.source.in_client:
            return ThreadExecutor().map_partitions(rows, partition_map)
        return map_on_cluster(self.follower, self.sender, rows, partition_map)

    def release(self, rows: Rows) -> None:
        self.follower.release(rows)

    def on_workers(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance | None:
        """Some rounds in a session. What went wrong the round from here will say."""
        resident = self.follower.known(rows)
        if resident is None or not resident.located or self.inside or not self.sessions.due():
            return None
        this = fit.ask(states, fit.under_way(states)[0])
        assert this is not None
        if fit.served and this.reduction.subtree(this.broadcast) is None:  # about all rows, by itself
            return None
        with self.follower.watched(rows):
            try:
                self.follower.follow(resident, this.reduction.level(this.broadcast))
            except Exception as error:  # noqa: BLE001  the round from here will meet it, too, and knows what to do
                forget_frames(error)
                return None
            with resident.lock:
                work, n_sums, level = resident.work, resident.n_sums, resident.level
            share = this.row_step if fit.served and resident.last_whole else 1.0  # it may have compiled, too
            short = resident.located and resident.last_round / share <= SESSION_ROUND
            pieces = SessionRows(work, rows.subset, resident.n_groups, rows.n_columns, level, rows.content)
            if not short or too_large(fit, this, pieces, n_sums):
                return None
            try:
                done = self.sessions.advance(pieces, fit, states, limit, self.sender.send_modules)
            except TimeoutError as error:
                forget_frames(error)
                done, resident.last_round = None, np.inf  # a task waits as long as need be
        if done is None:
            with resident.lock:
                resident.located = False
            return None
        if not done.reports:
            return None
        self.sender.tasks = max(self.sender.tasks, len(work))
        resident.last_round, resident.last_whole = done.round_seconds, not fit.served
        with resident.lock:
            if done.seconds:
                resident.measure(work, done.seconds)
        return Advance(done.states, done.reports)


def too_large(fit: Fit, this: Round, rows: SessionRows, n_sums: int) -> bool:
    """Whether a round moves more than participants should: of servers each sends and receives a slice."""
    n_workers = len({each.worker for each in rows.work})
    if fit.served:
        return 2 * array_bytes(tuple(this.broadcast)) / n_workers > ROUND_BYTES
    return round_too_large(this, rows.n_columns, rows.n_groups, n_workers, n_sums / len(rows.work))
