"""Linear models; least squares: LinearRegression and Ridge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, replace
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import numpy as np
from sklearn.base import MultiOutputMixin
from sklearn.utils._param_validation import Interval

from pipeline.estimators.base import GradientModel, SetUp, parameter
from pipeline.estimators.kinds import Regressor, require_numbers
from pipeline.estimators.parameters import Count, Flag, NotNegative, Only, RandomState, Saving, Threads, with_parameters
from pipeline.estimators.solvers import SCIKIT_LEARN_NAMES, SOLVERS, Precision, Problem, choose, takes_common_units
from pipeline.training.history import digest
from pipeline.training.sampling import group_starts, subtrees_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import SquaredLoss
from tasks.objectives.penalties import L2, Penalty
from tasks.objectives.standardisation import CONSTANT, EPSILON, Standardisation, standardisation, target_standardisation
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema

ROUNDING: Final = 16 * EPSILON
"""What tells nothing of a gradient, as a share of what is added up for it."""


class LinearModel(GradientModel):
    """coef_ and intercept_, in scikit-learn's shapes, float32 when X is; found by a `solver`."""

    _solvers: ClassVar[tuple[str, ...]] = (*SOLVERS, *SCIKIT_LEARN_NAMES)
    coef_: Any
    intercept_: Any
    fit_intercept: bool
    solver: Any
    tol: Any  # float, or None by epochs
    max_iter: Any  # int, or None for the usual

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
    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        """Store coef (n_outputs, p) and intercept (n_outputs,) in scikit-learn's shapes."""

    def _precision(self, schema: Schema, standard: Standardisation, objective: LinearObjective) -> Precision:
        """tol as strategies take it: absolute, about the gradient by a coefficient of the largest standardised column, which a heavy
        penalty may leave small, and not below what rounding leaves. Of smaller columns it is a share, in powers of two, as factors are.

        Without an intercept, columns that are far from zero stand in for one, and what they say beside that is their deviation's share."""
        spread, unit = schema.spread, self._unit(schema)
        _, size = spread.about(the_mean=self.fit_intercept)
        sizes = size * standard.factor
        share = apart = float(np.max(sizes, initial=0.0)) or 1.0
        if not self.fit_intercept:
            varies = spread.deviation > CONSTANT * size
            apart *= float(np.min(spread.deviation[varies] / size[varies], initial=1.0))
        smaller = np.exp2(np.minimum(np.round(np.log2(np.where(sizes > 0, sizes, share))) - np.round(np.log2(share)), 0.0))
        rounding = np.finfo(schema.dtype).eps * np.hypot(standard.shift * standard.factor, np.maximum(sizes, 1.0))
        return Precision(
            gradient=max(self.tol * apart, ROUNDING) * unit,
            gain=max(self.tol * share, ROUNDING) * unit,
            shares=np.concatenate([np.tile(smaller, objective.n_outputs), np.ones(objective.layout.size - objective.layout.n_coef)]),
            rounding=rounding.astype(np.float64),
        )

    def _unit(self, schema: Schema) -> float:
        """The unit of raw predictions, by derivatives of the loss."""
        return 1.0

    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        objective = self._objective(schema)
        penalty = self._penalty(schema, objective)
        assert isinstance(penalty, L2)
        shared = objective.n_outputs if objective.loss.constant_curvature else 1
        subtrees = subtrees_of(group_starts(len(schema.partition_rows), n_groups))
        problem = Problem(objective.loss, objective.layout.size // shared, objective.n_outputs // shared, schema.n_rows, subtrees)
        standard = self._standardisation(schema, objective, penalty, takes_common_units(self.solver, problem))
        strategy, choice = choose(self.solver, problem, self._precision(schema, standard, objective), self.max_iter)
        return SetUp(replace(objective, standard=standard), standard.penalty(penalty, objective.n_outputs), strategy, choice)

    def _standardisation(self, schema: Schema, objective: LinearObjective, penalty: L2, common: bool) -> Standardisation:
        """How the solver sees the columns; common: whether it needs them in common units to find the least norm."""
        spread, strength = schema.spread.about(the_mean=self.fit_intercept), float(np.min(penalty.strength))
        return standardisation(*spread, objective.loss.usual_curvature, strength, common=common and strength == 0)

    def _start(self, objective: LinearObjective) -> Array:
        return np.zeros(objective.layout.size)

    def _given(self, objective: LinearObjective) -> Array:
        named = {}
        for name, shapes in zip(("coef_", "intercept_"), self._shapes(objective), strict=True):
            if name not in vars(self):
                raise ValueError(f"{name} is not there beside the other; set it, too, an array of shape {shapes[0]}")
            named[name] = parameter(name, vars(self)[name], *shapes)
        return objective.from_units(named["coef_"], np.broadcast_to(named["intercept_"], (objective.n_outputs,)))

    def _shapes(self, objective: LinearObjective) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """The shapes that coef_ may have, and those of intercept_; the usual one first."""
        n = objective.n_outputs
        return [(n, objective.n_columns)], [(n,), ()] if n == 1 else [(n,)]

    @property
    def _n_columns(self) -> int:
        return int(np.atleast_1d(self.coef_).shape[-1])

    def _set_parameters(self, parameters: Array, objective: LinearObjective, dataset: Dataset) -> None:
        coef, intercept = objective.in_units(parameters)
        intercept = objective.centred(intercept)
        self._set_coef(coef.astype(dataset.parameter_dtype), intercept.astype(dataset.parameter_dtype), dataset)
        self.parameters_sha256_ = digest(objective.join(coef, intercept))

    def _arrays(self) -> dict[str, Array]:
        return {"coef": self.coef_, "intercept": self.intercept_}

    def _set_arrays(self, arrays: Mapping[str, Array]) -> None:
        self.coef_ = arrays["coef"]
        self.intercept_ = arrays["intercept"][()]  # a scalar again where it was one
        self.n_features_in_ = self._n_columns

    def _fitted(self, dtype: str) -> tuple[LinearObjective, Array]:
        objective = self._predictor()
        return objective, self._given(objective)


class LeastSquares(MultiOutputMixin, Regressor, LinearModel):
    """What LinearRegression and Ridge share."""

    def _objective(self, schema: Schema) -> LinearObjective:
        require_numbers(schema)
        assert schema.target_spread is not None
        targets = target_standardisation(*schema.target_spread.about(the_mean=self.fit_intercept))
        return LinearObjective(
            SquaredLoss(), schema.n_columns, schema.n_targets, self.fit_intercept, targets=targets, compiled=schema.worth_compiling
        )

    def _unit(self, schema: Schema) -> float:
        """That of y; any positive number will do where y is constant."""
        assert schema.target_spread is not None
        return float(np.max(schema.target_spread.deviation)) or float(np.max(schema.target_spread.root_mean_square)) or 1.0

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        in_columns = dataset.schema.target_kind == "multioutput"
        self.coef_ = coef if in_columns else coef[0]
        fitted = intercept if in_columns else intercept[0]
        self.intercept_ = fitted if self.fit_intercept else 0.0

    def _store(self, result: Any, objective: Any, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        self.n_iter_ = max(1, max(result.iterations))

    def _shapes(self, objective: LinearObjective) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        n, p = objective.n_outputs, objective.n_columns
        return [(p,), (1, p)] if n == 1 else [(n, p)], [(), (n,)] if n == 1 or not self.fit_intercept else [(n,), ()]

    def _predictor(self) -> LinearObjective:
        return LinearObjective(SquaredLoss(), self._n_columns, len(np.atleast_2d(self.coef_)), True)


@with_parameters
class LinearRegressionParameters:
    """The parameters of LinearRegression."""

    _: KW_ONLY
    fit_intercept: Flag = True
    copy_X: Flag = True
    tol: NotNegative = 1e-6
    n_jobs: Threads = None
    positive: Annotated[Flag, Only((False,), "coefficients are not constrained here; use sklearn.linear_model.LinearRegression")] = False
    solver: Any = "auto"
    max_iter: Count | None = None
    checkpoint: Saving = None


class LinearRegression(LinearRegressionParameters, LeastSquares):
    """Ordinary least squares: minimise ½ Σ s_i (y_i - coef @ x_i - intercept)² / Σ s_i.

    Solvers see the columns standardised, so that neither what they find nor when they end hangs on units
    (`tasks.objectives.standardisation`). Where the columns are dependent, "newton" and "newton-cg" find the solution of least norm, as
    scikit-learn's ("newton-cg" in the norm of the standardised coefficients where sizes of columns differ by more than a thousand);
    others find one that predicts the same. Parameters as `sklearn.linear_model.LinearRegression`'s, and solver: "auto", "newton",
    "newton-cg", "lbfgs", "gradient-descent", "nesterov", "admm" or a strategy; max_iter: steps at most, None for the strategy's own limit.
    Converged when the largest |gradient| of the mean loss by the coefficients of the standardised columns is at most tol times the
    standard deviation of y, or when a Newton step would gain less than rounding does. With "newton": when a step would lower the mean
    squared error of no target by more than tol² times the variance of y.
    """

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        return L2(0.0)

    def predict(self, X: Any) -> Any:
        """Predicted numbers (n,), or (n, t) after a fit on y of shape (n, t), also for t = 1; lazy for Dask input."""
        found = super().predict(X)
        return found[:, None] if found.ndim < np.ndim(self.coef_) else found


@with_parameters
class RidgeParameters:
    """The parameters of Ridge."""

    alpha: Annotated[Any, Interval(Real, 0, None, closed="left"), "array-like"] = 1.0
    _: KW_ONLY
    fit_intercept: Flag = True
    copy_X: Flag = True
    max_iter: Count | None = None
    tol: NotNegative = 1e-4
    solver: Any = "auto"
    positive: Annotated[Flag, Only((False,), "coefficients are not constrained here; use sklearn.linear_model.Ridge")] = False
    random_state: RandomState = None  # nothing here is drawn: every value gives the same fit
    warm_start: Flag = False
    checkpoint: Saving = None


class Ridge(RidgeParameters, LeastSquares):
    """Least squares with an L2 penalty: minimise Σ s_i (y_i - coef @ x_i - intercept)² + alpha |coef|².

    Parameters as `sklearn.linear_model.Ridge`'s; alpha may be (t,), one for each target; warm_start starts at the last coef_. solver as
    `LinearRegression`'s; scikit-learn's "cholesky" and "svd" mean "newton". The penalty is on the user's coefficients, whatever the
    solver sees. Converged as LinearRegression.
    """

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        super()._set_coef(coef, intercept, dataset)
        if len(coef) == 1:  # also of y in one column, whose intercept_ is (1,)
            self.coef_ = coef[0]

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        try:
            alpha = np.asarray(self.alpha, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"alpha must be a number, or one for each target, got {self.alpha!r}") from error
        if not np.all(np.isfinite(alpha) & (alpha >= 0)):
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha!r}")
        if alpha.ndim == 0:
            return L2(float(alpha) / schema.weight_sum)
        if alpha.shape != (objective.n_outputs,):
            raise ValueError(
                f"Number of targets and number of penalties do not correspond: alpha has shape {alpha.shape}, and y {objective.n_outputs}"
                " targets; pass a number, or one for each target"
            )
        return L2(np.repeat(alpha, objective.n_columns) / schema.weight_sum)
