"""Linear models; least squares: LinearRegression and Ridge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin
from sklearn.utils._param_validation import Interval

from pipeline.checkpoints.keeper import Checkpoint
from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import GradientModel, SetUp
from pipeline.estimators.kinds import Regressor, require_numbers
from pipeline.estimators.solvers import SCIKIT_LEARN_NAMES, SOLVERS, Problem, choose
from pipeline.history import digest
from tasks.losses import SquaredLoss
from tasks.objectives import LinearObjective
from tasks.penalties import L2, Penalty
from tasks.typing import Array

THREADS_CURE = (
    "leave it None; a fit in this process uses the threads that Dask would, limited by dask.config.set(num_workers=...);"
    " for processes connect(n_workers=...)"
)


class LinearModel(GradientModel):
    """coef_ and intercept_, in scikit-learn's shapes, float32 when X is; found by a `solver`."""

    _solvers: ClassVar[tuple[str, ...]] = (*SOLVERS, *SCIKIT_LEARN_NAMES)
    coef_: Any
    intercept_: Any
    fit_intercept: bool
    solver: Any
    tol: float
    max_iter: int | None

    @abstractmethod
    def _objective(self, schema: Schema) -> LinearObjective:
        """The objective for this data. Raises ValueError for targets that do not fit."""

    @abstractmethod
    def _penalty(self, schema: Schema, objective: LinearObjective) -> Penalty:
        """The penalty next to the mean loss."""

    @abstractmethod
    def _predictor(self) -> LinearObjective:
        """The objective of the fitted model."""

    @abstractmethod
    def _coef(self) -> tuple[Array, Array]:
        """coef (n_outputs, p) and intercept (n_outputs,) as stored."""

    @abstractmethod
    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        """Store coef (n_outputs, p) and intercept (n_outputs,) in scikit-learn's shapes."""

    def _tolerance(self, schema: Schema) -> float:
        """tol as the strategies take it: absolute, on the gradient of the mean loss."""
        return self.tol

    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        objective = self._objective(schema)
        problem = Problem(objective.loss, objective.layout.size, schema.n_rows)
        strategy, choice = choose(self.solver, problem, self._tolerance(schema), self.max_iter)
        return SetUp(objective, self._penalty(schema, objective), strategy, choice)

    def _start(self, objective: LinearObjective) -> Array:
        """Zeros, or with warm_start the last fit's parameters."""
        if self.get_params().get("warm_start") and "coef_" in vars(self):
            coef, intercept = self._coef()
            shape = (objective.n_outputs, objective.n_columns)
            if coef.shape != shape:
                raise ValueError(
                    f"warm_start: the last fit has coef_ of shape {coef.shape} but this data needs {shape}; set warm_start=False"
                )
            return objective.join(coef, intercept)
        return np.zeros(objective.layout.size)

    def _set_parameters(self, parameters: Array, objective: LinearObjective, dataset: Dataset) -> None:
        parameters = objective.centred(parameters)
        coef, intercept = objective.split(parameters)
        self._set_coef(coef.astype(dataset.dtype), intercept.astype(dataset.dtype), dataset)
        self.parameters_sha256_ = digest(parameters)

    def _arrays(self) -> dict[str, Array]:
        return {"coef": self.coef_, "intercept": self.intercept_}

    def _set_arrays(self, arrays: Mapping[str, Array]) -> None:
        self.coef_ = arrays["coef"]
        self.intercept_ = arrays["intercept"][()]  # a scalar again where it was one
        self.n_features_in_ = self.coef_.shape[-1]

    def _fitted(self) -> tuple[LinearObjective, Array]:
        objective = self._predictor()
        return objective, objective.join(*self._coef())


class LeastSquares(MultiOutputMixin, Regressor, LinearModel):
    """What LinearRegression and Ridge share."""

    def _objective(self, schema: Schema) -> LinearObjective:
        require_numbers(schema)
        return LinearObjective(SquaredLoss(), schema.n_columns, schema.n_targets, self.fit_intercept)

    def _tolerance(self, schema: Schema) -> float:
        """Relative to the largest |y| and, where all columns are smaller than 1, to the largest |x|: units must not decide."""
        return self.tol * schema.largest_target * min(1.0, float(np.max(schema.largest, initial=0.0)))

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        several = dataset.schema.target_kind == "multioutput"
        self.coef_ = coef if several else coef[0]
        fitted = intercept if several else intercept[0]
        self.intercept_ = fitted if self.fit_intercept else 0.0

    def _store(self, result: Any, objective: Any, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        self.n_iter_ = max(1, max(result.iterations))

    def _coef(self) -> tuple[Array, Array]:
        coef = np.atleast_2d(self.coef_)
        return coef, np.broadcast_to(self.intercept_, (len(coef),))

    def _predictor(self) -> LinearObjective:
        coef, _ = self._coef()
        return LinearObjective(SquaredLoss(), coef.shape[1], coef.shape[0], self.fit_intercept)


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
        "checkpoint": [str, Path, Checkpoint, None],
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
        checkpoint: Any = None,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.tol = tol
        self.n_jobs = n_jobs
        self.positive = positive
        self.solver = solver
        self.max_iter = max_iter
        self.checkpoint = checkpoint

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
        "checkpoint": [str, Path, Checkpoint, None],
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
        checkpoint: Any = None,
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
        self.checkpoint = checkpoint

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        alpha = np.asarray(self.alpha, dtype=np.float64)
        if alpha.ndim == 0:
            return L2(float(alpha) / schema.weight_sum)
        if alpha.shape != (objective.n_outputs,):
            raise ValueError(f"Number of targets and number of penalties do not correspond: {alpha.shape[0]} != {objective.n_outputs}")
        return L2(np.repeat(alpha, objective.n_columns) / schema.weight_sum)
