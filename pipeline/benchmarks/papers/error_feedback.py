"""S. Stich, J.-B. Cordonnier and M. Jaggi, *Sparsified SGD with memory*, NeurIPS 2018: what top-k leaves out must be remembered.

Not as there, batches have more than one row, several subtrees compress their own gradients, and parameters are not averaged.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.papers.watched import values_by_round
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.reductions.stages.codecs import Codec, RandomK, TopK
from tasks.strategies.compressed import Compressed, Compression
from tasks.strategies.schedules import InverseScaling
from tasks.strategies.stochastic_gradient import StochasticGradient

PAPER: Final = "Stich et al. 2018, section 4"
WORKERS: Final = 4
COLUMNS: Final = 100
BATCH: Final = 40
SHARE: Final = 0.01
"""The share of a gradient's numbers that are sent: k = 2 of 101, rounded up."""
STEPS: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""First step sizes that are tried; of each way the best one counts."""


def error_feedback(report: Report, settings: Settings) -> None:
    """Train with plain gradients, and with the largest or random numbers of each, with and without memory."""
    n_epochs = 5 if settings.quick else 20
    steps = STEPS[2:] if settings.quick else STEPS
    problem = Problem(n_rows=8_000, n_columns=COLUMNS, n_partitions=WORKERS)
    judge = Judge.of(problem)
    ways: dict[tuple[str, bool], Compression | None] = {("all of the gradient", False): None}
    codecs: dict[str, Codec] = {"top-k": TopK(SHARE), "random-k": RandomK(SHARE)}
    ways |= {(name, kept): Compression(codec, feedback=kept) for name, codec in codecs.items() for kept in (True, False)}
    found = {way: min((gap(judge, problem, how, step, n_epochs), step) for step in steps) for way, how in ways.items()}
    plain = found["all of the gradient", False][0]
    rows = [(name, "yes" if kept else "no", step, value, value / plain) for (name, kept), (value, step) in found.items()]
    title = f"{PAPER}: logistic regression, {problem.n_rows:,} x {COLUMNS}, lambda = 1/n, {WORKERS} workers, {n_epochs} epochs"
    report.tables.append(Table(title, ("sent", "memory", "first step size", "gap", "gap over that of all"), rows))
    report.targets += [
        Target(
            f"{PAPER}, figure 2: top-k with memory: its gap over that of full gradients", "at most", 2.0, found["top-k", True][0] / plain
        ),
        Target(f"{PAPER}: without memory", "at least", 5.0, found["top-k", False][0] / plain),
    ]


def gap(judge: Judge, problem: Problem, how: Compression | None, step: float, n_epochs: int) -> float:
    """The gap of the objective over the smallest, relative, after the last epoch."""
    X, y = judge.X, judge.y
    data = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    objective = LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=np.arange(2))
    sampling = batches_of(data.schema, data.source.n_groups, BATCH, rows_a_subtree=1).sampling
    assert not sampling.level, "each partition compresses by itself"
    plain = StochasticGradient(sampling, schedule=InverseScaling(step, 0.5), max_epochs=n_epochs, tol=-np.inf)
    strategy = plain if how is None else Compressed(plain, how, objective.layout)
    start = np.zeros(objective.layout.size)
    return values_by_round(data, objective, L2(1 / len(y)), strategy, start, lambda x: judge.gap(x[None, :-1], x[-1:]))[-1]
