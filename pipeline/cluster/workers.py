"""The workers of a client's cluster: which threads there are, and waiting for tasks in bounded time."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import CancelledError
from typing import Any, Final

import dask
import distributed
from distributed import Client

from pipeline.cluster.asking import forget_frames
from pipeline.cluster.pulse import lost, seconds_of
from pipeline.cluster.task_threads import Hostages

WAIT_FOR_WORKERS: Final = "dask-descent.wait-for-workers"
STUCK_AFTER: Final = 5.0
ARRIVES_IN: Final = 1.0
STUCK: Final = (
    "tasks wait while all workers are idle: what they need may be bound to workers that are gone (persist(workers=...)),"
    " or to resources that no worker has"
)


class StuckError(CancelledError):
    """An error for tasks that wait while workers idle: loads that were meant for workers which died all at once are not given to those that
    came after them."""


class ThreadHeldError(RuntimeError):
    """An error for a fit that waits for a thread which a task holds, while that task may be waiting for the fit."""


class WorkersUnavailableError(TimeoutError):
    """No worker came, or none is left, for longer than the configured wait."""


class Workers:
    """The workers of a client's cluster; waits at most `dask-descent.wait-for-workers` (Dask configuration, by default 30 s) for a first
    one.

    limits: bytes that each worker may hold before Dask begins to spill, of those that have a limit, as of the last `threads`.

    While it waits, a task waits on the scheduler, too: a cluster that adapts starts workers for tasks alone. The task's result is held
    until the next tasks are done, or the cluster would end a worker that has nothing yet.

    Raises ValueError for such a limit that is no time.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.patience = seconds_of(WAIT_FOR_WORKERS)
        self.limits: dict[str, float] = {}
        self._demand: Any = None
        self._hostages = Hostages.of(client, self.patience)

    def threads(self) -> list[str]:
        """The address of each worker thread, workers in turn grouped together.

        Raises WorkersUnavailableError when none comes, SchedulerLostError when the scheduler is gone.
        """
        try:
            return self._threads()
        except BaseException:
            self.end_demand()
            raise

    def _threads(self) -> list[str]:
        deadline = time.monotonic() + self.patience
        while True:
            workers = self.client.scheduler_info(n_workers=-1).get("workers") if self.client.status == "running" else None
            if workers is None or self.client.status != "running":
                raise lost(self.client)
            running = {address: w for address, w in workers.items() if w.get("status", "running") == "running"}
            if running:
                share = float(dask.config.get("distributed.worker.memory.target") or 1.0)
                self.limits = {address: share * w["memory_limit"] for address, w in running.items() if w.get("memory_limit")}
                return [address for address in sorted(running) for _ in range(running[address]["nthreads"])]
            if time.monotonic() > deadline:
                raise WorkersUnavailableError(self._missing(len(workers)))
            if self._demand is None:
                self._demand = self.client.submit(int, key=f"wait-for-workers-{uuid.uuid4().hex}")
            time.sleep(0.1)

    def end_demand(self) -> None:
        """Let the scheduler forget the task that asked for a first worker, if there was one."""
        demand, self._demand = self._demand, None
        if demand is not None and self.client.status == "running":
            demand.release()

    def _missing(self, n_others: int) -> str:
        """The message for a cluster without workers; n_others: workers that are there, but take no tasks."""
        address = self.client.scheduler.address  # type: ignore[union-attr]
        if n_others:
            cure = "give them more memory, or start more of them"
            return f"the {n_others} workers of {address} are paused or closing for {self.patience:.0f} s: paused ones are full; {cure}"
        return (
            f"no worker joined {address} in {self.patience:.0f} s; "
            f"start workers (dask worker ADDRESS), or raise {WAIT_FOR_WORKERS} in Dask's configuration"
        )

    def _held(self, tasks: list[str]) -> str:
        """The message for threads that are held; tasks: those that hold all threads of this worker."""
        return (
            f"{', '.join(tasks)} held all threads of this worker for {self.patience:.0f} s, and may be waiting for this fit, which runs in"
            " another thread than its task's own; fit in the task's thread, which is given back while the fit waits, or call"
            f" distributed.secede() in the task first; if such tasks are only slow, raise {WAIT_FOR_WORKERS} in Dask's configuration"
        )

    def wait(self, futures: list[Any]) -> None:
        """Wait until all futures are done. Raises WorkersUnavailableError when no worker is left, StuckError when tasks wait beside idle
        workers, ThreadHeldError when they wait for a thread that a task holds which may be waiting for them."""
        idle = False
        while True:
            try:
                with self.client.as_current():
                    distributed.wait(futures, timeout=ARRIVES_IN if idle else min(self.patience, STUCK_AFTER))
                self.end_demand()
                return
            except TimeoutError as error:
                forget_frames(error)
                was_idle, idle = idle, not self.busy()
                if was_idle and idle:  # twice: what has just been done may be on its way here
                    raise StuckError(STUCK) from None
                if self._hostages is not None and (held := self._hostages.in_the_way(futures)):
                    raise ThreadHeldError(self._held(held)) from None

    def busy(self) -> bool:
        """Whether any worker works on something: slow is fine. Raises WorkersUnavailableError when no worker is left."""
        self.threads()
        return any(self.client.processing().values())
