"""Opening the cluster that estimators then find as the current client."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.cluster.interrupts import quiet_imports, quiet_logs

quiet_imports()  # this is the package's first import that takes long

import dask  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402
from distributed.deploy import Cluster  # noqa: E402


class Connection:
    """A context in which `client` is the current client; what was opened here, and nothing else, is closed at its end, or by `close`.

    client: None when the work stays in this process. cluster: the Dask cluster behind it, None when only its scheduler is known.
    """

    def __init__(self, client: Client | None, cluster: Cluster | None, opened: ExitStack) -> None:
        self.client = client
        self.cluster = cluster
        self._opened = opened

    @property
    def dashboard_link(self) -> str | None:
        """Where the cluster shows itself to a browser; None in this process."""
        return None if self.client is None else self.client.dashboard_link

    def scale(self, n: int) -> None:
        """Ask for n workers. Raises ValueError where the cluster is not ours to scale."""
        self._scalable().scale(n)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the work. Raises ValueError where the cluster is not ours to scale."""
        self._scalable().adapt(minimum=minimum, maximum=maximum)

    def await_workers(self, n: int, timeout: float) -> None:
        """Wait for n workers, timeout seconds at most; fewer, but one at least, are warned of.

        Raises TimeoutError, and closes the connection, when there is none; ValueError in this process, which has no workers.
        """
        if self.client is None:
            raise ValueError(f"{self!r} has no workers to wait for")
        try:
            self.client.wait_for_workers(n, timeout=timeout)
        except TimeoutError as error:
            if (found := len(self.client.scheduler_info(n_workers=-1)["workers"])) == 0:
                self.close()
                raise TimeoutError(f"no worker has come to the scheduler in {timeout:g} s") from error
            warnings.warn(f"{found} of {n} workers came in {timeout:g} s; going on with them", stacklevel=2)

    def _scalable(self) -> Cluster:
        if self.cluster is None:
            raise ValueError(f"{self!r} has no cluster object to scale; connect to a Dask Cluster, or use n_workers=")
        return self.cluster

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        if self.client is not None:  # also inside the with block of another client
            self._opened.enter_context(self.client.as_current())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with quiet_logs() if kind is KeyboardInterrupt else nullcontext():  # what was under way complains of closed connections
            self.close()

    def __repr__(self) -> str:
        return f"Connection({'this process' if self.client is None else self.client})"  # a client tells its workers without asking


def connect(
    to: str | Client | Cluster | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
    scheduler_file: str | None = None,
    timeout: float = 10.0,
) -> Connection:
    """Connect to a scheduler's address, to a Client or Cluster object of Dask's (any, also of dask-kubernetes or dask-jobqueue), to the
    scheduler of a `scheduler_file`, or start n_workers processes on this machine.

    Without any of these the work stays in this process, whatever client is current. timeout: seconds to wait for the scheduler, and
    for the file that it writes. Objects that were given stay open.
    Raises ValueError for more than one of them, TypeError for something else, OSError when no scheduler answers, FileNotFoundError when
    the file does not come.
    """
    if sum(given is not None for given in (to, n_workers, scheduler_file)) > 1:
        raise ValueError("give an address (or a Client or Cluster), n_workers= or scheduler_file=, not several of them")
    if not isinstance(to, str | Client | Cluster | None):
        raise TypeError(f"connect takes the address of a scheduler, a distributed.Client or a Dask Cluster, got {to!r}")
    with ExitStack() as opening:  # closes the cluster when the client fails
        client: Client | None = None
        cluster: Cluster | None = None
        if isinstance(to, Client):
            return Connection(to, to.cluster, opening.pop_all())
        if isinstance(to, Cluster):
            client = Client(to, timeout=timeout)
            cluster = to
        elif n_workers is not None:
            cluster = LocalCluster(n_workers=n_workers, threads_per_worker=threads_per_worker, processes=True, dashboard_address=":0")
            client = Client(opening.enter_context(closing(cluster)))
        elif to is not None or scheduler_file is not None:
            if scheduler_file is not None:
                await_file(scheduler_file, timeout)
            client = Client(address=to, scheduler_file=scheduler_file, timeout=timeout)
        else:  # a client of the caller's would take the work
            opening.enter_context(dask.config.set(scheduler="threads"))
        if client is not None:
            opening.enter_context(closing(client))
        return Connection(client, cluster, opening.pop_all())


def await_file(path: str, timeout: float) -> None:
    """Wait for a scheduler that is starting to write its file; distributed.Client would wait for ever."""
    deadline = time.monotonic() + timeout
    while not Path(path).exists():
        if time.monotonic() > deadline:
            cure = f"start one with: dask scheduler --scheduler-file {path}"
            raise FileNotFoundError(f"no scheduler file {path} after {timeout:.0f} s; {cure}")
        time.sleep(0.1)
