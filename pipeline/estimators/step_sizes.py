"""Step sizes of linear models that mini-batches train: from scikit-learn's schedules, which are for one row an update, to batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sin
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from pipeline.estimators.optimizer_choice import Pace, choose_schedule
from pipeline.training.loop import train
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss, SquaredLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.largest_curvature import LargestCurvature
from tasks.strategies.optimizers import SGD, Momentum, Nesterov, Optimizer
from tasks.strategies.schedules import Constant, InverseScaling, OfRows, Optimal, Schedule

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema
    from pipeline.execution.base import Executor

SURVEY_ROWS: Final = 4096
EPOCHS_A_STEP: Final = 10
SMALLEST: Final = 1e-200
UNLIKE: Final = 1e3
"""How many times as large as another a column is at which steps that suit it do not move the other any more: the curvature goes with the
square, and a fit makes fewer than 1e6 updates (64 an epoch, 1000 epochs at most, by default)."""
NAMED: Final = 5


class Curvature(NamedTuple):
    """The largest eigenvalue and the trace of Σ s_i x_i x_iᵀ / Σ s_i, the intercept's column of ones included."""

    largest: float
    trace: float


def survey(executor: Executor, dataset: Dataset, objective: LinearObjective) -> Curvature:
    """The curvature, by a few Hessian-vector rounds over some SURVEY_ROWS rows; `bound` where none of these has weight."""
    squares = replace(objective, loss=LogisticLoss() if objective.loss.classification else SquaredLoss())
    at_zero = squares.loss.largest_curvature
    strategy = LargestCurvature(row_step=max(1, dataset.schema.n_rows // SURVEY_ROWS))
    fit = Fit(squares, (L2(0.0),), strategy)
    (state,) = train(executor, dataset, fit, fit.init(np.zeros((1, squares.layout.size)))).states
    found = Curvature(state.iterate.value / at_zero, state.trace / at_zero / objective.n_outputs)
    return found if np.all(np.isfinite(found)) else bound(dataset.schema)


def bound(schema: Schema) -> Curvature:
    """What is sure without a look at the rows."""
    most = 1.0 + float(np.sum(schema.spread.largest**2))
    return Curvature(most, most)


def warn_of_unlike_columns(model: str, schema: Schema, fit_intercept: bool) -> None:
    """Warn, before the first update, of columns that the steps will not move. A column is small by its largest value, not by its mean
    square: one that is zero in most rows is no matter of units. The intercept is a column of ones."""
    sizes, reach = schema.spread.root_mean_square, schema.spread.largest
    names = [repr(name) for name in schema.names]
    if fit_intercept:
        sizes, reach, names = np.append(sizes, 1.0), np.append(reach, 1.0), [*names, "the intercept"]
    first = int(np.argmax(sizes))
    small = np.flatnonzero((reach > 0) & (reach * UNLIKE <= sizes[first]))
    if not len(small):
        return
    shown = ", ".join(names[i] for i in small[:NAMED]) + (f" and {len(small) - NAMED} more" if len(small) > NAMED else "")
    ratio = sizes[first] / reach[small].min()
    warnings.warn(
        f"{model}: columns of X are of unlike sizes, {names[first]} up to {ratio:.1g} times as large as {shown}: steps that suit it hardly"
        " move the others, and the fit may end far from the minimum, converged or not; standardise the columns, with"
        " sklearn.preprocessing.StandardScaler for instance",
        ConvergenceWarning,
        stacklevel=7,
    )


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
        plain = isinstance(optimizer, PLAIN)
        first = min(largest, self.n_rows * self.eta0) if plain else float(self.eta0)

        def of_rows(single: Schedule) -> Schedule:
            return OfRows(single, self.n_rows, largest) if plain else single

        others: dict[str, Callable[[], Schedule]] = {
            "optimal": lambda: of_rows(Optimal(self.alpha) if plain else Constant(first)),
            "invscaling": lambda: of_rows(InverseScaling(self.eta0, self.power_t)),
        }
        pace = Pace(first, EPOCHS_A_STEP * self.n_updates, self.max_epochs * self.n_updates)
        return choose_schedule(self.learning_rate, pace, self.warm_up, others)


PLAIN: Final = (SGD, Momentum, Nesterov)
"""Optimizers whose steps have the gradient's units; the others divide by its size, and a step size means the same for all data."""


def stable_step(
    objective: LinearObjective, curvature: Curvature, l2: float, n_rows: float, optimizer: Optimizer, *, missed: int = 0
) -> float:
    """1 / L, where L is the curvature that a batch of so many rows can show; missed: updates that gradients may miss, which counts for what
    all batches have in common."""
    memory = 1.0 - optimizer.momentum if isinstance(optimizer, Momentum | Nesterov) else 1.0
    common = curvature.largest / (stable_share(missed) * (memory if missed else 1.0))
    steepest = objective.loss.largest_curvature * (common + curvature.trace / (n_rows * memory)) + l2
    return 1.0 / max(steepest, SMALLEST)


def stable_share(missed: int) -> float:
    """Which share of 1 / L steps by gradients that have missed so many updates may be: gradient descent on a quadratic of curvature L, by
    gradients t updates old, is stable for step sizes below 2 sin(π / (2 (2 t + 1))) / L (the roots of z^(t+1) - z^t + step L in the unit
    circle), which is 2 / L for t = 0."""
    return sin(pi / (2 * (2 * missed + 1)))
