"""Logistic regression, binary and multinomial."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pipeline.estimators.kinds import ProbabilisticClassifier, class_weights, require_class_weight, require_classes
from pipeline.estimators.linear import THREADS_CURE, LinearModel
from pipeline.training.checkpoints.keeper import Checkpoint
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss, Loss, MultinomialLoss
from tasks.objectives.penalties import L2
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema


class LogisticRegression(ProbabilisticClassifier, LinearModel):
    """Minimise C Σ s_i loss(y_i, coef @ x_i + intercept) + ½ |coef|², the intercept unpenalised.

    The loss is log(1 + exp(raw)) - y raw for two classes (coef_ is (1, p)) and the symmetric softmax cross-entropy for more (coef_ is
    (n_classes, p)). C=inf fits without penalty. Parameters as `sklearn.linear_model.LogisticRegression`'s; solver: "auto", "lbfgs",
    "newton" (= scikit-learn's "newton-cholesky"), "newton-cg", "sampled-newton", "gradient-descent", "nesterov" or a strategy. Solvers see
    the columns standardised, so that neither what they find nor when they end hangs on units (`tasks.objectives.standardisation`); the
    penalty is on the user's coefficients. Inside, the objective is divided by C Σ s_i: converged when the largest |gradient| of that, by
    the coefficients of the standardised columns, is at most tol, or when a Newton step would gain less than rounding does; max_iter
    counts steps.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        "penalty": (("deprecated",), "scikit-learn deprecates it; C=inf fits without penalty"),
        "l1_ratio": ((0, 0.0), "L1 penalties are not available yet; use l1_ratio=0"),
        "dual": ((False,), "there is no dual solver here; use dual=False"),
        "intercept_scaling": ((1, 1.0), "the intercept is not penalised here, so its scale means nothing"),
        "verbose": ((0, False), "use set_callbacks(sklearn.callback.ProgressBar())"),
        "n_jobs": ((None,), THREADS_CURE),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "penalty": "no_validation",
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "dual": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "solver": "no_validation",
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "checkpoint": [str, Path, Checkpoint, None],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        penalty: Any = "deprecated",
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: Any = "auto",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
        checkpoint: Any = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state  # nothing here is drawn: every value gives the same fit
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint

    def _objective(self, schema: Schema) -> LinearObjective:
        classes = require_classes(schema)
        loss: Loss = LogisticLoss() if len(classes) == 2 else MultinomialLoss()
        weight = class_weights(self.class_weight, schema)
        return LinearObjective(loss, schema.n_columns, loss.n_outputs(1, len(classes)), self.fit_intercept, classes, weight)

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
        loss: Loss = LogisticLoss() if len(self.classes_) == 2 else MultinomialLoss()
        return LinearObjective(loss, self._n_columns, len(self.coef_), True, self.classes_)

    def decision_function(self, X: Any) -> Any:
        """Raw predictions: (n,) for two classes, (n, n_classes) for more; lazy for Dask input."""
        return self._predict(X, "raw")
