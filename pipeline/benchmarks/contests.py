"""What the case about who waits trains: a linear model and a network, on rows sorted by label, so that each worker has few labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.benchmarks.data import Problem
from pipeline.data.dataset import Dataset
from pipeline.estimators.step_sizes import stable_share
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from tasks.objectives.base import Objective
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.newton import Newton
from tasks.strategies.optimizers import SGD, Adam, Optimizer
from tasks.strategies.schedules import Constant, InverseScaling, Schedule
from tasks.typing import Array, Float64, Int64

HIDDEN: Final = 32
JUDGED: Final = 8
"""A network is judged by every eighth row: it is looked at often."""
CLASSES: Final = np.arange(2)


@dataclass(frozen=True, eq=False)
class Contest:
    """A model, and how it trains.

    schedule   of the updates missed and the rows of an update
    optimum    the smallest objective; None where nobody knows it
    every      which rows `value` is about: each every-th
    """

    name: str
    X: Float64
    y: Int64
    problem: Problem
    objective: Objective
    penalty: L2
    start: Array
    optimizer: Optimizer
    schedule: Callable[[int, float], Schedule]
    optimum: float | None = None
    every: int = 1

    def value(self, parameters: Array) -> float:
        """The mean log loss of the rows that are judged, plus the penalty."""
        raw = self.objective.predict(parameters, self.X[:: self.every])[:, 0].astype(np.float64)
        loss = float(np.mean(np.logaddexp(0.0, raw) - self.y[:: self.every] * raw))
        layout = self.objective.layout
        return loss + self.penalty.value(parameters[: layout.n_coef])

    def dataset(self) -> Dataset:
        return Dataset.from_arrays(self.X, self.y, n_partitions=self.problem.n_partitions)


def contests(quick: bool) -> tuple[Contest, Contest]:
    """The linear model, whose optimum Newton finds in process, and the network."""
    problem = Problem(n_rows=8_000, n_columns=20, n_partitions=64) if quick else Problem(n_rows=400_000, n_columns=200, n_partitions=256)
    X, y = problem.arrays()
    order = np.argsort(y, kind="stable")
    X, y, penalty = X[order], y[order], L2(1e-4)
    linear = LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=CLASSES)
    network = NetworkObjective(LogisticLoss(), (problem.n_columns, HIDDEN, 1), classes=CLASSES)
    optimum = optimum_of(X, y, problem, linear, penalty)
    start = np.zeros(linear.layout.size)
    return (
        Contest("logistic", X, y, problem, linear, penalty, start, SGD(), falling_steps(X), optimum),
        Contest("network", X, y, problem, network, L2(0.0), network.start(0), Adam(), even_steps, every=JUDGED),
    )


def optimum_of(X: Float64, y: Int64, problem: Problem, objective: LinearObjective, penalty: L2) -> float:
    """The smallest objective."""
    fit = Fit(objective, (penalty,), Newton(tol=1e-10))
    dataset = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    (state,) = train(ThreadExecutor(), dataset, fit, fit.init(np.zeros((1, objective.layout.size)))).states
    return float(state.iterate.value)


def falling_steps(X: Float64) -> Callable[[int, float], Schedule]:
    """Steps that fall with the root of the updates, from what is stable for the updates that may be missed."""
    design = np.column_stack([X, np.ones(len(X))])
    steepest = float(np.linalg.eigvalsh(design.T @ design / len(X))[-1]) / 4
    trace = float(np.mean(np.einsum("ij,ij->i", X, X))) / 4

    def schedule(missed: int, batch_rows: float) -> Schedule:
        return InverseScaling(2.0 / (steepest / stable_share(missed) + trace / batch_rows), 0.5)

    return schedule


def even_steps(missed: int, batch_rows: float) -> Schedule:
    """Adam's usual step size, whatever is missed."""
    return Constant(0.001)
