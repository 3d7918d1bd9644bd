"""Moments against NumPy, however the rows are cut and far from zero."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tasks import kernels
from tasks.loading.statistics import add_moments, add_spreads, moments, spread
from tasks.rows.partition import Block, make_group


def found(X: Any, cuts: list[int]) -> Any:
    pieces = [X[a:b] for a, b in zip([0, *cuts], [*cuts, X.shape[0]], strict=True)]
    return reduce(add_moments, [moments(make_group([Block(piece), Block(piece[:0])], 0), None) for piece in pieces])


@pytest.mark.parametrize("cuts", [[], [1, 1, 2, 5000], [0, 9000], list(range(0, 10_000, 999))])
@pytest.mark.parametrize("kind", ["dense", "float32", "csr"])
def test_against_numpy(cuts: list[int], kind: str) -> None:
    X = np.random.default_rng(0).normal(size=(10_000, 3)).round(2) * [1, 100, 0.01] + [0, 5, 1]
    rows = {"dense": X, "float32": X.astype(np.float32), "csr": sp.csr_array(X)}[kind]
    expected = rows.toarray() if kind == "csr" else rows.astype(np.float64)
    result = found(rows, cuts)
    assert result.n_rows == 10_000
    np.testing.assert_allclose(result.mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.scatter / 9999, np.cov(expected.T), rtol=1e-10, atol=1e-14)


def test_no_cancellation_far_from_zero() -> None:
    X = np.random.default_rng(0).normal(size=(9000, 2)) + 1e9
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(np.diag(found(X, [4000]).scatter), (centred**2).sum(axis=0), rtol=1e-6)


def test_sums_beyond_float32() -> None:
    X = np.full((1000, 1), 3e38, dtype=np.float32)
    assert found(X, [10]).mean[0] == pytest.approx(float(X[0, 0]))


def test_one_row_and_none() -> None:
    assert found(np.ones((1, 2)), []).scatter.tolist() == [[0, 0], [0, 0]]
    assert found(np.ones((0, 2)), []).n_rows == 0


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 8, 11])
@pytest.mark.parametrize("compiled", [False, True], ids=["NumPy", "compiled"])
def test_the_spread_of_columns(sparse: bool, dtype: Any, weighted: bool, p: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy on columns that are centred first, so that it loses nothing; and the same bits however partitions are grouped."""
    monkeypatch.setattr(kernels, "FEW_NUMBERS", 0 if compiled else kernels.FEW_NUMBERS)
    random = np.random.default_rng(0)
    X = (random.normal(size=(500, p)) * 10.0 ** np.arange(p) + np.where(np.arange(p) % 2, 1e3, 0.0)).astype(dtype)
    X[:, 3:4] = 7.25  # constant
    if sparse:
        X[random.random(X.shape) < 0.6] = 0.0
        X[:, 3:4] = 7.25
    weight = random.random(500) if weighted else None
    if weight is not None:
        weight[:30] = 0.0
        X[:30] *= 1e6  # which counts for nothing
    offsets = np.array([0, 1, 1, 90, 200, 350, 351, 500])
    rows = sp.csr_array(X) if sparse else X
    found = spread(rows, weight, offsets)
    w = np.ones(500) if weight is None else weight
    wide = X.astype(np.float64)
    centre = wide[-1]
    mean = centre + w @ (wide - centre) / w.sum()
    assert found.weight == pytest.approx(w.sum())
    size = np.sqrt(w @ (wide - mean) ** 2 / w.sum())
    np.testing.assert_allclose((found.mean - mean) / np.maximum(size, 1.0), 0.0, atol=1e-12)
    np.testing.assert_allclose(found.scatter, w @ (wide - mean) ** 2, rtol=1e-9, atol=1e-12)
    assert np.all(found.scatter[3:4] == 0.0)
    assert np.array_equal(found.largest, np.abs(wide).max(axis=0))
    parts = [
        spread(rows[a:b], None if weight is None else weight[a:b], offsets[i : j + 1] - a)
        for i, j, a, b in ((0, 4, 0, 200), (4, 7, 200, 500))
    ]
    together = add_spreads(*parts)
    assert all(np.array_equal(one, other) for one, other in zip(together, found, strict=True))
