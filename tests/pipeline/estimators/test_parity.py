"""Coefficients against scikit-learn's, both run to tight tolerance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn import linear_model, neural_network
from sklearn.exceptions import DataConversionWarning

from pipeline import (
    Dataset,
    LinearRegression,
    LogisticRegression,
    MLPClassifier,
    MLPRegressor,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from pipeline.models.model_files import load_model, save_model
from tests.data import breast_cancer, diabetes, digits, largest_relative, uneven, weights, wine

CLASSIFICATION = {"breast cancer": breast_cancer, "digits": digits, "wine": wine}
CLASS_WEIGHT: dict[str, Any] = {"none": None, "balanced": "balanced", "given": {0: 2.0, 1: 0.5}}


def reference(class_weight: Any, C: float, **options: Any) -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression(C=C, class_weight=class_weight, tol=1e-12, max_iter=10_000, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", CLASS_WEIGHT.values(), ids=CLASS_WEIGHT)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name == "digits" else name for name in CLASSIFICATION])
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


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("options", [{"fit_intercept": False}, {"C": 100.0}], ids=str)
def test_logistic_regression_options(name: str, options: dict[str, Any]) -> None:
    X, y = CLASSIFICATION[name]()
    theirs = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=10_000, **options).fit(X, y)
    ours = LogisticRegression(tol=1e-12, max_iter=5000, **options).fit(X, y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6 * np.max(np.abs(theirs.coef_)))


SOLVERS = ("lbfgs", "newton", "newton-cg", "sampled-newton", "sampled-lbfgs", "gradient-descent", "nesterov", "admm")


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_meets_scikit_learn(solver: str) -> None:
    X, y = breast_cancer()
    theirs = reference(None, 1.0, solver="newton-cholesky").fit(X, y)
    ours = LogisticRegression(solver=solver, tol=3e-10, max_iter=20_000).fit(X, y)
    assert largest_relative(ours.coef_, theirs.coef_) < 1e-6
    assert ours.solver_.name == solver
    assert ours.status_.kind == "converged"


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e10, math.inf])
def test_many_classes_by_blocks_of_a_samples_hessian(C: float, fit_intercept: bool) -> None:
    """The choice of "auto": less than a third of the passes of L-BFGS, and the optimum, whose coefficients add up to zero."""
    random = np.random.default_rng(0)
    X = random.normal(size=(40_000, 12))
    X[:, 6:] = 0.7 * X[:, :6] + 0.3 * X[:, 6:]
    raw = 1.5 * random.normal(size=(6, 12)) @ X.T
    X *= np.geomspace(0.01, 100.0, 12)
    y = np.argmax(raw + random.gumbel(size=raw.shape), axis=0)
    dataset = Dataset.from_arrays(X, y, n_partitions=7)
    ours = LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-8).fit(dataset)
    plain = LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-8, solver="lbfgs", max_iter=5000).fit(dataset)
    assert ours.solver_.name == "sampled-lbfgs"
    assert ours.status_.kind == plain.status_.kind == "converged"
    assert largest_relative(ours.coef_, plain.coef_) < 1e-4
    np.testing.assert_allclose(ours.coef_.sum(axis=0), 0.0, atol=1e-6 * np.max(np.abs(ours.coef_)))
    assert full_passes(ours) < full_passes(plain) / 3


@pytest.mark.parametrize(("n_classes", "solver"), [(2, "sampled-newton"), (5, "sampled-lbfgs")])
def test_a_sample_that_is_unlike_all_rows_costs_few_passes(n_classes: int, solver: str) -> None:
    """Its Hessian, which leads too far again and again, is dropped; hundreds of passes went by where L-BFGS takes twenty."""
    random = np.random.default_rng(0)
    X = random.normal(size=(20_000, 6))
    raw = random.normal(size=(n_classes, 6)) @ X.T
    y = np.argmax(raw + random.gumbel(size=raw.shape), axis=0)
    X[::20] *= 0.01
    dataset = Dataset.from_arrays(X, y, n_partitions=1)
    ours = LogisticRegression(solver=solver, tol=1e-7).fit(dataset)
    plain = LogisticRegression(solver="lbfgs", tol=1e-7).fit(dataset)
    assert ours.status_.kind == plain.status_.kind == "converged"
    assert largest_relative(ours.coef_, plain.coef_) < 1e-4
    assert full_passes(ours) < 3 * full_passes(plain)


def full_passes(model: Any) -> int:
    """Rounds over all rows."""
    return sum(row["row_step"] == 1 for row in model.history_)


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


ROWS = np.random.default_rng(0).normal(size=(60, 3))
NUMBERS = ROWS @ [1.0, 2.0, 3.0] + 1.0
PEERS: dict[str, tuple[type[Any], type[Any], dict[str, Any], bool]] = {
    "LinearRegression": (LinearRegression, linear_model.LinearRegression, {}, False),
    "LinearRegression without intercept": (LinearRegression, linear_model.LinearRegression, {"fit_intercept": False}, False),
    "Ridge": (Ridge, linear_model.Ridge, {}, False),
    "Ridge without intercept": (Ridge, linear_model.Ridge, {"fit_intercept": False}, False),
    "SGDRegressor": (SGDRegressor, linear_model.SGDRegressor, {"max_iter": 2, "tol": None}, False),
    "MLPRegressor": (MLPRegressor, neural_network.MLPRegressor, {"max_iter": 2, "hidden_layer_sizes": (3,)}, False),
    "LogisticRegression": (LogisticRegression, linear_model.LogisticRegression, {}, True),
    "SGDClassifier": (SGDClassifier, linear_model.SGDClassifier, {"max_iter": 2, "tol": None}, True),
    "MLPClassifier": (MLPClassifier, neural_network.MLPClassifier, {"max_iter": 2, "hidden_layer_sizes": (3,)}, True),
}
LAZY_ROWS = da.from_array(ROWS, chunks=(20, 3))
LAZY_FRAME = dd.from_pandas(pd.DataFrame(ROWS), npartitions=3)  # without names


def column(y: Any) -> pd.DataFrame:
    return pd.DataFrame({"t": y})


def lazy(y: Any) -> da.Array:
    return da.from_array(y, chunks=(20, *y.shape[1:]))


FORMS: dict[str, tuple[Callable[[Any], tuple[Any, ...]], Callable[[Any], Any]]] = {
    "1-D": (lambda y: (ROWS, y), lambda y: y),
    "column": (lambda y: (ROWS, y[:, None]), lambda y: y[:, None]),
    "column as lists": (lambda y: (ROWS, y[:, None].tolist()), lambda y: y[:, None]),
    "series": (lambda y: (ROWS, column(y)["t"]), lambda y: column(y)["t"]),
    "frame": (lambda y: (ROWS, column(y)), column),
    "lazy 1-D": (lambda y: (LAZY_ROWS, lazy(y)), lambda y: y),
    "lazy column": (lambda y: (LAZY_ROWS, lazy(y[:, None])), lambda y: y[:, None]),
    "column beside lazy rows": (lambda y: (LAZY_ROWS, y[:, None]), lambda y: y[:, None]),
    "frame beside lazy rows": (lambda y: (LAZY_ROWS, column(y)), column),
    "lazy series": (lambda y: (LAZY_FRAME, dd.from_pandas(column(y)["t"], npartitions=3)), lambda y: y),
    "lazy frame": (lambda y: (LAZY_FRAME, dd.from_pandas(column(y), npartitions=3)), column),
    "lazy frame of other partitions": (lambda y: (LAZY_ROWS, dd.from_pandas(column(y), npartitions=2)), column),
    "dataset": (lambda y: (Dataset.from_arrays(ROWS, y, n_partitions=3),), lambda y: y),
    "dataset, column": (lambda y: (Dataset.from_arrays(ROWS, y[:, None], n_partitions=3),), lambda y: y[:, None]),
    "dataset, frame": (lambda y: (Dataset.from_arrays(ROWS, column(y)),), column),
    "dataset, lazy column": (lambda y: (Dataset.from_dask(LAZY_ROWS, lazy(y[:, None])),), lambda y: y[:, None]),
}


def shapes(model: Any, X: Any) -> list[tuple[int, ...]]:
    parameters = (*model.coefs_, *model.intercepts_) if "coefs_" in vars(model) else (model.coef_, model.intercept_)
    return [*map(np.shape, parameters), np.shape(model.predict(X))]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PEERS)
def test_forms_of_y(name: str, form: str, tmp_path: Path) -> None:
    """The shapes of coef_, intercept_ and predictions, and the warnings, are scikit-learn's; so they are of a model that was saved."""
    kind, peer, options, classifies = PEERS[name]
    given, in_memory = FORMS[form]
    y = (NUMBERS > 1).astype(int) if classifies else NUMBERS
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always", DataConversionWarning)
        theirs = peer(**options).fit(ROWS, in_memory(y))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", DataConversionWarning)
        ours = kind(**options).fit(*given(y))
    assert shapes(ours, ROWS) == shapes(theirs, ROWS)
    assert len([w for w in found if w.category is DataConversionWarning]) == len(
        [w for w in expected if w.category is DataConversionWarning]
    )
    assert ours.predict(LAZY_ROWS).compute().shape == theirs.predict(ROWS).shape
    assert ours.predict(LAZY_FRAME.to_dask_array()).ndim == theirs.predict(ROWS).ndim
    assert ours.score(*given(y)) == pytest.approx(ours.score(ROWS, y))
    save_model(ours, tmp_path / "model")
    again: Any = load_model(tmp_path / "model")
    assert shapes(again, ROWS) == shapes(theirs, ROWS)


