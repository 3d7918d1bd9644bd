"""The case about threads and workers: whole fits of all estimators on one and on more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import dask
import numpy as np
from distributed import Client
from numba import njit
from sklearn.exceptions import ConvergenceWarning

from pipeline import LinearRegression, LogisticRegression, MLPClassifier, MLPRegressor, Ridge, SGDClassifier, SGDRegressor
from pipeline.benchmarks.cluster import N_WORKERS, persisted, workers
from pipeline.benchmarks.data import Problem, Regression, Sparse
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rounds import Timed, in_turn
from pipeline.benchmarks.settings import Settings
from pipeline.execution.threads import default_threads

SPEEDUP: Final = 1.7
N_CHUNKS: Final = 16
MANY_CLASSES: Final[dict[str, Any]] = {"max_iter": 10}
EPOCHS: Final[dict[str, Any]] = {"max_iter": 3, "tol": None, "random_state": 0}
NETWORK: Final[dict[str, Any]] = {"hidden_layer_sizes": (256,), "batch_size": 1024, "max_iter": 1, "random_state": 0}
NOTES: Final = [
    "A fit is whole: rows are checked in each. In process they are NumPy arrays or CSR, in this process; on workers Dask arrays, "
    + f"persisted in {N_CHUNKS} chunks. Fits of one estimator take turns, after one that is not counted; speed-ups are ratios of medians.",
    f"Linear models have their defaults; of ten classes they make {MANY_CLASSES['max_iter']} iterations at most, and by SGD "
    + f"{EPOCHS['max_iter']} epochs; networks have {NETWORK['hidden_layer_sizes'][0]} hidden units and make one epoch in batches of "
    + f"{NETWORK['batch_size']}.",
    "Arithmetic: a loop that needs no memory and no Python, in turn with the fits: what the cores at hand have to give at that time. "
    + "Two that share a physical core give less than twice as much.",
]
STEPS: Final = 500_000_000
"""Of the loop: about a tenth of a second."""


class Work(NamedTuple):
    """A fit. make: an estimator; problem: its rows, which it gets in this dtype."""

    make: Callable[[], Any]
    problem: Problem
    dtype: type = np.float64

    @property
    def name(self) -> str:
        table = self.problem
        kind = "CSR" if isinstance(table, Sparse) else np.dtype(self.dtype).name
        classes = f", {table.n_classes} classes" if table.n_classes > 2 else ""
        return f"{type(self.make()).__name__}, {table.n_rows:,} x {table.n_columns} {kind}{classes}"


class Scaled(NamedTuple):
    """Median seconds of a fit: in process on one thread and on all, on one worker and on two; of arithmetic on one thread and on all."""

    thread: float
    threads: float
    worker: float
    workers: float
    core: float
    cores: float

    @property
    def by_threads(self) -> float:
        return self.thread / self.threads

    @property
    def by_workers(self) -> float:
        return self.worker / self.workers

    @property
    def by_cores(self) -> float:
        return self.core / self.cores


def works(quick: bool) -> list[Work]:
    """A fit of each estimator; tables have some 200 MB."""
    shapes = ((5_000, 20), (5_000, 100), (3_000, 40)) if quick else ((250_000, 100), (830_000, 2000), (65_000, 784))
    dense, filled, images = ({"n_rows": n, "n_columns": p, "n_partitions": N_CHUNKS} for n, p in shapes)
    numbers, tables = Regression(**dense), [Problem(**dense), Sparse(**filled)]
    classes = [replace(table, n_classes=10) for table in tables]
    return [
        Work(LinearRegression, numbers),
        Work(Ridge, numbers),
        *[Work(LogisticRegression, table) for table in tables],
        *[Work(partial(LogisticRegression, **MANY_CLASSES), table) for table in classes],
        *[Work(partial(SGDClassifier, loss="log_loss", **EPOCHS), table) for table in tables],
        Work(partial(SGDRegressor, **EPOCHS), numbers),
        Work(partial(MLPClassifier, **NETWORK), Problem(**images, n_classes=10), np.float32),
        Work(partial(MLPRegressor, **NETWORK), Regression(**images), np.float32),
    ]


def scaling(report: Report, settings: Settings) -> None:
    """Time each fit on one thread and on all, on one worker and on two, in turn."""
    found: dict[str, Scaled] = {}
    n_threads = default_threads()
    with workers(1) as (one, _), workers() as (more, _), ThreadPoolExecutor(n_threads) as pool:
        for work in works(settings.quick):
            found[work.name] = scaled(work, one, more, pool, settings.repeats)
    columns = (
        "fit", "1 thread, s", f"{n_threads} threads, s", "by threads", "1 worker, s", f"{N_WORKERS} workers, s", "by workers",
        "arithmetic by threads",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (name, each.thread, each.threads, each.by_threads, each.worker, each.workers, each.by_workers, each.by_cores)
        for name, each in found.items()
    ]
    report.tables.append(Table("Whole fits, and how many times as fast more are", columns, rows))
    for name, each in found.items():
        report.targets += [
            Target(f"{name}: speed-up by {n_threads} threads", "at least", SPEEDUP, each.by_threads),
            Target(f"{name}: speed-up by {N_WORKERS} workers", "at least", SPEEDUP, each.by_workers),
        ]
    report.notes += NOTES


def scaled(work: Work, one: Client, more: Client, pool: ThreadPoolExecutor, repeats: int) -> Scaled:
    """A fit everywhere."""
    X, y = work.problem.arrays()
    here = (X.astype(work.dtype, copy=False), y)
    timed = [
        Timed(("1 thread",), partial(fit, work, *here, scheduler="threads", num_workers=1)),
        Timed(("threads",), partial(fit, work, *here, scheduler="threads")),
        *[Timed((f"{client}",), partial(fit, work, *held(client, work), scheduler=client)) for client in (one, more)],
        *[Timed((f"arithmetic {n}",), partial(compute, pool, n)) for n in (1, default_threads())],
    ]
    return Scaled(*map(median, in_turn(timed, repeats, warm_up=1)))


@njit(nogil=True)
def arithmetic(n: int) -> float:
    """n additions and multiplications, in eight chains."""
    a, b, c, d, e, f, g, h = 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8
    for _ in range(n // 8):
        a, b, c, d = a * 0.999 + 0.1, b * 0.999 + 0.1, c * 0.999 + 0.1, d * 0.999 + 0.1
        e, f, g, h = e * 0.999 + 0.1, f * 0.999 + 0.1, g * 0.999 + 0.1, h * 0.999 + 0.1
    return a + b + c + d + e + f + g + h


def compute(pool: ThreadPoolExecutor, n_threads: int) -> None:
    """STEPS of arithmetic, shared by so many threads."""
    sum(pool.map(arithmetic, [STEPS // n_threads] * n_threads))


def held(client: Client, work: Work) -> Sequence[Any]:
    """The rows as Dask arrays in the workers' memory."""
    X, y = work.problem.dask_arrays()
    return persisted(client, X.astype(work.dtype), y)


def fit(work: Work, X: Any, y: Any, **where: Any) -> None:
    """A fit there, as Dask's configuration says it."""
    with dask.config.set(**where), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # most end early
        work.make().fit(X, y)
