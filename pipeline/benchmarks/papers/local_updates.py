"""S. Stich, *Local SGD converges fast and communicates little*, ICLR 2019: few local updates save rounds almost as many times over."""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.papers.watched import rounds_to, values_by_round
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

PAPER: Final = "Stich 2019, section 4"
WORKERS: Final = 8
BATCH: Final = 40
GAP: Final = 0.005
"""Of the smallest objective, relative."""
STEPS: Final = (1.4, 1.0, 0.7, 0.5, 0.35)
"""Step sizes that are tried, times 1 / L; of each H the best one counts."""
MOST_UPDATES: Final = 256


def local_updates(report: Report, settings: Settings) -> None:
    """Count the rounds to the gap for H = 1, 2, 4, ... updates in each."""
    problem = Problem(n_rows=8_000, n_columns=20, n_partitions=WORKERS)
    counts = (1, 4, 32) if settings.quick else (1, 2, 4, 8, 16, 32)
    found = {n_steps: fewest_rounds(problem, n_steps) for n_steps in counts}
    saved = {n_steps: found[1][0] / n_rounds for n_steps, (n_rounds, _) in found.items()}
    rows = [(n_steps, step, n_rounds, n_rounds * n_steps, saved[n_steps]) for n_steps, (n_rounds, step) in found.items()]
    columns = ("updates a round (H)", "step size, times 1 / L", "rounds to the gap", "updates to the gap", "rounds saved, times")
    title = f"{PAPER}: logistic regression, {problem.n_rows:,} x {problem.n_columns}, lambda = 1/n, {WORKERS} workers, to a gap of {GAP:g}"
    report.tables.append(Table(title, columns, rows))
    report.targets += [
        Target(f"{PAPER}: rounds saved by H = 4, over 4: near-linear", "at least", 0.6, saved[4] / 4),
        Target(f"{PAPER}: rounds saved by H = 32, over 32: a large H saves less", "at most", 0.5, saved[32] / 32),
    ]


def fewest_rounds(problem: Problem, n_steps: int) -> tuple[int, float]:
    """The fewest rounds to the gap with so many updates in each, and the step size that takes them."""
    judge = Judge.of(problem)
    X, y = judge.X, judge.y
    data = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    objective = LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=np.arange(2))
    batches = batches_of(data.schema, data.source.n_groups, BATCH, take_turns=True).apart
    assert batches.n_apart == WORKERS, "each partition updates by itself"
    steepest = curvature(X)
    found = []
    for step in STEPS:
        plain = StochasticGradient(
            batches.sampling, schedule=Constant(step / steepest), max_epochs=-(-MOST_UPDATES // batches.sampling.n_rounds), tol=-np.inf
        )
        strategy = LocalSGD.of(plain, LocalUpdates(n_steps))
        start = np.zeros(objective.layout.size)
        values = values_by_round(data, objective, L2(1 / len(y)), strategy, start, lambda x: judge.gap(x[None, :-1], x[-1:]), GAP)
        n_rounds = rounds_to(values, GAP)
        if n_rounds is not None:
            found.append((n_rounds, step))
    return min(found)


def curvature(X: Array) -> float:
    """The largest curvature of the mean logistic loss, of X (n, p) and a column of ones."""
    design = np.column_stack([X, np.ones(len(X))])
    return float(np.linalg.eigvalsh(design.T @ design / len(X))[-1]) / 4
