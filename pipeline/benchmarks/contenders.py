"""The contenders where the rows are NumPy arrays in one process: this library, and scikit-learn's solvers that apply."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.data import Problem
from pipeline.estimators.logistic import LogisticRegression
from pipeline.training.history import share_read
from tasks.rounds.local_models import MAX_STEPS
from tasks.typing import Array, Float64

OURS = "dask-descent"
SCIKIT_LEARN = "scikit-learn"
MAX_ITER = 100_000


class Solution(NamedTuple):
    """A solution: coef (c, p), intercept (c,); passes: how often the rows were read, as text, None where nobody counts."""

    coef: Float64
    intercept: Float64
    passes: str | None
    tasks_per_round: int | None = None


class Contender(Protocol):
    """A solver of a library. A frozen dataclass, so that it can go to a process of its own."""

    @property
    def library(self) -> str: ...

    @property
    def solver(self) -> str: ...

    def fit(self, X: Any, y: Any, tol: float) -> Solution: ...


@dataclass(frozen=True)
class Ours:
    """This library's estimator, on NumPy arrays in process or on Dask arrays on the current cluster."""

    problem: Problem
    solver: str = "auto"
    library: str = OURS

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        model = LogisticRegression(C=self.problem.C, tol=tol, solver=self.solver, max_iter=MAX_ITER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gap to the optimum tells whether it converged
            model.fit(X) if y is None else model.fit(X, y)
        reads = {"local_hessian": 1 + MAX_STEPS}  # at most
        passes = sum(reads.get(row["oracle"], 1) * share_read(row) for row in model.history_)
        return Solution(model.coef_, model.intercept_, f"{passes:.1f} + 1 check", model.tasks_per_round_)


@dataclass(frozen=True)
class ScikitLearn:
    """scikit-learn's LogisticRegression with its default threads."""

    problem: Problem
    solver: str
    library: str = SCIKIT_LEARN

    def fit(self, X: Array, y: Array, tol: float) -> Solution:
        model = linear_model.LogisticRegression(C=self.problem.C, tol=tol, solver=self.solver, max_iter=MAX_ITER, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        return Solution(model.coef_, np.atleast_1d(model.intercept_), f">= {int(np.max(model.n_iter_))}")


def in_process(problem: Problem, *, ours: Sequence[str], quick: bool) -> list[Contender]:
    """This library with each of its solvers named in `ours`, then scikit-learn's solvers."""
    names = ["lbfgs", "newton-cholesky"]
    if not quick:
        names += ["newton-cg", "sag", "saga"] if problem.n_classes > 2 else ["newton-cg", "sag", "saga", "liblinear"]
    return [*[Ours(problem, solver) for solver in ours], *[ScikitLearn(problem, name) for name in names]]
