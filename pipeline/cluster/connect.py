"""Opening the cluster that estimators then find as the current client."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import dask
from distributed import Client, LocalCluster, Security
from distributed.deploy import Cluster

from pipeline.cluster.arguments import Arguments, Tls
from pipeline.cluster.connection import Connection, scheduler_address
from pipeline.cluster.gpus import local_gpus
from pipeline.cluster.in_process import IN_PROCESS
from pipeline.cluster.interrupts import spared_interrupts
from pipeline.cluster.pulse import worker_ttl
from pipeline.cluster.queue.queue_options import LOCALHOST, JobPlan, QueueOptions
from pipeline.cluster.queue.queues import queue_security, start_queue
from pipeline.cluster.queue.systems import find_system
from pipeline.cluster.schedulers import ClosingClient, check_secure, open_client, read_scheduler_file
from pipeline.cluster.security import as_security
from tasks.machine.devices import VARIABLE

QUEUE_TIMEOUT: Final = 600.0
TIMEOUT: Final = 10.0
LOST_WORKER_TIMEOUT: Final = "distributed.deploy.lost-worker-timeout"
"""Dask's key for the time after which a cluster closes the nanny of a worker that died and has not come back, or just then dies again, and
never starts another."""


def connect(
    to: str | Client | Cluster | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int | None = None,
    scheduler_file: str | None = None,
    queue: str | None = None,
    gpu: bool = False,
    tls: Tls = None,
    require_tls: bool = False,
    timeout: float | None = None,
    **job: Any,
) -> Connection:
    """Connect to a scheduler's address, to a Client or Cluster object of Dask's (any, also of dask-kubernetes or dask-jobqueue), to the
    scheduler of a `scheduler_file`, start n_workers processes on this machine, or submit jobs to a `queue`: "slurm", "pbs", "lsf", "sge",
    "oar", "moab" or "htcondor".

    Without any of these the work stays in this process, whatever client is current. Objects that were given stay open.
    job: of a queue's jobs: jobs, cores, memory, walltime and so on, see `pipeline.cluster.queue.queue_options.QueueOptions`.
    gpu: one worker, of one thread, for each GPU of this machine or of each job.
    tls: a distributed.Security, a directory of `python -m pipeline certificates`, or True for temporary keys of workers that are started
    here. None: what Dask's configuration says; a queue= is encrypted then too, and with False is not. require_tls: refuse what is plain.
    timeout: seconds to wait for the scheduler and for the file that it writes, by default 10; for a queue's first worker, by default 600.

    Raises ValueError and TypeError for arguments that are wrong or go not together, before anything is started, JobRefusedError when the
    queue refuses the jobs, OSError when no scheduler answers, FileNotFoundError when the file does not come, InsecureConnectionError and
    CertificateError for TLS on one side only or of two authorities, JobEndedError and QueueTimeoutError when a queue's workers do not come.
    """
    asked = Arguments(to, n_workers, threads_per_worker, scheduler_file, queue, gpu, tls, require_tls, timeout, job)
    asked.check()
    with ExitStack() as opening:  # closes the cluster when the client fails
        return _open(asked, opening)


def _open(asked: Arguments, opening: ExitStack) -> Connection:
    """Open the connection that was asked for; `opening` closes it."""
    security = as_security(asked.tls)
    if asked.queue is not None:
        used = None if asked.tls is False else queue_security(security)
        plan = _plan(asked.queue, asked.job, asked.threads_per_worker, asked.gpu)
        return _queue(plan, used, asked.timeout or QUEUE_TIMEOUT, opening)
    if asked.starts_workers:
        security = security or as_security(asked.require_tls)
        return _local(asked.n_workers, asked.threads_per_worker or 1, asked.gpu, security, opening)
    if asked.to is not None or asked.scheduler_file is not None:
        return _running(asked.to, asked.scheduler_file, security, asked.require_tls, asked.timeout or TIMEOUT, opening)
    opening.enter_context(IN_PROCESS.connection())  # a client of the caller's would take the work
    return Connection("this process", None, None, opening.pop_all())


def _running(
    to: str | Client | Cluster | None,
    scheduler_file: str | None,
    security: Security | None,
    require_tls: bool,
    timeout: float,
    opening: ExitStack,
) -> Connection:
    """Connect to a scheduler that runs already."""
    if isinstance(to, Client):
        if security is not None:
            raise ValueError("a Client has its connection already; give the certificates to it: Client(address, security=...)")
        address = scheduler_address(to)
        if require_tls and address is not None:
            check_secure(address)
        return Connection("a client", to, to.cluster, opening.pop_all())
    if isinstance(to, Cluster):
        if require_tls:
            check_secure(to.scheduler_address)
        client = opening.enter_context(closing(ClosingClient(to, timeout=timeout, security=security)))
        return Connection(f"a {type(to).__name__}", client, to, opening.pop_all())
    address = to if scheduler_file is None else read_scheduler_file(scheduler_file, timeout)
    assert address is not None
    client = opening.enter_context(closing(open_client(address, security, timeout, require_tls=require_tls)))
    return Connection("a scheduler", client, None, opening.pop_all())


def _local(n_workers: int | None, threads: int, gpu: bool, security: Security | None, opening: ExitStack) -> Connection:
    """Connect to worker processes that are started on this machine."""
    options: dict[str, Any] = {} if security is None else {"security": security, "protocol": "tls://"}
    if gpu:
        devices = local_gpus()
        if n_workers is not None and n_workers > len(devices):
            raise ValueError(
                f"n_workers={n_workers} with gpu=True, and this machine has {len(devices)} GPUs; leave n_workers out for one each"
            )
        n_workers = n_workers or len(devices)
        options |= {"preload": ["tasks.machine.devices"], "env": {VARIABLE: ",".join(devices)}}
    opening.enter_context(dask.config.set({LOST_WORKER_TIMEOUT: "1 day"}))
    with spared_interrupts():  # a Ctrl-C that is waiting arrives at the end: the cluster must have an owner by then
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=True,
            dashboard_address=LOCALHOST,
            worker_dashboard_address=LOCALHOST,
            scheduler_kwargs={"worker_ttl": worker_ttl()},
            **options,
        )
        opening.enter_context(closing(cluster))
    client = ClosingClient(cluster)
    opening.enter_context(closing(client))
    return Connection("processes on this machine", client, cluster, opening.pop_all())


def _plan(queue: str, job: Mapping[str, Any], threads_per_worker: int | None, gpu: bool) -> JobPlan:
    options = QueueOptions.read({key: str(value) if isinstance(value, Path) else value for key, value in job.items()})
    return JobPlan(find_system(queue), options, threads_per_worker, gpu)


def _queue(plan: JobPlan, security: Security | None, timeout: float, opening: ExitStack) -> Connection:
    """Connect to workers that are started as jobs in a queue."""
    client, queue = start_queue(plan, security, timeout, opening)
    return Connection(f"{plan.system.name} jobs", client, queue.cluster, opening.pop_all(), queue)
