"""Jobs in the queue: submitted so that a refusal is remembered, asked after with the queue's own commands, and waited for."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from distributed.deploy.spec import ProcessInterface

from pipeline.cluster.queue.slurm import environment
from pipeline.cluster.queue.systems import System

logger = logging.getLogger(__name__)

COMMAND_SECONDS: Final = 60.0
ASK_EVERY: Final = 2.0
SAY_AFTER: Final = 10.0
QUOTED_LINES: Final = 15


class JobRefusedError(ValueError):
    """The queue refuses the jobs as they were asked for; the message has its own words."""


class JobEndedError(ConnectionError):
    """A job ended before its worker joined; the message has the end of its log."""


class QueueTimeoutError(TimeoutError):
    """The jobs were still waiting when the time was over; the message says what the queue says of them."""


class CommandError(RuntimeError):
    """A command of the queue failed: what it said. A RuntimeError, as dask-jobqueue expects."""


async def call(command: list[str], *, shell: bool = False) -> str:
    """The output of a command. Raises CommandError, with its words, when it fails or takes more than a minute."""
    create: Any = asyncio.create_subprocess_shell if shell else asyncio.create_subprocess_exec
    try:
        process = await create(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment())
    except OSError as error:
        raise CommandError(f"{command[0]}: {error}") from error
    try:
        out, said = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CommandError(f"{' '.join(command)}: no answer in {COMMAND_SECONDS:.0f} s") from None
    if process.returncode != 0:
        raise CommandError((said + out).decode(errors="replace").strip() or f"{command[0]} failed with status {process.returncode}")
    text: str = out.decode(errors="replace")
    return text


class ReportingJob(ProcessInterface):
    """A base class that comes before a dask-jobqueue job class: a refused job is one without an id that says why.

    dask-jobqueue would log the refusal, and the cluster go on without the job.
    """

    refusal: str | None = None
    job_id: str | None

    async def start(self) -> None:
        try:
            await super().start()
        except (RuntimeError, ValueError, OSError) as error:
            self.refusal = str(error)
            await ProcessInterface.start(self)

    async def close(self) -> None:
        await super().close()
        await ProcessInterface.close(self)

    @staticmethod
    async def _call(command: list[str], *, shell: bool = False, **options: Any) -> str:
        return await call([word.removesuffix(" 2> /dev/null") for word in command], shell=shell)  # the suffix would hide LSF's words


def is_listed(job_id: str, listing: str) -> bool:
    """Whether a line begins with this job: 12, 12.server, Moab.12 or, for HTCondor, 12.0."""
    return re.search(rf"^\s*(?:[A-Za-z][\w-]*\.)?{re.escape(job_id)}(?!\d)", listing, re.MULTILINE) is not None


def reporting(job_class: Any) -> Any:
    """The job class with `ReportingJob` before it."""
    return type(job_class.__name__, (ReportingJob, job_class), {})


@dataclass
class Queue:
    """The jobs of a cluster as the queue sees them."""

    cluster: Any
    system: System
    log_directory: Path
    suspects: set[str] = field(default_factory=set)

    def jobs(self) -> dict[str, ReportingJob]:
        """The jobs that were submitted or refused, by the names of their workers."""
        return dict(self.cluster.workers)

    def workers(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The addresses of the workers of each of these jobs that has any. A job of several processes has workers NAME-0, NAME-1."""
        found: dict[str, list[str]] = {name: [] for name in list(names)}  # a copy, for names may change meanwhile
        for worker in list(self.cluster.scheduler.workers.values()):
            for name in (str(worker.name), str(worker.name).rpartition("-")[0]):
                if name in found:
                    found[name].append(worker.address)
        return {name: addresses for name, addresses in found.items() if addresses}

    async def listing(self) -> str | None:
        """The queue's listing of the user's jobs; None when it does not answer."""
        try:
            return await call(self.system.list_command())
        except CommandError as error:
            return "" if self.system.nothing is not None and self.system.nothing in str(error) else None

    def gone(self, listing: str | None) -> dict[str, ReportingJob]:
        """Jobs that are neither in the queue nor have a worker, twice in a row: a listing may be older than what was submitted.
        Nothing is known to be gone when the queue does not answer."""
        if listing is None:
            return {}
        jobs = {name: job for name, job in self.jobs().items() if job.job_id is not None}
        listed = {name for name, job in jobs.items() if is_listed(str(job.job_id), listing)}
        missing = jobs.keys() - listed - self.workers(jobs).keys()
        gone, self.suspects = missing & self.suspects, missing
        return {name: jobs[name] for name in gone}

    def hopeless(self, listing: str | None) -> str | None:
        """The queue's words about a job that it took and that can never run; None when it says so of none."""
        lines = [line for line in (listing or "").splitlines() if self.system.never & set(re.findall(r"\w+", line))]
        ids = [str(job.job_id) for job in self.jobs().values() if job.job_id is not None]
        return next(("job " + line.replace("|", " ") for line in lines if any(is_listed(job_id, line) for job_id in ids)), None)

    async def words(self) -> str:
        """The queue's words about a few of the jobs."""
        said = []
        for job in list(self.jobs().values())[:3]:
            if job.job_id is None:
                said.append(f"refused: {job.refusal}")
                continue
            try:
                answer = await call(self.system.status_command(job.job_id))
            except CommandError as error:
                answer = str(error)
            said.append(f"job {job.job_id}: " + "\n".join(answer.replace("|", " ").strip().splitlines()[-QUOTED_LINES:]))
        return "\n".join(said) or "none is submitted yet"

    def log_tail(self, job_id: str) -> str:
        """The last lines that the job wrote, "" when it wrote none."""
        number = re.compile(rf"(?<!\d){re.escape(job_id)}(?!\d)")
        files = sorted(path for path in self.log_directory.glob("*") if number.search(path.name) and path.is_file())
        lines = [line for path in files for line in path.read_text(errors="replace").splitlines()[-QUOTED_LINES:]]
        return "\n".join(lines)


