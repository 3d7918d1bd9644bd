"""scikit-learn's own estimator checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    check_sample_weight_equivalence_on_dense_data,
    check_sample_weight_equivalence_on_sparse_data,
    estimator_checks_generator,
    parametrize_with_checks,
)

from pipeline import LinearRegression, LogisticRegression, MLPClassifier, MLPRegressor, Ridge, SGDClassifier, SGDRegressor

ESTIMATORS = [LinearRegression(), Ridge(), LogisticRegression()]
BY_MINI_BATCHES = [SGDClassifier(), SGDRegressor()]
NETWORKS = [MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)]
DRAWN = "rows that are there twice are drawn twice, at different times: scikit-learn's SGD estimators fail here, too"
WEIGHTS_ARE_NO_COPIES = {
    "check_sample_weight_equivalence_on_dense_data": DRAWN,
    "check_sample_weight_equivalence_on_sparse_data": DRAWN,
}
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "LinearRegression": {},
    "Ridge": {},
    "LogisticRegression": {},
    "SGDClassifier": WEIGHTS_ARE_NO_COPIES,
    "SGDRegressor": WEIGHTS_ARE_NO_COPIES,
}


def expected_failures(estimator: Any) -> dict[str, str]:
    return EXPECTED_FAILURES[type(estimator).__name__]


def test_few_failures_are_expected() -> None:
    assert all(len(failures) <= 2 for failures in EXPECTED_FAILURES.values())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_compatible(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(BY_MINI_BATCHES, expected_failed_checks=expected_failures)
def test_mini_batches_are_scikit_learn_compatible(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


OF_WEIGHTS = (check_sample_weight_equivalence_on_dense_data, check_sample_weight_equivalence_on_sparse_data)
# of float32, whose sums differ by more than the 1e-7 of OF_WEIGHTS: see below for float64
OF_NETWORKS = [case for estimator in NETWORKS for case in estimator_checks_generator(estimator) if case[1].func not in OF_WEIGHTS]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("estimator", "check"), OF_NETWORKS, ids=lambda case: getattr(case, "func", type(case)).__name__)
def test_networks_are_scikit_learn_compatible(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("check", OF_WEIGHTS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", NETWORKS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_weights_of_networks_are_repeated_rows(estimator: Any, check: Callable[..., None], solver: str) -> None:
    check(type(estimator).__name__, clone(estimator).set_params(dtype="float64", solver=solver))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", [*ESTIMATORS, *BY_MINI_BATCHES, *NETWORKS], ids=lambda e: type(e).__name__)
def test_checks_that_are_not_yielded(estimator: Any) -> None:
    check_dataframe_column_names_consistency(type(estimator).__name__, estimator)
    check_param_validation(type(estimator).__name__, estimator)
