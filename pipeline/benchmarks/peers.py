"""Generalised linear models of other libraries, and everyone who fits a problem in one process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.benchmarks.contenders import INTEL, MAX_ITER, Contender, Ours, ScikitLearn, Solution, installed, solution_of
from pipeline.benchmarks.data import Problem, Regression, Sparse
from tasks.typing import Array

GLUM: Final = "glum"
SKGLM: Final = "skglm"


@dataclass(frozen=True)
class Glum:
    """glum's GeneralizedLinearRegressor. Its objective is the mean over the rows of half the deviance, which is the log loss, or half the
    squared error, and alpha/2 |coef|²; so alpha = 1 / (C n)."""

    problem: Problem
    solver: str
    library: str = GLUM

    @property
    def missing(self) -> bool:
        return not installed("glum")

    def fit(self, X: Any, y: Array, tol: float) -> Solution:
        from glum import GeneralizedLinearRegressor  # the bench extra; slow to import

        family = "normal" if isinstance(self.problem, Regression) else "binomial"
        alpha = 1 / (self.problem.C * X.shape[0])
        model = GeneralizedLinearRegressor(family=family, alpha=alpha, solver=self.solver, gradient_tol=tol, max_iter=MAX_ITER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the gap tells whether it converged
            model.fit(X, y.astype(np.float64))
        return solution_of(model, f">= {model.n_iter_}")


@dataclass(frozen=True)
class Skglm:
    """skglm's proximal Newton method, of its solvers the one that has an intercept without a penalty and gets there; the L1 part of its
    penalty is zero. Its objective is a mean, as glum's."""

    problem: Problem
    solver: str = "prox-newton"
    library: str = SKGLM

    @property
    def missing(self) -> bool:
        return not installed("skglm")

    def fit(self, X: Any, y: Array, tol: float) -> Solution:
        from skglm import GeneralizedLinearEstimator  # the bench extra; slow to import
        from skglm.datafits import Logistic
        from skglm.penalties import L1_plus_L2
        from skglm.solvers import ProxNewton

        penalty = L1_plus_L2(1 / (self.problem.C * X.shape[0]), 0.0)
        model = GeneralizedLinearEstimator(Logistic(), penalty, ProxNewton(tol=tol, max_iter=MAX_ITER))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, 2.0 * y - 1.0)
        return solution_of(model, f">= {model.n_iter_}")


def in_process(problem: Problem, *, ours: Sequence[str], few: bool) -> list[Contender]:
    """This library with each of its solvers named in `ours`, then all others that minimise the same; few: only those that get there in
    little time."""
    mine = [Ours(problem, solver) for solver in ours]
    if isinstance(problem, Regression):
        return [*mine, ScikitLearn(problem, "auto"), ScikitLearn(problem, "auto", INTEL), Glum(problem, "auto")]
    binary = problem.n_classes == 2
    names = ["lbfgs", "newton-cholesky", "newton-cg", *([] if few else ["sag", "saga"]), *(["liblinear"] if binary and not few else [])]
    # scikit-learn-intelex gives other solvers, and CSR, to scikit-learn
    intel = [] if isinstance(problem, Sparse) else [ScikitLearn(problem, name, INTEL) for name in ("lbfgs", "newton-cg")]
    others: list[Contender] = [Glum(problem, "irls-ls"), Glum(problem, "lbfgs"), *([] if few else [Skglm(problem)])]
    return [*mine, *[ScikitLearn(problem, name) for name in names], *intel, *(others if binary else [])]
