"""The judge: one plain NumPy evaluation of the objective, the same for every contender, and the gap to the best value known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from pipeline.benchmarks.data import Problem
from tasks.typing import Array, Float64

GAP = 1e-8
BLOCK_ROWS = 65_536


def objective(X: Any, y: Array, coef: Float64, intercept: Float64, C: float) -> float:
    """The objective Σ_i loss(y_i, coef @ x_i + intercept) + |coef|² / (2 C), float64, blocks of rows added without rounding.

    coef (c, p), intercept (c,): half the squared error of y in float64; of codes y, c = 1 is the logistic loss of {0, 1}, more the softmax
    cross-entropy.
    """
    losses = []
    for start in range(0, X.shape[0], BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        raw = X[rows] @ coef.T + intercept
        if len(coef) == 1:
            raw = raw[:, 0]
            squared = np.issubdtype(y.dtype, np.floating)
            losses.append(float(np.sum((y[rows] - raw) ** 2 / 2 if squared else np.logaddexp(0.0, raw) - y[rows] * raw)))
        else:
            top = raw.max(axis=1)
            log_sum = top + np.log(np.exp(raw - top[:, None]).sum(axis=1))
            losses.append(float(np.sum(log_sum - np.take_along_axis(raw, y[rows, None], 1)[:, 0])))
    return math.fsum(losses) + float(np.sum(coef * coef)) / (2.0 * C)


@dataclass(frozen=True, eq=False)
class Judge:
    """The judge of a contest, with the rows and the reference optimum: what scikit-learn's newton-cholesky reaches with tol=1e-12; of least
    squares, what its singular value decomposition does."""

    X: Any
    y: Array
    C: float
    optimum: float

    @classmethod
    def of(cls, problem: Problem) -> Judge:
        return cls.of_rows(*problem.arrays(), problem.C)

    @classmethod
    def of_rows(cls, X: Any, y: Array, C: float) -> Judge:
        if not np.issubdtype(y.dtype, np.floating):
            model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        else:
            model = LinearRegression() if math.isinf(C) else Ridge(alpha=1 / C, solver="svd")
        model.fit(X, y)
        return cls(X, y, C, objective(X, y, np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), C))

    def gap(self, coef: Float64, intercept: Float64) -> float:
        """The gap (objective - optimum) / optimum; slightly negative when a contender ends below the reference."""
        return (objective(self.X, self.y, coef, intercept, self.C) - self.optimum) / self.optimum
