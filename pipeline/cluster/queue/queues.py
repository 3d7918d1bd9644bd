"""A cluster whose workers are jobs in a queue: dask-jobqueue's, encrypted, waited for and kept at its size."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import dask
import psutil
from distributed import Client, Security
from distributed.deploy import Cluster

from pipeline.cluster.interrupts import quiet_logs
from pipeline.cluster.pulse import seconds_of
from pipeline.cluster.queue.queue_jobs import Queue, await_jobs, reporting
from pipeline.cluster.queue.queue_options import JobPlan, one_word
from pipeline.cluster.queue.replacements import Keeper
from pipeline.cluster.queue.systems import Keywords
from pipeline.cluster.schedulers import ClosingClient
from pipeline.cluster.security import configured, with_worker_files
from pipeline.cluster.workers import WAIT_FOR_WORKERS
from pipeline.sections import ConfigError

PRIVATE: Final = "~/.dask-descent"


def start_queue(plan: JobPlan, security: Security | None, timeout: float, opened: ExitStack) -> tuple[Client, Queue]:
    """Start a scheduler in this process, submit the jobs, and wait for the first workers; `opened` closes all of it.

    security: None for plain TCP. Raises ValueError (JobRefusedError when the queue refuses), FileNotFoundError without the queue's
    commands, JobEndedError, QueueTimeoutError.
    """
    cluster_class, job_class = plan.system.classes()
    keywords = checked(plan, job_class)
    if security is not None:
        security = with_worker_files(security, opened.enter_context(private_directory(plan)))
    keywords |= {"security": security, "scheduler_options": plan.scheduler(), "silence_logs": "warning"}  # as in a LocalCluster
    cluster = cluster_class(job_cls=reporting(job_class), **keywords)
    opened.callback(close_quietly, cluster)
    client = opened.enter_context(closing(ClosingClient(cluster, timeout=min(timeout, 30.0))))
    queue = Queue(cluster, plan.system, Path(keywords["log_directory"]))
    cluster.scale(jobs=plan.options.jobs)
    await_jobs(queue, plan.options.min_workers, timeout)
    client.scheduler_info()  # asked for now, because the client's repr shows the last answer
    Keeper(queue).start()
    patience = max(timeout, seconds_of(WAIT_FOR_WORKERS))  # a fit outlives the wait for replacements
    opened.enter_context(dask.config.set({WAIT_FOR_WORKERS: patience}))
    return client, queue


def close_quietly(cluster: Cluster) -> None:
    """Close the cluster without a log: workers that are cancelled leave connections that would be complained of."""
    with quiet_logs():
        cluster.close()


def checked(plan: JobPlan, job_class: Any) -> Keywords:
    """The keywords of the job class, with the number of processes that it makes of them: the cluster must know it to know its workers.

    Raises ConfigError for what cannot be.
    """
    keywords = plan.worker()
    try:
        probe = job_class("tcp://scheduler:8786", name="probe", **keywords)
    except (ValueError, TypeError) as error:  # no cores or memory, in jobqueue.yaml neither
        cure = "\nGive connect cores= and memory=, a command --cores and --memory, or a job file both in [cluster]"
        raise ConfigError(f"queue={plan.system.name!r}: {error}{cure * ('cores and memory' in str(error))}") from error
    n_workers = plan.options.jobs * probe.worker_processes
    if plan.options.min_workers > n_workers:
        raise ConfigError(f"min_workers={plan.options.min_workers}, and {plan.options.jobs} jobs have {n_workers} workers")
    return keywords | {"processes": probe.worker_processes}


def queue_security(given: Security | None) -> Security:
    """The certificates that were given, or configured for Dask, or temporary ones for this cluster alone."""
    return given or configured() or Security.temporary()


def private_directory(plan: JobPlan) -> tempfile.TemporaryDirectory[str]:
    """A new directory for keys that only their owner can read and that nodes see: in jobqueue.yaml's shared-temp-directory, else in the
    home directory. Those that killed processes of this machine left there go.

    Raises ValueError when others could put theirs in its place."""
    chosen = plan.config.get("shared-temp-directory")
    parent = Path(one_word("shared-temp-directory of jobqueue.yaml", str(Path(os.path.expandvars(chosen or PRIVATE)).expanduser())))
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = parent.stat()
    if state.st_uid not in (os.getuid(), 0):
        raise ValueError(f"{parent} belongs to another user, who could put keys of their own there; choose another shared-temp-directory")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not state.st_mode & stat.S_ISVTX:
        raise ValueError(f"{parent} can be written by others, who could put keys of their own there; chmod go-w it")
    prefix = f"tls-{socket.gethostname()}-"
    sweep(parent, prefix)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=parent)


def sweep(parent: Path, prefix: str) -> None:
    """Remove this user's directories PREFIX<process>-... of processes that are gone."""
    for path in parent.glob(f"{prefix}*"):
        found = re.match(r"(\d+)-", path.name.removeprefix(prefix))
        if found is not None and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)  # directories of other users cannot be removed


def scale_jobs(queue: Queue, client: Client, jobs: int) -> None:
    """Ask for so many jobs from now on. Of too many those go first that have not started, and workers hand their rows over before they
    do."""
    cluster = queue.cluster
    workers = queue.workers(cluster.worker_spec)
    surplus = sorted(cluster.worker_spec, key=lambda name: name in workers)[: max(0, len(cluster.worker_spec) - jobs)]
    for name in surplus:
        cluster.worker_spec.pop(name, None)
    retiring = [address for name in surplus for address in workers.get(name, ())]
    if retiring:
        client.retire_workers(retiring)
    cluster.scale(jobs=jobs)
