"""Consensus ADMM: each subtree of groups moves towards its own minimum, and all agree on one place.

S. Boyd, N. Parikh, E. Chu, B. Peleato and J. Eckstein, *Distributed optimization and statistical learning via the alternating direction
method of multipliers*, Found. Trends Mach. Learn. 3 (2011), section 7.1.1; over-relaxation 3.4.3; penalty parameter 3.4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from tasks.arguments import as_number, check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.objectives.penalties import Penalty
from tasks.strategies.base import (
    RUNNING,
    Consensus,
    Iterate,
    Request,
    Residuals,
    Status,
    Subtrees,
    finite,
    not_finite_at_start,
    starting_point,
)
from tasks.typing import Float64

RELAXATION: Final = 1.6
UNLIKE: Final = 10.0
"""How many times as large as the other one residual may be before rho changes."""
SETTLED_AFTER: Final = 60
"""Rounds after which rho stays as it is: with one that changes for ever, nothing is sure to converge."""
NEWTON_STEPS: Final = 20


class ADMMState(NamedTuple):
    """iterate: the last z whose objective is known; z (n,): where all meet next; duals (t, n): of each subtree, scaled by 1 / rho;
    residuals: of the last time that all have met."""

    iterate: Iterate
    z: Float64
    duals: Float64
    rho: float
    residuals: Residuals | None = None
    iteration: int = 0
    status: Status = RUNNING


@dataclass(frozen=True)
class ADMM:
    """Minimise Σ f_i(x_i) / Σ w_i + penalty(z) so that all x_i = z, f_i being the loss of the rows of subtree i, which weigh w_i:

        x_i <- about argmin f_i(x) / w_i + ½ rho |x - z + u_i|²          on the workers, by Newton's steps from z
        z   <- argmin penalty(z) + ½ rho |z - Σ w_i (x_i + u_i) / Σ w_i|²
        u_i <- u_i + x_i - z

    with x_i replaced by 1.6 x_i - 0.6 z in the last two. In each round workers also sum loss and gradient at z, so that "converged" has the
    certificate of full passes: the largest component of the gradient of the objective is at most tol; with kinks, of z - prox(z -
    gradient).

    subtrees  which move by themselves: `pipeline.subtrees` makes them
    rho       the first one, in units of the mean loss by squares of parameters; it doubles where the primal residual is ten times
              the dual one, and halves where it is a tenth, in the first 60 rounds

    The duals, t vectors, are in the state, and each worker gets all of them: for linear models of some thousand parameters. Subtrees follow
    from the data alone, so the bits do not hang on workers. Raises ValueError for numbers out of range.
    """

    takes_kinks: ClassVar[bool] = True
    oracles: ClassVar[tuple[str, ...]] = ("consensus",)

    subtrees: Subtrees
    tol: float = 1e-4
    max_iter: int = 300
    rho: float = 0.1

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol)
        check_counts(max_iter=self.max_iter)
        if not 0 < as_number(self.rho) < np.inf:
            raise ValueError(f"rho must be a positive number, got {self.rho!r}")
        first = list(self.subtrees.first_partitions)
        if not first or first != sorted(set(first)):
            raise ValueError(f"subtrees must begin with partitions whose numbers ascend, got {first!r:.80}; pipeline.subtrees makes them")

    def init(self, parameters: Float64) -> ADMMState:
        start = starting_point(parameters)
        return ADMMState(start, start.parameters, np.zeros((len(self.subtrees.first_partitions), len(parameters))), float(self.rho))

    def residuals(self, state: ADMMState) -> Residuals | None:
        return state.residuals

    def request(self, state: ADMMState) -> Request:
        return Request("consensus", state.z, state.duals, local=Consensus(self.subtrees, state.rho))

    def update(self, state: ADMMState, evaluation: Evaluation) -> ADMMState:
        iterate = Iterate(state.z, evaluation.value, evaluation.gradient, evaluation.noise)
        if not finite(evaluation):
            if not state.iteration:
                return state._replace(iterate=iterate, status=not_finite_at_start(state.z))
            return state._replace(status=Status("diverged", "the objective is no finite number; scale the columns of X, or raise rho"))
        largest = stationarity(evaluation, state.z)
        state = state._replace(iterate=iterate)
        if largest <= self.tol:
            return state._replace(status=Status("converged", f"largest |gradient| {largest:.3g} <= tol {self.tol:.3g}"))
        if state.iteration >= self.max_iter:
            return state._replace(
                status=Status(
                    "out of rounds", f"reached max_iter={self.max_iter} while max |gradient| is {largest:.3g}; raise max_iter or tol"
                )
            )
        return self._met(state, evaluation)

    def _met(self, state: ADMMState, evaluation: Evaluation) -> ADMMState:
        """The next place where all meet, from where each has come to."""
        assert evaluation.places is not None
        places, weights = evaluation.places
        share = weights / weights.sum()
        relaxed = RELAXATION * places + (1.0 - RELAXATION) * state.z
        z = meeting(share @ (relaxed + state.duals), state.rho, evaluation.penalty, evaluation.n_free)
        duals = np.where(weights[:, None] > 0, state.duals + relaxed - z, 0.0)
        primal = float(np.sqrt(share @ np.sum((places - z) ** 2, axis=1)))
        found = Residuals(primal, state.rho * float(np.linalg.norm(z - state.z)))
        factor = 1.0
        if state.iteration < SETTLED_AFTER:
            factor = 2.0 if found.primal > UNLIKE * found.dual else 0.5 if found.dual > UNLIKE * found.primal else 1.0
        return state._replace(z=z, duals=duals / factor, rho=state.rho * factor, residuals=found, iteration=state.iteration + 1)


def meeting(mean: Float64, rho: float, penalty: Penalty, n_free: int) -> Float64:
    """argmin penalty(z) + ½ rho |z - mean|², the last n_free components being free: by Newton for the smooth part, which is separable and
    for quadratic penalties done in one step, and then the prox of the kinks."""
    z = mean.copy()
    coef = z[: len(z) - n_free]
    for _ in range(NEWTON_STEPS):
        curvature = penalty.curvature(coef) + rho
        step = (penalty.gradient(coef) + rho * (coef - mean[: len(coef)])) / curvature
        coef -= step
        if not np.any(np.abs(step) > 1e-15 * np.abs(coef)):
            break
    if penalty.kinks:
        coef[:] = penalty.prox(coef, 1.0 / curvature)  # type: ignore[arg-type]  # a step for each coefficient
    return z


def stationarity(evaluation: Evaluation, z: Float64) -> float:
    """The largest component of the gradient; with kinks of z - prox(z - gradient)."""
    gradient = evaluation.gradient
    if evaluation.penalty.kinks:
        n_coef = len(z) - evaluation.n_free
        gradient = gradient.copy()
        gradient[:n_coef] = z[:n_coef] - evaluation.penalty.prox(z[:n_coef] - gradient[:n_coef], 1.0)
    return float(np.max(np.abs(gradient), initial=0.0))
