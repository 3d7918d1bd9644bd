"""Newton's method for quadratic objectives: the Gram matrix of the columns, and where that lost digits one in better coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from tasks.arguments import check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import RUNNING, Iterate, Request, Status, finite, lost_in_rounding, not_finite_at_start, starting_point
from tasks.strategies.factors import Basis, Step, after_step, basis_of, outputs_of, solve_gram, solve_in_basis
from tasks.typing import Float64


class QuadraticNewtonState(NamedTuple):
    """direction (n,): from the iterate to the trial, zero where that is asked for again; evaluated: whether the iterate is; basis, inverse
    (p, p): see `Basis`, None while sums are by the columns; gain: of the last step, see `Step`."""

    iterate: Iterate
    direction: Float64
    evaluated: bool
    basis: Float64 | None
    inverse: Float64 | None
    gain: float
    iteration: int
    status: Status


@dataclass(frozen=True, eq=False)
class QuadraticNewton:
    """Newton's method for losses of constant curvature, whose outputs share one Hessian, the Gram matrix of the columns, but for penalties.

    One step solves it, in the first round. Where the condition number of the Gram matrix bounds what rounding has done to it, the same sums
    certify that step (`after_step` in `tasks.strategies.factors`). Else a second round does. Where it does not, the Gram matrix has lost
    digits: directions of the columns that are small beside others are squared. Then sums are asked for in coordinates in which all
    directions that the rows have are large (`basis_of`, there), and steps go on from there. So ranks are those that an orthogonal factor of
    the rows would give. Of many solutions that of least norm in the user's units.

    Converged when a Newton step would lower the mean loss of no output by more than ½ tol², and where directions were taken for zero, the
    gradient along them is zero to rounding; or when a step would gain less than rounding does.
    rounding  (p,) how far the columns may be from what their numbers stand for, as a share of their size; None: not at all. What is less
              is no direction.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("gram", "gram_in_basis")
    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-6
    max_iter: int = 100
    rounding: Float64 | None = None

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol)
        check_counts(max_iter=self.max_iter)

    def init(self, parameters: Float64) -> QuadraticNewtonState:
        return QuadraticNewtonState(starting_point(parameters), np.zeros(len(parameters)), False, None, None, np.inf, 0, RUNNING)

    def request(self, state: QuadraticNewtonState) -> Request:
        if state.basis is None:
            return Request("gram", self._trial(state))
        return Request("gram_in_basis", self._trial(state), direction=state.basis)

    def update(self, state: QuadraticNewtonState, evaluation: Evaluation) -> QuadraticNewtonState:
        moved, first = bool(np.any(state.direction)), not state.evaluated
        point = Iterate(self._trial(state), evaluation.value, evaluation.gradient, evaluation.noise)
        if first and not finite(evaluation):
            return state._replace(iterate=point, status=not_finite_at_start(point.parameters))
        if evaluation.hessian is None or not np.all(np.isfinite(evaluation.hessian)):
            return state._replace(status=Status("diverged", "sums of squares of X overflow; scale the columns of X"))
        if moved and state.basis is None and not evaluation.value <= state.iterate.value + state.iterate.rounding:
            return self._in_basis(state, evaluation)  # digits that the Gram matrix has lost make steps too long
        if not finite(evaluation):
            return state._replace(status=Status("diverged", "the Newton step is too long for numbers; scale the columns of X"))
        state = state._replace(iterate=point, evaluated=True, iteration=state.iteration + (moved and not first))
        return self._next(state, evaluation, first)

    def _next(self, state: QuadraticNewtonState, evaluation: Evaluation, first: bool) -> QuadraticNewtonState:
        step = self._solved(state, evaluation)
        if not np.all(np.isfinite(step.parameters)):
            return state._replace(status=Status("diverged", "the Newton step is not finite; scale the columns of X"))
        if not first:
            status = self._status(state, step)
            if status.kind != "running":
                return state._replace(status=status)
            if state.basis is None:
                return self._in_basis(state, evaluation)
        state = state._replace(direction=-step.parameters, gain=step.gain if state.basis is not None else np.inf)
        return self._certified(state, evaluation) if first and not step.lost else state

    def _certified(self, state: QuadraticNewtonState, evaluation: Evaluation) -> QuadraticNewtonState:
        """The first step taken, where the sums that it was made from certify it."""
        after = after_step(evaluation, state.iterate.parameters, -state.direction)
        if not after.gain <= self.tol**2:
            return state
        point = state.iterate._replace(parameters=self._trial(state), value=after.value, gradient=after.gradient)
        status = Status("converged", f"{self._would(after.gain)}, as the condition number of the Gram matrix bounds it")
        moved = bool(np.any(state.direction))
        return state._replace(iterate=point, direction=np.zeros_like(state.direction), iteration=state.iteration + moved, status=status)

    def _would(self, gain: float) -> str:
        return f"a Newton step would lower the mean loss by {0.5 * gain:.3g}, at most {0.5 * self.tol**2:.3g}"

    def _solved(self, state: QuadraticNewtonState, evaluation: Evaluation) -> Step:
        at = state.iterate.parameters
        if state.basis is None or state.inverse is None:
            return solve_gram(evaluation, at, self._hidden(evaluation, at))
        return solve_in_basis(evaluation, at, Basis(state.basis, state.inverse), self._hidden(evaluation, at))

    def _hidden(self, evaluation: Evaluation, at: Float64) -> Float64:
        """The size of a direction, by column (p,), up to which it is rounding: of sums in the columns' units, and of the columns."""
        p = outputs_of(evaluation, at).p
        in_sums = np.full(p, 10 * p * float(np.finfo(np.float64).eps))
        return in_sums if self.rounding is None else in_sums + 10 * np.sqrt(p) * self.rounding

    def _status(self, state: QuadraticNewtonState, step: Step) -> Status:
        refined = state.basis is None or state.gain < np.inf  # by a step, where there is a basis
        if refined and not step.lost and step.gain <= max(self.tol**2, step.noise):
            return Status("converged", self._would(step.gain))
        if state.iteration >= self.max_iter:
            return Status("out of rounds", f"reached max_iter={self.max_iter} while Newton steps still gain; raise max_iter or tol")
        if refined and step.gain > 0.25 * state.gain:
            return self._at_rounding(state, step.gain)
        return RUNNING

    def _at_rounding(self, state: QuadraticNewtonState, gain: float) -> Status:
        """Where steps gain no more, though they should."""
        if 0.5 * gain <= state.iterate.rounding:
            return lost_in_rounding(-gain)
        cure = "raise tol, or measure columns that are far from zero from somewhere near"
        return Status("stalled", f"Newton steps end at rounding, while one should lower the mean loss by {0.5 * gain:.3g}; {cure}")

    def _in_basis(self, state: QuadraticNewtonState, evaluation: Evaluation) -> QuadraticNewtonState:
        """Ask for the iterate again, by better coordinates."""
        basis, inverse = basis_of(evaluation, state.iterate.parameters)
        return state._replace(direction=np.zeros_like(state.direction), basis=basis, inverse=inverse, gain=np.inf)

    def _trial(self, state: QuadraticNewtonState) -> Float64:
        return state.iterate.parameters + state.direction
