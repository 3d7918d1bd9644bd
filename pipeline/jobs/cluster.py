"""The [cluster] sections of job files: one dataclass for each place where a job may run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from dask.system import cpu_count

from pipeline.cluster.connect import TIMEOUT, connect
from pipeline.cluster.connection import Connection
from pipeline.cluster.interrupts import spared_interrupts
from pipeline.cluster.queue.queue_options import QueueOptions
from pipeline.cluster.queue.systems import find_system
from pipeline.sections import ConfigError, Count, Flag, Rule, Seconds, Section, Table, Text, is_text, rules, unknown

Tls: TypeAlias = Annotated[
    str | bool, Rule("true, false, or a directory of certificates", lambda value: isinstance(value, bool) or is_text(value))
]


@dataclass(frozen=True, kw_only=True)
class Cluster(Section):
    """The place where a job runs."""

    title: ClassVar[str] = "cluster"

    @abstractmethod
    def connect(self) -> Connection:
        """Start or reach the cluster; the connection is a context manager. Raises OSError when it does not answer."""


@dataclass(frozen=True, kw_only=True)
class Local(Cluster):
    """Processes on this machine, by default as many as make one thread a core, or with gpu one a GPU. tls: encrypt what they say."""

    kind: ClassVar[str] = "local"
    n_workers: Count | None = None
    threads_per_worker: Count = 1
    gpu: Flag = False
    tls: Tls | None = None

    def connect(self) -> Connection:
        n_workers = self.n_workers
        if n_workers is None and not self.gpu:
            n_workers = max(1, cpu_count() // self.threads_per_worker)
        with spared_interrupts():
            return connect(n_workers=n_workers, threads_per_worker=self.threads_per_worker, gpu=self.gpu, tls=self.tls)


@dataclass(frozen=True, kw_only=True)
class InProcess(Cluster):
    """Threads in the command's own process."""

    kind: ClassVar[str] = "in-process"

    def connect(self) -> Connection:
        return connect()


@dataclass(frozen=True, kw_only=True)
class Scheduler(Cluster):
    """A running scheduler, by its address or its scheduler file; timeout: seconds to wait for its answer, and then for n_workers.

    tls: the directory of the certificates; require_tls: refuse a plain one.
    """

    kind: ClassVar[str] = "scheduler"
    address: Text | None = None
    scheduler_file: Text | None = None
    n_workers: Count | None = None
    timeout: Seconds = TIMEOUT
    tls: Text | None = None
    require_tls: Flag = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.address is None) == (self.scheduler_file is None):
            raise ConfigError('[cluster] with kind = "scheduler" needs address or scheduler_file, and not both')

    def connect(self) -> Connection:
        connection = connect(
            self.address, scheduler_file=self.scheduler_file, timeout=self.timeout, tls=self.tls, require_tls=self.require_tls
        )
        if self.n_workers is not None:
            connection.await_workers(self.n_workers, self.timeout)
        return connection


@dataclass(frozen=True, kw_only=True)
class Queue(Cluster):
    """Jobs in a queue. options: those of `QueueOptions`, written beside system in a job file; timeout: seconds to wait for a worker."""

    kind: ClassVar[str] = "queue"
    system: Text
    threads_per_worker: Count | None = None
    gpu: Flag = False
    timeout: Seconds | None = None
    tls: Tls | None = None
    options: Table = field(default_factory=dict)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self:
        own = [key for key in rules(cls) if key != "options"]
        options = {key: value for key, value in table.items() if key not in own}
        for key in options:
            if key not in rules(QueueOptions):
                raise unknown(key, [*own, *rules(QueueOptions)], '[cluster] with kind = "queue"', "keys")
        return super().read({key: table[key] for key in own if key in table} | {"options": options})

    def __post_init__(self) -> None:
        super().__post_init__()
        QueueOptions.read(self.options).check(find_system(self.system))

    def connect(self) -> Connection:
        return connect(
            queue=self.system,
            threads_per_worker=self.threads_per_worker,
            gpu=self.gpu,
            timeout=self.timeout,
            tls=self.tls,
            **self.options,
        )

    def table(self) -> dict[str, Any]:
        table = super().table()
        return table | table.pop("options")


CLUSTERS: Mapping[str, type[Cluster]] = {cls.kind: cls for cls in (Local, InProcess, Scheduler, Queue)}
