"""Least squares where squares of the columns lose digits: against NumPy's, which never squares them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LinearRegression, Ridge
from tests.data import uneven

Float64 = NDArray[np.float64]
every_form = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])


def numpys(X: Float64, y: Float64) -> Float64:
    """The least-norm coefficients of NumPy, beside an intercept."""
    centred = X - X.mean(axis=0)
    coef: Float64 = np.linalg.lstsq(centred, y - y.mean(axis=0), rcond=None)[0]
    return coef


def in_partitions(X: Any, y: Any, weight: Any = None) -> Dataset:
    return Dataset.from_arrays(X, y, weight, partition_rows=uneven(X.shape[0], 7))


@every_form
@pytest.mark.parametrize("range_", [10.0, 3.0, 1e-2], ids=str)
@pytest.mark.parametrize("duplicate", [False, True])
@pytest.mark.parametrize("tol", [1e-6, 1e-2])
def test_a_small_difference_of_large_columns(sparse: bool, range_: float, duplicate: bool, tol: float) -> None:
    """Two times of seconds, of which y is the difference. A duplicate elsewhere does not hide it."""
    random = np.random.default_rng(0)
    start = 1.6e9 + 1e8 * random.random(1000)
    end = start + range_ * random.random(1000)
    X = np.column_stack([start, start, end] if duplicate else [start, end])
    y = end - start
    model = LinearRegression(tol=tol).fit(in_partitions(sp.csr_array(X) if sparse else X, y))
    assert model.status_.kind == "converged", model.status_
    assert 1 - model.score(X, y) <= (1e-6 / min(1.0, range_)) ** 2 + 2 * tol**2  # predictions are differences of 1.6e9
    np.testing.assert_allclose(model.coef_, [-0.5, -0.5, 1.0] if duplicate else [-1.0, 1.0], atol=max(1e-5, 10 * tol))


def test_several_targets_share_what_is_found() -> None:
    """With weights, and without a duplicate's doubt: each target's coefficients are those of the small difference and of another column."""
    random = np.random.default_rng(0)
    start, other, weight = 1.6e9 + 1e8 * random.random(600), random.normal(size=600), random.random(600)
    end = start + 3 * random.random(600)
    X = np.column_stack([start, start, other, end])
    slopes = np.array([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]])
    Y = (end - start)[:, None] * slopes[:, 0] + other[:, None] * slopes[:, 1]
    model = LinearRegression().fit(in_partitions(X, Y, weight))
    assert model.status_.kind == "converged", model.status_
    wanted = np.column_stack([-0.5 * slopes[:, 0], -0.5 * slopes[:, 0], slopes[:, 1], slopes[:, 0]])
    np.testing.assert_allclose(model.coef_, wanted, atol=1e-5)


def test_powers_of_a_column() -> None:
    """Fifteen powers on [0, 1], beside which the smallest direction of the columns is 1e-12."""
    random = np.random.default_rng(0)
    x = np.sort(random.random(30))
    X = np.column_stack([x**k for k in range(1, 16)])
    y = np.cos(1.5 * np.pi * x) + 0.1 * random.normal(size=30)
    wanted = (X - X.mean(axis=0)) @ numpys(X, y) + y.mean()
    for tol, near in ((1e-6, 3e-5), (1e-9, 1e-6)):
        model = LinearRegression(tol=tol).fit(in_partitions(X, y))
        assert model.status_.kind == "converged", model.status_
        np.testing.assert_allclose(model.predict(X), wanted, atol=near)


@pytest.mark.parametrize("far", [1e6, 1e8])
def test_many_columns_far_from_zero_without_an_intercept(far: float) -> None:
    """What they have in common is a million times what they say."""
    random = np.random.default_rng(0)
    base, coef = random.normal(size=(500, 400)), random.normal(size=400)
    coef -= coef.mean()
    X, y = base + far, base @ coef
    model = LinearRegression(fit_intercept=False).fit(in_partitions(X, y))
    assert model.status_.kind == "converged", model.status_
    assert 1 - model.score(X, y) < 1e-10
    np.testing.assert_allclose(model.coef_, coef, atol=1e-12 * far)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_rounding_of_the_columns_leaves_is_no_direction(dtype: Any) -> None:
    """A sum of columns that are far from zero differs from theirs by rounding alone: as if it were exact, and least in norm."""
    random = np.random.default_rng(0)
    base = random.normal(size=(300, 3))
    far = 1e6 if dtype == np.float64 else 0.0
    X = np.column_stack([base + far, base[:, 0] + base[:, 1] + 2 * far]).astype(dtype)
    y = base @ [1.0, 2.0, 3.0] + random.normal(size=300)
    wanted = numpys(np.column_stack([base, base[:, 0] + base[:, 1]]), y)
    model = LinearRegression().fit(in_partitions(X, y))
    assert model.status_.kind == "converged", model.status_
    np.testing.assert_allclose(model.coef_, wanted, atol=1e-6 if dtype == np.float64 else 1e-5)


def test_a_penalty_that_is_small_beside_the_rows_and_large_beside_a_difference() -> None:
    """Of each target its own; against least squares on the rows and the penalties' rows below each other."""
    random = np.random.default_rng(0)
    a = random.normal(size=400)
    X = np.column_stack([a, a + 1e-7 * random.normal(size=400), random.normal(size=400)])
    Y = np.column_stack([1e7 * (X[:, 1] - X[:, 0]), X[:, 2] - X[:, 0]])
    alpha = [1e-11, 1e-12]
    model = Ridge(alpha=alpha, tol=1e-9).fit(in_partitions(X, Y))
    assert model.status_.kind == "converged", model.status_
    for target in range(2):
        rows = np.vstack([X - X.mean(axis=0), np.sqrt(alpha[target]) * np.eye(3)])
        wanted = np.linalg.lstsq(rows, np.concatenate([Y[:, target] - Y[:, target].mean(), np.zeros(3)]), rcond=None)[0]
        np.testing.assert_allclose(model.coef_[target], wanted, rtol=1e-6, atol=1e-6 * float(np.max(np.abs(wanted))))