def await_jobs(queue: Queue, n: int, timeout: float) -> None:
    """Wait for n workers to join.

    Raises JobRefusedError, JobEndedError or QueueTimeoutError. Says on the log what it waits for when that lasts.
    """
    cluster = queue.cluster
    start = time.monotonic()
    asked, said = start, ""
    while len(cluster.scheduler.workers) < n:
        jobs = queue.jobs()
        refused = [job.refusal for job in jobs.values() if job.refusal is not None]
        if refused and len(refused) == len(cluster.worker_spec):
            raise JobRefusedError(f"the {queue.system.name} queue refuses the job: {refused[0]}")
        now = time.monotonic()
        if now > start + timeout:
            raise QueueTimeoutError(f"{_so_many(n)} joined in {timeout:.0f} s, raise timeout= to wait longer; {cluster.sync(queue.words)}")
        if now > asked + ASK_EVERY:
            asked = now
            raise_for_lost(queue, cluster.sync(queue.listing))
            if now > start + SAY_AFTER and (words := cluster.sync(queue.words)) != said:
                said = words
                logger.warning("waiting for the first of %d jobs in the %s queue; %s", len(cluster.worker_spec), queue.system.name, words)
        time.sleep(0.1)


def raise_for_lost(queue: Queue, listing: str | None) -> None:
    """Raise JobEndedError or JobRefusedError when a job has ended, or can never run, before any worker has joined."""
    gone, hopeless = queue.gone(listing), queue.hopeless(listing)
    if queue.cluster.scheduler.workers:
        return
    if gone:
        job_id = str(next(iter(gone.values())).job_id)
        tail = queue.log_tail(job_id)
        silent = f"it wrote nothing to {queue.log_directory}; a line of the prologue may have ended it, or its python"
        raise JobEndedError(f"job {job_id} ended before its worker joined; " + (f"the end of its log:\n{tail}" if tail else silent))
    if hopeless is not None:
        raise JobRefusedError(
            f"the {queue.system.name} queue would let its jobs wait for ever, {hopeless}; ask for less, or for another partition"
        )


def _so_many(n: int) -> str:
    return "no worker" if n == 1 else f"fewer than {n} workers"