NARROW = np.clip(np.round(NUMBERS * 30), -128, 127).astype(np.int8)
TARGETS: dict[str, tuple[Any, Any]] = {
    "booleans": (NUMBERS > 1, (NUMBERS > 1).astype(float)),
    "list of booleans": ((NUMBERS > 1).tolist(), (NUMBERS > 1).astype(float)),
    "objects that are booleans": ((NUMBERS > 1).astype(object), (NUMBERS > 1).astype(float)),
    "nullable booleans": (pd.Series(NUMBERS > 1, dtype="boolean"), (NUMBERS > 1).astype(float)),
    "Arrow's booleans": (pd.Series(NUMBERS > 1, dtype="bool[pyarrow]"), (NUMBERS > 1).astype(float)),
    "frame of booleans": (column(NUMBERS > 1), (NUMBERS > 1).astype(float)),
    "int8": (NARROW, NARROW.astype(float)),
    "uint8": (np.abs(NARROW).astype(np.uint8), np.abs(NARROW).astype(np.uint8).astype(float)),
    "nullable int8": (pd.Series(NARROW, dtype="Int8"), NARROW.astype(float)),
    "the lowest int64": (np.where(NUMBERS > 1, np.iinfo(np.int64).min, 0), np.where(NUMBERS > 1, float(np.iinfo(np.int64).min), 0.0)),
    "the largest uint64": (np.where(NUMBERS > 1, np.iinfo(np.uint64).max, 0).astype(np.uint64), np.where(NUMBERS > 1, 2.0**64, 0.0)),
    "float16": (NUMBERS.astype(np.float16), NUMBERS.astype(np.float16).astype(float)),
    "long doubles": (NUMBERS.astype(np.longdouble), NUMBERS),
    "decimals": (np.array([Decimal(float(value)) for value in NUMBERS], dtype=object), NUMBERS),
    "list of decimals": ([Decimal(float(value)) for value in NUMBERS], NUMBERS),
    "Arrow's decimals": (
        pd.Series([Decimal(f"{value:.4f}") for value in NUMBERS], dtype=pd.ArrowDtype(pa.decimal128(10, 4))),
        np.round(NUMBERS, 4),
    ),
    "fractions": (np.array([Fraction(float(value)) for value in NUMBERS], dtype=object), NUMBERS),
    "integers beyond 64 bits": (np.array([10**20 * int(value) for value in NARROW], dtype=object), NARROW * 1e20),
}


