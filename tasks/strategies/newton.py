"""Newton's method with the Hessian summed over all rows: few rounds, for models of up to a few thousand parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np
from scipy import linalg

from tasks.arguments import check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import (
    RUNNING,
    Iterate,
    Request,
    Status,
    finite,
    lost_in_rounding,
    not_finite_at_start,
    stalled,
    starting_point,
    status_after,
)
from tasks.typing import Float64


class NewtonState(NamedTuple):
    """step: length of the trial along direction (n,), 0 for the first round; local: whether the first step, until it is accepted, is that
    of the partitions' own quadratic models (and iterate.gradient is theirs); unsolved: the largest component of the gradient that is left
    after the full step by the quadratic model, along directions in which the Hessian is taken for singular."""

    iterate: Iterate
    direction: Float64
    step: float
    iteration: int
    status: Status
    local: bool
    unsolved: float = 0.0


@dataclass(frozen=True)
class Newton:
    """Damped Newton; S. Boyd and L. Vandenberghe, Convex Optimization (2004), algorithm 9.5.

    The trial with the full step brings value, gradient and Hessian in one round; when it lowers the objective enough (Armijo, 1e-4)
    that round is the next iteration. Otherwise the step is halved. A singular Hessian gives the step of least norm in the user's units.
    Converged when max |gradient| <= tol after at least one step, or when the step lowers neither the objective nor the gradient beyond
    rounding and should not, for all that it leaves of the gradient; otherwise that is stalled.
    row_step > 1 works on every row_step-th row only, and decrement_tol > 0 also ends when the expected decrease
    ½ gradient' H^-1 gradient is below it, with that step ready to be taken (see `SampledNewton`). local_start=True takes the first step
    by the quadratic models of `tasks.rounds.local_models`, and takes it back when it does not lower the objective.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-4
    max_iter: int = 100
    row_step: int = 1
    decrement_tol: float = 0.0
    local_start: bool = False

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol, decrement_tol=self.decrement_tol)
        check_counts(max_iter=self.max_iter, row_step=self.row_step)

    @property
    def oracles(self) -> tuple[str, ...]:
        return ("local_hessian", "hessian") if self.local_start else ("hessian",)

    def init(self, parameters: Float64) -> NewtonState:
        return NewtonState(starting_point(parameters), np.zeros(len(parameters)), 0.0, 0, RUNNING, self.local_start)

    def request(self, state: NewtonState) -> Request:
        oracle = "local_hessian" if state.local and state.step == 0.0 else "hessian"
        return Request(oracle, self._trial(state), row_step=self.row_step)

    def update(self, state: NewtonState, evaluation: Evaluation) -> NewtonState:
        point = Iterate(self._trial(state), evaluation.value, evaluation.gradient, evaluation.noise)
        if state.step == 0.0:
            if not finite(evaluation):
                return state._replace(iterate=point, status=not_finite_at_start(point.parameters))
            return self._next(state._replace(iterate=point), evaluation)
        verdict = self._judge(state, evaluation)
        if verdict == "accept":
            return self._next(state._replace(iterate=point, iteration=state.iteration + 1, local=False), evaluation)
        if state.local:
            return self.init(state.iterate.parameters)._replace(local=False)
        if verdict == "at rounding":
            return state._replace(status=self._at_rounding(state))
        if state.step < 1e-10:
            return state._replace(
                status=stalled("no step along the Newton direction lowers the objective", state.iterate.gradient, self.tol)
            )
        return state._replace(step=0.5 * state.step)

    def _judge(self, state: NewtonState, evaluation: Evaluation) -> str:
        if not finite(evaluation):
            return "halve"
        slope = float(state.direction @ state.iterate.gradient)
        noise = state.iterate.rounding
        if evaluation.value <= state.iterate.value + 1e-4 * state.step * slope - noise:
            return "accept"
        if evaluation.value <= state.iterate.value + noise:  # values cannot tell: let the gradient decide
            smaller = np.max(np.abs(evaluation.gradient)) < 0.5 * np.max(np.abs(state.iterate.gradient))
            return "accept" if smaller else "at rounding"
        return "halve"

    def _at_rounding(self, state: NewtonState) -> Status:
        gradient = state.iterate.gradient
        slope = float(state.direction @ gradient)
        if -0.5 * slope <= state.iterate.rounding and state.unsolved <= max(self.tol, 0.5 * float(np.max(np.abs(gradient)))):
            return lost_in_rounding(slope)
        return stalled("a Newton step lowers neither objective nor gradient beyond rounding", gradient, self.tol)

    def _trial(self, state: NewtonState) -> Float64:
        return state.iterate.parameters + state.step * state.direction

    def _next(self, state: NewtonState, evaluation: Evaluation) -> NewtonState:
        tol = self.tol if state.iteration else 0.0  # one step at least: it costs little, and no scale of y or X passes for an optimum
        status = status_after(state.iteration, state.iterate.gradient, tol, self.max_iter)
        if status.kind != "running":
            return state._replace(status=status, step=0.0)
        assert evaluation.hessian is not None
        if not np.all(np.isfinite(evaluation.hessian)):
            return state._replace(status=Status("diverged", "sums of squares of X overflow; scale the columns of X"))
        direction = -solve_newton(evaluation.hessian, evaluation.gradient, evaluation.n_free, evaluation.units)
        if not np.all(np.isfinite(direction)):
            return state._replace(status=Status("diverged", "the Newton step is not finite; scale the columns of X"))
        unsolved = float(np.max(np.abs(evaluation.hessian @ direction + evaluation.gradient), initial=0.0))
        state = state._replace(direction=direction, step=1.0, unsolved=unsolved)
        decrement = -0.5 * float(direction @ evaluation.gradient)
        if self.decrement_tol > 0 and decrement <= self.decrement_tol:
            return state._replace(status=Status("converged", f"expected decrease {decrement:.3g} <= {self.decrement_tol:.3g}"))
        return state


