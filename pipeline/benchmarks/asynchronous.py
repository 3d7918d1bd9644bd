"""The case about who waits: synchronous, asynchronous and local updates, on four workers of which one may be slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from distributed import Client, LocalCluster

from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.slow_worker import SHARES, held_back
from pipeline.data.dataset import Dataset
from pipeline.estimators.step_sizes import stable_share
from pipeline.execution.residency import following
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import Row
from pipeline.training.loop import train
from pipeline.training.observers import Observer
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rounds.fitting import Report as RoundReport
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.newton import Newton
from tasks.strategies.schedules import InverseScaling
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Float64

GAP: Final = 0.01
"""Of the smallest objective, relative: who is that near has arrived."""
UPDATES: Final = 64
"""Of an epoch, synchronous or asynchronous: an update is of as many rows in both."""
APART: Final = 16
EPOCHS: Final = 10
SOONER: Final = 2.0
BIASED: Final = 0.05
EVEN: Final = (0.4,) * len(SHARES)


class Contest(NamedTuple):
    """What all train on: rows sorted by label, so that each worker has few labels; `optimum`: the smallest objective."""

    X: Float64
    y: Any
    penalty: L2
    optimum: float
    steepest: float
    problem: Problem

    def objective(self, parameters: Float64) -> float:
        raw = self.X @ parameters[:-1] + parameters[-1]
        loss = float(np.mean(np.logaddexp(0.0, raw) - self.y * raw))
        return loss + self.penalty.value(parameters[:-1])

    def dataset(self) -> Dataset:
        return Dataset.from_arrays(self.X, self.y, n_partitions=self.problem.n_partitions)


class Way(NamedTuple):
    """One way to train. rows_move: whether rows may move from the slow worker to the others."""

    name: str
    overlap: Overlap | None = None
    local: LocalUpdates | None = None
    rows_move: bool = False

    @property
    def turns(self) -> bool:
        return self.overlap is not None or self.local is not None


WAYS: Final = (
    Way("synchronous"),
    Way("synchronous, rows move", rows_move=True),
    Way("asynchronous, staleness 2", Overlap(2, "as-they-come")),
    Way("asynchronous, staleness 8", Overlap(8, "as-they-come")),
    Way("asynchronous, no bound", Overlap(None, "as-they-come")),
    Way("asynchronous, in order, staleness 8", Overlap(8)),
    Way("local, 1 update a round", local=LocalUpdates(1)),
    Way("local, 8 updates a round", local=LocalUpdates(8)),
    Way("local, 64 updates a round", local=LocalUpdates(64)),
)


@dataclass(eq=False)
class Watch(Observer):
    """Remembers where a fit stood, at most every `every` seconds of it, and the bytes of numbers that went to and from workers."""

    n_workers: int
    every: float
    began: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, float, Float64]] = field(default_factory=list)
    n_bytes: float = 0.0
    staleness: int = 0
    _spent: float = 0.0

    def hear(self, row: Row, report: RoundReport) -> None:
        self.n_bytes += report.n_bytes * (self.n_workers if report.subtree is None else 1)
        self.staleness = max(self.staleness, report.staleness)

    def rest(self, saved: Saved) -> None:
        now = time.perf_counter() - self.began
        if not self.seen or now - self.seen[-1][0] >= self.every:
            self.seen.append((now, self.n_bytes, saved.states[0].iterate.parameters))


def asynchronous(report: Report, settings: Settings) -> None:
    """Train in all ways, with four equal workers and with a slow one among them."""
    contest = prepared(settings)
    columns = ("way", "workers", "s to the gap", "MB to the gap", "gap at the end", "s in all", "rounds", "largest staleness")
    rows: list[tuple[Cell, ...]] = []
    ends: dict[tuple[str, str], tuple[float | None, float]] = {}
    for shares, workers in ((EVEN, "equal"), (SHARES, "one slow")):
        with four_workers() as client:
            for way in WAYS:
                watch, n_rounds, seconds = run(client, contest, way, shares, settings)
                gaps = [(at, sent, contest.objective(where) / contest.optimum - 1.0) for at, sent, where in watch.seen]
                arrived = next(((at, sent) for at, sent, gap in gaps if gap <= GAP), None)
                ends[way.name, workers] = (None if arrived is None else arrived[0], gaps[-1][2])
                at, sent = (None, None) if arrived is None else (arrived[0], arrived[1] / 1e6)
                rows.append((way.name, workers, at, sent, gaps[-1][2], seconds, n_rounds, watch.staleness))
    report.tables.append(Table(f"log loss, {contest.problem.name}, rows sorted by label, four workers", columns, rows))
    report.targets += targets(ends)
    report.notes += [
        f"Gap: of the objective of all rows over the smallest, which Newton finds in process, relative; arrived: at most {GAP:g}.",
        "Each worker has 0.4 of a core; the slow one 0.1. Bytes are of the numbers that rounds send and receive, not of their messages.",
        f"An update is of a {UPDATES}th of the rows, a local one of a {UPDATES * APART}th, in each of {APART} subtrees.",
        "Step sizes fall with the root of the updates, from what is stable for the staleness that may come.",
    ]


@contextmanager
def four_workers() -> Iterator[Client]:
    """A cluster of its own."""
    with LocalCluster(n_workers=len(SHARES), threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        yield client


def prepared(settings: Settings) -> Contest:
    """The rows, and their optimum."""
    problem = (
        Problem(n_rows=8_000, n_columns=20, n_partitions=64) if settings.quick else Problem(n_rows=400_000, n_columns=200, n_partitions=256)
    )
    X, y = problem.arrays()
    order = np.argsort(y, kind="stable")
    X, y, penalty = X[order], y[order], L2(1e-4)
    fit = Fit(objective_of(problem), (penalty,), Newton(tol=1e-10))
    dataset = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    (state,) = train(ThreadExecutor(), dataset, fit, fit.init(np.zeros((1, problem.n_columns + 1)))).states
    design = np.column_stack([X, np.ones(len(X))])
    return Contest(X, y, penalty, state.iterate.value, float(np.linalg.eigvalsh(design.T @ design / len(X))[-1]) / 4, problem)


def objective_of(problem: Problem) -> LinearObjective:
    """The logistic loss."""
    return LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=np.arange(2))


def run(client: Client, contest: Contest, way: Way, shares: Sequence[float], settings: Settings) -> tuple[Watch, int, float]:
    """One fit on rows that begin in equal shares: what was seen of it, its rounds, and its seconds."""
    dataset = contest.dataset()
    n_rows = dataset.schema.n_rows  # they are resident now
    batch = n_rows // UPDATES // (1 if way.local is None else APART)
    batches = batches_of(dataset.schema, dataset.source.n_groups, batch, take_turns=way.turns)
    missed = 0
    if way.local is not None:
        batches = batches.apart
    elif way.overlap is not None:
        others = batches.sampling.n_turns - 1
        missed = others if way.overlap.staleness is None else min(others, way.overlap.staleness)
    trace = float(np.mean(np.einsum("ij,ij->i", contest.X, contest.X))) / 4
    first = 1.0 / (contest.steepest / stable_share(missed) + trace / batches.batch_rows)
    epochs = 1 if settings.quick else EPOCHS
    plain = StochasticGradient(batches.sampling, schedule=InverseScaling(2 * first, 0.5), max_epochs=epochs, tol=-np.inf)
    strategy = plain if way.overlap is None else Asynchronous(plain, way.overlap)
    if way.local is not None:
        strategy = LocalSGD.of(plain, way.local)
    fit = Fit(objective_of(contest.problem), (contest.penalty,), strategy)
    executor = dataset.executor()
    pids = client.run(os.getpid)
    with nullcontext() if way.rows_move else rows_stay(), executor.span("bench-asynchronous"):
        with held_back([pids[worker] for worker in sorted(pids)], shares):
            watch = Watch(len(shares), 0.02)
            result = train(executor, dataset, fit, fit.init(np.zeros((1, fit.objective.layout.size))), [watch])
            seconds = time.perf_counter() - watch.began
        watch.seen.append((seconds, watch.n_bytes, result.parameters[0]))
        executor.release(dataset.rows)
    return watch, len(result.history), seconds


@contextmanager
def rows_stay() -> Iterator[None]:
    """A block in which rows do not move to faster workers."""
    before = following.LOST
    following.LOST = np.inf  # type: ignore[misc]
    try:
        yield
    finally:
        following.LOST = before  # type: ignore[misc]


def targets(ends: dict[tuple[str, str], tuple[float | None, float]]) -> list[Target]:
    """What is promised of those who do not wait."""
    plain, free = ends["synchronous", "one slow"][0], ends["asynchronous, no bound", "one slow"][0]
    worst = max(gap for _, gap in ends.values())
    return [
        Target(
            "time to the gap with a slow worker: synchronous, rows not moving, over asynchronous without a bound",
            "at least",
            SOONER,
            None if plain is None or free is None else plain / free,
        ),
        Target("largest gap at the end, of all ways", "at most", BIASED, worst),
    ]
