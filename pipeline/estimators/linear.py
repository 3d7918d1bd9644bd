"""Least squares: LinearRegression and Ridge."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_array

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import LinearModel, lives_in_partitions
from tasks.losses import SquaredLoss
from tasks.objectives import LinearObjective
from tasks.penalties import L2
from tasks.scoring import r2
from tasks.typing import Array

THREADS_CURE = "threads follow the machine; for processes connect(n_workers=...)"


class LeastSquares(MultiOutputMixin, RegressorMixin, LinearModel):
    """What LinearRegression and Ridge share."""

    def _objective(self, schema: Schema) -> LinearObjective:
        if schema.target_kind == "none":
            raise ValueError("the dataset has no y; name its target= when it is read")
        if schema.target_is_text:
            raise ValueError("y holds labels, not numbers; use LogisticRegression, or encode them")
        return LinearObjective(SquaredLoss(), schema.n_columns, schema.n_targets, self.fit_intercept)

    def _tolerance(self, schema: Schema) -> float:
        """Relative to the largest |y| and, where all columns are smaller than 1, to the largest |x|: units must not decide."""
        return self.tol * schema.largest_target * min(1.0, float(np.max(schema.largest, initial=0.0)))

    def _check_target(self, y: Any) -> Any:
        return check_array(y, ensure_2d=False, dtype="numeric", ensure_all_finite=False, input_name="y", estimator=self)

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        several = dataset.schema.target_kind == "multioutput"
        self.coef_ = coef if several else coef[0]
        fitted = intercept if several else intercept[0]
        self.intercept_ = fitted if self.fit_intercept else 0.0

    def _store(self, result: Any, objective: LinearObjective, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        self.n_iter_ = max(1, max(result.iterations))

    def _coef(self) -> tuple[Array, Array]:
        coef = np.atleast_2d(self.coef_)
        return coef, np.broadcast_to(self.intercept_, (len(coef),))

    def _predictor(self) -> LinearObjective:
        coef, _ = self._coef()
        return LinearObjective(SquaredLoss(), coef.shape[1], coef.shape[0], self.fit_intercept)

    def predict(self, X: Any) -> Any:
        """X @ coef + intercept: (n,) or (n, t); lazy for Dask input."""
        return self._predict(X, "raw")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The coefficient of determination R², averaged over targets; computed where the data lives for Dask input and datasets."""
        if lives_in_partitions(X):
            return r2(self._score_sums(X, y, sample_weight))
        return float(super().score(X, y, sample_weight))


class LinearRegression(LeastSquares):
    """Ordinary least squares: minimise ½ Σ s_i (y_i - coef @ x_i - intercept)² / Σ s_i.

    Where the columns are dependent, coef_ is the solution of least norm, as scikit-learn's. Parameters as
    `sklearn.linear_model.LinearRegression`'s, and solver: "auto", "newton", "newton-cg", "lbfgs", "gradient-descent", "nesterov" or a
    strategy; max_iter: steps at most, None for the strategy's own limit. Converged when
    max |gradient| <= tol max |y| (times max |x| where that is below 1), or at rounding.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        "n_jobs": ((None,), THREADS_CURE),
        "positive": ((False,), "coefficients are not constrained here; use sklearn.linear_model.LinearRegression"),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "fit_intercept": ["boolean"],
        "copy_X": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_jobs": [None, Integral],
        "positive": ["boolean"],
        "solver": "no_validation",
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        copy_X: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        positive: bool = False,
        solver: Any = "auto",
        max_iter: int | None = None,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.tol = tol
        self.n_jobs = n_jobs
        self.positive = positive
        self.solver = solver
        self.max_iter = max_iter

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        return L2(0.0)


class Ridge(LeastSquares):
    """Least squares with an L2 penalty: minimise Σ s_i (y_i - coef @ x_i - intercept)² + alpha |coef|².

    Parameters as `sklearn.linear_model.Ridge`'s; alpha may be (t,), one for each target; warm_start starts at the last coef_. solver as
    `LinearRegression`'s; scikit-learn's "cholesky" and "svd" mean "newton". Converged as LinearRegression.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        "positive": ((False,), "coefficients are not constrained here; use sklearn.linear_model.Ridge"),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "alpha": [Interval(Real, 0, None, closed="left"), "array-like"],
        "fit_intercept": ["boolean"],
        "copy_X": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "solver": "no_validation",
        "positive": ["boolean"],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: bool = True,
        copy_X: bool = True,
        max_iter: int | None = None,
        tol: float = 1e-4,
        solver: Any = "auto",
        positive: bool = False,
        random_state: Any = None,
        warm_start: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.max_iter = max_iter
        self.tol = tol
        self.solver = solver
        self.positive = positive
        self.random_state = random_state  # nothing here is drawn: every value gives the same fit
        self.warm_start = warm_start

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        alpha = np.asarray(self.alpha, dtype=np.float64)
        if alpha.ndim == 0:
            return L2(float(alpha) / schema.weight_sum)
        if alpha.shape != (objective.n_outputs,):
            raise ValueError(f"Number of targets and number of penalties do not correspond: {alpha.shape[0]} != {objective.n_outputs}")
        return L2(np.repeat(alpha, objective.n_columns) / schema.weight_sum)
