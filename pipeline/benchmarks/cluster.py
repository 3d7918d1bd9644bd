"""Contenders on a local cluster of two workers with one thread each: this library and dask-ml, on the same client."""

from __future__ import annotations

import gc
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait
from distributed.diagnostics.plugin import SchedulerPlugin

from pipeline.benchmarks.contenders import MAX_ITER, Contender, Solution, installed
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.race import Fit
from pipeline.benchmarks.rss import PeakMemory

DASK_ML = "dask-ml"
N_WORKERS = 2


@contextmanager
def workers(n_workers: int = N_WORKERS) -> Iterator[tuple[Client, LocalCluster]]:
    """A fresh cluster and the client that everyone uses."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client, cluster


def worker_pids(client: Client) -> list[int]:
    """Process ids of the workers, which are on this machine."""
    return list(client.run(os.getpid).values())


def persisted(client: Client, *arrays: da.Array) -> tuple[da.Array, ...]:
    """The arrays in the workers' memory."""
    kept: tuple[da.Array, ...] = client.persist(arrays)
    wait(kept)
    return kept


def with_ones(X: da.Array) -> da.Array:
    """X and a column of ones, one chunk wide."""
    ones = da.ones((X.shape[0], 1), chunks=(X.chunks[0], 1))
    joined: da.Array = da.concatenate([X, ones], axis=1).rechunk({1: -1})
    return joined


@dataclass(frozen=True)
class DaskML:
    """dask-ml's LogisticRegression on X with a column of ones: an intercept without the cost of joining that column in every pass.

    newton and gradient_descent drop the penalty, lbfgs and admm also penalise the intercept (and lbfgs, unless normalize is off, the
    coefficients of scaled columns): the gap, taken on the common objective, tells whether that matters. rho: admm's, beside a sum
    over the rows of a chunk.
    """

    problem: Problem
    method: str
    normalize: bool = True
    library: str = DASK_ML
    rho: float = 1.0
    max_iter: int = MAX_ITER

    @property
    def missing(self) -> bool:
        return not installed("dask_ml")

    @property
    def solver(self) -> str:
        options = [] if self.normalize else ["normalize=False"]
        return ", ".join([self.method, *options, *([f"rho={self.rho:g}"] if self.rho != 1.0 else [])])

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        from dask_ml.linear_model import LogisticRegression  # the bench extra; slow to import

        options: dict[str, Any] = (
            {"abstol": tol, "reltol": tol, "rho": self.rho} if self.method == "admm" else {"normalize": self.normalize}
        )
        # lbfgs compares the gradient of a sum over the rows, where scikit-learn compares that of a mean
        limit = tol * self.problem.n_rows if self.method == "lbfgs" else tol
        model = LogisticRegression(
            C=self.problem.C, solver=self.method, tol=limit, max_iter=self.max_iter, fit_intercept=False, solver_kwargs=options
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations and overflows of dask-ml do not concern us
            model.fit(X, y)
        coef = np.asarray(model.coef_, dtype=np.float64)
        return Solution(coef[None, :-1], coef[-1:], None)


def dask_ml(problem: Problem, *, quick: bool) -> list[Contender]:
    """dask-ml's solvers, with and without its scaling of the columns where that is an option."""
    contenders = [DaskML(problem, "newton", normalize=False), DaskML(problem, "lbfgs", normalize=False)]
    if not quick:
        contenders += [
            DaskML(problem, "newton"),
            DaskML(problem, "lbfgs"),
            DaskML(problem, "gradient_descent"),
            DaskML(problem, "gradient_descent", normalize=False),
            DaskML(problem, "admm"),
        ]
    return list(contenders)


class TaskCounter(SchedulerPlugin):
    """A counter of the tasks that ran to their end."""

    def __init__(self) -> None:
        self.n_tasks = 0

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "processing" and finish == "memory":
            self.n_tasks += 1


class ClusterRacer:
    """A racer that runs a contender in this process, on rows that the workers hold."""

    def __init__(self, contender: Contender, place: str, X: Any, y: Any, cluster: LocalCluster, pids: list[int]) -> None:
        self.contender = contender
        self.place = place
        self._X, self._y = X, y
        self._cluster = cluster
        self._pids = pids

    def fit(self, tol: float, limit: float) -> Fit:
        try:
            with time_limit(limit):
                start = time.perf_counter()
                solution = self.contender.fit(self._X, self._y, tol)
                return Fit(time.perf_counter() - start, solution)
        except TimeoutError:
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        finally:
            gc.collect()  # futures of a fit that is over

    def measured_fit(self, tol: float, limit: float) -> Fit:
        counter = TaskCounter()
        scheduler: Any = self._cluster.scheduler  # of a local cluster: it lives in this process
        scheduler.add_plugin(counter, name="task-counter")
        try:
            with PeakMemory(self._pids) as memory:
                fit = self.fit(tol, limit)
        finally:
            scheduler.remove_plugin("task-counter")
        return fit._replace(peak_bytes=memory.growth, tasks=counter.n_tasks)

    def close(self) -> None:
        """Close nothing: the cluster belongs to others, too."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """A block that ends in TimeoutError after so many seconds; main thread only."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
