"""Few passes over many rows for several outputs: L-BFGS on a sample of the rows, then on all rows, preconditioned output by output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from scipy import linalg

from tasks.arguments import check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import Request
from tasks.strategies.factors import by_output
from tasks.strategies.lbfgs import LBFGS, LBFGSState
from tasks.strategies.newton import inverse_newton
from tasks.strategies.sampled import SampledState
from tasks.typing import Float64

LEAST_RIDGE: Final = 1e-8
"""As a share of the losses' own curvature."""


@dataclass(frozen=True)
class SampledLBFGS:
    """L-BFGS that starts at the optimum of a sample, with the sample's second derivatives there, each output's by itself.

    Those are c matrices of q = p + 1 numbers a side, in place of one of c q, which for ten classes takes more arithmetic than the passes
    that it saves. As a preconditioner they do as well (block Jacobi: J. Nocedal and S. Wright, Numerical Optimization, section 5.1), and
    L-BFGS learns how outputs meet. R. Byrd et al., Math. Program. 134 (2012), on Hessians of samples.

    coupled     whether the loss stays the same where all outputs move alike, as that of softmax does: along such moves the penalty alone
                curves, and blocks, which do not see that, would lead there
    row_step    the sample is every row_step-th row of each partition
    sample_tol  L-BFGS on the sample ends when max |gradient| is at most this
    Converged, and out of rounds after max_iter steps on all rows, as `LBFGS`.

    Raises ValueError for a count below 1, and for a tolerance that is negative or NaN.
    """

    oracles: ClassVar[tuple[str, ...]] = ("loss_and_gradient", "hessian_blocks")
    takes_kinks: ClassVar[bool] = False

    tol: float = 1e-4
    max_iter: int = 100
    row_step: int = 20
    sample_tol: float = 3e-3
    coupled: bool = False
    memory: int = 10

    def __post_init__(self) -> None:
        check_tolerances(tol=self.tol, sample_tol=self.sample_tol)
        check_counts(max_iter=self.max_iter, row_step=self.row_step, memory=self.memory)

    @property
    def _on_sample(self) -> LBFGS:
        return LBFGS(tol=self.sample_tol, max_iter=100, memory=self.memory)

    @property
    def _on_all_rows(self) -> LBFGS:
        return LBFGS(tol=self.tol, max_iter=self.max_iter, memory=self.memory)

    def init(self, parameters: Float64) -> SampledState[LBFGSState]:
        start = np.array(parameters, dtype=np.float64)
        return SampledState(start, self._on_sample.init(start), None)

    def request(self, state: SampledState[LBFGSState]) -> Request:
        if state.full is not None:
            return self._on_all_rows.request(state.full)
        if state.sample.status.kind == "running":
            return self._on_sample.request(state.sample)._replace(row_step=self.row_step)
        return Request("hessian_blocks", state.sample.iterate.parameters, row_step=self.row_step)

    def update(self, state: SampledState[LBFGSState], evaluation: Evaluation) -> SampledState[LBFGSState]:
        if state.full is not None:
            return state._replace(full=self._on_all_rows.update(state.full, evaluation))
        if state.sample.status.kind == "running":
            sample = self._on_sample.update(state.sample, evaluation)
            # whatever is wrong with a sample, all rows can still be fitted from the start
            full = self._on_all_rows.init(state.start) if sample.status.kind == "diverged" else None
            return state._replace(sample=sample, full=full)
        return state._replace(full=self._preconditioned(state.sample.iterate.parameters, evaluation))

    def _preconditioned(self, point: Float64, evaluation: Evaluation) -> LBFGSState:
        """L-BFGS from there, with the inverses of the outputs' own Hessians, penalties included; without, where these have none."""
        assert evaluation.hessian is not None
        blocks, n_free = evaluation.hessian, evaluation.n_free
        c = len(blocks)
        n_coef = len(point) - n_free
        ridge = by_output(np.append(evaluation.penalty.curvature(point[:n_coef]), np.zeros(n_free)), n_coef, c)
        if not np.all(np.isfinite(blocks)):
            return self._on_all_rows.init(point)
        try:
            inverses = np.stack([inverse_newton(block + np.diag(own)) for block, own in zip(blocks, ridge, strict=True)])
        except linalg.LinAlgError:
            return self._on_all_rows.init(point)
        return self._on_all_rows.init(point, inverses, n_free, common_factor(blocks, ridge) if self.coupled else None)


def common_factor(blocks: Float64, ridge: Float64) -> Float64:
    """The factor (q,) of steps that all outputs take together: 1 over the penalty's curvature there, by ridge (c, q), or 0 without one.

    All of the gradient there but the penalty's is rounding, and beside blocks (c, q, q) that are far larger the penalty would make a step
    of it.
    """
    mean, least = ridge.mean(axis=0), LEAST_RIDGE * blocks.diagonal(axis1=1, axis2=2).mean(axis=0)
    return np.divide(1.0, np.maximum(mean, least), out=np.zeros_like(mean), where=mean > 0)