def test_the_least_norm_does_not_hang_on_the_number_of_targets() -> None:
    """Columns of unlike units, one of them three thousand times another: one Hessian serves all targets."""
    random = np.random.default_rng(0)
    a = random.normal(size=300)
    X = np.column_stack([a, 3000 * a, random.normal(size=(300, 58))])
    Y = a[:, None] + random.normal(size=(300, 60))
    together = LinearRegression().fit(in_partitions(X, Y))
    alone = LinearRegression().fit(in_partitions(X, Y[:, 0]))
    assert together.solver_.name == alone.solver_.name == "newton"
    np.testing.assert_allclose(together.coef_, numpys(X, Y).T, atol=1e-9)
    np.testing.assert_allclose(alone.coef_, numpys(X, Y[:, 0]), atol=1e-9)
    assert together.bytes_per_round_ < 8 * 60 * 61 * 61  # a Hessian for each target would be 60 such blocks, at the least


def test_a_fit_that_never_gets_there_says_so() -> None:
    random = np.random.default_rng(0)
    start = 1.6e9 + 1e8 * random.random(1000)
    end = start + random.random(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LinearRegression(max_iter=1).fit(np.column_stack([start, end]), end - start)
    assert model.status_.kind == "out of rounds"


# -- tolerances ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6])
def test_a_small_column_in_common_units_is_found_to_its_own_digits(tol: float) -> None:
    """Its gradient, too, is within tol where it is standardised: by NumPy, from the predictions."""
    random = np.random.default_rng(1)
    X = np.column_stack([0.6 * random.normal(size=500), 500 * random.normal(size=(500, 30))])
    y = X[:, 0] / 0.6
    model = LinearRegression(solver="newton-cg", tol=tol).fit(in_partitions(X, y))
    assert model.status_.kind == "converged"
    gradient = ((X - X.mean(axis=0)) / X.std(axis=0)).T @ (y - model.predict(X)) / 500
    assert np.max(np.abs(gradient)) <= 2 * tol * y.std()  # factors are powers of two
    assert abs(model.coef_[0] * 0.6 - 1) <= 2 * tol


def test_conjugate_gradients_take_the_same_rounds_in_any_unit_of_y() -> None:
    random = np.random.default_rng(0)
    X, y = np.cumsum(random.normal(size=(400, 40)), axis=1), random.normal(size=400)
    rounds = [LinearRegression(solver="newton-cg").fit(in_partitions(X, y * unit)).n_rounds_ for unit in (2.0**-20, 1.0, 2.0**20)]
    assert rounds[0] == rounds[1] == rounds[2]
