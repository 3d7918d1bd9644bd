"""What SGDClassifier and SGDRegressor share: from scikit-learn's parameters to batches, step sizes and penalties."""

from __future__ import annotations

from dataclasses import KW_ONLY
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeAlias

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pipeline.estimators.base import SetUp
from pipeline.estimators.linear import LinearModel
from pipeline.estimators.mini_batches import MiniBatchModel
from pipeline.estimators.optimizer_choice import ASYNC, LOCAL, SERVED, named_optimizer
from pipeline.estimators.parameters import (
    BelowOne,
    Compressing,
    Count,
    Flag,
    NotNegative,
    Positive,
    RandomState,
    ResultOrder,
    Saving,
    Share,
    Verbose,
    Whole,
    with_parameters,
)
from pipeline.estimators.solvers import Choice
from pipeline.estimators.step_sizes import PLAIN, Curvature, StepSizes, bound, stable_step, survey, warn_of_unlike_columns
from pipeline.training.history import Row
from pipeline.training.sampling import Batches
from tasks.objectives.linear import LinearObjective
from tasks.objectives.penalties import ElasticNet
from tasks.rows.batches import ROWS_A_SUBTREE
from tasks.strategies.asynchronous import Overlap
from tasks.strategies.local_sgd import N_STEPS, LocalUpdates
from tasks.strategies.optimizers import OPTIMIZERS, Optimizer
from tasks.strategies.schedules import Schedule
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema
    from pipeline.execution.base import Executor

UPDATES_AN_EPOCH: Final = 64
APART: Final = 16
"""Of local updates, each is of so many times fewer rows: as many subtrees, about, make them at once."""
FEWEST_ROWS: Final = 16
MOST_ROWS: Final = 16384
RATES: Final = ("constant", "optimal", "invscaling", "adaptive", "step", "cosine")
PASSIVE_AGGRESSIVE: Final = ("pa1", "pa2")
HALF: Final = 0.5
SUBTREE_NUMBERS: Final = 1 << 15
PENALTIES: Final = {"l2": 0.0, "l1": 1.0}

LearningRate: TypeAlias = Annotated[Any, StrOptions({*RATES, *PASSIVE_AGGRESSIVE}), Schedule]


@with_parameters
class LinearMiniBatchParameters:
    """The parameters that SGDClassifier and SGDRegressor share."""

    _: KW_ONLY
    penalty: Annotated[str | None, StrOptions({"l2", "l1", "elasticnet"}), None] = "l2"
    alpha: NotNegative = 0.0001
    l1_ratio: Share | None = 0.15
    fit_intercept: Flag = True
    max_iter: Count = 1000
    tol: NotNegative | None = 1e-3
    shuffle: Flag = True
    verbose: Verbose = 0
    epsilon: NotNegative = 0.1  # of losses for numbers
    random_state: RandomState = None
    learning_rate: LearningRate = "optimal"
    eta0: Positive = 0.01
    power_t: NotNegative = 0.5
    early_stopping: Flag = False
    validation_fraction: Annotated[float, Interval(Real, 0, 1, closed="neither")] = 0.1
    n_iter_no_change: Count = 5
    warm_start: Flag = False
    average: Annotated[Any, Interval(Integral, 0, None, closed="neither"), "boolean"] = False
    batch_size: Annotated[Any, Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})] = "auto"
    optimizer: Annotated[Any, StrOptions(set(OPTIMIZERS)), Optimizer] = "sgd"
    warm_up: Whole = 0
    momentum: BelowOne = 0.9
    clip_norm: Positive | None = None
    accumulate: Count = 1
    weight_decay: NotNegative = 0.0
    variance_reduction: Annotated[str | None, StrOptions({"svrg"}), None] = None
    importance: Annotated[str, StrOptions({"uniform", "norm"})] = "uniform"
    solver: Annotated[Any, StrOptions({"sync", ASYNC, SERVED, LOCAL}), Overlap, LocalUpdates] = "sync"
    staleness: Whole | None = 4
    order: ResultOrder = "in-order"
    local_steps: Count | None = N_STEPS
    local_epochs: Count | None = None
    compression: Compressing = None
    checkpoint: Saving = None


