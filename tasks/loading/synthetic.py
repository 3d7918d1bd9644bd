"""Rows drawn from a known model, partition by partition, where they will live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import expit

from tasks.machine.threads import single_blas_thread
from tasks.rows.draws import generator
from tasks.typing import Array, Float64

Model: TypeAlias = Literal["logistic", "linear"]
Precision: TypeAlias = Literal["float32", "float64"]


@dataclass(frozen=True)
class LinearRows:
    """A maker of partitions: X (n_rows, n_columns) standard normal, and with raw = X @ coef, whose variance is about 4,

    "logistic"  y = 1 with probability 1 / (1 + exp(-raw)), else 0
    "linear"    y = raw + standard normal noise

    Every draw is keyed by (seed, partition), so a partition is the same wherever and whenever it is made.
    """

    model: Model
    n_rows: int
    n_columns: int
    dtype: Precision = "float64"
    seed: int = 0

    @property
    def coef(self) -> Float64:
        """The true coefficients (n_columns,); the true intercept is zero."""
        return np.asarray(generator(self.seed, "coefficients").standard_normal(self.n_columns) * (2 / np.sqrt(self.n_columns)))

    def __call__(self, partition: int) -> tuple[Array, Array]:
        """Make X and y of one partition."""
        draw = generator(self.seed, "rows", partition)
        X = draw.standard_normal((self.n_rows, self.n_columns), dtype=np.float32 if self.dtype == "float32" else np.float64)
        with single_blas_thread():
            raw = X @ self.coef.astype(X.dtype)
        if self.model == "linear":
            return X, raw + draw.standard_normal(self.n_rows)
        return X, (draw.random(self.n_rows) < expit(raw)).astype(np.int8)
