"""How steep an objective can be: the largest eigenvalue of a Hessian, and its trace, which is what step sizes hang on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from tasks.arguments import check_counts
from tasks.objectives.evaluation import Evaluation
from tasks.rows.draws import generator
from tasks.strategies.base import RUNNING, Iterate, Request, Status
from tasks.typing import Array


class LargestCurvatureState(NamedTuple):
    """direction (n,): of length 1, the next one to be multiplied; trace: its estimate; iterate: the last direction, and the Rayleigh
    quotient along it as value."""

    iterate: Iterate
    parameters: Array
    direction: Array
    trace: float = 0.0
    iteration: int = 0
    status: Status = RUNNING


@dataclass(frozen=True)
class LargestCurvature:
    """n_products Hessian-vector products with the Hessian at the starting parameters: power iteration (Golub and Van Loan, Matrix
    Computations, section 8.2.1), whose Rayleigh quotients come near the largest eigenvalue from below.

    The first direction is of random signs, so that n times its Rayleigh quotient is an unbiased estimate of the trace (M. Hutchinson,
    Commun. Stat. Simul. Comput. 19 (1990)). row_step: over every row_step-th row of each partition.
    """

    oracles: ClassVar[tuple[str, ...]] = ("hessian_vector",)
    takes_kinks: ClassVar[bool] = False

    n_products: int = 8
    row_step: int = 1

    def __post_init__(self) -> None:
        check_counts(n_products=self.n_products, row_step=self.row_step)

    def init(self, parameters: Array) -> LargestCurvatureState:
        signs = np.where(generator(0, "curvature", len(parameters)).random(len(parameters)) < 0.5, -1.0, 1.0)
        direction = signs / np.sqrt(len(parameters))
        return LargestCurvatureState(Iterate(direction, np.inf, np.zeros_like(direction)), parameters, direction)

    def request(self, state: LargestCurvatureState) -> Request:
        return Request("hessian_vector", state.parameters, state.direction, row_step=self.row_step)

    def update(self, state: LargestCurvatureState, evaluation: Evaluation) -> LargestCurvatureState:
        product, iteration = evaluation.gradient, state.iteration + 1
        quotient, norm = float(state.direction @ product), float(np.linalg.norm(product))
        trace = quotient * len(product) if state.iteration == 0 else state.trace
        done = iteration == self.n_products or not 0 < norm < np.inf
        return state._replace(
            iterate=Iterate(state.direction, quotient, product),
            direction=state.direction if done else product / norm,
            trace=trace,
            iteration=iteration,
            status=Status("converged", f"{iteration} products") if done else RUNNING,
        )
