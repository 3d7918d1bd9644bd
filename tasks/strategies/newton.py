"""Newton's method with the Hessian summed over all rows: few rounds, for models of up to a few thousand parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg

from tasks.objectives import Evaluation
from tasks.strategies.base import (
    RUNNING,
    Accepted,
    Power,
    Round,
    Status,
    check_counts,
    check_tolerances,
    finite,
    not_finite_at_start,
    rounding_level,
    starting_point,
    status_after,
)
from tasks.typing import Float64


class NewtonState(NamedTuple):
    """step: length of the trial along direction (n,), 0 for the first round; local: whether the first step, until it is accepted, is that
    of the partitions' own quadratic models (and accepted.gradient is theirs)."""

    accepted: Accepted
    direction: Float64
    step: float
    iteration: int
    status: Status
    local: bool


@dataclass(frozen=True)
class Newton:
    """Damped Newton; S. Boyd and L. Vandenberghe, Convex Optimization (2004), algorithm 9.5.

    The trial with the full step brings value, gradient and Hessian in one round; when it lowers the objective enough (Armijo, 1e-4)
    that round is the next iteration. Otherwise the step is halved. A singular Hessian gives the step of least norm. Converged when
    max |gradient| <= tol after at least one step, or when the step lowers neither the objective nor the gradient beyond rounding.
    row_step > 1 works on every row_step-th row only, and decrement_tol > 0 also ends when the expected decrease
    ½ gradient' H^-1 gradient is below it, with that step ready to be taken (see `SampledNewton`). local_start=True takes the first step
    by the quadratic models of `tasks.local_models`, and takes it back when it does not lower the objective.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    tol: float = 1e-4
    max_iter: int = 100
    row_step: int = 1
    decrement_tol: float = 0.0
    local_start: bool = False

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol, decrement_tol=self.decrement_tol)
        check_counts(max_iter=self.max_iter, row_step=self.row_step)

    @property
    def powers(self) -> tuple[Power, ...]:
        return ("local_hessian", "hessian") if self.local_start else ("hessian",)

    def init(self, parameters: Float64) -> NewtonState:
        return NewtonState(starting_point(parameters), np.zeros(len(parameters)), 0.0, 0, RUNNING, self.local_start)

    def request(self, state: NewtonState) -> Round:
        power: Power = "local_hessian" if state.local and state.step == 0.0 else "hessian"
        return Round(power, self._trial(state), row_step=self.row_step)

    def update(self, state: NewtonState, evaluation: Evaluation) -> NewtonState:
        point = Accepted(self._trial(state), evaluation.value, evaluation.gradient)
        if state.step == 0.0:
            if not finite(evaluation):
                return state._replace(accepted=point, status=not_finite_at_start(point.parameters))
            return self._next(state._replace(accepted=point), evaluation)
        verdict = self._judge(state, evaluation)
        if verdict == "accept":
            return self._next(state._replace(accepted=point, iteration=state.iteration + 1, local=False), evaluation)
        if state.local:
            return self.init(state.accepted.parameters)._replace(local=False)
        if verdict == "at rounding":
            largest = float(np.max(np.abs(state.accepted.gradient)))
            reason = f"a Newton step lowers neither objective nor gradient beyond rounding; max |gradient| {largest:.3g}"
            return state._replace(status=Status("converged", reason))
        if state.step < 1e-10:
            return state._replace(status=Status("diverged", "no step along the Newton direction lowers the objective"))
        return state._replace(step=0.5 * state.step)

    def _judge(self, state: NewtonState, evaluation: Evaluation) -> str:
        if not finite(evaluation):
            return "halve"
        slope = float(state.direction @ state.accepted.gradient)
        noise = rounding_level(state.accepted.value)
        if evaluation.value <= state.accepted.value + 1e-4 * state.step * slope - noise:
            return "accept"
        if evaluation.value <= state.accepted.value + noise:  # values cannot tell: let the gradient decide
            smaller = np.max(np.abs(evaluation.gradient)) < 0.5 * np.max(np.abs(state.accepted.gradient))
            return "accept" if smaller else "at rounding"
        return "halve"

    def _trial(self, state: NewtonState) -> Float64:
        return state.accepted.parameters + state.step * state.direction

    def _next(self, state: NewtonState, evaluation: Evaluation) -> NewtonState:
        tol = self.tol if state.iteration else 0.0  # one step at least: it costs little, and no scale of y or X passes for an optimum
        status = status_after(state.iteration, state.accepted.gradient, tol, self.max_iter)
        if status.kind != "running":
            return state._replace(status=status, step=0.0)
        assert evaluation.hessian is not None
        if not np.all(np.isfinite(evaluation.hessian)):
            return state._replace(status=Status("diverged", "sums of squares of X overflow; scale the columns of X"))
        direction = -solve_newton(evaluation.hessian, evaluation.gradient, evaluation.n_free)
        if not np.all(np.isfinite(direction)):
            return state._replace(status=Status("diverged", "the Newton step is not finite; scale the columns of X"))
        state = state._replace(direction=direction, step=1.0)
        decrement = -0.5 * float(direction @ evaluation.gradient)
        if self.decrement_tol > 0 and decrement <= self.decrement_tol:
            return state._replace(status=Status("converged", f"expected decrease {decrement:.3g} <= {self.decrement_tol:.3g}"))
        return state


def solve_newton(hessian: Float64, gradient: Float64, n_free: int) -> Float64:
    """hessian^-1 gradient, (n,), of least norm in the penalised parameters where the Hessian is singular.

    The n_free trailing parameters (intercepts) are eliminated first (Schur complement), which centres the columns: large means do
    not cost digits, and for squared loss the least-norm solution is that of the centred problem, as scikit-learn's.
    """
    n = len(gradient) - n_free
    cross, corner = hessian[:n, n:], hessian[n:, n:]
    corner_inverse = linalg.pinvh(corner) if n_free else np.zeros((0, 0))
    projected = cross @ corner_inverse
    centred = hessian[:n, :n] - projected @ cross.T
    step = solve_least_norm(centred, gradient[:n] - projected @ gradient[n:])
    return np.concatenate([step, corner_inverse @ (gradient[n:] - cross.T @ step)])


def solve_least_norm(matrix: Float64, right: Float64) -> Float64:
    """matrix^-1 right for a symmetric positive semidefinite matrix: Cholesky after scaling to unit diagonal, or, when that meets
    a pivot lost in rounding, the least-norm solution from the eigenvalues above n eps of the largest."""
    diagonal = np.diagonal(matrix)
    scale = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
    tiny = len(right) * float(np.finfo(np.float64).eps)
    try:
        factor = linalg.cho_factor(matrix * scale[:, None] * scale[None, :], lower=True)
        if len(right) == 0 or np.min(np.diagonal(factor[0])) ** 2 > 10 * tiny:
            return np.asarray(scale * linalg.cho_solve(factor, scale * right))
    except linalg.LinAlgError:
        pass
    values, vectors = linalg.eigh(matrix)
    kept = values > 10 * tiny * max(values[-1], 0.0)
    return np.asarray(vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept]))


def inverse_newton(hessian: Float64) -> Float64:
    """hessian^-1 (n, n), symmetric, after a slight ridge that makes it positive definite."""
    n = len(hessian)
    diagonal = np.diagonal(hessian)
    ridge = 1e-10 * np.where(diagonal > 0, diagonal, np.max(diagonal, initial=1.0))
    factor = linalg.cho_factor(hessian + np.diag(ridge), lower=True)
    inverse = linalg.cho_solve(factor, np.eye(n))
    return 0.5 * (inverse + inverse.T)
