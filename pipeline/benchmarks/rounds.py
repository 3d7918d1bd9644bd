"""The case about one round: what it costs beside the arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

import dask
import numpy as np

from pipeline.benchmarks.cluster import DASK_ML, persisted, workers
from pipeline.benchmarks.contenders import OURS
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.base import Executor
from pipeline.execution.threads import ThreadExecutor
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.rounds.oracles import Broadcast, reduction_of

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
