"""Means, variances and covariances over partitions, combined without cancellation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.partition import Group
from tasks.reductions import Reduction, of_group, tree_sum
from tasks.typing import Float64


class Moments(NamedTuple):
    """n_rows, mean (p,), scatter (p, p) = Σ (x - mean)(x - mean)'; weights do not count."""

    n_rows: float
    mean: Float64
    scatter: Float64


def moments(group: Group, shared: Any) -> Moments:
    """Moments of one group's rows, its partitions added along the tree; `shared` is not used."""
    return tree_sum([_partition_moments(group.X[a:b]) for a, b in pairwise(group.offsets)], add_moments)


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
    """Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979)."""
    n_rows = left.n_rows + right.n_rows
    if right.n_rows == 0 or left.n_rows == 0:
        return right if left.n_rows == 0 else left
    shift = right.mean - left.mean
    return Moments(
        n_rows,
        left.mean + shift * (right.n_rows / n_rows),
        left.scatter + right.scatter + np.outer(shift, shift) * (left.n_rows * right.n_rows / n_rows),
    )


MOMENTS: Final = Reduction("moments", of_group(moments), add_moments, lambda shared, n_columns: n_columns * n_columns)
