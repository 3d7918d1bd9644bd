"""Linear models trained by mini-batch stochastic gradient descent: SGDClassifier and SGDRegressor."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Final, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import SetUp
from pipeline.estimators.kinds import (
    Regressor,
    class_weights,
    require_class_weight,
    require_numbers,
)
from pipeline.estimators.linear import THREADS_CURE, LinearModel
from pipeline.estimators.mini_batches import MiniBatchClassifier, MiniBatchModel
from pipeline.estimators.solvers import Choice
from pipeline.estimators.step_sizes import PLAIN, Curvature, StepSizes, bound, make_optimizer, stable_step, survey
from pipeline.execution.executors import Executor
from pipeline.history import Row
from pipeline.sampling import Batches
from tasks import losses
from tasks.batches import ROWS_A_LANE
from tasks.losses import Loss
from tasks.objectives import LinearObjective
from tasks.optimizers import OPTIMIZERS, Optimizer
from tasks.penalties import ElasticNet
from tasks.schedules import Schedule
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

UPDATES_AN_EPOCH: Final = 64
FEWEST_ROWS: Final = 16
MOST_ROWS: Final = 16384
RATES: Final = ("constant", "optimal", "invscaling", "adaptive", "step", "cosine")
PASSIVE_AGGRESSIVE: Final = ("pa1", "pa2")
HALF: Final = 0.5
LANE_NUMBERS: Final = 1 << 15
PENALTIES: Final = {"l2": 0.0, "l1": 1.0}
VERBOSE_CURE: Final = "use set_callbacks(sklearn.callback.ProgressBar())"
CLASSIFICATION: Final[dict[str, Loss]] = {
    "hinge": losses.HingeLoss(),
    "log_loss": losses.LogisticLoss(),
    "modified_huber": losses.ModifiedHuberLoss(),
    "squared_hinge": losses.SquaredHingeLoss(),
    "perceptron": losses.PerceptronLoss(),
}
REGRESSION: Final[dict[str, Any]] = {
    "squared_error": lambda epsilon: losses.SquaredLoss(),
    "huber": losses.HuberLoss,
    "epsilon_insensitive": losses.EpsilonInsensitiveLoss,
    "squared_epsilon_insensitive": losses.SquaredEpsilonInsensitiveLoss,
}


class LinearMiniBatchModel(MiniBatchModel, LinearModel):
    """What SGDClassifier and SGDRegressor share.

    **Batches.** batch_size="auto" is n_rows / 64, at least 16 rows and at most 16384: a round costs some 0.3 to 1 ms beside its rows.

    **Step sizes.** scikit-learn's schedules are for one row an update. Here the step size of an update of b rows is the sum of those that
    scikit-learn would take for b rows (linear scaling: P. Goyal et al., 2017), b schedule(b updates), but at most 1 / L. L is the steepest
    curvature that a batch can show: h (λ + T / b) + l2, where λ is the largest eigenvalue of Σ s_i x_i x_iᵀ / Σ s_i (with the intercept's
    ones), T its trace, the mean square norm of a row, and h the largest second derivative of the loss (1/4 for log_loss; 1 for losses
    with kinks). Beyond 2 / L gradient descent on a quadratic is not stable (for T / b: R. Gower et al., SGD: General Analysis and Improved
    Rates, ICML 2019). λ and T come from eight Hessian-vector rounds over some 4096 rows before the first update
    (`tasks.strategies.largest_curvature`), so columns need no scale for a fit to be stable; standardised ones make it fast.
    With momentum m, b is b (1 - m) in L.

    For "optimal" and "invscaling", epochs that gain less than tol halve the step sizes from half of n_iter_no_change in a row on, because
    then the noise of batches, and not the distance to go, keeps the loss up; with tol=None and in partial_fit there are none.
    "step" (times ½ every 10 epochs) and "cosine" (to zero at max_iter) start from the step size that "constant" has. Of optimizers that
    divide by the gradient's size (adagrad, rmsprop, adam, adamw), eta0 is the step size of an update, however large the batch, and
    "optimal" means constant. A Schedule is taken as it is, by number of the update.
    """

    _solvers: ClassVar[tuple[str, ...]] = tuple(OPTIMIZERS)

    loss: str
    penalty: str | None
    alpha: float
    l1_ratio: float | None
    max_iter: int
    tol: float | None  # type: ignore[assignment]
    epsilon: float
    learning_rate: Any
    eta0: float
    power_t: float
    n_iter_no_change: int
    average: Any
    batch_size: Any
    optimizer: Any
    warm_up: int
    momentum: float
    clip_norm: float | None
    accumulate: int
    weight_decay: float
    variance_reduction: str | None
    importance: Any

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "shuffle": ["boolean"],
        "verbose": ["verbose"],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "learning_rate": [StrOptions({*RATES, *PASSIVE_AGGRESSIVE}), Schedule],
        "eta0": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "average": [Interval(Integral, 0, None, closed="neither"), "boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "optimizer": [StrOptions(set(OPTIMIZERS)), Optimizer],
        "warm_up": [Interval(Integral, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "accumulate": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "variance_reduction": [StrOptions({"svrg"}), None],
        "importance": [StrOptions({"uniform", "norm"})],
    }

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
        if self._goes_on and before is not None:  # of all rows that this model has seen
            found = Curvature(max(found.largest, before.largest), max(found.trace, before.trace))
        self._curvature = found

    def _rate_is(self, *names: str) -> bool:
        return isinstance(self.learning_rate, str) and self.learning_rate in names

    @property
    def _optimizer(self) -> Optimizer:
        return make_optimizer(self.optimizer, OPTIMIZERS, self.momentum, self.weight_decay)

    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        objective = self._objective(schema)
        options = {"importance": self.importance, "rows_a_lane": lane_rows(objective)}
        batches = self._batches(schema, n_groups, self._batch_rows(schema), **options)
        strategy, rows = self._strategy(schema, objective, batches), int(np.ceil(batches.batch_rows))
        reason = f"{batches.sampling.n_rounds} batches of about {rows} rows an epoch, first step size {strategy.schedule(0):.3g}"
        return SetUp(objective, self._penalty(schema, objective), strategy, Choice(self._optimizer_name, reason))

    def _is_batch(self, row: Row) -> bool:
        if self.variance_reduction is not None:
            return row["power"] == "gradient_difference"
        first_of_all_rows = self.importance != "uniform"  # whose weight it is after
        return super()._is_batch(row) and not (first_of_all_rows and row["round"] == 1)

    @property
    def _state_follows(self) -> dict[str, Any]:
        return {"fit_intercept": self.fit_intercept, "optimizer": type(self._optimizer).__name__}

    @property
    def _optimizer_name(self) -> str:
        return self.optimizer if isinstance(self.optimizer, str) else type(self.optimizer).__name__

    def _strategy(self, schema: Schema, objective: LinearObjective, batches: Batches) -> StochasticGradient:
        penalty, optimizer = self._penalty(schema, objective), self._optimizer
        rows, strength = batches.batch_rows * self.accumulate, self._strength(schema, objective)
        n_updates = -(-batches.sampling.n_rounds // self.accumulate)
        sizes = StepSizes(self.learning_rate, self.eta0, self.power_t, self.warm_up, rows, n_updates, self.max_iter, strength)
        curvature: Curvature = vars(self).get("_curvature") or bound(schema)
        return StochasticGradient(
            batches.sampling,
            optimizer,
            sizes.schedule(optimizer, stable_step(objective, curvature, float(penalty.l2), rows, optimizer)),
            max_epochs=self._max_epochs,
            tol=self._least_gain(self._tol(schema, objective)),
            patience=self.n_iter_no_change,
            early_stopping=self.early_stopping,
            adaptive=self._rate_is("adaptive"),
            decay=HALF if self._rate_is("optimal", "invscaling") and isinstance(optimizer, PLAIN) else 1.0,
            clip_norm=self.clip_norm,
            accumulate=self.accumulate,
            l1=float(penalty.l1),
            average_from=int(np.ceil(self.average / rows)),
            variance_reduction=self.variance_reduction == "svrg",
        )

    def _batch_rows(self, schema: Schema) -> int:
        if self.batch_size == "auto":
            return int(np.clip(-(-schema.n_rows // UPDATES_AN_EPOCH), FEWEST_ROWS, MOST_ROWS))
        return int(self.batch_size)

    def _tol(self, schema: Schema, objective: LinearObjective) -> float | None:
        """Of the mean over rows, which weights above 1 make larger than the mean loss here."""
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

    def _start(self, objective: LinearObjective) -> Array:
        if self._partial and "coef_" in vars(self):  # read from a file
            return objective.join(*self._coef())
        return super()._start(objective)


def lane_rows(objective: LinearObjective) -> int:
    """So many rows that their arithmetic takes longer than the call."""
    return max(ROWS_A_LANE, LANE_NUMBERS // objective.layout.size)


class SGDClassifier(LinearMiniBatchModel, MiniBatchClassifier):
    """Minimise (1 / n) Σ s_i loss(y_i, coef @ x_i + intercept) + alpha R(coef) by stochastic gradient descent, the intercept unpenalised.

    R is ½ |coef|² for penalty="l2", Σ |coef_j| for "l1", and l1_ratio of this with 1 - l1_ratio of that for "elasticnet". Σ |coef_j| makes
    exact zeros; batches disturb some of them by a little, with variance_reduction="svrg" they are those of the optimum. More than two
    classes are one-vs-rest; class weights count for the rows of a problem's own class, as scikit-learn's.
    Parameters as `sklearn.linear_model.SGDClassifier`'s, the losses for numbers aside; max_iter counts epochs, tol=None makes all of them.
    loss: "hinge", "log_loss", "modified_huber", "squared_hinge" or "perceptron".

    Further: batch_size; optimizer, a name of `tasks.optimizers.OPTIMIZERS` or an Optimizer, with momentum and weight_decay where it is
    named; learning_rate "step", "cosine" or a Schedule; warm_up: updates over which step sizes rise; clip_norm: of gradients; accumulate:
    batches an update; variance_reduction="svrg"; importance="norm": rows are drawn by their norm. See `LinearMiniBatchModel` for batches
    and step sizes, and `tasks.strategies.stochastic_gradient` for sources.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        "verbose": ((0, False), VERBOSE_CURE),
        "n_jobs": ((None,), THREADS_CURE),
        "loss": (
            tuple(CLASSIFICATION),
            "losses for numbers are not for classes here; use SGDRegressor on y of -1 and 1, or a loss for classes",
        ),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **LinearMiniBatchModel._parameter_constraints,
        "loss": [StrOptions({*CLASSIFICATION, *REGRESSION})],
        "n_jobs": [None, Integral],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        loss: str = "hinge",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float | None = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        shuffle: bool = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        learning_rate: Any = "optimal",
        eta0: float = 0.01,
        power_t: float = 0.5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Any = None,
        warm_start: bool = False,
        average: Any = False,
        batch_size: Any = "auto",
        optimizer: Any = "sgd",
        warm_up: int = 0,
        momentum: float = 0.9,
        clip_norm: float | None = None,
        accumulate: int = 1,
        weight_decay: float = 0.0,
        variance_reduction: str | None = None,
        importance: str = "uniform",
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon  # of losses that are refused
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.warm_up = warm_up
        self.momentum = momentum
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.weight_decay = weight_decay
        self.variance_reduction = variance_reduction
        self.importance = importance

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, all partitions at once, from where the last fit ended; X, y and sample_weight as `fit` takes them.

        classes: all labels that any call will bring, needed in the first; these rows may lack some of them. Raises ValueError for other
        classes later on, for labels outside of them, for another number of columns, and for another fit_intercept or optimizer.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows, and partial_fit sees some; give the factors as a dict")
        return self._partial_fit_classes(X, y, sample_weight, classes)

    def _objective(self, schema: Schema) -> LinearObjective:
        classes, loss = self._labels(schema), CLASSIFICATION[self.loss]
        weight = class_weights(self.class_weight, replace(schema, classes=classes))
        return LinearObjective(loss, schema.n_columns, loss.n_outputs(1, len(classes)), self.fit_intercept, classes, weight)

    def _weight(self, schema: Schema, objective: LinearObjective) -> float:
        """With the class weights, which are no part of the sum for one-vs-rest."""
        if objective.class_weight is None or objective.one_vs_rest:
            return schema.weight_sum
        assert schema.classes is not None
        assert objective.classes is not None
        factors = objective.class_weight[np.searchsorted(objective.classes, schema.classes)]
        total = float(schema.class_weights @ factors)
        if total == 0:
            raise ValueError(f"class_weight={self.class_weight} leaves no row any weight; at least one class must count")
        return total

    def _check_refused(self) -> None:
        super()._check_refused()
        require_class_weight(self.class_weight)

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        if not self._partial:
            assert dataset.schema.classes is not None
            self.classes_ = dataset.schema.classes
        self.coef_, self.intercept_ = coef, intercept

    def _coef(self) -> tuple[Array, Array]:
        return self.coef_, self.intercept_

    def _predictor(self) -> LinearObjective:
        return LinearObjective(CLASSIFICATION[self.loss], self.coef_.shape[1], len(self.coef_), True, self.classes_)

    def decision_function(self, X: Any) -> Any:
        """Raw predictions: (n,) for two classes, (n, n_classes) for more; lazy for Dask input."""
        return self._predict(X, "raw")

    def _check_proba(self) -> bool:
        if not CLASSIFICATION[self.loss].probabilistic:
            raise AttributeError(f"probability estimates are not available for loss={self.loss!r}; use 'log_loss' or 'modified_huber'")
        return True

    @available_if(_check_proba)
    def predict_proba(self, X: Any) -> Any:
        """Probabilities (n, n_classes), in the order of classes_; lazy for Dask input. For log_loss and modified_huber only; one-vs-rest
        probabilities are divided by their sum."""
        return super().predict_proba(X)

    @available_if(_check_proba)
    def predict_log_proba(self, X: Any) -> Any:
        """log of predict_proba."""
        return super().predict_log_proba(X)


