"""Contenders: this library's linear models, and scikit-learn's or those that stand in for them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.data import Problem, Regression
from pipeline.training.history import share_read
from tasks.rounds.local_models import MAX_STEPS
from tasks.typing import Array, Float64

OURS = "dask-descent"
SCIKIT_LEARN = "scikit-learn"
INTEL = "scikit-learn-intelex"
MODULES: Final = {OURS: "pipeline", SCIKIT_LEARN: "sklearn.linear_model", INTEL: "sklearnex.linear_model"}
"""Where these libraries have the linear models of scikit-learn's names."""
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

    @property
    def missing(self) -> bool:
        """Whether the library is not installed."""

    def fit(self, X: Any, y: Any, tol: float) -> Solution: ...


@dataclass(frozen=True)
class Ours:
    """This library's estimator, on rows in this process or on Dask arrays on the current cluster."""

    problem: Problem
    solver: str = "auto"
    library: str = OURS
    missing: bool = False

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        model = model_of(self.problem, self.library, self.solver, tol)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gap to the optimum tells whether it converged
            model.fit(X) if y is None else model.fit(X, y)
        reads = {"local_hessian": 1 + MAX_STEPS}  # at most
        passes = sum(reads.get(row["oracle"], 1) * share_read(row) for row in model.history_)
        return solution_of(model, f"{passes:.1f} + 1 check", model.tasks_per_round_)


@dataclass(frozen=True)
class ScikitLearn:
    """scikit-learn's estimator, or its namesake in scikit-learn-intelex, with its default threads."""

    problem: Problem
    solver: str
    library: str = SCIKIT_LEARN

    @property
    def missing(self) -> bool:
        return not installed(MODULES[self.library])

    def fit(self, X: Any, y: Array, tol: float) -> Solution:
        model = model_of(self.problem, self.library, self.solver, tol)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        return solution_of(model, None if isinstance(self.problem, Regression) else f">= {int(np.max(model.n_iter_))}")


def installed(module: str) -> bool:
    """Whether a module's package is installed; it is not imported."""
    return find_spec(module.partition(".")[0]) is not None


def model_of(problem: Problem, library: str, solver: str, tol: float) -> Any:
    """The estimator of a problem: LogisticRegression, or Ridge, or LinearRegression where nothing is penalised."""
    linear_model = import_module(MODULES[library])
    if not isinstance(problem, Regression):
        return linear_model.LogisticRegression(C=problem.C, tol=tol, solver=solver, max_iter=MAX_ITER, random_state=0)
    if math.isinf(problem.C):
        return linear_model.LinearRegression(tol=tol)
    return linear_model.Ridge(alpha=1 / problem.C, tol=tol, solver=solver)


def solution_of(model: Any, passes: str | None, tasks_per_round: int | None = None) -> Solution:
    """What an estimator found, in the shapes of a solution."""
    return Solution(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), passes, tasks_per_round)
