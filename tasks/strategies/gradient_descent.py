"""Gradient descent: fixed step or backtracking, with or without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from tasks.arguments import as_number, check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import (
    RUNNING,
    Iterate,
    Request,
    Status,
    finite,
    not_finite_at_start,
    stalled,
    starting_point,
    status_after,
)
from tasks.typing import Float64


class GradientDescentState(NamedTuple):
    """iterate: the evaluated point that the next step leaves from (with Nesterov's method an extrapolated one); pending (n,): the point
    that takes its place once it is evaluated, or None while a trial is; previous (n,): the last iterate; first_value: the objective at
    the start, inf before; first_fall: what the first step would lower it by on a straight slope; age: Nesterov's t."""

    iterate: Iterate
    pending: Float64 | None
    previous: Float64
    velocity: Float64
    step_size: float
    first_value: float
    first_fall: float
    age: float
    iteration: int
    status: Status


@dataclass(frozen=True)
class GradientDescent:
    """parameters <- parameters - step_size gradient.

    step_size    a number, or "backtracking": halved until f(new) <= f - step/2 |gradient|² (Armijo), a tenth longer after each success;
                 where values differ by rounding only, halved until the gradient is shorter than before
    momentum     B. Polyak (1964): velocity <- momentum velocity - step_size gradient; needs a fixed step_size
    nesterov     Y. Nesterov (1983), in the form of A. Beck and M. Teboulle, FISTA, SIAM J. Imaging Sci. 2 (2009), with the gradient
                 restart of B. O'Donoghue and E. Candès, Found. Comput. Math. 15 (2015); with momentum > 0, that constant instead of t
    Converged when max |gradient| <= tol. Stalled when no step is short enough. Diverged when the objective leaves the numbers or exceeds
    1e3 times its first value, or what the first step promised where that is more.

    Raises ValueError for a step size that is not positive, momentum outside [0, 1), or momentum with backtracking; for max_iter below 1,
    and for a tol that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("loss_and_gradient",)
    takes_kinks: ClassVar[bool] = False

    step_size: float | Literal["backtracking"] = "backtracking"
    momentum: float = 0.0
    nesterov: bool = False
    tol: float = 1e-4
    max_iter: int = 1000

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol)
        check_counts(max_iter=self.max_iter)
        if self.step_size != "backtracking" and not 0 < as_number(self.step_size) < np.inf:
            raise ValueError(f"step_size must be a positive number or 'backtracking', got {self.step_size!r}")
        if not 0 <= as_number(self.momentum) < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if self.momentum and self.step_size == "backtracking":
            raise ValueError("momentum needs a fixed step_size: a backtracking step forgets the velocity; set step_size, or momentum=0")

    def init(self, parameters: Float64) -> GradientDescentState:
        step = 1.0 if self.step_size == "backtracking" else float(self.step_size)
        start = starting_point(parameters)
        here, rest = start.parameters, np.zeros_like(start.parameters)
        return GradientDescentState(start, here, here, rest, step, np.inf, 0.0, 1.0, 0, RUNNING)

    def request(self, state: GradientDescentState) -> Request:
        return Request("loss_and_gradient", self._trial(state) if state.pending is None else state.pending)

    def update(self, state: GradientDescentState, evaluation: Evaluation) -> GradientDescentState:
        if state.pending is not None:
            return self._evaluated(state, Iterate(state.pending, evaluation.value, evaluation.gradient, evaluation.noise), evaluation)
        if self._descends(state, evaluation):
            return self._move(state, self._trial(state), evaluation)
        if state.step_size < 1e-30 or np.array_equal(self._trial(state), state.iterate.parameters):
            return state._replace(status=stalled("no step lowers the objective beyond rounding", state.iterate.gradient, self.tol))
        return state._replace(step_size=0.5 * state.step_size)

    def _descends(self, state: GradientDescentState, evaluation: Evaluation) -> bool:
        gradient, value = state.iterate.gradient, state.iterate.value
        square = float(gradient @ gradient)
        noise = state.iterate.rounding
        if not finite(evaluation):
            return False
        if 0.5 * state.step_size * square > noise:
            return evaluation.value <= value - 0.5 * state.step_size * square
        return evaluation.value <= value + noise and float(evaluation.gradient @ evaluation.gradient) < square

    def _trial(self, state: GradientDescentState) -> Float64:
        return state.iterate.parameters - state.step_size * state.iterate.gradient

    def _evaluated(self, state: GradientDescentState, point: Iterate, evaluation: Evaluation) -> GradientDescentState:
        """Value and gradient of the pending point have arrived: the next step leaves from there."""
        state = state._replace(iterate=point, pending=None)
        if state.first_value == np.inf:
            square = float(evaluation.gradient @ evaluation.gradient)
            state = state._replace(first_value=evaluation.value, first_fall=state.step_size * square)
            if not finite(evaluation):
                return state._replace(status=not_finite_at_start(point.parameters))
        else:
            state = state._replace(iteration=state.iteration + 1)
        status = self._status(state, evaluation)
        if status.kind != "running" or self.step_size == "backtracking":
            return state._replace(status=status)
        return self._fixed_step(state)

    def _status(self, state: GradientDescentState, evaluation: Evaluation) -> Status:
        if not finite(evaluation) or evaluation.value > 1e3 * max(abs(state.first_value), state.first_fall):
            cure = "lower step_size, or use step_size='backtracking'"
            return Status("diverged", f"the objective went from {state.first_value:.3g} to {evaluation.value:.3g}; {cure}")
        return status_after(state.iteration, evaluation.gradient, self.tol, self.max_iter)

    def _fixed_step(self, state: GradientDescentState) -> GradientDescentState:
        if self.nesterov:
            return self._extrapolate(state, self._trial(state))
        velocity = self.momentum * state.velocity - state.step_size * state.iterate.gradient
        return state._replace(pending=state.iterate.parameters + velocity, velocity=velocity)

    def _move(self, state: GradientDescentState, new: Float64, evaluation: Evaluation) -> GradientDescentState:
        """A backtracking trial was good; without extrapolation its evaluation serves the next step."""
        state = state._replace(step_size=1.1 * state.step_size)
        if self.nesterov:
            return self._extrapolate(state, new)
        state = state._replace(iterate=Iterate(new, evaluation.value, evaluation.gradient, evaluation.noise), iteration=state.iteration + 1)
        return state._replace(status=self._status(state, evaluation))

    def _extrapolate(self, state: GradientDescentState, new: Float64) -> GradientDescentState:
        age = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * state.age**2))
        factor = self.momentum or (state.age - 1.0) / age
        if float(state.iterate.gradient @ (new - state.previous)) > 0:  # overshot: start the momentum again
            age, factor = 1.0, 0.0
        return state._replace(pending=new + factor * (new - state.previous), previous=new, age=float(age))
