"""Step sizes of linear models that mini-batches train: from scikit-learn's schedules, which are for one row an update, to batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pipeline.training.loop import train
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss, SquaredLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.largest_curvature import LargestCurvature
from tasks.strategies.optimizers import SGD, Momentum, Nesterov, Optimizer
from tasks.strategies.schedules import Constant, Cosine, InverseScaling, OfRows, Optimal, Schedule, StepDecay, WarmUp

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema
    from pipeline.execution.base import Executor

SURVEY_ROWS: Final = 4096
EPOCHS_A_STEP: Final = 10
SMALLEST: Final = 1e-200


class Curvature(NamedTuple):
    """Of Σ s_i x_i x_iᵀ / Σ s_i, the intercept's column of ones included: the largest eigenvalue, and the trace."""

    largest: float
    trace: float


def survey(executor: Executor, dataset: Dataset, objective: LinearObjective) -> Curvature:
    """By a few Hessian-vector rounds over some SURVEY_ROWS rows; `bound` where those say nothing, because none of them has weight."""
    squares = replace(objective, loss=LogisticLoss() if objective.loss.classification else SquaredLoss())
    at_zero = squares.loss.largest_curvature
    strategy = LargestCurvature(row_step=max(1, dataset.schema.n_rows // SURVEY_ROWS))
    fit = Fit(squares, (L2(0.0),), strategy)
    (state,) = train(executor, dataset, fit, fit.init(np.zeros((1, squares.layout.size)))).states
    found = Curvature(state.accepted.value / at_zero, state.trace / at_zero / objective.n_outputs)
    return found if np.all(np.isfinite(found)) else bound(dataset.schema)


def bound(schema: Schema) -> Curvature:
    """What is sure without a look at the rows."""
    most = 1.0 + float(np.sum(schema.spread.largest**2))
    return Curvature(most, most)


@dataclass(frozen=True)
class StepSizes:
    """Which step sizes a fit takes; n_rows: of an update; n_updates: of an epoch; alpha: the penalty's strength beside the mean loss."""

    learning_rate: str | Schedule
    eta0: float
    power_t: float
    warm_up: int
    n_rows: float
    n_updates: int
    max_epochs: int
    alpha: float

    def schedule(self, optimizer: Optimizer, largest: float) -> Schedule:
        """largest: the step size beyond which plain gradient descent would not be stable."""
        found = self._schedule(optimizer, largest)
        return WarmUp(found, self.warm_up) if self.warm_up else found

    def _schedule(self, optimizer: Optimizer, largest: float) -> Schedule:
        rate, plain = self.learning_rate, isinstance(optimizer, PLAIN)
        if not isinstance(rate, str):
            return rate
        first = min(largest, self.n_rows * self.eta0) if plain else float(self.eta0)
        if rate == "step":
            return StepDecay(first, EPOCHS_A_STEP * self.n_updates)
        if rate == "cosine":
            return Cosine(first, self.max_epochs * self.n_updates)
        single: Schedule = Constant(self.eta0)
        if rate == "invscaling":
            single = InverseScaling(self.eta0, self.power_t)
        elif rate == "optimal" and plain:
            single = Optimal(self.alpha)
        return OfRows(single, self.n_rows, largest) if plain else single


PLAIN: Final = (SGD, Momentum, Nesterov)
"""Optimizers whose steps have the gradient's units; the others divide by its size, and a step size means the same for all data."""


def stable_step(objective: LinearObjective, curvature: Curvature, l2: float, n_rows: float, optimizer: Optimizer) -> float:
    """1 / L, where L is the curvature that a batch of so many rows can show."""
    memory = 1.0 - optimizer.momentum if isinstance(optimizer, Momentum | Nesterov) else 1.0
    steepest = objective.loss.largest_curvature * (curvature.largest + curvature.trace / (n_rows * memory)) + l2
    return 1.0 / max(steepest, SMALLEST)