def solve_newton(hessian: Float64, gradient: Float64, n_free: int, units: Float64 | None = None) -> Float64:
    """hessian^-1 gradient, (n,), of least norm in the penalised parameters, times `units` if given, where the Hessian is singular; gradient
    may be several, (n, t).

    The n_free trailing parameters (intercepts) are eliminated first (Schur complement), which centres the columns: large means do
    not cost digits, and for squared loss the least-norm solution is that of the centred problem, as scikit-learn's.
    """
    n = len(gradient) - n_free
    cross, corner = hessian[:n, n:], hessian[n:, n:]
    corner_inverse = generalised_inverse(corner)
    projected = cross @ corner_inverse
    centred = hessian[:n, :n] - projected @ cross.T
    step = solve_least_norm(centred, gradient[:n] - projected @ gradient[n:], units, np.diagonal(hessian)[:n])
    return np.concatenate([step, corner_inverse @ (gradient[n:] - cross.T @ step)])


RANGE: Final = 2.0**-20


def generalised_inverse(matrix: Float64) -> Float64:
    """Some inverse (n, n) of a symmetric positive semidefinite matrix on its range; of its rank as `solve_least_norm` decides on that."""
    diagonal = np.diagonal(matrix)
    scale = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = linalg.eigh(matrix * scale[:, None] * scale[None, :]) if len(matrix) else (diagonal, matrix)
    kept = values > lost_below(len(matrix))
    root = scale[:, None] * vectors[:, kept] / np.sqrt(values[kept])
    return np.asarray(root @ root.T)


def lost_below(n: int) -> float:
    """The eigenvalue of a matrix (n, n) of unit diagonal up to which it is taken for rounding."""
    return 10 * n * float(np.finfo(np.float64).eps)


