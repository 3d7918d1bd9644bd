"""The workers of a client's cluster: which threads there are, and waiting for tasks in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Final

import dask
import distributed
from distributed import Client

WAIT_FOR_WORKERS: Final = "dask-descent.wait-for-workers"
STUCK_AFTER: Final = 5.0


class StuckError(CancelledError):
    """Tasks wait, workers idle: loads that were meant for workers which died all at once are not given to those that came after them."""


class WorkersUnavailableError(TimeoutError):
    """No worker came, or none is left, for longer than the configured wait."""


class Workers:
    """Waits at most `dask-descent.wait-for-workers` (Dask configuration, seconds, default 30) for a first worker.

    limits: bytes that each worker may hold before Dask begins to spill, of those that have a limit, as of the last `threads`.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.patience = float(dask.config.get(WAIT_FOR_WORKERS, 30.0))
        self.limits: dict[str, float] = {}

    def threads(self) -> list[str]:
        """The address of each worker thread, workers in turn grouped together.

        Raises WorkersUnavailableError when none comes, ConnectionError when the scheduler is lost.
        """
        deadline = time.monotonic() + self.patience
        while True:
            workers = self.client.scheduler_info(n_workers=-1).get("workers")
            if workers is None or self.client.status != "running":
                raise ConnectionError("the connection to the scheduler is lost; connect again and repeat the fit")
            running = {address: w for address, w in workers.items() if w.get("status", "running") == "running"}
            if running:
                share = float(dask.config.get("distributed.worker.memory.target") or 1.0)
                self.limits = {address: share * w["memory_limit"] for address, w in running.items() if w.get("memory_limit")}
                return [address for address in sorted(running) for _ in range(running[address]["nthreads"])]
            if time.monotonic() > deadline:
                raise WorkersUnavailableError(
                    f"no worker joined {self.client.scheduler.address} in {self.patience:.0f} s; "  # type: ignore[union-attr]
                    f"start workers (dask worker ADDRESS), or raise {WAIT_FOR_WORKERS} in Dask's configuration"
                )
            time.sleep(0.1)

    def wait(self, futures: list[Any]) -> None:
        """Until all are done. Raises WorkersUnavailableError when no worker is left, StuckError when tasks wait beside idle workers."""
        while True:
            try:
                distributed.wait(futures, timeout=min(self.patience, STUCK_AFTER))
                return
            except TimeoutError:
                self.threads()  # slow is fine, nobody there is not
                if not any(self.client.processing().values()):
                    raise StuckError from None


@contextmanager
def lost_client(client: Client) -> Iterator[None]:
    """Whatever fails in the block fails as ConnectionError when the client was closed, or lost its scheduler, meanwhile."""
    try:
        yield
    except Exception as error:
        if client.status == "running" or isinstance(error, ConnectionError):
            raise
        raise ConnectionError("the client was closed, or lost its scheduler, during the fit") from error
