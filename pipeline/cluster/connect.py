"""Opening the cluster that estimators then find as the current client."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.cluster.interrupts import quiet_imports, quiet_logs

quiet_imports()  # this is the package's first import that takes long

import dask  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402


class Connection:
    """A context in which `client` is the current client; what was opened here, and nothing else, is closed at its end, or by `close`.

    client: None when the work stays in this process.
    """

    def __init__(self, client: Client | None, opened: ExitStack) -> None:
        self.client = client
        self._opened = opened

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
    address: str | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
    scheduler_file: str | None = None,
    timeout: float = 10.0,
) -> Connection:
    """Connect to the scheduler at `address` or in `scheduler_file`, or start n_workers processes on this machine.

    Without any of the three the work stays in this process, whatever client is current. timeout: seconds to wait for the scheduler, and
    for the file that it writes.
    Raises ValueError for more than one of the three, OSError when no scheduler answers, FileNotFoundError when the file does not come.
    """
    if sum(given is not None for given in (address, n_workers, scheduler_file)) > 1:
        raise ValueError("give an address, n_workers= or scheduler_file=, not several of them")
    with ExitStack() as opening:  # closes the cluster when the client fails
        client: Client | None = None
        if n_workers is not None:
            cluster = LocalCluster(n_workers=n_workers, threads_per_worker=threads_per_worker, processes=True, dashboard_address=":0")
            client = Client(opening.enter_context(closing(cluster)))
        elif address is not None or scheduler_file is not None:
            if scheduler_file is not None:
                await_file(scheduler_file, timeout)
            client = Client(address=address, scheduler_file=scheduler_file, timeout=timeout)
        else:  # a client of the caller's would take the work
            opening.enter_context(dask.config.set(scheduler="threads"))
        if client is not None:
            opening.enter_context(closing(client))
        return Connection(client, opening.pop_all())


def await_file(path: str, timeout: float) -> None:
    """Wait for a scheduler that is starting to write its file; distributed.Client would wait for ever."""
    deadline = time.monotonic() + timeout
    while not Path(path).exists():
        if time.monotonic() > deadline:
            cure = f"start one with: dask scheduler --scheduler-file {path}"
            raise FileNotFoundError(f"no scheduler file {path} after {timeout:.0f} s; {cure}")
        time.sleep(0.1)
