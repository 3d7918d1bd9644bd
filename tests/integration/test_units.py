"""No fit hangs on the units of its columns: ranks, convergence and predictions when they are scaled, shifted and dependent."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import datasets, linear_model
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from pipeline.estimators.solvers import SOLVERS
from tasks.strategies.newton_cg import NewtonCG

Float64 = NDArray[np.float64]
STEPS = 20_000
"""Enough for methods that know gradients alone."""
few = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
every_solver = pytest.mark.parametrize(
    "solver", [pytest.param(name, marks=pytest.mark.long) if name in ("gradient-descent", "nesterov") else name for name in SOLVERS]
)
every_form = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])


class Rows(NamedTuple):
    """base: well-scaled columns, of which the last may be the sum of the first two; X = (base + shift) scale."""

    base: Float64
    shift: Float64
    scale: Float64
    noise: Float64
    weight: Float64 | None
    n_partitions: int

    def X(self, sparse: bool) -> Any:
        X = (self.base + self.shift) * self.scale
        return sp.csr_array(X) if sparse else X

    @property
    def far(self) -> float:
        """How much rounding shifts enlarge."""
        return float(np.max(np.abs(self.shift), initial=1.0))


@st.composite
def many_rows(draw: st.DrawFn, shifted: bool = True) -> Rows:
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    n, p = draw(st.integers(40, 160)), draw(st.integers(3, 6))
    base = random.normal(size=(n, p))
    if draw(st.booleans()):
        base[:, -1] = base[:, 0] + base[:, 1]
    scale = 10.0 ** np.array(draw(st.lists(st.floats(-9, 9), min_size=p, max_size=p)))
    shift = np.array(draw(st.lists(st.sampled_from([0.0, 1.0, -1e3, 1e6]), min_size=p, max_size=p))) if shifted else np.zeros(p)
    weight = random.random(n) if draw(st.booleans()) else None
    return Rows(base, shift, scale, random.normal(size=n), weight, draw(st.sampled_from([1, 7, 37])))


def close(found: Float64, wanted: Float64, tolerance: float) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * float(np.max(np.abs(wanted))))


def least_squares(base: Float64, y: Float64, weight: Float64 | None, ridge: Float64) -> Float64:
    """Predictions of NumPy's least squares for Σ s_i (y_i - raw_i)² + Σ_j ridge_j coef_j², the last column being that of the intercept."""
    root = np.sqrt(np.ones(len(y)) if weight is None else weight)
    rows = np.vstack([base * root[:, None], np.diag(np.sqrt(ridge))])
    coef, *_ = np.linalg.lstsq(rows, np.concatenate([y * root, np.zeros(len(ridge))]), rcond=1e-11)
    predictions: Float64 = base @ coef
    return predictions


@every_form
@every_solver
@few
@given(rows=many_rows(), unit=st.floats(-6, 6), offset=st.sampled_from([0.0, 1e3, 1e6]))
def test_linear_regression(solver: str, sparse: bool, rows: Rows, unit: float, offset: float) -> None:
    y = rows.base.sum(axis=1) + rows.noise
    wanted = least_squares(np.column_stack([rows.base, np.ones(len(y))]), y, rows.weight, np.zeros(rows.base.shape[1] + 1))
    X = rows.X(sparse)
    model = LinearRegression(solver=solver, max_iter=STEPS).fit(
        Dataset.from_arrays(X, (y + offset) * 10.0**unit, rows.weight, n_partitions=rows.n_partitions)
    )
    assert model.status_.kind == "converged", model.status_
    close(model.predict(X) / 10.0**unit - offset, wanted, 1e-4 + 1e-9 * (rows.far + offset))


