"""What the case about who waits trains: a linear model and a network, on rows sorted by label, so that each worker has few labels, and by
objectives that take a given time for each row."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pipeline.benchmarks.data import Problem
from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.step_sizes import stable_share
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from pipeline.training.sampling import Batches, batches_of
from tasks.objectives.base import Objective, Sums
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rows.partition import Group
from tasks.strategies.base import Strategy
from tasks.strategies.newton import Newton
from tasks.strategies.schedules import Constant, Schedule
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array, Float64, Int64

HIDDEN: Final = 32
N_PARTITIONS: Final = 16
UPDATES: Final = 64
"""Of an epoch, synchronous or asynchronous: an update is of as many rows in both."""
GAP: Final = 0.01
"""Of the linear model's smallest objective, relative: who is that near has arrived."""
EPOCHS: Final = 6
"""After which a synchronous network has arrived."""
NETWORK_STEP: Final = 0.05
PACE: Final = "DASK_DESCENT_BENCH_SECONDS_A_ROW"
"""The environment variable with the seconds that a worker takes for each row."""
CLASSES: Final = np.arange(2)


def pace(seconds: float) -> None:
    """Have objectives of this process take so long for each row, from now on."""
    os.environ[PACE] = str(seconds)


def take_time(group: Group) -> None:
    """Wait as long as the rows take."""
    time.sleep(float(os.environ.get(PACE, "0")) * group.n_rows)


class PacedLinear(LinearObjective):
    """Takes its time for each row, besides what it computes."""

    def loss_and_gradient(self, group: Group, parameters: Array) -> Sums:
        take_time(group)
        return super().loss_and_gradient(group, parameters)

    def hessian(self, group: Group, parameters: Float64) -> Sums:
        take_time(group)
        return super().hessian(group, parameters)


class PacedNetwork(NetworkObjective):
    """Takes its time for each row, besides what it computes."""

    def loss_and_gradient(self, group: Group, parameters: Array) -> Sums:
        take_time(group)
        return super().loss_and_gradient(group, parameters)


@dataclass(frozen=True, eq=False)
class Contest:
    """A model, and how it trains.

    largest_step   the step size, as far as noise goes
    curvature      the largest of the objective, which bounds the steps of stale gradients; None where nobody knows it
    goal           the objective at which a fit has arrived
    """

    name: str
    X: Float64
    y: Int64
    problem: Problem
    objective: Objective
    penalty: L2
    start: Array
    largest_step: float
    curvature: float | None
    goal: float

    def value(self, parameters: Array) -> float:
        """The mean log loss of all rows, plus the penalty."""
        raw = self.objective.predict(parameters, self.X)[:, 0].astype(np.float64)
        loss = float(np.mean(np.logaddexp(0.0, raw) - self.y * raw))
        return loss + self.penalty.value(parameters[: self.objective.layout.n_coef])

    def dataset(self) -> Dataset:
        return Dataset.from_arrays(self.X, self.y, n_partitions=self.problem.n_partitions)

    def fit(self, strategy: Strategy) -> Fit:
        return Fit(self.objective, (self.penalty,), strategy)

    def batches(self, schema: Schema, n_groups: int, *, take_turns: bool = False, apart: bool = False) -> Batches:
        """Batches of a 64th of the rows: of all subtrees alike, of one each, or, where these update apart, of a share of it in each."""
        batch = schema.n_rows // UPDATES
        share = batch // N_PARTITIONS
        if apart:
            return batches_of(schema, n_groups, share, take_turns=True).apart
        return batches_of(schema, n_groups, batch, rows_a_subtree=share, take_turns=take_turns)

    def schedule(self, missed: int) -> Schedule:
        """The step size where gradients may miss so many updates."""
        stable = np.inf if self.curvature is None else stable_share(missed) / self.curvature
        return Constant(min(self.largest_step, stable))


def contests(quick: bool) -> tuple[Contest, Contest]:
    """The linear model, whose goal is near the optimum that Newton finds in process, and the network, whose goal is where synchronous
    mini-batches in process are after so many epochs."""
    size = {"n_rows": 2_048, "n_columns": 20} if quick else {"n_rows": 16_384, "n_columns": 100}
    problem = Problem(**size, n_partitions=N_PARTITIONS)
    X, y = problem.arrays()
    order = np.argsort(y, kind="stable")
    X, y = (X[order] - X.mean(axis=0)) / X.std(axis=0), y[order]
    return linear(X, y, problem), network(X, y, problem, 1 if quick else EPOCHS)


def linear(X: Float64, y: Int64, problem: Problem) -> Contest:
    """Plain steps, as large as noise lets them be: with steps of size s, the objective ends about s tr(Σ) / (4 B) above the optimum, where
    Σ is the covariance of the gradients of single rows there, and B the rows of a batch (L. Bottou, F. E. Curtis and J. Nocedal, SIAM
    Review 60 (2018), theorem 4.6, with the trace for the bound). That shall be a third of the gap."""
    objective, penalty = PacedLinear(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=CLASSES), L2(1e-4)
    fit = Fit(objective, (penalty,), Newton(tol=1e-10))
    data = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    start = np.zeros(objective.layout.size)
    (state,) = train(ThreadExecutor(), data, fit, fit.init(start[None])).states
    optimum = float(state.iterate.value)
    design = np.column_stack([X, np.ones(len(X))])
    residual = 1.0 / (1.0 + np.exp(-objective.predict(state.iterate.parameters, X)[:, 0])) - y
    noise = float(np.mean(residual**2 * np.einsum("ij,ij->i", design, design))) / (problem.n_rows // UPDATES)
    curvature = float(np.linalg.eigvalsh(design.T @ design / len(X))[-1]) * LogisticLoss().largest_curvature
    largest_step = 4.0 * (GAP * optimum / 3.0) / noise
    return Contest("logistic", X, y, problem, objective, penalty, start, largest_step, curvature, (1.0 + GAP) * optimum)


def network(X: Float64, y: Int64, problem: Problem, n_epochs: int) -> Contest:
    """Plain steps, too; nobody knows the curvature."""
    objective = PacedNetwork(LogisticLoss(), (problem.n_columns, HIDDEN, 1), classes=CLASSES)
    contest = Contest("network", X, y, problem, objective, L2(1e-3), objective.start(0), NETWORK_STEP, None, np.nan)
    data = contest.dataset()
    batches = contest.batches(data.schema, data.source.n_groups)
    plain = StochasticGradient(batches.sampling, schedule=contest.schedule(0), max_epochs=n_epochs, tol=-np.inf)
    fit = contest.fit(plain)
    reached = train(ThreadExecutor(), data, fit, fit.init(contest.start[None])).parameters[0]
    return replace(contest, goal=contest.value(reached))