class SGDRegressor(LinearMiniBatchModel, Regressor):
    """Minimise (1 / n) Σ s_i loss(y_i, coef @ x_i + intercept) + alpha R(coef) by stochastic gradient descent, the intercept unpenalised.

    Parameters as `sklearn.linear_model.SGDRegressor`'s, and R and the further ones as `SGDClassifier`'s. loss: "squared_error", "huber",
    "epsilon_insensitive" or "squared_epsilon_insensitive". tol is absolute: scale y to about 1.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {"verbose": ((0, False), VERBOSE_CURE)}
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **LinearMiniBatchModel._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION))],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float | None = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        shuffle: bool = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        random_state: Any = None,
        learning_rate: Any = "invscaling",
        eta0: float = 0.01,
        power_t: float = 0.25,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        average: Any = False,
        batch_size: Any = "auto",
        optimizer: Any = "sgd",
        warm_up: int = 0,
        momentum: float = 0.9,
        clip_norm: float | None = None,
        accumulate: int = 1,
        weight_decay: float = 0.0,
        variance_reduction: str | None = None,
        importance: str = "uniform",
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.warm_up = warm_up
        self.momentum = momentum
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.weight_decay = weight_decay
        self.variance_reduction = variance_reduction
        self.importance = importance

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, all partitions at once, from where the last fit ended; X, y and sample_weight as `fit` takes them.

        Raises ValueError for another number of columns, and for another fit_intercept or optimizer.
        """
        return self._partial_fit(X, y, sample_weight)

    def _check_target(self, y: Any) -> Any:
        return super()._check_target(column_or_1d(y, warn=True))

    def _objective(self, schema: Schema) -> LinearObjective:
        require_numbers(schema)
        if schema.n_targets > 1:
            raise ValueError(f"y should be a 1d array, got shape (rows, {schema.n_targets}); fit a model for each column")
        return LinearObjective(self._loss, schema.n_columns, 1, self.fit_intercept)

    @property
    def _loss(self) -> Loss:
        loss: Loss = REGRESSION[self.loss](self.epsilon)
        return loss

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        self.coef_, self.intercept_ = coef[0], intercept

    def _coef(self) -> tuple[Array, Array]:
        return self.coef_[None], self.intercept_

    def _predictor(self) -> LinearObjective:
        return LinearObjective(self._loss, len(self.coef_), 1, True)