@every_form
@every_solver
@few
@given(rows=many_rows(shifted=False), alpha=st.floats(-6, 3))
def test_ridge_without_intercept(solver: str, sparse: bool, rows: Rows, alpha: float) -> None:
    """The penalty is on the user's coefficients: that of a column times 1e9 is hardly penalised, that of one times 1e-9 is zero."""
    y = rows.base.sum(axis=1) + rows.noise
    wanted = least_squares(rows.base, y, rows.weight, 10.0**alpha / rows.scale**2)
    X = rows.X(sparse)
    model = Ridge(10.0**alpha, solver=solver, fit_intercept=False, max_iter=STEPS, tol=1e-6).fit(
        Dataset.from_arrays(X, y, rows.weight, n_partitions=rows.n_partitions)
    )
    assert model.status_.kind == "converged", model.status_
    close(model.predict(X), wanted, 1e-4)


@every_form
@every_solver
@few
@given(rows=many_rows())
@pytest.mark.long
def test_logistic_regression(solver: str, sparse: bool, rows: Rows) -> None:
    """Against scikit-learn on the columns as they were before they were scaled and shifted; without a penalty the objective is the same."""
    y = rows.base.sum(axis=1) + 3 * rows.noise > 0
    theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(rows.base, y, rows.weight)
    wanted = theirs.decision_function(rows.base)
    X = rows.X(sparse)
    model = LogisticRegression(C=np.inf, solver=solver, max_iter=STEPS, tol=1e-7).fit(
        Dataset.from_arrays(X, y, rows.weight, n_partitions=rows.n_partitions)
    )
    assert model.status_.kind == "converged", model.status_
    close(model.decision_function(X), wanted, 1e-4 + 1e-9 * rows.far)


@pytest.mark.parametrize("n_partitions", [1, 7, 37])
def test_the_least_norm_is_that_of_the_users_units(n_partitions: int) -> None:
    """A column that is another one plus 2, and a year of birth beside an age."""
    random = np.random.default_rng(0)
    a, year = 1e6 + random.normal(size=300), random.integers(1940, 2005, 300).astype(np.float64)
    y = np.sin(a) + 0.1 * year
    (of_a, of_year, _), *_ = np.linalg.lstsq(np.column_stack([a - 1e6, (year - 1970) / 20, np.ones(300)]), y, rcond=None)
    slopes = {"a": of_a, "year": of_year / 20}
    tables: list[list[tuple[str, float, float]]] = [  # multiples of a column, each plus a number
        [("a", 1, 0), ("a", 1, 2), ("year", 1, 0)],
        [("a", 1, 0), ("year", 1, 0), ("year", -1, 2026)],
        [("a", 1, 0), ("a", 1e3, 0), ("year", 1, 0), ("year", -1, 2026), ("year", 12, 0)],
    ]
    for table in tables:
        X = np.column_stack([factor * {"a": a, "year": year}[name] + shift for name, factor, shift in table])
        squares = {name: sum(factor**2 for other, factor, _ in table if other == name) for name in slopes}
        wanted = np.array([slopes[name] * factor / squares[name] for name, factor, _ in table])
        model = LinearRegression().fit(Dataset.from_arrays(X, y, n_partitions=n_partitions))
        np.testing.assert_allclose(model.coef_, wanted, rtol=1e-6)


