"""Coefficients against scikit-learn's, both run to tight tolerance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import linear_model

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from tests.data import breast_cancer, diabetes, digits, largest_relative, uneven, weights, wine

CLASSIFICATION = {"breast cancer": breast_cancer, "digits": digits, "wine": wine}
CLASS_WEIGHT: dict[str, Any] = {"none": None, "balanced": "balanced", "given": {0: 2.0, 1: 0.5}}


def reference(class_weight: Any, C: float, **options: Any) -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression(C=C, class_weight=class_weight, tol=1e-12, max_iter=10_000, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", CLASS_WEIGHT.values(), ids=CLASS_WEIGHT)
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_logistic_regression(name: str, class_weight: Any, weighted: bool) -> None:
    X, y = CLASSIFICATION[name]()
    if isinstance(class_weight, dict):
        class_weight = {**{int(label): 1.0 for label in np.unique(y)}, **class_weight}
    sample_weight = weights(len(X)) if weighted else None
    solver = "newton-cholesky" if name != "digits" else "newton-cg"
    theirs = reference(class_weight, 0.5, solver=solver).fit(X, y, sample_weight)
    ours = LogisticRegression(C=0.5, class_weight=class_weight, tol=1e-11, max_iter=1000)
    ours.fit(Dataset.from_arrays(X, y, sample_weight, partition_rows=uneven(len(X), 13)))
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
    assert largest_relative(ours.intercept_, theirs.intercept_) < 1e-6
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-6)
    assert np.array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, y) == theirs.score(X, y)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("options", [{"fit_intercept": False}, {"C": 100.0}], ids=str)
def test_logistic_regression_options(name: str, options: dict[str, Any]) -> None:
    X, y = CLASSIFICATION[name]()
    theirs = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=10_000, **options).fit(X, y)
    ours = LogisticRegression(tol=1e-12, max_iter=5000, **options).fit(X, y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6 * np.max(np.abs(theirs.coef_)))


@pytest.mark.parametrize("solver", ["lbfgs", "newton", "newton-cg", "sampled-newton", "gradient-descent", "nesterov"])
def test_every_solver_meets_scikit_learn(solver: str) -> None:
    X, y = breast_cancer()
    theirs = reference(None, 1.0, solver="newton-cholesky").fit(X, y)
    ours = LogisticRegression(solver=solver, tol=3e-10, max_iter=20_000).fit(X, y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
    assert ours.solver_.name == solver
    assert ours.status_.kind == "converged"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
def test_least_squares(weighted: bool, fit_intercept: bool, targets: int) -> None:
    X, y = diabetes()
    y = y if targets == 1 else np.stack([y, y**2 / 100, -y + X[:, 0]], axis=1)
    sample_weight = weights(len(X)) if weighted else None
    dataset = Dataset.from_arrays(X, y, sample_weight, partition_rows=uneven(len(X), 9))
    pairs = [
        (LinearRegression(fit_intercept=fit_intercept, tol=1e-10), linear_model.LinearRegression(fit_intercept=fit_intercept)),
        (Ridge(alpha=0.7, fit_intercept=fit_intercept, tol=1e-10), linear_model.Ridge(alpha=0.7, fit_intercept=fit_intercept, tol=1e-14)),
    ]
    for ours, theirs in pairs:
        ours.fit(dataset)
        theirs.fit(X, y, sample_weight)
        assert ours.coef_.shape == theirs.coef_.shape
        assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
        if fit_intercept:
            assert largest_relative(ours.intercept_, theirs.intercept_) < 1e-6
        else:
            assert ours.intercept_ == theirs.intercept_ == 0.0
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-6)
        assert ours.score(X, y, sample_weight) == pytest.approx(theirs.score(X, y, sample_weight), rel=1e-9)
        assert ours.score(dataset) == pytest.approx(theirs.score(X, y, sample_weight), rel=1e-9)


@pytest.mark.parametrize("solver", ["newton", "newton-cg", "lbfgs"])
def test_ridge_solvers_and_a_penalty_for_each_target(solver: str) -> None:
    X, y = diabetes()
    Y = np.stack([y, 2 * y + 100 * X[:, 1]], axis=1)
    theirs = linear_model.Ridge(alpha=[0.1, 2.0], tol=1e-14).fit(X, Y)
    ours = Ridge(alpha=[0.1, 2.0], solver=solver, tol=1e-9, max_iter=5000).fit(X, Y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6


def test_dependent_columns_give_the_least_norm_solution() -> None:
    X, y = diabetes()
    X = np.hstack([X, X[:, :3] @ np.array([[1.0], [2.0], [-1.0]]), np.ones((len(X), 1))])
    theirs = linear_model.LinearRegression().fit(X, y)
    ours = LinearRegression(tol=1e-10).fit(X, y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6


def test_columns_far_from_zero_and_of_unlike_scale_cost_no_digits() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(2000, 6)) * np.geomspace(1e-4, 1e4, 6) + np.geomspace(1, 1e5, 6)
    y = X @ np.geomspace(1e3, 1e-3, 6) + random.normal(size=2000)
    centred = X - X.mean(axis=0)
    scale = centred.std(axis=0)
    best = np.linalg.lstsq(centred / scale, y - y.mean(), rcond=None)[0] / scale  # scikit-learn's own drops the two smallest columns
    np.testing.assert_allclose(LinearRegression(tol=1e-10).fit(X, y).coef_, best, rtol=1e-6)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_float32(name: str) -> None:
    X, y = CLASSIFICATION[name]()
    theirs = reference(None, 1.0, solver="newton-cg").fit(X, y)
    ours = LogisticRegression(tol=1e-9, max_iter=1000).fit(X.astype(np.float32), y)
    assert ours.coef_.dtype == np.float32
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-3
    X, y = diabetes()
    ours = Ridge(alpha=0.5).fit(X.astype(np.float32), y.astype(np.float32))
    assert ours.coef_.dtype == np.float32
    assert largest_relative(ours.coef_, linear_model.Ridge(alpha=0.5).fit(X, y).coef_) < 1e-3


@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_array], ids=lambda c: c.__name__)
def test_sparse_equals_dense(convert: Any) -> None:
    X, y = digits()  # half of the pixels are zero
    dense = LogisticRegression(tol=1e-11, max_iter=3000).fit(X, y)
    sparse = LogisticRegression(tol=1e-11, max_iter=3000).fit(convert(X), y)
    assert largest_relative(sparse.coef_, dense.coef_) < 1e-6
    np.testing.assert_allclose(sparse.predict_proba(convert(X)), dense.predict_proba(X), atol=1e-8)


def test_weights_are_repeated_rows() -> None:
    X, y = breast_cancer()
    times = np.random.default_rng(0).integers(0, 4, len(X))
    repeated = LogisticRegression(tol=1e-10).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    weighted = LogisticRegression(tol=1e-10).fit(X, y, sample_weight=times)
    assert largest_relative(weighted.coef_, repeated.coef_) < 1e-7


def test_warm_start_goes_on_where_it_stopped() -> None:
    X, y = breast_cancer()
    model = LogisticRegression(solver="lbfgs", tol=1e-6, warm_start=True).fit(X, y)
    cold = model.n_rounds_
    model.fit(X, y)
    assert model.n_rounds_ < cold / 4


@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs"])
def test_scikit_learn_solver_names(solver: str) -> None:
    X, y = breast_cancer()
    assert LogisticRegression(solver=solver).fit(X, y).status_.kind == "converged"
    with pytest.raises(ValueError, match="solver='saga' is not available; use one of"):
        LogisticRegression(solver="saga").fit(X, y)


def test_labels_of_any_kind() -> None:
    X, y = wine()
    expected = LogisticRegression().fit(X, y)
    for labels in (np.array(["red", "rosé", "white"]), np.array([True, False, True]), np.array([-3, 10, 7]), np.array([0.5, 1.5, 2.5])):
        kinds = labels[y]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if labels.dtype.kind == "f":
                with pytest.raises(ValueError, match="Unknown label type: continuous"):
                    LogisticRegression().fit(X, kinds)
                continue
            model = LogisticRegression().fit(X, kinds)
        assert np.array_equal(model.classes_, np.unique(labels))
        assert model.score(X, kinds) >= expected.score(X, y) - 0.03


@pytest.mark.parametrize("scale", [1e6, 3e-5, 1e-9, 1e-100])
def test_units_of_y_do_not_decide(scale: float) -> None:
    """tol is relative to y: small numbers are not taken for an optimum."""
    X, y = diabetes()
    for ours, theirs in [(Ridge(), linear_model.Ridge()), (LinearRegression(), linear_model.LinearRegression())]:
        assert largest_relative(ours.fit(X, y * scale).coef_, theirs.fit(X, y * scale).coef_) < 1e-9
    for solver in ("lbfgs", "newton-cg"):
        found = Ridge(solver=solver, tol=1e-7).fit(X, y * scale)
        assert largest_relative(found.coef_, linear_model.Ridge().fit(X, y * scale).coef_) < 1e-3


def test_more_columns_than_rows() -> None:
    X = np.random.default_rng(0).normal(size=(60, 900))
    for ours, theirs in [(Ridge(), linear_model.Ridge()), (LinearRegression(), linear_model.LinearRegression())]:
        assert largest_relative(ours.fit(X, X[:, 0]).coef_, theirs.fit(X, X[:, 0]).coef_) < 1e-6
