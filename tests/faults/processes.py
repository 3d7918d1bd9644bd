"""A cluster as an administrator starts it: `dask scheduler` and `dask worker` by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client

from pipeline.cluster.connect import connect


@dataclass
class Processes:
    """The scheduler, its workers without nannies, and a client."""

    directory: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.directory / "scheduler.json"

    def start_worker(self) -> None:
        arguments = ["worker", "--scheduler-file", str(self.file), "--no-nanny", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]
        self.workers.append(start(self.directory, *arguments))

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()  # also what is stopped
            process.wait(20)


def start(directory: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *arguments]
    with (directory / "cluster.log").open("a") as log:
        return subprocess.Popen(command, cwd=directory, env=os.environ | variables, stdout=log, stderr=log)


@contextmanager
def processes(directory: Path, n_workers: int = 2, **variables: str) -> Iterator[tuple[Processes, Client]]:
    """variables: of the scheduler's environment."""
    address = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    file = directory / "scheduler.json"
    found = Processes(directory, start(directory, "scheduler", "--scheduler-file", str(file), *address, **variables))
    try:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(n_workers):
            found.start_worker()
        with connect(scheduler_file=str(file)) as connection:
            client: Any = connection.client
            client.wait_for_workers(n_workers, timeout=30)
            yield found, client
    finally:
        found.stop()
