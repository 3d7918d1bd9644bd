"""Logistic regression, binary and multinomial."""

from __future__ import annotations

from dataclasses import KW_ONLY
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from sklearn.utils._param_validation import Interval

from pipeline.estimators.kinds import ProbabilisticClassifier, class_weights, require_class_weight, require_classes
from pipeline.estimators.linear import LinearModel
from pipeline.estimators.parameters import (
    ClassWeight,
    Count,
    Flag,
    NotNegative,
    Only,
    Positive,
    RandomState,
    Saving,
    Threads,
    Verbose,
    with_parameters,
)
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss, Loss, MultinomialLoss
from tasks.objectives.penalties import L2
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema


@with_parameters
class LogisticRegressionParameters:
    """The parameters of LogisticRegression."""

    penalty: Annotated[Any, Only(("deprecated",), "scikit-learn deprecates it; C=inf fits without penalty")] = "deprecated"
    _: KW_ONLY
    C: Annotated[float, Interval(Real, 0, None, closed="right")] = 1.0
    l1_ratio: Annotated[
        float, Interval(Real, 0, 1, closed="both"), None, Only((0, 0.0), "L1 penalties are not available yet; use l1_ratio=0")
    ] = 0.0
    dual: Annotated[Flag, Only((False,), "there is no dual solver here; use dual=False")] = False
    tol: NotNegative = 1e-4
    fit_intercept: Flag = True
    intercept_scaling: Annotated[Positive, Only((1, 1.0), "the intercept is not penalised here, so its scale means nothing")] = 1
    class_weight: ClassWeight = None
    random_state: RandomState = None  # nothing here is drawn: every value gives the same fit
    solver: Any = "auto"
    max_iter: Count = 100
    verbose: Verbose = 0
    warm_start: Flag = False
    n_jobs: Threads = None
    checkpoint: Saving = None


class LogisticRegression(LogisticRegressionParameters, ProbabilisticClassifier, LinearModel):
    """Minimise C Σ s_i loss(y_i, coef @ x_i + intercept) + ½ |coef|², the intercept unpenalised.

    The loss is log(1 + exp(raw)) - y raw for two classes (coef_ is (1, p)) and the symmetric softmax cross-entropy for more (coef_ is
    (n_classes, p)). C=inf fits without penalty. Parameters as `sklearn.linear_model.LogisticRegression`'s; solver: "auto", "lbfgs",
    "newton" (= scikit-learn's "newton-cholesky"), "newton-cg", "sampled-newton", "sampled-lbfgs", "gradient-descent", "nesterov", "admm"
    or a strategy. Solvers see the columns standardised, so that neither what they find nor when they end hangs on units
    (`tasks.objectives.standardisation`); the penalty is on the user's coefficients. Inside, the objective is divided by C Σ s_i:
    converged when the largest |gradient| of that, by the coefficients of the standardised columns, is at most tol, or when a Newton step
    would gain less than rounding does; max_iter counts steps.
    """

    def _objective(self, schema: Schema) -> LinearObjective:
        classes = require_classes(schema)
        loss: Loss = LogisticLoss() if len(classes) == 2 else MultinomialLoss()
        weight = class_weights(self.class_weight, schema)
        return LinearObjective(
            loss, schema.n_columns, loss.n_outputs(1, len(classes)), self.fit_intercept, classes, weight, compiled=schema.worth_compiling
        )

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        factors = np.ones(len(schema.class_weights)) if objective.class_weight is None else objective.class_weight
        total = float(schema.class_weights @ factors)
        if total == 0:
            raise ValueError(f"class_weight={self.class_weight} leaves no row any weight; at least one class must count")
        return L2(1.0 / (self.C * total))

    def _check_refused(self) -> None:
        super()._check_refused()
        require_class_weight(self.class_weight)

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        assert dataset.schema.classes is not None
        self.classes_ = dataset.schema.classes
        self.coef_, self.intercept_ = coef, intercept

    def _store(self, result: Any, objective: Any, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        self.n_iter_ = np.array([max(1, max(result.iterations))], dtype=np.int32)

    def _predictor(self) -> LinearObjective:
        loss: Loss = LogisticLoss() if len(self._classes) == 2 else MultinomialLoss()
        return LinearObjective(loss, self._n_columns, len(self.coef_), True, self._classes)

    def decision_function(self, X: Any) -> Any:
        """Raw predictions: (n,) for two classes, (n, n_classes) for more; lazy for Dask input."""
        return self._predict(X, "raw")