def solve_least_norm(matrix: Float64, right: Float64, units: Float64 | None = None, before: Float64 | None = None) -> Float64:
    """matrix^-1 right, for a symmetric positive semidefinite matrix and right (n,) or (n, t).

    Of all solutions the one of least norm, after multiplication with units (n,), if given. before (n,): the diagonal as it was before
    something was subtracted from it. Eigenvalues of the matrix, scaled to unit diagonal, up to 10 n eps count as zero; so does what is left
    of a diagonal element, up to 10 n eps of it. Which those are does not hang on units. Where a Cholesky factor shows that all are larger,
    it takes their place.
    """
    diagonal = np.diagonal(matrix)
    tiny = lost_below(len(right))
    used = np.flatnonzero(diagonal > (0.0 if before is None else tiny * before))
    if len(used) < len(right):
        step = np.zeros(right.shape)
        step[used] = solve_least_norm(matrix[np.ix_(used, used)], right[used], None if units is None else units[used])
        return step
    if not len(right):
        return np.zeros(right.shape)
    scale = 1.0 / np.sqrt(diagonal)
    scaled = matrix * scale[:, None] * scale[None, :]
    along = column(scale, right)
    try:
        factor = linalg.cho_factor(scaled, lower=True)
        if smallest_eigenvalue(scaled, factor[0]) > tiny:
            return np.asarray(along * linalg.cho_solve(factor, along * right))
    except linalg.LinAlgError:
        pass
    values, vectors = linalg.eigh(scaled)
    n_free = int(np.sum(values <= tiny))
    vectors[np.abs(vectors) <= tiny] = 0.0  # rounding, which units that differ by much would enlarge
    kept = vectors[:, n_free:]
    step = along * (kept @ ((kept.T @ (along * right)) / column(values[n_free:], right)))
    return least_norm(step, scale, vectors, n_free, np.ones(len(right)) if units is None else units)


def column(values: Float64, like: Float64) -> Float64:
    """values (n,) in a shape that broadcasts to that of `like`, (n,) or (n, t)."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def smallest_eigenvalue(matrix: Float64, factor: Float64) -> float:
    """A number that is hardly above the smallest eigenvalue of a matrix (n, n), by its lower Cholesky factor: 1 over the 1-norm of the
    inverse, which LAPACK estimates."""
    norm = float(np.max(np.sum(np.abs(matrix), axis=0)))
    share, _ = linalg.lapack.dpocon(factor, norm, uplo="L")
    return float(share) * norm


def least_norm(step: Float64, scale: Float64, vectors: Float64, n_free: int, units: Float64) -> Float64:
    """The x for which units x has the least norm, of all x with the same products vectors[:, n_free:].T @ (x / scale) as step (n,).

    step may be several, (n, t). vectors (n, n) are orthonormal. By least squares in the smaller of the two spaces; what is
    solved never moves but along the free one. Units count as at least RANGE of the largest: along elements that a norm does not see,
    rounding would go anywhere.
    """
    units = np.maximum(units, RANGE * np.max(units))
    free, kept = vectors[:, :n_free], vectors[:, n_free:]
    if n_free <= len(step) // 2:
        along = scale[:, None] * free
        best = linalg.lstsq(units[:, None] * along, -column(units, step) * step, lapack_driver="gelsy")[0]
        return np.asarray(step + along @ best)
    basis, corner = linalg.qr(kept / (scale * units)[:, None], mode="economic")
    scale, units = column(scale, step), column(units, step)
    best = basis @ linalg.solve_triangular(corner, kept.T @ (step / scale), trans="T") / units
    return np.asarray(best + scale * (kept @ (kept.T @ ((step - best) / scale))))


def inverse_newton(hessian: Float64) -> Float64:
    """hessian^-1 (n, n), symmetric, after a slight ridge that makes it positive definite."""
    n = len(hessian)
    diagonal = np.diagonal(hessian)
    ridge = 1e-10 * np.where(diagonal > 0, diagonal, np.max(diagonal, initial=1.0))
    factor = linalg.cho_factor(hessian + np.diag(ridge), lower=True)
    inverse = linalg.cho_solve(factor, np.eye(n))
    return 0.5 * (inverse + inverse.T)
