"""The case about memory: what two workers take to load and fit a table that a Dask graph makes."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import dask.array as da
import numpy as np
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.cluster import DASK_ML, DaskML, persisted, time_limit, worker_pids, workers
from pipeline.benchmarks.contenders import OURS
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.estimators.logistic import LogisticRegression

MAX_PEAK: Final = 1.3
Load = Callable[[Client, Problem], Any]


def from_function(client: Client, problem: Problem) -> None:
    """Load and fit partitions from a function of their number."""
    fit_ours(Dataset.from_function(problem.partition, n_partitions=problem.n_partitions, n_columns=problem.n_columns))


def from_dask_random(client: Client, problem: Problem) -> None:
    """Load and fit Dask arrays of random numbers, y from X."""
    fit_ours(*random_arrays(problem))


def dask_ml_newton(client: Client, problem: Problem) -> None:
    """Persist the same arrays, then fit with dask-ml's newton."""
    X, y = persisted(client, *random_arrays(problem))
    DaskML(problem, "newton", normalize=False).fit(X, y, 1e-4)


CONTENDERS: Final[Sequence[tuple[str, str, Load]]] = (
    (OURS, "Dataset.from_function", from_function),
    (OURS, "dask.array.random", from_dask_random),
    (DASK_ML, "dask.array.random, persisted; newton", dask_ml_newton),
)


def fit_ours(*data: Any) -> None:
    """Fit with default parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        LogisticRegression().fit(*data)


def random_arrays(problem: Problem) -> tuple[da.Array, da.Array]:
    """X (n, p) normal and y (n,) in {0, 1} of a logistic model, lazy."""
    rng = da.random.default_rng(problem.seed)
    chunks = tuple(int(n) for n in np.diff(problem.bounds))
    X = rng.standard_normal((problem.n_rows, problem.n_columns), chunks=(chunks, (problem.n_columns,)))
    coef = 2.0 / np.sqrt(problem.n_columns) * np.random.default_rng(problem.seed).standard_normal(problem.n_columns)
    return X, (X @ coef + rng.logistic(size=problem.n_rows, chunks=(chunks,)) > 0).astype(np.int64)


def memory(report: Report, settings: Settings) -> None:
    """Peak resident memory of the workers, summed, each contender on a fresh cluster."""
    problem = Problem(n_rows=40_000 if settings.quick else 1_000_000, n_columns=250, n_partitions=16 if settings.quick else 128)
    rows: list[tuple[Cell, ...]] = []
    for library, source, load in CONTENDERS:
        if settings.quick and library != OURS:
            continue
        baseline, growth, remark, seconds = peak_of(load, problem, settings.limit)
        share = growth / problem.nbytes
        rows.append((library, source, problem.nbytes / 2**20, baseline / 2**20, (baseline + growth) / 2**20, share, seconds, remark))
        if library == OURS:
            report.targets.append(Target(f"growth of the workers' memory over the data's size, {source}", "at most", MAX_PEAK, share))
    columns = ("library", "source", "data MiB", "baseline MiB", "peak MiB", "(peak - baseline) / data", "s", "remark")
    report.tables.append(Table(f"Load and fit {problem.name} on two workers", columns, rows))
    report.notes.append(
        "Resident memory of both worker processes, summed, sampled every 20 ms from the client; "
        "the baseline is that of the same workers after a small fit of the same kind. Each on a fresh cluster."
    )


def peak_of(load: Load, problem: Problem, limit: float) -> tuple[int, int, str, float]:
    """The peak of a load: bytes before and growth during it, a remark, and seconds."""
    with workers() as (client, _):
        load(client, replace(problem, n_rows=32_000, n_partitions=8))  # enough rows for the same solver
        gc.collect()
        client.run(gc.collect)
        remark, start = "", time.perf_counter()
        with PeakMemory(worker_pids(client)) as peak:
            try:
                with time_limit(limit):
                    load(client, problem)
            except TimeoutError as error:
                remark = str(error)
        return peak.before, peak.growth, remark, time.perf_counter() - start
