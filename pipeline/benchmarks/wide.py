"""The case about sparse rows of very many columns: rounds in few and in many partitions, and whole fits."""

from __future__ import annotations

import os
import warnings
from functools import partial
from statistics import median
from typing import Any, Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as PeerLogisticRegression

from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN
from pipeline.benchmarks.data import Sparse
from pipeline.benchmarks.objective import objective
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rounds import Timed, gradient_round, in_turn
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.sparse import products
from pipeline.data.dataset import Dataset
from pipeline.estimators.logistic import LogisticRegression
from pipeline.execution.threads import ThreadExecutor
from tasks.typing import Array

TOL: Final = 1e-4
CUTS: Final = (64, 1024)
MOST: Final = 100
"""Gradients: two threads have some twenty open along the tree, the check three times as much."""


def wide(report: Report, settings: Settings) -> None:
    """Time rounds beside SciPy's products, then fits beside scikit-learn's."""
    problem = Sparse(n_rows=100_000, n_columns=1_000_000, n_filled=100)
    if settings.quick:
        problem = Sparse(n_rows=2_000, n_columns=50_000, n_filled=10)
    X, y = problem.arrays()
    report.tables += [rounds(report, problem, X, y, settings), fits(problem, X, y, settings)]
    report.notes.append(
        "A round is one loss and gradient, on all threads, in partitions of the size that we choose and in more; SciPy's products"
        " take one thread. Peak MiB is what resident memory grows while rows are checked and a first round is made. Fits have C=1 and"
        f" tol={TOL:g}; the objective is evaluated by one NumPy function."
    )


def rounds(report: Report, problem: Sparse, X: Any, y: Array, settings: Settings) -> Table:
    """Rounds over the same rows in more and more partitions, in turn."""
    timed, grown = [Timed(("SciPy: X @ w and X.T @ r", None), products(X))], [0.0]
    for n in (None, *CUTS):
        with PeakMemory([os.getpid()]) as memory:
            dataset = Dataset.from_arrays(X, y, n_partitions=n)
            one = Timed((f"{OURS} round", dataset.n_partitions), gradient_round(ThreadExecutor(), dataset))
            one.run()
        timed.append(one)
        grown.append(memory.growth / 2**20)
    seconds = in_turn(timed, settings.repeats)
    gradients = grown[-1] * 2**20 / (8 * problem.n_columns)
    report.targets.append(Target(f"memory of the check and of a round in {CUTS[-1]} partitions, in gradients", "at most", MOST, gradients))
    rows = [(*one.name, 1e3 * median(each), 1e3 * min(each), mib) for one, each, mib in zip(timed, seconds, grown, strict=True)]
    return Table(f"{problem.name}: one round", ("what", "partitions", "median ms", "fastest ms", "peak MiB"), rows)


def fits(problem: Sparse, X: Any, y: Array, settings: Settings) -> Table:
    """Fits of this library and of scikit-learn, in turn."""
    models: dict[str, Any] = {OURS: LogisticRegression(tol=TOL), SCIKIT_LEARN: PeerLogisticRegression(tol=TOL, max_iter=1000)}
    timed = [Timed((name,), partial(model.fit, X, y)) for name, model in models.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        seconds = dict(zip(models, in_turn(timed, min(3, settings.repeats), warm_up=1), strict=True))
    ours = median(seconds[OURS])
    rows: list[tuple[Cell, ...]] = [
        (name, median(seconds[name]), min(seconds[name]), median(seconds[name]) / ours, int(np.max(model.n_iter_)), value(X, y, model))
        for name, model in models.items()
    ]
    return Table(f"{problem.name}: fits", ("library", "median s", "fastest s", "times ours", "iterations", "objective"), rows)


def value(X: Any, y: Array, model: Any) -> float:
    """The objective at a fitted model."""
    return objective(X, y, np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), 1.0)
