"""The case about one pass over the rows: how near it comes to the memory's speed, and to itself on two workers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from statistics import median
from typing import Any, Final

import dask
import numpy as np
from numba import njit
from sklearn._loss import HalfBinomialLoss
from sklearn.linear_model._linear_loss import LinearModelLoss

from pipeline.benchmarks.cluster import N_WORKERS, workers
from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rounds import Timed, gradient_round, in_turn
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor, default_threads
from tasks.typing import Array

SHARES: Final = {28: 0.60, 100: 0.75, 1000: 0.85}
"""Of the limit, at least, by the number of columns, in float64."""
MAX_SINGLE: Final = 0.65
MAX_CLUSTER: Final = 1.1
DTYPES: Final = ("float64", "float32")
LIMIT, HERE, THERE, PEER = "numba sum: the limit", f"{OURS} gradient", f"{OURS} gradient, {N_WORKERS} workers", f"{SCIKIT_LEARN} gradient"


@njit(nogil=True, fastmath=True)
def add_up(values: Any) -> float:
    """The sum of a flat array: about the least work that reads all of it."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


def read_all(X: Array, pool: ThreadPoolExecutor, n_threads: int) -> Callable[[], Any]:
    """A function that reads X once, a part for each thread."""
    parts = np.array_split(X.reshape(-1), n_threads)
    return lambda: sum(pool.map(add_up, parts))


def scikit_learn_pass(X: Array, y: Array, n_threads: int) -> Callable[[], Any]:
    """One loss and gradient of scikit-learn's own."""
    loss = LinearModelLoss(base_loss=HalfBinomialLoss(), fit_intercept=True)
    coef = np.full(X.shape[1] + 1, 0.01, dtype=X.dtype)
    return lambda: loss.loss_gradient(coef, X, y, l2_reg_strength=1e-6, n_threads=n_threads)


Medians = dict[tuple[Cell, ...], float]
"""Median seconds, by dtype and by the way to go through the rows."""


def bandwidth(report: Report, settings: Settings) -> None:
    """Time a gradient pass beside the fastest read of the same bytes."""
    n_numbers = 500_000 if settings.quick else 56_000_000
    found: dict[int, Medians] = {}
    rows: list[tuple[Cell, ...]] = []
    with workers(), ThreadPoolExecutor(default_threads()) as pool:
        for n_columns in SHARES:
            X, y = Problem(n_rows=n_numbers // n_columns, n_columns=n_columns).arrays()
            timed = [each for dtype in DTYPES for each in ways(X.astype(dtype, copy=False), y, pool)]
            seconds = in_turn(timed, 3 * settings.repeats)
            medians = found[n_columns] = {one.name: median(each) for one, each in zip(timed, seconds, strict=True)}
            rows += pass_rows(X, medians)
    columns = ("rows", "what", "median ms", "GB/s", "share of the limit")
    report.tables.append(Table(f"One pass over the rows, {default_threads()} threads", columns, rows))
    report.targets += [target for n_columns, medians in found.items() for target in targets(n_columns, medians)]
    report.notes.append(
        "The limit is the same memory read by a sum on all threads, in the same run; all with as many columns take turns, and shares are "
        f"ratios of medians. {N_WORKERS} workers: one thread each, the rows resident."
    )


def ways(X: Array, y: Array, pool: ThreadPoolExecutor) -> list[Timed]:
    """The ways to go through these rows."""
    dtype, n_threads = X.dtype.name, default_threads()
    with dask.config.set(scheduler="threads"):
        here = gradient_round(ThreadExecutor(), Dataset.from_arrays(X, y))
    resident = Dataset.from_arrays(X, y)
    return [
        Timed((dtype, LIMIT), read_all(X, pool, n_threads)),
        Timed((dtype, HERE), here),
        Timed((dtype, THERE), gradient_round(resident.executor(), resident)),
        Timed((dtype, PEER), scikit_learn_pass(X, y.astype(dtype), n_threads)),
    ]


def pass_rows(X: Array, medians: Medians) -> list[tuple[Cell, ...]]:
    """Rates, and shares of the limit."""
    rows: list[tuple[Cell, ...]] = []
    for dtype, what in product(DTYPES, (LIMIT, HERE, THERE, PEER)):
        seconds = medians[dtype, what]
        rate = X.size * np.dtype(dtype).itemsize / seconds / 1e9
        rows.append((f"{len(X):,} x {X.shape[1]} {dtype}", what, 1e3 * seconds, rate, medians[dtype, LIMIT] / seconds))
    return rows


def targets(n_columns: int, medians: Medians) -> list[Target]:
    """The targets: the share of the limit, what half the bytes save, and what workers cost."""
    double, single = (medians[dtype, HERE] for dtype in DTYPES)
    found = [
        Target(f"{n_columns} columns in float64: share of the limit", "at least", SHARES[n_columns], medians[DTYPES[0], LIMIT] / double),
        Target(f"{n_columns} columns: time in float32 over float64", "at most", MAX_SINGLE, single / double),
    ]
    for dtype in DTYPES:
        promise = f"{n_columns} columns in {dtype}: time on {N_WORKERS} workers over in process"
        found.append(Target(promise, "at most", MAX_CLUSTER, medians[dtype, THERE] / medians[dtype, HERE]))
    return found
