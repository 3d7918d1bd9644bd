"""The case about a fit's passes over the rows: how near they come to the memory's speed, and to themselves on two workers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from pipeline.benchmarks.rounds import Timed, in_turn
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import default_threads
from pipeline.training.minimise import minimise
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.strategies.gradient_descent import GradientDescent
from tasks.typing import Array

SHARES: Final = {28: 0.60, 100: 0.75, 1000: 0.85}
"""Of the limit, at least, by the number of columns, in float64."""
MAX_SINGLE: Final = 0.65
MAX_CLUSTER: Final = 1.1
FEW, MANY = 2, 22
"""Passes of a measurement: the difference of both is the time of MANY - FEW of them, without what a fit does once."""
DTYPES: Final = ("float64", "float32")
LIMIT, HERE, THERE, PEER = "numba sum: the limit", f"{OURS} gradient", f"{OURS} gradient, {N_WORKERS} workers", f"{SCIKIT_LEARN} gradient"


@njit(nogil=True, fastmath=True)
def add_up(values: Any) -> float:
    """The sum of a flat array: about the least work that reads all of it."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


Passes = Callable[[int], None]
"""Goes through the rows so many times."""


def read_all(X: Array, pool: ThreadPoolExecutor, n_threads: int) -> Passes:
    """Read X, a part for each thread."""
    parts = np.array_split(X.reshape(-1), n_threads)

    def run(n_passes: int) -> None:
        for _ in range(n_passes):
            sum(pool.map(add_up, parts))

    return run


def scikit_learn_passes(X: Array, y: Array, n_threads: int) -> Passes:
    """Losses and gradients of scikit-learn's own."""
    loss = LinearModelLoss(base_loss=HalfBinomialLoss(), fit_intercept=True)
    coef = np.full(X.shape[1] + 1, 0.01, dtype=X.dtype)

    def run(n_passes: int) -> None:
        for _ in range(n_passes):
            loss.loss_gradient(coef, X, y, l2_reg_strength=1e-6, n_threads=n_threads)

    return run


def fits(dataset: Dataset, scheduler: str | None) -> Passes:
    """Fits by gradient descent, with steps too short to end early: a round is a pass."""
    objective = LinearObjective(LogisticLoss(), dataset.n_columns, 1, fit_intercept=True, classes=dataset.schema.classes)

    def run(n_passes: int) -> None:
        with dask.config.set(scheduler=scheduler):
            minimise(objective, dataset, GradientDescent(step_size=1e-3, tol=0.0, max_iter=n_passes), np.zeros(objective.layout.size))

    return run


Medians = dict[tuple[Cell, ...], float]
"""Median seconds, by dtype and by the way to go through the rows."""


def bandwidth(report: Report, settings: Settings) -> None:
    """Time gradient passes beside the fastest read of the same bytes."""
    n_numbers = 500_000 if settings.quick else 56_000_000
    found: dict[int, Medians] = {}
    rows: list[tuple[Cell, ...]] = []
    with workers(), ThreadPoolExecutor(default_threads()) as pool:
        for n_columns in SHARES:
            X, y = Problem(n_rows=n_numbers // n_columns, n_columns=n_columns).arrays()
            passes = {(dtype, what): way for dtype in DTYPES for what, way in ways(X.astype(dtype, copy=False), y, pool).items()}
            timed = [Timed((*name, n), partial(way, n)) for name, way in passes.items() for n in (FEW, MANY)]
            seconds = {one.name: median(each) for one, each in zip(timed, in_turn(timed, settings.repeats, warm_up=1), strict=True)}
            medians = found[n_columns] = {name: (seconds[*name, MANY] - seconds[*name, FEW]) / (MANY - FEW) for name in passes}
            rows += pass_rows(X, medians)
    columns = ("rows", "what", "median ms", "GB/s", "share of the limit")
    report.tables.append(Table(f"One pass over the rows, {default_threads()} threads", columns, rows))
    report.targets += [target for n_columns, medians in found.items() for target in targets(n_columns, medians)]
    report.notes.append(
        f"A pass: a {MANY - FEW}th of what {MANY} passes take longer than {FEW}, ours those of fits by gradient descent. The limit is the "
        "same memory read by a sum on all threads, in the same run; all with as many columns take turns, and times are of medians. "
        f"{N_WORKERS} workers: one thread each, the rows resident."
    )


def ways(X: Array, y: Array, pool: ThreadPoolExecutor) -> dict[str, Passes]:
    """The ways to go through these rows."""
    n_threads = default_threads()
    with dask.config.set(scheduler="threads"):
        here = Dataset.from_arrays(X, y)
    return {
        LIMIT: read_all(X, pool, n_threads),
        HERE: fits(here, "threads"),
        THERE: fits(Dataset.from_arrays(X, y), None),
        PEER: scikit_learn_passes(X, y.astype(X.dtype), n_threads),
    }


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
