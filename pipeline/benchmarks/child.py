"""A contender in a process of its own, so that contenders share neither memory nor thread pools, and a slow one can be stopped."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.benchmarks.contenders import Contender
from pipeline.benchmarks.data import head
from pipeline.benchmarks.race import Fit
from pipeline.benchmarks.rss import PeakMemory
from tasks.typing import Array

START_LIMIT = 300.0
SAMPLE_SECONDS = 0.005


@contextmanager
def stored(X: Array, y: Array) -> Iterator[Path]:
    """A folder with the rows, from which each contender's process reads its own copy."""
    with TemporaryDirectory(prefix="dask-descent-bench-") as name:
        np.save(Path(name) / "X.npy", X)
        np.save(Path(name) / "y.npy", y)
        yield Path(name)


def serve(connection: Connection, contender: Contender, folder: Path) -> None:
    """In the contender's process: read the rows, warm up on a few, then fit whenever a tolerance arrives, until None does."""
    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    try:
        contender.fit(*head(X, y), 1e-2)
        connection.send((0.0, None, ""))
        while (tol := connection.recv()) is not None:
            start = time.perf_counter()
            solution = contender.fit(X, y, tol)
            connection.send((time.perf_counter() - start, solution, ""))
    except Exception:  # noqa: BLE001  (whatever went wrong belongs to the other side of the pipe)
        connection.send((0.0, None, traceback.format_exc()))


class ChildRacer:
    """Runs a contender in its process, which starts when first needed and again after a time limit has ended it."""

    place = "NumPy, one process"

    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender = contender
        self._folder = folder
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def fit(self, tol: float, limit: float) -> Fit:
        pipe = self._started()
        pipe.send(tol)
        seconds, solution = self._answer(limit)
        return Fit(seconds, solution)

    def measured_fit(self, tol: float, limit: float) -> Fit:
        """In a fresh process, so that nothing that earlier fits left behind hides what this one takes."""
        self.close()
        self._started()
        pid = self._process.pid if self._process is not None else None
        assert pid is not None
        with PeakMemory([pid], SAMPLE_SECONDS) as memory:
            fit = self.fit(tol, limit)
        return fit._replace(peak_bytes=memory.growth)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, self.contender, self._folder), daemon=True)
            process.start()
            self._process = process
            theirs.close()
            self._answer(START_LIMIT)
        return self._pipe

    def _answer(self, limit: float) -> tuple[float, Any]:
        assert self._pipe is not None
        if not self._pipe.poll(limit):
            self.close()
            raise TimeoutError(f"no answer within {limit:.0f} s")
        seconds, solution, failure = self._pipe.recv()
        if failure:
            self.close()
            raise RuntimeError(f"{self.contender.library} {self.contender.solver} failed:\n{failure}")
        return seconds, solution