def lazily(y: Any) -> tuple[Any, Any]:
    if isinstance(y, pd.Series | pd.DataFrame):
        return LAZY_FRAME, dd.from_pandas(y, npartitions=3)
    return LAZY_ROWS, lazy(y) if isinstance(y, np.ndarray) else y


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_kinds_of_numbers_in_y(name: str) -> None:
    """Every kind of number ends in the bits, after the rounds, of the same numbers in float64: the tolerance knows how large they are."""
    y, same = TARGETS[name]
    expected = Ridge(solver="lbfgs").fit(ROWS, same)
    assert expected.n_rounds_ < 20
    for data in ((ROWS, y), lazily(y), (Dataset.from_arrays(ROWS, y, n_partitions=3),)):
        found = Ridge(solver="lbfgs").fit(*data)
        assert found.n_rounds_ < 20
        np.testing.assert_allclose(np.squeeze(found.coef_), expected.coef_, rtol=1e-9)
    assert Dataset.from_arrays(ROWS, y).schema.target_spread.largest == np.max(np.abs(same))
    assert Ridge(solver="lbfgs").fit(ROWS, y).parameters_sha256_ == expected.parameters_sha256_
    flat = y["t"] if isinstance(y, pd.DataFrame) else y
    if np.max(np.abs(same)) < 1e6:  # nor do mini-batches see a difference
        for model in (SGDRegressor(max_iter=3, random_state=0), MLPRegressor(hidden_layer_sizes=(3,), max_iter=3, random_state=0)):
            assert model.fit(ROWS, flat).parameters_sha256_ == model.fit(ROWS, same).parameters_sha256_
