"""The arguments of `connect`, checked before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final, TypeAlias

from distributed import Client, Security
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.deploy import Cluster

from pipeline.cluster.queue.queue_options import QueueOptions
from pipeline.sections import rules, unknown

Tls: TypeAlias = Security | str | Path | bool | None

KEYWORDS: Final = ("n_workers", "threads_per_worker", "scheduler_file", "queue", "gpu", "tls", "require_tls", "timeout")


@dataclass(frozen=True)
class Arguments:
    """The arguments of `connect`; job: those of a queue's jobs."""

    to: str | Client | Cluster | None
    n_workers: int | None
    threads_per_worker: int | None
    scheduler_file: str | None
    queue: str | None
    gpu: bool
    tls: Tls
    require_tls: bool
    timeout: float | None
    job: Mapping[str, Any]

    @property
    def starts_workers(self) -> bool:
        """Whether workers are started, here or in a queue; else they are a running cluster's, or this process's threads do the work."""
        return self.queue is not None or self.n_workers is not None or self.gpu

    def check(self) -> None:
        """Raise ValueError or TypeError, naming the argument and what it needs."""
        self._check_places()
        check_count("n_workers", self.n_workers)
        check_count("threads_per_worker", self.threads_per_worker)
        check_seconds("timeout", self.timeout)
        if isinstance(self.to, str):
            check_address(self.to)
        check_file(self.scheduler_file)
        self._check_together()

    def _check_places(self) -> None:
        if sum(given is not None for given in (self.to, self.n_workers, self.scheduler_file, self.queue)) > 1:
            raise ValueError("give an address (or a Client or Cluster), n_workers=, scheduler_file= or queue=, not several of them")
        if not isinstance(self.to, str | Client | Cluster | None):
            raise TypeError(f"connect takes the address of a scheduler, a distributed.Client or a Dask Cluster, got {self.to!r}")
        if self.queue is None and self.job:
            of_jobs = f"; those of jobs ({', '.join(rules(QueueOptions))}) are for queue="
            raise unknown(next(iter(self.job)), KEYWORDS, "connect", "keywords", of_jobs)

    def _check_together(self) -> None:
        running = self.to is not None or self.scheduler_file is not None
        if self.gpu and running:
            cure = "start those of a running cluster with GPUs"
            raise ValueError(f"gpu=True is for workers that are started here, n_workers= or queue=; {cure}")
        if self.threads_per_worker is not None and not self.starts_workers:
            cure = "give n_workers=, queue= or gpu=True, or leave it out"
            raise ValueError(f"threads_per_worker is for workers that are started here: {cure}")
        if self.tls is True and running:
            cure = "give the directory of its certificates"
            raise ValueError(f"tls=True makes temporary keys, which a running scheduler does not know; {cure}")
        if self.tls is False and self.require_tls:
            raise ValueError("tls=False and require_tls=True contradict each other")


def check_count(name: str, value: Any) -> None:
    """Raise TypeError for what is no whole number, ValueError for one below 1; None is none."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number of at least 1, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_seconds(name: str, value: Any) -> None:
    """Raise TypeError for what is no number, ValueError for one that is not above 0; None is none."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number of seconds above 0, got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}")


def check_address(address: str) -> None:
    """Raise ValueError for an address that lacks its host or its port."""
    scheme, place = parse_address(address)
    if scheme not in ("tcp", "tls"):
        return  # Dask knows what addresses of other transports need
    try:
        host, port = parse_host_port(place)
    except ValueError:
        host, port = "", 0
    if not host or not 0 < port < 65536:
        raise ValueError(f"to={address!r} is no address of a scheduler: it needs a host and a port, such as tcp://10.0.0.1:8786")


def check_file(path: Any) -> None:
    """Raise TypeError for what is no path, ValueError for one that can be no scheduler's file; None is none."""
    if path is None:
        return
    if not isinstance(path, str | Path):
        raise TypeError(f"scheduler_file must be the path of a file that a scheduler writes, got {path!r}")
    if path == "" or Path(path).is_dir():
        raise ValueError(f"scheduler_file must be a file that a scheduler writes, got {'a directory, ' * (path != '')}{str(path)!r}")
