"""Cases about one round: what it costs beside the arithmetic, and how near the arithmetic comes to the memory's speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final, NamedTuple

import dask
import numpy as np
from numba import njit
from sklearn._loss import HalfBinomialLoss
from sklearn.linear_model._linear_loss import LinearModelLoss

from pipeline.benchmarks.cluster import DASK_ML, persisted, workers
from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.base import Executor
from pipeline.execution.threads import ThreadExecutor, default_threads
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.typing import Array, Float64

MAX_GROWTH: Final = 1.3


class Timed(NamedTuple):
    """A thing that is timed, by name; `run` once is one measurement."""

    name: tuple[Cell, ...]
    run: Callable[[], Any]


def in_turn(timed: Sequence[Timed], repeats: int, warm_up: int = 2) -> list[list[float]]:
    """Seconds of each, `repeats` times, taking turns; warm-up runs are not counted."""
    seconds: list[list[float]] = [[] for _ in timed]
    for turn in range(warm_up + repeats):
        for one, found in zip(timed, seconds, strict=True):
            start = time.perf_counter()
            one.run()
            if turn >= warm_up:
                found.append(time.perf_counter() - start)
    return seconds


def gradient_round(executor: Executor, dataset: Dataset) -> Callable[[], Any]:
    """One loss and gradient of the logistic loss over the dataset, which is made resident and checked here."""
    objective = LinearObjective(LogisticLoss(), dataset.n_columns, 1, fit_intercept=True, classes=dataset.schema.classes)
    parameters = np.full((1, objective.layout.size), 0.01)
    broadcast = Broadcast(objective, "loss_and_gradient", parameters, None, 1)
    return lambda: executor.map_reduce(dataset.rows, reduction_of(broadcast), broadcast)


def overhead(report: Report, settings: Settings) -> None:
    """Time a round over the same small rows in more and more partitions."""
    counts = (4, 32, 128) if settings.quick else (16, 128, 1024)
    problem = Problem(n_rows=2_048 if settings.quick else 65_536, n_columns=28)
    rounds = 10 * settings.repeats
    X, y = problem.arrays()
    local = ThreadExecutor()
    here = [Timed((OURS, "one process", n), gradient_round(local, Dataset.from_arrays(X, y, n_partitions=n))) for n in counts]
    rows = overhead_rows(here, in_turn(here, rounds), {})
    report.targets.append(growth_target("in one process", here, rows))
    with workers() as (client, _):
        there, tasks = [], {}
        for n in counts:
            dataset = Dataset.from_arrays(X, y, n_partitions=n)
            executor = dataset.executor()
            there.append(Timed((OURS, "2 workers", n), gradient_round(executor, dataset)))
            there[-1].run()
            tasks[there[-1].name] = executor.tasks_per_round
        found = overhead_rows(there, in_turn(there, rounds), tasks)
        report.targets.append(growth_target("on two workers", there, found))
        rows += found
        if not settings.quick:
            arrays = [persisted(client, *Problem(n_rows=problem.n_rows, n_columns=28, n_partitions=n).dask_arrays()) for n in counts]
            peers = [Timed((DASK_ML, "2 workers", n), dask_glm_round(*pair)) for n, pair in zip(counts, arrays, strict=True)]
            rows += overhead_rows(peers, in_turn(peers, 3, warm_up=1), {})
    columns = ("library", "where", "partitions", "median ms a round", "fastest ms", "times the first", "tasks a round")
    report.tables.append(Table(f"One gradient round, {problem.name}", columns, rows))
    report.notes += [
        f"Ours: {rounds} rounds each, taking turns, on data that is resident and checked. The number of partitions decides the order of "
        + "the sums, not the number of tasks.",
        "dask-ml: the loss and the gradient that its lbfgs computes for each point it tries, on persisted arrays, 3 rounds each.",
    ]


def overhead_rows(timed: Sequence[Timed], seconds: Sequence[Sequence[float]], tasks: dict[tuple[Cell, ...], int]) -> list[tuple[Cell, ...]]:
    """The table's rows, one for each partition count; the ratio is to the first."""
    first = median(seconds[0])
    return [
        (*one.name, 1e3 * median(found), 1e3 * min(found), median(found) / first, tasks.get(one.name))
        for one, found in zip(timed, seconds, strict=True)
    ]


def growth_target(where: str, timed: Sequence[Timed], rows: Sequence[tuple[Cell, ...]]) -> Target:
    """The target for the time at the most partitions over that at the fewest."""
    ratio = rows[-1][5]
    assert isinstance(ratio, float)
    return Target(f"time of a round {where} at {timed[-1].name[2]} partitions over {timed[0].name[2]}", "at most", MAX_GROWTH, ratio)


def dask_glm_round(X: Any, y: Any) -> Callable[[], Any]:
    """The sums that dask_glm's lbfgs computes for each point that it tries."""
    from dask_glm.families import Logistic  # the bench extra

    beta = np.full(X.shape[1], 0.01)

    def run() -> Any:
        with dask.config.set(fuse_ave_width=0):
            return dask.compute(Logistic.pointwise_loss(beta, X, y), Logistic.pointwise_gradient(beta, X, y))

    return run


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


def scikit_learn_pass(X: Array, y: Float64, n_threads: int) -> Callable[[], Any]:
    """One loss and gradient of scikit-learn's own."""
    loss = LinearModelLoss(base_loss=HalfBinomialLoss(), fit_intercept=True)
    coef = np.full(X.shape[1] + 1, 0.01)
    return lambda: loss.loss_gradient(coef, X, y, l2_reg_strength=1e-6, n_threads=n_threads)


def bandwidth(report: Report, settings: Settings) -> None:
    """One gradient pass beside the fastest read of the same bytes."""
    shapes = ((20_000, 28), (5_000, 200)) if settings.quick else ((2_000_000, 28), (300_000, 200))
    n_threads = default_threads()
    rows: list[tuple[Cell, ...]] = []
    with ThreadPoolExecutor(n_threads) as pool:
        for n_rows, n_columns in shapes:
            problem = Problem(n_rows=n_rows, n_columns=n_columns)
            X, y = problem.arrays()
            timed = [
                Timed(("numba sum: the limit",), read_all(X, pool, n_threads)),
                Timed((f"{OURS} gradient",), gradient_round(ThreadExecutor(), Dataset.from_arrays(X, y))),
                Timed((f"{SCIKIT_LEARN} gradient",), scikit_learn_pass(X, y.astype(np.float64), n_threads)),
            ]
            rows += bandwidth_rows(problem, timed, in_turn(timed, 3 * settings.repeats), X.nbytes)
    columns = ("rows", "what", "median ms", "GB/s", "share of the limit")
    report.tables.append(Table(f"One pass over the rows, {n_threads} threads", columns, rows))
    report.notes.append("The limit is the same memory read by a sum on all threads, in the same run; shares are ratios of medians.")


def bandwidth_rows(problem: Problem, timed: Sequence[Timed], seconds: Sequence[Sequence[float]], nbytes: int) -> list[tuple[Cell, ...]]:
    """Rates, and shares of the first, which is the limit."""
    limit = median(seconds[0])
    return [
        (problem.name, *one.name, 1e3 * median(found), nbytes / median(found) / 1e9, limit / median(found))
        for one, found in zip(timed, seconds, strict=True)
    ]
