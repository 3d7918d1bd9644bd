"""A contender in a process of its own, so that contenders share neither memory nor thread pools, and a slow one can be stopped."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

from pipeline.benchmarks.contenders import Contender, Solution
from pipeline.benchmarks.data import head
from pipeline.benchmarks.race import Fit
from pipeline.benchmarks.rss import PeakMemory
from tasks.typing import Array

START_LIMIT = 300.0
SAMPLE_SECONDS = 0.005

Answer = Callable[[Any], Any]


@contextmanager
def stored(X: Any, y: Array) -> Iterator[Path]:
    """A folder with the rows, NumPy's or CSR, from which each contender's process reads its own copy."""
    with TemporaryDirectory(prefix="dask-descent-bench-") as name:
        if isinstance(X, sp.csr_array):
            sp.save_npz(Path(name) / "X.npz", X, compressed=False)
        else:
            np.save(Path(name) / "X.npy", X)
        np.save(Path(name) / "y.npy", y)
        yield Path(name)


def load(folder: Path) -> tuple[Any, Array]:
    """The rows that `stored` has written."""
    dense = folder / "X.npy"
    return np.load(dense) if dense.exists() else sp.load_npz(folder / "X.npz"), np.load(folder / "y.npy")


def serve(connection: Connection, make: Callable[[], Answer]) -> None:
    """The loop of the child's process: make ready, then answer whatever is asked, until it is None."""
    try:
        answer = make()
        connection.send((0.0, None, ""))
        while (question := connection.recv()) is not None:
            start = time.perf_counter()
            answered = answer(question)
            connection.send((time.perf_counter() - start, answered, ""))
    except Exception:  # noqa: BLE001  (whatever went wrong belongs to the other side of the pipe)
        connection.send((0.0, None, traceback.format_exc()))


class Child:
    """A process that starts when first needed, and again after a time limit has ended it.

    make: called there, returns what answers; both travel by pickle. name: for messages.
    """

    def __init__(self, name: str, make: Callable[[], Answer]) -> None:
        self._name = name
        self._make = make
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def ask(self, question: Any, limit: float) -> tuple[float, Any]:
        """The seconds that an answer took, and the answer. Raises TimeoutError after `limit` seconds, RuntimeError when the answer
        failed."""
        pipe = self._started()
        pipe.send(question)
        return self._answer(limit)

    def measured_ask(self, question: Any, limit: float) -> tuple[float, Any, int]:
        """The same of a fresh process, in which nothing that earlier questions left hides what this one takes; and the growth in bytes."""
        self.close()
        self._started()
        pid = self._process.pid if self._process is not None else None
        assert pid is not None
        with PeakMemory([pid], SAMPLE_SECONDS) as memory:
            seconds, answer = self.ask(question, limit)
        return seconds, answer, memory.growth

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
            process = context.Process(target=serve, args=(theirs, self._make), daemon=True)
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
        seconds, answer, failure = self._pipe.recv()
        if failure:
            self.close()
            raise RuntimeError(f"{self._name} failed:\n{failure}")
        return seconds, answer


def warmed_up(contender: Contender, folder: Path) -> Callable[[float], Solution]:
    """A function that fits the rows at the tolerance that it is given, and has fitted a few of them."""
    X, y = load(folder)
    contender.fit(*head(X, y), 1e-2)
    return lambda tol: contender.fit(X, y, tol)


class ChildRacer:
    """A racer that runs a contender in its own process."""

    place = "one process"

    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender = contender
        self._child = Child(f"{contender.library} {contender.solver}", partial(warmed_up, contender, folder))

    def fit(self, tol: float, limit: float) -> Fit:
        return Fit(*self._child.ask(tol, limit))

    def measured_fit(self, tol: float, limit: float) -> Fit:
        """A fit in a fresh process that has the rows and has warmed up."""
        return Fit(*self._child.measured_ask(tol, limit))

    def close(self) -> None:
        self._child.close()
