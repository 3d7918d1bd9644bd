"""Means, variances and covariances over partitions, combined without cancellation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.kernels import array_api, column_spread, worth_compiling
from tasks.machine.namespaces import on_host
from tasks.reductions.reduction import Reduction, of_group
from tasks.reductions.tree import tree_sum
from tasks.rows.partition import Group
from tasks.typing import Float64, Int64


class Moments(NamedTuple):
    """Moments of rows: n_rows, mean (p,), scatter (p, p) = Σ (x - mean)(x - mean)'; weights do not count."""

    n_rows: float
    mean: Float64
    scatter: Float64


def moments(group: Group, broadcast: Any) -> Moments:
    """Moments of one group's rows, its partitions added along the tree; `broadcast` is not used."""
    X = on_host(group.X)
    return tree_sum([_partition_moments(X[a:b]) for a, b in pairwise(group.offsets)], add_moments)


def _partition_moments(X: Any) -> Moments:
    total = Moments(0.0, np.zeros(X.shape[1]), np.zeros((X.shape[1],) * 2))
    for start in range(0, X.shape[0], 4096):
        rows = X[start : start + 4096]
        dense = np.asarray(rows.toarray() if isinstance(rows, sp.csr_array) else rows, dtype=np.float64)
        mean = dense.mean(axis=0)
        centred = dense - mean
        total = add_moments(total, Moments(float(len(dense)), mean, centred.T @ centred))
    return total


def add_moments(left: Moments, right: Moments) -> Moments:
    """The moments of both, by Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979)."""
    n_rows = left.n_rows + right.n_rows
    if right.n_rows == 0 or left.n_rows == 0:
        return right if left.n_rows == 0 else left
    shift = right.mean - left.mean
    return Moments(
        n_rows,
        left.mean + shift * (right.n_rows / n_rows),
        left.scatter + right.scatter + np.outer(shift, shift) * (left.n_rows * right.n_rows / n_rows),
    )


MOMENTS: Final = Reduction("moments", of_group(moments), add_moments, lambda broadcast, n_columns: 8 * n_columns * n_columns)


class Spread(NamedTuple):
    """The spread of each column: where its values lie.

    weight: of the rows together; mean (p,), weighted; scatter (p,) = Σ s_i (x_i - mean)²; largest (p,) absolute value, whatever its row
    weighs, NaN where one is not finite.
    """

    weight: float
    mean: Float64
    scatter: Float64
    largest: Float64

    @property
    def deviation(self) -> Float64:
        """The standard deviations (p,)."""
        return np.sqrt(self.scatter / self.weight)

    @property
    def root_mean_square(self) -> Float64:
        """The roots of the weighted mean squares (p,)."""
        return np.hypot(self.deviation, self.mean)

    def about(self, *, the_mean: bool) -> tuple[Float64, Float64]:
        """The points that columns are measured from (p,), their means or zero, and their size from there (p,)."""
        return (self.mean, self.deviation) if the_mean else (np.zeros_like(self.mean), self.root_mean_square)


def spread(X: Any, weight: Float64 | None, offsets: Int64, n_partitions: int | None = None) -> Spread:
    """The spread of the columns of X (n, p), in partitions that begin and end at `offsets`, along the tree. n_partitions: of the data that
    X is a part of, by default these. Each partition goes through compiled code, or not, as if all of them were like it: how they are
    grouped does not show."""
    rows, of_all = [stop - start for start, stop in pairwise(offsets.tolist())], n_partitions or len(offsets) - 1
    native = isinstance(X, np.ndarray | sp.csr_array)
    compiled = [native and worth_compiling(own * of_all, X.shape[1], of_all) for own in rows]
    if all(compiled):
        return Spread(*column_spread(X, weight, offsets))

    def of_one(at: int) -> Spread:
        part, own = slice(offsets[at], offsets[at + 1]), None if weight is None else weight[offsets[at] : offsets[at + 1]]
        if compiled[at]:
            return Spread(*column_spread(X[part], own, np.array([0, rows[at]])))
        return Spread(*array_api.column_spread(X[part].toarray() if isinstance(X, sp.csr_array) else X[part, :], own))

    return tree_sum([of_one(at) for at in range(len(rows))], add_spreads)


def add_spreads(left: Spread, right: Spread) -> Spread:
    """The spread of both, as `tasks.kernels.spread` adds partitions."""
    weight = left.weight + right.weight
    largest = np.maximum(left.largest, right.largest)
    if not right.weight or not left.weight:
        return (left if left.weight else right)._replace(largest=largest)
    share = right.weight / weight
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, or beyond LARGEST_VALUE, is a fault, which is found apart
        shift = right.mean - left.mean
        scatter = left.scatter + right.scatter + shift * shift * (left.weight * share)
        return Spread(weight, left.mean + shift * share, scatter, largest)
