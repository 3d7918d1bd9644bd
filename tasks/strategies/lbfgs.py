"""Limited-memory BFGS with a strong Wolfe line search, optionally preconditioned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from tasks.arguments import check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies import line_search
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
from tasks.strategies.factors import by_output, by_parameter
from tasks.typing import Float64

MOST_REFUSED: Final = 2
"""Trials of a search with a given starting matrix. Where that is a good one, the first trial is taken, or now and then the second."""


class LBFGSState(NamedTuple):
    """steps, changes: differences (n,) of parameters and of gradients, oldest first; direction (n,);
    inverse_hessian: the starting matrix of the recursion, or None for a multiple of the identity; (n, n), or blocks: see `times`."""

    iterate: Iterate
    steps: tuple[Float64, ...]
    changes: tuple[Float64, ...]
    direction: Float64
    search: line_search.Search | None
    inverse_hessian: Float64 | None
    iteration: int
    status: Status
    n_free: int = 0
    common: Float64 | None = None

    @property
    def unevaluated(self) -> bool:
        """Whether `iterate` is still the start as it was given: from its evaluation to the end a line search is always under way."""
        return self.search is None and self.status.kind == "running"


@dataclass(frozen=True)
class LBFGS:
    """J. Nocedal, Updating quasi-Newton matrices with limited storage, Math. Comp. 35 (1980); Nocedal and Wright, algorithm 7.5.

    memory: pairs remembered. Converged when max |gradient| <= tol. Stalled when no step along the steepest descent lowers the objective
    by more than rounding. Out of rounds after max_iter accepted steps. A starting matrix that is given, of a sample's rows, say, is dropped
    after MOST_REFUSED refused trials of one search: the sample lacks what all rows have.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("loss_and_gradient",)
    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-4
    max_iter: int = 100
    memory: int = 10

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol)
        check_counts(max_iter=self.max_iter, memory=self.memory)

    def init(
        self, parameters: Float64, inverse_hessian: Float64 | None = None, n_free: int = 0, common: Float64 | None = None
    ) -> LBFGSState:
        n = len(parameters)
        return LBFGSState(starting_point(parameters), (), (), np.zeros(n), None, inverse_hessian, 0, RUNNING, n_free, common)

    def request(self, state: LBFGSState) -> Request:
        if state.search is None:  # the start
            return Request("loss_and_gradient", state.iterate.parameters)
        return Request("loss_and_gradient", self._trial(state, state.search.step))

    def update(self, state: LBFGSState, evaluation: Evaluation) -> LBFGSState:
        if state.search is None:
            point = Iterate(state.iterate.parameters, evaluation.value, evaluation.gradient, evaluation.noise)
            if not finite(evaluation):
                return state._replace(iterate=point, status=not_finite_at_start(point.parameters))
            return self._next(state._replace(iterate=point))
        search = line_search.advance(state.search, evaluation.value, float(evaluation.gradient @ state.direction))
        if search.outcome == "accepted":
            return self._next(self._accept(state, evaluation))
        if search.outcome == "failed" or (state.inverse_hessian is not None and search.trials >= MOST_REFUSED):
            return self._search_failed(state)
        return state._replace(search=search)

    def _trial(self, state: LBFGSState, step: float) -> Float64:
        return state.iterate.parameters + step * state.direction

    def _accept(self, state: LBFGSState, evaluation: Evaluation) -> LBFGSState:
        assert state.search is not None
        point = Iterate(self._trial(state, state.search.step), evaluation.value, evaluation.gradient, evaluation.noise)
        step = point.parameters - state.iterate.parameters
        change = point.gradient - state.iterate.gradient
        enough = np.finfo(np.float64).eps * np.linalg.norm(step) * np.linalg.norm(change)
        if step @ change > enough:  # otherwise the pair would spoil positive definiteness
            state = state._replace(
                steps=(*state.steps, step)[-self.memory :],
                changes=(*state.changes, change)[-self.memory :],
            )
        return state._replace(iterate=point, iteration=state.iteration + 1)

    def _next(self, state: LBFGSState) -> LBFGSState:
        """A new direction and the start of its line search, or the end."""
        status = status_after(state.iteration, state.iterate.gradient, self.tol, self.max_iter)
        if status.kind != "running":
            return state._replace(status=status, search=None)
        direction = -self._apply_inverse(state, state.iterate.gradient)
        slope = float(direction @ state.iterate.gradient)
        if not slope < 0:
            return self._search_failed(state._replace(direction=direction))
        unscaled = not state.steps and state.inverse_hessian is None
        step = min(1.0, 1.0 / float(np.sum(np.abs(state.iterate.gradient)))) if unscaled else 1.0
        return state._replace(direction=direction, search=line_search.begin(state.iterate, slope, step))

    def _search_failed(self, state: LBFGSState) -> LBFGSState:
        """Without memory there is nothing better to try; with it, forget it and try steepest descent once more."""
        if not state.steps and state.inverse_hessian is None:
            return state._replace(status=stalled("no step lowers the objective beyond rounding", state.iterate.gradient, self.tol))
        return self._next(state._replace(steps=(), changes=(), inverse_hessian=None))

    def _apply_inverse(self, state: LBFGSState, gradient: Float64) -> Float64:
        """The two-loop recursion."""
        q = gradient.copy()
        curvature = [float(step @ change) for step, change in zip(state.steps, state.changes, strict=True)]
        weights = np.zeros(len(curvature))
        for i in reversed(range(len(curvature))):
            weights[i] = state.steps[i] @ q / curvature[i]
            q -= weights[i] * state.changes[i]
        if state.inverse_hessian is not None:
            q = times(state.inverse_hessian, q, state.n_free, state.common)
        elif curvature:
            q *= curvature[-1] / (state.changes[-1] @ state.changes[-1])
        for i in range(len(curvature)):
            q += (weights[i] - state.changes[i] @ q / curvature[i]) * state.steps[i]
        return q


def times(matrix: Float64, vector: Float64, n_free: int, common: Float64 | None) -> Float64:
    """matrix @ vector (n,), of a matrix (n, n), or of blocks (c, q, q), one for each output.

    The parameters of an output are some of the first n - n_free and some of the n_free last ones. common (q,), where it is given, is the
    factor of what outputs have in common, their mean: the blocks are for what is left of them, and of what the blocks make of that.
    """
    if matrix.ndim == 2:
        return np.asarray(matrix @ vector)
    c, n_coef = len(matrix), len(vector) - n_free
    rows = by_output(vector, n_coef, c)
    mean = np.zeros(rows.shape[1]) if common is None else rows.mean(axis=0)
    found = np.stack([block @ row for block, row in zip(matrix, rows - mean, strict=True)])
    if common is not None:
        found += common * mean - found.mean(axis=0)
    return by_parameter(found, n_coef // c)
