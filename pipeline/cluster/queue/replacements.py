"""Keeping as many jobs in the queue as are wanted: those that vanish (cancelled, out of time, their node down) are submitted again."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from pipeline.cluster.queue.queue_jobs import Queue

logger = logging.getLogger(__name__)

CHECK_EVERY: Final = 2.0
LONGEST_DELAY: Final = 300.0


class Keeper:
    """The keeper of a cluster's jobs: every few seconds it compares the jobs wanted with those there are, on the cluster's own loop.

    A job that is gone gets a successor under a new name: Dask takes a while to forget a lost worker's name, and would cancel a job that
    has it again. Jobs that end without a worker, or are refused, are tried again ever more slowly.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._had_workers: set[str] = set()
        self._missing: set[str] = set()
        self._delay = 0.0
        self._not_before = 0.0
        self._successors = 0

    def start(self) -> None:
        """Begin to compare; the end of the cluster is the end of it."""
        cluster = self.queue.cluster
        self._had_workers |= self.queue.workers(cluster.worker_spec).keys()
        periodic = cluster.periodic_callbacks["keeper"] = PeriodicCallback(self.check, CHECK_EVERY * 1000)
        cluster.loop.add_callback(periodic.start)

    @property
    def idle(self) -> bool:
        """Whether the cluster is closing, or adapts to its work by itself."""
        cluster = self.queue.cluster
        adaptive = cluster._adaptive
        return cluster.status != Status.running or (adaptive is not None and adaptive.state != "stopped")

    async def check(self) -> None:
        """Replace the jobs that are gone."""
        if self.idle:
            return
        cluster = self.queue.cluster
        self._had_workers |= self.queue.workers(cluster.worker_spec).keys()
        jobs = self.queue.jobs()
        refused = {name: job.refusal for name, job in jobs.items() if job.refusal is not None}
        forgotten = cluster.worker_spec.keys() - jobs.keys()
        gone = self.queue.gone(await self.queue.listing())
        lost = (gone.keys() | refused.keys() | (forgotten & self._missing)) & cluster.worker_spec.keys()
        self._missing = forgotten  # these may be about to be submitted
        if cluster.worker_spec.keys() <= self._had_workers:
            self._delay = 0.0
        if lost and time.monotonic() > self._not_before and not self.idle:
            self._replace(lost, next(iter(refused.values()), None))

    def _replace(self, lost: set[str], refusal: str | None) -> None:
        cluster: Any = self.queue.cluster
        self._delay = 0.0 if lost <= self._had_workers else min(LONGEST_DELAY, max(2 * CHECK_EVERY, 2 * self._delay))
        self._not_before = time.monotonic() + self._delay
        why = "" if refusal is None else f" (the queue refuses it: {refusal})"
        pace = f"; the next time in {self._delay:.0f} s at the earliest" if self._delay else ""
        logger.warning("%d of %d jobs are gone%s; submitting them again%s", len(lost), len(cluster.worker_spec), why, pace)
        for name in lost:
            self._successors += 1
            del cluster.worker_spec[name]
            cluster.worker_spec[f"{type(cluster).__name__}-r{self._successors}"] = cluster.new_spec
        cluster.scale(jobs=len(cluster.worker_spec))  # also closes those that are wanted no longer
