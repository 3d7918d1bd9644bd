"""Newton's method with Hessian-vector sums: for models with too many parameters for a Hessian matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

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


class Solve(NamedTuple):
    """Conjugate gradients on hessian @ step = -gradient: step, residual and search direction (n,), and the count of products."""

    step: Float64
    residual: Float64
    search: Float64
    products: int


class NewtonCGState(NamedTuple):
    """solve: the running inner solve, or None while a point is evaluated; direction, length: the trial of the line search; solved: whether
    the direction is the Newton step to half of the gradient; first_norm: the length of the first gradient."""

    iterate: Iterate
    solve: Solve | None
    direction: Float64
    length: float
    iteration: int
    status: Status
    solved: bool = False
    first_norm: float = 0.0


@dataclass(frozen=True, eq=False)
class NewtonCG:
    """Inexact Newton; Nocedal and Wright, Numerical Optimization, 2nd edition, algorithm 7.1 (line-search Newton-CG).

    The inner solve stops at |residual| <= min(0.5, sqrt(|gradient| / |first gradient|)) |gradient| or after max_products products; the
    step is halved until it lowers the objective (Armijo, 1e-4). Converged and stalled as `Newton`; shares (n,): of tol, for each component
    of the gradient, None for all of it.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("loss_and_gradient", "hessian_vector")
    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-4
    max_iter: int = 100
    max_products: int = 200
    shares: Float64 | None = None

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol)
        check_counts(max_iter=self.max_iter, max_products=self.max_products)

    def init(self, parameters: Float64) -> NewtonCGState:
        return NewtonCGState(starting_point(parameters), None, np.zeros(len(parameters)), 0.0, 0, RUNNING)

    def request(self, state: NewtonCGState) -> Request:
        if state.solve is not None:
            return Request("hessian_vector", state.iterate.parameters, direction=state.solve.search)
        return Request("loss_and_gradient", self._trial(state))

    def update(self, state: NewtonCGState, evaluation: Evaluation) -> NewtonCGState:
        if state.solve is not None:
            return self._advance_solve(state, state.solve, evaluation.gradient)
        point = Iterate(self._trial(state), evaluation.value, evaluation.gradient, evaluation.noise)
        if state.length == 0.0:
            if not finite(evaluation):
                return state._replace(iterate=point, status=not_finite_at_start(point.parameters))
            return self._next(state._replace(iterate=point, first_norm=float(np.linalg.norm(point.gradient))))
        return self._judge(state, point, evaluation)

    def _judge(self, state: NewtonCGState, point: Iterate, evaluation: Evaluation) -> NewtonCGState:
        noise, slope = state.iterate.rounding, float(state.direction @ state.iterate.gradient)
        target = state.iterate.value + 1e-4 * state.length * slope
        lower = finite(evaluation) and evaluation.value <= target - noise
        level = finite(evaluation) and evaluation.value <= state.iterate.value + noise
        flatter = np.max(np.abs(evaluation.gradient)) < 0.9 * np.max(np.abs(state.iterate.gradient))
        if lower or (level and flatter):
            return self._next(state._replace(iterate=point, iteration=state.iteration + 1))
        if level or state.length < 1e-10:
            if state.solved and -0.5 * slope <= noise:
                return state._replace(status=lost_in_rounding(slope))
            return state._replace(status=stalled("no step lowers the objective beyond rounding", state.iterate.gradient, self.tol))
        return state._replace(length=0.5 * state.length)

    def _trial(self, state: NewtonCGState) -> Float64:
        return state.iterate.parameters + state.length * state.direction

    def _next(self, state: NewtonCGState) -> NewtonCGState:
        gradient = state.iterate.gradient if self.shares is None else state.iterate.gradient / self.shares
        status = status_after(state.iteration, gradient, self.tol, self.max_iter)
        if status.kind != "running":
            return state._replace(status=status)
        residual = -state.iterate.gradient
        return state._replace(solve=Solve(np.zeros_like(residual), residual, residual, 0))

    def _advance_solve(self, state: NewtonCGState, solve: Solve, product: Float64) -> NewtonCGState:
        gradient_norm = float(np.linalg.norm(state.iterate.gradient))
        square = float(solve.residual @ solve.residual)
        curvature = float(solve.search @ product)
        if not np.isfinite(curvature):
            return state._replace(status=Status("diverged", "a Hessian-vector product is not finite; scale the columns of X"))
        if curvature <= 0:  # flat along this direction: a convex objective has nothing to gain there
            return self._line_search(state, solve.step if solve.products else solve.residual, solve.residual)
        length = square / curvature
        step = solve.step + length * solve.search
        residual = solve.residual - length * product
        products = solve.products + 1
        if np.linalg.norm(residual) <= min(0.5, (gradient_norm / state.first_norm) ** 0.5) * gradient_norm or products >= self.max_products:
            return self._line_search(state, step, residual)
        search = residual + (float(residual @ residual) / square) * solve.search
        return state._replace(solve=Solve(step, residual, search, products))

    def _line_search(self, state: NewtonCGState, direction: Float64, residual: Float64) -> NewtonCGState:
        solved = bool(np.linalg.norm(residual) <= 0.5 * np.linalg.norm(state.iterate.gradient))
        return state._replace(solve=None, direction=direction, length=1.0, solved=solved)
