"""The case about rows in CSR: whole fits, and one gradient pass beside SciPy's two products."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, Final

import numpy as np

from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN
from pipeline.benchmarks.data import Sparse
from pipeline.benchmarks.fits import FAIRNESS, PROCESS_NOTES, compare_here
from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.rounds import Timed, gradient_round, in_turn
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor, default_threads
from tasks.typing import Array

MIN_FIT: Final = 3.0
MIN_PASS: Final = 2.0


def sparse_logistic(report: Report, settings: Settings) -> None:
    """Compare fits, then the pass that they are made of."""
    problem = Sparse(n_rows=400_000, n_columns=2000)
    if settings.quick:
        problem = Sparse(n_rows=10_000, n_columns=200, n_filled=5)
    compare_passes(report, settings, problem)
    compare_here(report, settings, problem, Judge.of(problem), {SCIKIT_LEARN: MIN_FIT}, few=True)
    report.notes += [*FAIRNESS, *PROCESS_NOTES, "The slowest solvers are left out: sag, saga, liblinear and skglm's."]


def compare_passes(report: Report, settings: Settings, problem: Sparse) -> None:
    """Our loss and gradient on one thread and on all, and SciPy's products, which take one thread."""
    X, y = problem.arrays()
    dataset = Dataset.from_arrays(X, y)
    counts = (1, default_threads())
    timed = [Timed(("SciPy: X @ w and X.T @ r", 1), products(X))]
    timed += [Timed((f"{OURS} gradient", n), gradient_round(ThreadExecutor(n), dataset)) for n in counts]
    seconds = in_turn(timed, 3 * settings.repeats)
    scipys = median(seconds[0])
    rows = [(*one.name, 1e3 * median(each), 1e3 * min(each), scipys / median(each)) for one, each in zip(timed, seconds, strict=True)]
    columns = ("what", "threads", "median ms", "fastest ms", "SciPy's time over it")
    report.tables.append(Table(f"{problem.name}: one pass", columns, rows))
    report.targets += [
        Target(f"time of SciPy's two products over a gradient on {n} of our threads", "at least", MIN_PASS, scipys / median(each))
        for n, each in zip(counts, seconds[1:], strict=True)
    ]
    report.notes.append("One pass: ours is the loss and the gradient, and compares digests of the rows; SciPy's products have no loss.")


def products(X: Any) -> Callable[[], Array]:
    """The raw predictions, and what a gradient makes of residuals: the least that SciPy can do for one."""
    coef, residuals, transposed = np.full(X.shape[1], 0.01), np.full(X.shape[0], 0.01), X.T

    def run() -> Array:
        raw = X @ coef
        return transposed @ (raw - residuals)

    return run
