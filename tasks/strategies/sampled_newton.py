"""Few passes over many rows: Newton on a sample of the rows, then L-BFGS on all rows, preconditioned by the sample's Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import linalg

from tasks.arguments import check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import Request
from tasks.strategies.lbfgs import LBFGS, LBFGSState
from tasks.strategies.newton import Newton, NewtonState, inverse_newton
from tasks.strategies.sampled import SampledState
from tasks.typing import Float64


@dataclass(frozen=True)
class SampledNewton:
    """Newton's method that starts at the optimum of a sample.

    With m sampled rows and n parameters, that lies about sqrt(n / m) from that of all rows (in the norm of the Hessian), and each full
    round with the sample's Hessian brings it nearer by about that factor again: M. Erdogdu and A. Montanari, Convergence rates of
    sub-sampled Newton methods (2015); R. Byrd et al., Math. Program. 134 (2012). The L-BFGS memory and its strong Wolfe search make it
    converge whatever the sample.

    row_step    the sample is every row_step-th row of each partition
    sample_tol  the sample's Newton steps end when the expected decrease ½ gradient' H^-1 gradient is below this
    Converged, and out of rounds after max_iter steps on all rows, as `LBFGS`.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("local_hessian", "hessian", "loss_and_gradient")
    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-4
    max_iter: int = 100
    row_step: int = 20
    sample_tol: float = 1e-4
    memory: int = 10

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol, sample_tol=self.sample_tol)
        check_counts(max_iter=self.max_iter, row_step=self.row_step, memory=self.memory)

    @property
    def _newton(self) -> Newton:
        return Newton(tol=0.0, max_iter=30, row_step=self.row_step, decrement_tol=self.sample_tol, local_start=True)

    @property
    def _lbfgs(self) -> LBFGS:
        return LBFGS(tol=self.tol, max_iter=self.max_iter, memory=self.memory)

    def init(self, parameters: Float64) -> SampledState[NewtonState]:
        start = np.array(parameters, dtype=np.float64)
        return SampledState(start, self._newton.init(start), None)

    def request(self, state: SampledState[NewtonState]) -> Request:
        return self._newton.request(state.sample) if state.full is None else self._lbfgs.request(state.full)

    def update(self, state: SampledState[NewtonState], evaluation: Evaluation) -> SampledState[NewtonState]:
        if state.full is not None:
            return state._replace(full=self._lbfgs.update(state.full, evaluation))
        sample = self._newton.update(state.sample, evaluation)
        if sample.status.kind == "running":
            return state._replace(sample=sample)
        return state._replace(sample=sample, full=self._on_all_rows(state, sample, evaluation))

    def _on_all_rows(self, state: SampledState[NewtonState], sample: NewtonState, evaluation: Evaluation) -> LBFGSState:
        """The sample's last Newton step and Hessian; whatever is wrong with a sample, all rows can still be fitted from the start."""
        hessian = evaluation.hessian
        if sample.status.kind == "diverged" or hessian is None or not np.all(np.isfinite(hessian)):
            return self._lbfgs.init(state.start)
        try:
            inverse = inverse_newton(hessian)
        except linalg.LinAlgError:
            return self._lbfgs.init(state.start)
        return self._lbfgs.init(sample.iterate.parameters + sample.step * sample.direction, inverse)