class LinearMiniBatchModel(LinearMiniBatchParameters, MiniBatchModel, LinearModel):
    """What SGDClassifier and SGDRegressor share.

    **Batches.** batch_size="auto" is n_rows / 64, at least 16 rows and at most 16384: a round costs some 0.3 to 1 ms beside its rows.

    **Step sizes.** scikit-learn's schedules are for one row an update. Here the step size of an update of b rows is the sum of those that
    scikit-learn would take for b rows (linear scaling: P. Goyal et al., 2017), b schedule(b updates), but at most 1 / L. L is the steepest
    curvature that a batch can show: h (λ + T / b) + l2, where λ is the largest eigenvalue of Σ s_i x_i x_iᵀ / Σ s_i (with the intercept's
    ones), T its trace, the mean square norm of a row, and h the largest second derivative of the loss (1/4 for log_loss; 1 for losses
    with kinks). Beyond 2 / L gradient descent on a quadratic is not stable (for T / b: R. Gower et al., SGD: General Analysis and Improved
    Rates, ICML 2019). λ and T come from eight Hessian-vector rounds over some 4096 rows before the first update
    (`tasks.strategies.largest_curvature`), so columns need no scale for a fit to be stable; standardised ones make it fast, and where
    their sizes differ by 1000 and more a ConvergenceWarning says so.
    With momentum m, b is b (1 - m) in L.

    For "optimal" and "invscaling", epochs that gain less than tol halve the step sizes from half of n_iter_no_change in a row on, because
    then the noise of batches, and not the distance to go, keeps the loss up; with tol=None and in partial_fit there are none.
    "step" (times ½ every 10 epochs) and "cosine" (to zero at max_iter) start from the step size that "constant" has. Of optimizers that
    divide by the gradient's size (adagrad, rmsprop, adam, adamw), eta0 is the step size of an update, however large the batch, and
    "optimal" means constant. A Schedule is taken as it is, by number of the update.
    """

    _solvers: ClassVar[tuple[str, ...]] = ("sync", ASYNC, SERVED, LOCAL)

    def _check_refused(self) -> None:
        super()._check_refused()
        name = type(self).__name__
        if isinstance(self.learning_rate, str):
            if self.learning_rate in PASSIVE_AGGRESSIVE:
                known = ", ".join(map(repr, RATES))
                cure = f"passive-aggressive steps are of one row, and an update here sees a batch; use one of {known}, or a Schedule"
                raise ValueError(f"{name}(learning_rate={self.learning_rate!r}) is not available: {cure}")
            if self.learning_rate == "optimal" and self.alpha == 0:
                raise ValueError(
                    f"{name}(learning_rate='optimal') needs alpha > 0, which it is computed from; use learning_rate='constant'"
                )
        if self.penalty == "elasticnet" and self.l1_ratio is None:
            raise ValueError(f"{name}(penalty='elasticnet') needs an l1_ratio between 0 (l2) and 1 (l1)")
        if isinstance(self.optimizer, Optimizer) and self.weight_decay:
            raise ValueError(
                f"{name}(weight_decay={self.weight_decay!r}) is for an optimizer by name; give it to {self.optimizer!r} itself"
            )

    # -- the fit ---------------------------------------------------------------------------------------------------------------------

    def _survey(self, executor: Executor, dataset: Dataset) -> None:
        if not isinstance(self.learning_rate, str) or not isinstance(self._optimizer, PLAIN):
            return
        found, before = survey(executor, dataset, self._objective(dataset.schema)), vars(self).get("_curvature")
        if self._resumes and before is not None:  # of all rows that this model has seen
            found = Curvature(max(found.largest, before.largest), max(found.trace, before.trace))
        self._curvature = found

    def _rate_is(self, *names: str) -> bool:
        return isinstance(self.learning_rate, str) and self.learning_rate in names

    @property
    def _optimizer(self) -> Optimizer:
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        return named_optimizer(self.optimizer, {"momentum": self.momentum, "weight_decay": self.weight_decay})

    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        objective = self._objective(schema)
        warn_of_unlike_columns(type(self).__name__, schema, self.fit_intercept)
        options = {"importance": self.importance, "rows_a_subtree": subtree_rows(objective)}
        batches = self._batches(schema, n_groups, self._batch_rows(schema), **options)
        strategy, rows = self._strategy(schema, objective, batches), int(np.ceil(batches.batch_rows))
        reason = f"{batches.sampling.rounds_an_epoch} batches of about {rows} rows an epoch, first step size {strategy.schedule(0):.3g}"
        composed = self._overlap or self._local
        name, reason = (self._optimizer_name, reason) if composed is None else (self._solver_name, f"{self._optimizer_name}, {reason}")
        choice = Choice(name, "; ".join([reason, *self._further]))
        return SetUp(objective, self._penalty(schema, objective), self._composed(strategy, objective.layout), choice)

    def _is_batch(self, row: Row) -> bool:
        if self.variance_reduction is not None:
            return row["oracle"] == "gradient_difference"
        first_of_all_rows = self.importance != "uniform"  # whose weight it is after
        return super()._is_batch(row) and not (first_of_all_rows and row["round"] == 1)

    @property
    def _state_follows(self) -> dict[str, Any]:
        return {"fit_intercept": self.fit_intercept, "optimizer": f"{type(self._optimizer).__name__}{self._means}"}

    @property
    def _optimizer_name(self) -> str:
        return self.optimizer if isinstance(self.optimizer, str) else type(self.optimizer).__name__

    def _strategy(self, schema: Schema, objective: LinearObjective, batches: Batches) -> StochasticGradient:
        penalty, optimizer = self._penalty(schema, objective), self._optimizer
        rows, strength = batches.batch_rows * self.accumulate, self._strength(schema, objective)
        n_updates = -(-batches.sampling.rounds_an_epoch // self.accumulate)
        sizes = StepSizes(self.learning_rate, self.eta0, self.power_t, self.warm_up, rows, n_updates, self.max_iter, strength)
        curvature: Curvature = vars(self).get("_curvature") or bound(schema)
        return StochasticGradient(
            batches.sampling,
            optimizer,
            sizes.schedule(
                optimizer, stable_step(objective, curvature, float(penalty.l2), rows, optimizer, missed=self._most_missed(batches))
            ),
            max_epochs=self._max_epochs,
            tol=self._least_gain(self._tol(schema, objective)),
            patience=self.n_iter_no_change,
            early_stopping=self.early_stopping,
            adaptive=self._rate_is("adaptive"),
            decay=HALF if self._rate_is("optimal", "invscaling") and isinstance(optimizer, PLAIN) else 1.0,
            clip_norm=self.clip_norm,
            accumulate=self.accumulate,
            average_from=int(np.ceil(self.average / rows)),
            variance_reduction=self.variance_reduction == "svrg",
        )

    def _most_missed(self, batches: Batches) -> int:
        """The updates that a gradient may miss; without a bound, as many as it misses where all subtrees answer equally often."""
        if self._overlap is None:
            return 0
        others = batches.sampling.n_turns - 1
        return others if self._overlap.staleness is None else min(others, self._overlap.staleness)

    def _batch_rows(self, schema: Schema) -> int:
        if self.batch_size == "auto":
            apart = 1 if self._local is None else APART
            return int(np.clip(-(-schema.n_rows // (UPDATES_AN_EPOCH * apart)), FEWEST_ROWS, MOST_ROWS))
        return int(self.batch_size)

    def _tol(self, schema: Schema, objective: LinearObjective) -> float | None:
        """The tolerance of the mean over rows, which weights above 1 make larger than the mean loss here."""
        if self.tol is None or self.early_stopping:
            return self.tol
        return self.tol * min(1.0, schema.n_rows / self._weight(schema, objective))

    def _strength(self, schema: Schema, objective: LinearObjective) -> float:
        """alpha beside a loss that is divided by the rows' weight, where scikit-learn divides by their number."""
        return self.alpha * schema.n_rows / self._weight(schema, objective)

    def _weight(self, schema: Schema, objective: LinearObjective) -> float:
        """The weight of all rows, as the objective sums it."""
        return schema.weight_sum

    def _penalty(self, schema: Schema, objective: LinearObjective) -> ElasticNet:
        if self.penalty is None:
            return ElasticNet()
        share = PENALTIES.get(self.penalty, self.l1_ratio)
        assert share is not None
        strength = self._strength(schema, objective)
        return ElasticNet(strength * share, strength * (1.0 - share))

    def _given(self, objective: LinearObjective) -> Array:
        given = super()._given(objective)
        if self._partial and not objective.fit_intercept and np.any(self.intercept_):
            raise ValueError(f"intercept_ is {self.intercept_}, which fit_intercept=False would drop; set it to 0, or fit_intercept=True")
        return given


def subtree_rows(objective: LinearObjective) -> int:
    """The number of rows whose arithmetic takes longer than the call."""
    return max(ROWS_A_SUBTREE, SUBTREE_NUMBERS // objective.layout.size)
