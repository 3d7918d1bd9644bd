"""Linear models trained by mini-batch stochastic gradient descent: SGDClassifier and SGDRegressor."""

from __future__ import annotations

from dataclasses import KW_ONLY, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from pipeline.estimators.kinds import (
    Regressor,
    class_weights,
    require_class_weight,
    require_numbers,
)
from pipeline.estimators.linear_mini_batches import LearningRate, LinearMiniBatchModel, LinearMiniBatchParameters
from pipeline.estimators.mini_batches import MiniBatchClassifier
from pipeline.estimators.parameters import Before, ClassWeight, NotNegative, Only, Threads, with_parameters
from tasks.objectives import losses
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import Loss
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema

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


@with_parameters
class SGDClassifierParameters(LinearMiniBatchParameters):
    """The parameters of SGDClassifier."""

    loss: Annotated[
        str,
        StrOptions({*CLASSIFICATION, *REGRESSION}),
        Only(
            tuple(CLASSIFICATION), "losses for numbers are not for classes here; use SGDRegressor on y of -1 and 1, or a loss for classes"
        ),
    ] = "hinge"
    _: KW_ONLY
    n_jobs: Annotated[Threads, Before("random_state")] = None
    class_weight: Annotated[ClassWeight, Before("warm_start")] = None


class SGDClassifier(SGDClassifierParameters, LinearMiniBatchModel, MiniBatchClassifier):
    """Minimise (1 / n) Σ s_i loss(y_i, coef @ x_i + intercept) + alpha R(coef) by stochastic gradient descent, the intercept unpenalised.

    R is ½ |coef|² for penalty="l2", Σ |coef_j| for "l1", and l1_ratio of this with 1 - l1_ratio of that for "elasticnet". Σ |coef_j| makes
    exact zeros; batches disturb some of them by a little, with variance_reduction="svrg" they are those of the optimum. More than two
    classes are one-vs-rest; class weights count for the rows of a problem's own class, as scikit-learn's.
    Parameters as `sklearn.linear_model.SGDClassifier`'s, the losses for numbers aside; max_iter counts epochs, tol=None makes all of them.
    loss: "hinge", "log_loss", "modified_huber", "squared_hinge" or "perceptron".

    Further: batch_size; optimizer, a name of `tasks.strategies.optimizers.OPTIMIZERS` or an Optimizer, with momentum and weight_decay
    where it is named; learning_rate "step", "cosine" or a Schedule; warm_up: updates over which step sizes rise; clip_norm: of gradients;
    accumulate: batches an update; variance_reduction="svrg"; importance="norm": rows are drawn by their norm; solver="async", with
    staleness and order, has several rounds under way, solver="parameter-server", with the same bits, has them on the workers, each of which
    serves a slice of the parameters, solver="local-sgd", with local_steps or local_epochs, several updates in each subtree of groups
    between two means; compression: of what is sent (docs/strategies/). See `LinearMiniBatchModel` for batches and step sizes, and
    `tasks.strategies.stochastic_gradient` for sources.
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, all partitions at once, from where the last fit ended; X, y and sample_weight as `fit` takes them.

        classes: all labels that any call will bring, needed in the first; these rows may lack some of them. Raises ValueError for other
        classes later on, for labels outside of them, for another number of columns, and for another fit_intercept or optimizer. coef_ and
        intercept_ may be set before: see `MiniBatchModel`.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows, and partial_fit sees some; give the factors as a dict")
        return self._partial_fit_classes(X, y, sample_weight, classes)

    def _objective(self, schema: Schema) -> LinearObjective:
        classes, loss = self._labels(schema), CLASSIFICATION[self.loss]
        weight = class_weights(self.class_weight, replace(schema, classes=classes))
        return LinearObjective(
            loss, schema.n_columns, loss.n_outputs(1, len(classes)), self.fit_intercept, classes, weight, compiled=schema.worth_compiling
        )

    def _weight(self, schema: Schema, objective: LinearObjective) -> float:
        """The sum of weights with the class weights, which are no part of it for one-vs-rest."""
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

    def _predictor(self) -> LinearObjective:
        return LinearObjective(CLASSIFICATION[self.loss], self._n_columns, len(self.coef_), True, self._classes)

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


@with_parameters
class SGDRegressorParameters(LinearMiniBatchParameters):
    """The parameters of SGDRegressor."""

    loss: Annotated[str, StrOptions(set(REGRESSION))] = "squared_error"
    _: KW_ONLY
    learning_rate: LearningRate = "invscaling"
    power_t: NotNegative = 0.25


class SGDRegressor(SGDRegressorParameters, LinearMiniBatchModel, Regressor):
    """Minimise (1 / n) Σ s_i loss(y_i, coef @ x_i + intercept) + alpha R(coef) by stochastic gradient descent, the intercept unpenalised.

    Parameters as `sklearn.linear_model.SGDRegressor`'s, and R and the further ones as `SGDClassifier`'s. loss: "squared_error", "huber",
    "epsilon_insensitive" or "squared_epsilon_insensitive". tol is absolute: scale y to about 1.
    """

    _flattens_target = True

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, all partitions at once, from where the last fit ended; X, y and sample_weight as `fit` takes them.

        Raises ValueError for another number of columns, and for another fit_intercept or optimizer. coef_ and intercept_ may be set before:
        see `MiniBatchModel`.
        """
        return self._partial_fit(X, y, sample_weight)

    def _objective(self, schema: Schema) -> LinearObjective:
        require_numbers(schema)
        if schema.n_targets > 1:
            raise ValueError(f"y should be a 1d array, got shape (rows, {schema.n_targets}); fit a model for each column")
        return LinearObjective(self._loss, schema.n_columns, 1, self.fit_intercept, compiled=schema.worth_compiling)

    @property
    def _loss(self) -> Loss:
        loss: Loss = REGRESSION[self.loss](self.epsilon)
        return loss

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        self.coef_, self.intercept_ = coef[0], intercept

    def _shapes(self, objective: LinearObjective) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        return [(objective.n_columns,)], [(1,), ()]

    def _predictor(self) -> LinearObjective:
        return LinearObjective(self._loss, self._n_columns, 1, True)