def test_ranks_do_not_hang_on_units() -> None:
    """The exact solution, by fractions: three columns of 1e8, of which one is the sum of the others, beside a small one that y follows."""
    Z = np.array(
        [[1e8, 2e8, 3e8, 0.1], [3e8, 1e8, 4e8, 0.9], [2e8, 2e8, 4e8, 0.3], [5e8, 4e8, 9e8, 0.8], [4e8, 7e8, 1.1e9, 0.5]],
    )
    exact = [8.619746835443038e-11, -6.375696202531647e-11, 2.2440506329113927e-11, 2.9553417721518986]
    np.testing.assert_allclose(Ridge(alpha=1e-3).fit(Z, 3 * Z[:, 3]).coef_, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_columns", [300, 3600])
def test_the_least_norm_of_wide_rows(n_columns: int) -> None:
    """By a Hessian, and where there are too many columns for one."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, n_columns)) * random.uniform(0.5, 20, n_columns) + 3, random.normal(size=60)
    model = LinearRegression(tol=1e-10).fit(Dataset.from_arrays(X, y, n_partitions=7))
    wanted, *_ = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=None)
    assert model.status_.kind == "converged"
    close(model.coef_, wanted, 1e-8)


def test_small_and_large_columns_of_one_fit() -> None:
    """Columns of 1e9 beside small whole numbers, and a time in seconds among 600 others."""
    X, y = np.array([[0, 1e9], [1, 2e9], [2, 1e9], [3, 3e9]]), [0, 0, 1, 1]
    for solver in SOLVERS:
        model = LogisticRegression(solver=solver).fit(X, y)
        assert (model.status_.kind, model.score(X, y)) == ("converged", 1.0)
    random = np.random.default_rng(0)
    wide = random.normal(size=(1500, 600))
    labels = wide[:, 0] + wide[:, 5] > 0
    wide[:, 5] = 1.7e9 + 1e7 * wide[:, 5]
    model = LogisticRegression().fit(wide, labels)
    assert (model.status_.kind, model.score(wide, labels)) == ("converged", 1.0)


@pytest.mark.parametrize("solver", ["newton", "newton-cg", "lbfgs", "nesterov"])
def test_targets_of_unlike_units(solver: str) -> None:
    """Each has its own minimum, found to its own digits: against each target alone, by NumPy."""
    random = np.random.default_rng(0)
    X, unit = random.normal(size=(200, 4)) * [1.0, 1e3, 1e-3, 1.0] + [0, 0, 1, 1e6], np.array([1e-6, 1.0, 1e6])
    y = (random.normal(size=(200, 3)) + X[:, :1]) * unit
    model = LinearRegression(solver=solver, max_iter=STEPS).fit(Dataset.from_arrays(X, y, n_partitions=7))
    assert model.status_.kind == "converged"
    for target in range(3):
        centred = X - X.mean(axis=0)
        wanted = least_squares(centred / np.abs(centred).max(axis=0), y[:, target] - y[:, target].mean(), None, np.zeros(4))
        close(model.predict(X)[:, target] - y[:, target].mean(), wanted, 1e-4)


@every_form
def test_a_far_row_of_little_weight_hides_no_column(sparse: bool) -> None:
    """Wherever it is; against scikit-learn, in whose units nothing is hidden here."""
    random = np.random.default_rng(0)
    X, weight = random.normal(size=(400, 2)), np.ones(400)
    y = X[:, 0] + X[:, 1]
    for row in (0, 399):
        far, light = X.copy(), weight.copy()
        far[row, 0], light[row] = 1e9, 1e-30
        model = LinearRegression().fit(Dataset.from_arrays(sp.csr_array(far) if sparse else far, y, light, n_partitions=7))
        np.testing.assert_allclose(model.coef_, [1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("solver", ["newton", "newton-cg", "lbfgs", "nesterov"])
def test_targets_that_are_constant_or_far_from_zero(solver: str) -> None:
    """Alone, and beside one that is not; each is converged, and warns of nothing."""
    random = np.random.default_rng(0)
    X, weight = random.normal(size=(200, 3)), random.random(200)
    y = X @ [1.0, 2.0, 3.0]
    for constant in (0.0, 0.1, -5.3e9):
        model = Ridge(solver=solver, max_iter=STEPS).fit(Dataset.from_arrays(X, np.full(200, constant), weight, n_partitions=7))
        np.testing.assert_allclose(model.predict(X), constant, rtol=1e-14)
        both = LinearRegression(solver=solver, max_iter=STEPS).fit(X, np.column_stack([y, np.full(200, constant)]), weight)
        np.testing.assert_allclose(both.coef_, [[1, 2, 3], [0, 0, 0]], atol=1e-5)
        np.testing.assert_allclose(both.intercept_, [0, constant], rtol=1e-14, atol=1e-5)
    model = LinearRegression(solver=solver, max_iter=STEPS).fit(X, y + 1e12)
    np.testing.assert_allclose(model.coef_, [1, 2, 3], atol=1e-3)


def test_a_column_that_is_too_far_from_zero_is_said() -> None:
    """Where rounding hides the gradient by one coefficient, the others are found, or nobody says "converged"."""
    random = np.random.default_rng(0)
    far = np.array([0, 0, 0, 1e13])
    X = random.normal(size=(300, 4)) + far
    y = X[:, :3] @ [1.0, 2.0, 3.0] + random.normal(size=300)
    for solver in SOLVERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LinearRegression(solver=solver).fit(X, y)
        assert model.status_.kind == "converged" or solver not in ("auto", "newton"), model.status_
        if model.status_.kind == "converged":
            close(model.predict(X) - y.mean(), LinearRegression().fit(X - far, y).predict(X - far) - y.mean(), 1e-2)


def test_a_strategy_finds_the_least_norm_that_its_name_finds() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 200))
    X, y = np.column_stack([a, 3.7 * a, b]), a + b
    expected = LinearRegression(solver="newton").fit(X, y).coef_
    for solver in ("newton-cg", NewtonCG(tol=1e-10)):
        np.testing.assert_allclose(LinearRegression(solver=solver).fit(X, y).coef_, expected, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.long
def test_columns_far_from_zero_without_an_intercept(solver: str) -> None:
    """They stand in for one. Whoever says "converged" has what they say beside that, too; against scikit-learn on differences of columns,
    which span the same."""
    random = np.random.default_rng(0)
    base = random.normal(size=(300, 4))
    y = base @ [1.0, -1.0, 0.5, 2.0] + random.logistic(size=300) > 0
    same = np.column_stack([base[:, :3] - base[:, 3:], 1 + base[:, 3] / 1e4])
    wanted = linear_model.LogisticRegression(C=np.inf, tol=1e-10, fit_intercept=False).fit(same, y).decision_function(same)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=np.inf, solver=solver, fit_intercept=False, max_iter=1000).fit(base + 1e4, y)
    if model.status_.kind == "converged" or solver == "newton-cg":  # that one gets there, and whether it can tell hangs on BLAS's kernels
        close(model.decision_function(base + 1e4), wanted, 1e-2)
    assert model.status_.kind == "converged" or solver != "newton"


@every_solver
def test_a_heavy_penalty_leaves_digits(solver: str) -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 4))
    y = X @ [1.0, 2.0, 3.0, 4.0] + random.normal(size=200)
    exact = linear_model.Ridge(alpha=1e12, solver="svd").fit(X, y).coef_
    np.testing.assert_allclose(Ridge(alpha=1e12, solver=solver, max_iter=STEPS).fit(X, y).coef_, exact, rtol=1e-3)


def test_nanoseconds_of_three_classes() -> None:
    """Softmax does not see what all classes have in common, and a norm hardly sees the coefficients of 1e18: predictions do."""
    random = np.random.default_rng(0)
    rows = np.arange(300)
    base = random.normal(size=(300, 3))
    y = np.digitize((rows - 150) / 43 + base[:, 0] + random.logistic(size=300), [-1.5, 1.5])
    X = np.column_stack([1.7e18 + rows * 6e10, base])
    near = np.column_stack([(rows - 150) / 87, base])
    wanted = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(near, y).predict_proba(near)
    for solver in ("auto", "newton", "sampled-newton"):
        np.testing.assert_allclose(LogisticRegression(C=np.inf, solver=solver).fit(X, y).predict_proba(X), wanted, atol=1e-3)


@pytest.mark.parametrize("load", [datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_digits])
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.long
def test_ordinary_data_needs_no_scaling(load: Any, solver: str) -> None:
    """With default parameters: no warning, and the classes that scikit-learn finds on standardised columns."""
    X, y = load(return_X_y=True)
    scaled = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-9)
    model = LogisticRegression(solver=solver).fit(X, y)
    assert model.status_.kind == "converged"
    assert model.score(X, y) >= linear_model.LogisticRegression(max_iter=1000).fit(scaled, y).score(scaled, y) - 0.03
