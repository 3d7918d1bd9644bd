"""The tables that every contender fits: made partition by partition, the same wherever a partition is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import dask.array as da
import numpy as np
import scipy.sparse as sp
from dask.delayed import delayed

from tasks.typing import Array, Float64, Int64

WARM_UP_ROWS: Final = 20_000
"""Enough to warm a solver up on: with fewer numbers ours compile nothing."""
SPREAD: Final = 0.6
"""The spread of a cluster, where the centres of clusters have unit variance in each dimension."""


class Truth(NamedTuple):
    """The model that labels are drawn from: mixing (p, p) correlates the columns mildly and scales them between 1/2 and 2;
    coef (c, p), intercept (c,)."""

    mixing: Float64
    coef: Float64
    intercept: Float64


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A classification table and the penalty of its fit: labels from a (multinomial) logistic model whose raw predictions spread by
    about 2, so that classes overlap as they do in real tables."""

    n_rows: int
    n_columns: int
    n_classes: int = 2
    n_partitions: int = 4
    C: float = 1.0
    seed: int = 20
    y_dtype: ClassVar[type] = np.int64

    @property
    def nbytes(self) -> int:
        """Bytes of X and y."""
        return self.n_rows * (self.n_columns + 1) * 8

    @property
    def name(self) -> str:
        classes = "" if self.n_classes == 2 else f", {self.n_classes} classes"
        return f"{self.n_rows:,} x {self.n_columns} float64{classes}, C={self.C:g}"

    @property
    def bounds(self) -> list[int]:
        """First row of each partition, and n_rows at the end."""
        return [i * self.n_rows // self.n_partitions for i in range(self.n_partitions + 1)]

    def truth(self) -> Truth:
        rng = np.random.default_rng([self.seed, 0])
        p, outputs = self.n_columns, 1 if self.n_classes == 2 else self.n_classes
        scale = 2.0 ** rng.uniform(-1, 1, p)
        mixing = (np.eye(p) + 0.4 / np.sqrt(p) * rng.standard_normal((p, p))) * scale
        coef = 2.0 / np.sqrt(p) * rng.standard_normal((outputs, p)) / scale
        return Truth(mixing, coef, 0.5 * rng.standard_normal(outputs))

    def partition(self, index: int) -> tuple[Any, Array]:
        """X (rows, p) C-ordered and y (rows,) of one partition."""
        truth = self.truth()
        rng = np.random.default_rng([self.seed, 1 + index])
        X = self.columns(self.bounds[index + 1] - self.bounds[index], truth, rng)
        return X, self.targets(X @ truth.coef.T + truth.intercept, rng)

    def columns(self, n_rows: int, truth: Truth, rng: np.random.Generator) -> Any:
        """X (n_rows, p)."""
        return rng.standard_normal((n_rows, self.n_columns)) @ truth.mixing

    def targets(self, raw: Float64, rng: np.random.Generator) -> Array:
        """y for raw predictions (rows, c): codes of classes."""
        if self.n_classes == 2:
            return (raw[:, 0] + rng.logistic(size=len(raw)) > 0).astype(np.int64)
        return np.argmax(raw + rng.gumbel(size=raw.shape), axis=1).astype(np.int64)

    def arrays(self) -> tuple[Any, Array]:
        """All partitions one below the other, in this process."""
        X = np.empty((self.n_rows, self.n_columns))
        y: Array = np.empty(self.n_rows, self.y_dtype)
        for i, (start, stop) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            X[start:stop], y[start:stop] = self.partition(i)
        return X, y

    def dask_arrays(self) -> tuple[da.Array, da.Array]:
        """X and y as lazy Dask arrays, a chunk a partition."""
        pairs = [delayed(self.partition, pure=True)(i) for i in range(self.n_partitions)]
        sizes = [int(n) for n in np.diff(self.bounds)]
        X = [da.from_delayed(pair[0], (n, self.n_columns), np.float64) for pair, n in zip(pairs, sizes, strict=True)]
        y = [da.from_delayed(pair[1], (n,), self.y_dtype) for pair, n in zip(pairs, sizes, strict=True)]
        return da.concatenate(X), da.concatenate(y)


@dataclass(frozen=True, kw_only=True)
class Regression(Problem):
    """A table of numbers: y is the raw prediction and normal noise of variance 1. C is 1 / alpha of ridge regression, inf for none."""

    y_dtype: ClassVar[type] = np.float64

    @property
    def name(self) -> str:
        return f"{self.n_rows:,} x {self.n_columns} float64, alpha={1 / self.C:g}"

    def targets(self, raw: Float64, rng: np.random.Generator) -> Array:
        return raw[:, 0] + rng.standard_normal(len(raw))


@dataclass(frozen=True, kw_only=True)
class Sparse(Problem):
    """A classification table in CSR: each row has normal numbers in so many columns, which are drawn; the few that come twice are added
    up. n_filled: of a row."""

    n_filled: int = 20

    @property
    def name(self) -> str:
        return super().name.replace("float64", f"float64 CSR, {self.n_filled / self.n_columns:.2g} filled")

    def truth(self) -> Truth:
        rng = np.random.default_rng([self.seed, 0])
        outputs = 1 if self.n_classes == 2 else self.n_classes
        coef = 2.0 / np.sqrt(self.n_filled) * rng.standard_normal((outputs, self.n_columns))
        return Truth(np.empty((0, 0)), coef, 0.5 * rng.standard_normal(outputs))

    def columns(self, n_rows: int, truth: Truth, rng: np.random.Generator) -> Any:
        filled = rng.integers(0, self.n_columns, (n_rows, self.n_filled), dtype=np.int32)
        starts = np.arange(0, filled.size + 1, self.n_filled, dtype=np.int32)
        X = sp.csr_array((rng.standard_normal(filled.size), filled.ravel(), starts), shape=(n_rows, self.n_columns))
        X.sum_duplicates()
        return X

    def arrays(self) -> tuple[Any, Array]:
        parts = [self.partition(i) for i in range(self.n_partitions)]
        return sp.vstack([X for X, _ in parts], format="csr"), np.concatenate([y for _, y in parts])


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A classification table for networks: each class is several clusters in a space of few dimensions, seen through many noisy columns.

    A linear model cannot separate the classes, and clusters overlap a little, so that no model is right about every row.
    """

    n_rows: int
    n_columns: int
    n_classes: int = 10
    n_clusters: int = 4
    n_dimensions: int = 12
    seed: int = 21

    @property
    def name(self) -> str:
        return f"{self.n_rows:,} x {self.n_columns} float32, {self.n_classes} classes"

    def arrays(self) -> tuple[Array, Int64]:
        """X (n, p) C-ordered with columns of about unit variance, y (n,) in 0 ... n_classes - 1."""
        rng = np.random.default_rng(self.seed)
        centres = rng.standard_normal((self.n_classes * self.n_clusters, self.n_dimensions))
        mixing = (rng.standard_normal((self.n_dimensions, self.n_columns)) / np.sqrt(2 * self.n_dimensions)).astype(np.float32)
        cluster = rng.integers(0, len(centres), self.n_rows)
        latent = centres[cluster] + SPREAD * rng.standard_normal((self.n_rows, self.n_dimensions))
        X = rng.standard_normal((self.n_rows, self.n_columns), dtype=np.float32)
        X *= np.float32(0.7)
        X += latent.astype(np.float32) @ mixing
        return X, (cluster % self.n_classes).astype(np.int64)


def head(X: Any, y: Array) -> tuple[Any, Array]:
    """The first rows, to warm a solver up on."""
    return X[:WARM_UP_ROWS], y[:WARM_UP_ROWS]
