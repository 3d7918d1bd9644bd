"""Real and made data that several tests share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

Array = NDArray[Any]


def standardised(X: Array) -> Array:
    scale = X.std(axis=0)
    return np.asarray((X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0))


@cache
def diabetes() -> tuple[Array, Array]:
    X, y = load_diabetes(return_X_y=True)
    return X, y


@cache
def breast_cancer() -> tuple[Array, Array]:
    X, y = load_breast_cancer(return_X_y=True)
    return standardised(X), y


@cache
def digits() -> tuple[Array, Array]:
    X, y = load_digits(return_X_y=True)
    return X / 16.0, y


@cache
def wine() -> tuple[Array, Array]:
    X, y = load_wine(return_X_y=True)
    return standardised(X), y


def weights(n: int, seed: int = 0) -> Array:
    """Sample weights between 0.1 and 2.1, a tenth of them zero."""
    random = np.random.default_rng(seed)
    return np.where(random.random(n) < 0.1, 0.0, 0.1 + 2 * random.random(n))


def uneven(n_rows: int, n_partitions: int, seed: int = 0) -> list[int]:
    """Partition sizes of very different length, some empty when partitions are many."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, n_rows + 1, n_partitions - 1))
    return [int(n) for n in np.diff(np.concatenate([[0], cuts, [n_rows]]))]


def largest_relative(a: Any, b: Any) -> float:
    """max |a - b| / max |b|."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(b)))
