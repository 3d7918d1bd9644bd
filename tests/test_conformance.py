"""The table that every loss, penalty, strategy, executor and estimator enters."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from pipeline.estimators.base import LinearModel
from pipeline.estimators.solvers import SOLVERS
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.executors import Executor, ThreadExecutor
from pipeline.training import train
from tasks.losses import LOSSES, Loss
from tasks.objectives import LinearObjective, evaluate
from tasks.partition import Group
from tasks.penalties import L2
from tasks.rounds import REDUCTIONS, RoundInput
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.newton import Newton
from tests.data import breast_cancer, diabetes, largest_relative, uneven, weights, wine

Array = NDArray[Any]
P = 4
OUTPUTS = {"squared": 1, "logistic": 1, "multinomial": 3}
ESTIMATORS: list[LinearModel] = [LinearRegression(), Ridge(), LogisticRegression()]
DATA = {"LinearRegression": diabetes, "Ridge": diabetes, "LogisticRegression": breast_cancer}


def rows(loss: Loss, sparse: bool = False, n: int = 60) -> Group:
    random = np.random.default_rng(0)
    X = random.normal(size=(n, P)) * (random.random((n, P)) < 0.7)
    y: Array = random.normal(size=n)
    if loss.classification:
        y = random.integers(0, max(2, OUTPUTS[loss.name]), n)
    offsets = np.array([0, 13, 13, 40, n], dtype=np.int64)
    return Group(sp.csr_array(X) if sparse else X, y, weights(n), offsets, 0)


def objective(loss: Loss, fit_intercept: bool = True) -> LinearObjective:
    classes = np.arange(max(2, OUTPUTS[loss.name])) if loss.classification else None
    class_weight = None if classes is None else np.linspace(0.5, 1.5, len(classes))
    return LinearObjective(loss, P, OUTPUTS[loss.name], fit_intercept, classes, class_weight)


# -- losses --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_gradient_equals_finite_differences(loss: Loss) -> None:
    random = np.random.default_rng(1)
    c = OUTPUTS[loss.name]
    for y in (np.array([0]), np.array([1])):
        raw = random.normal(size=c) * 3
        target = y if c > 1 else y.astype(float)
        numeric = approx_fprime(raw, lambda r, t=target: float(loss.value(t, r[None])[0]), 1e-7)
        np.testing.assert_allclose(loss.gradient(target, raw[None])[0], numeric, atol=1e-6)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_sums_equal_the_definition(loss: Loss, sparse: bool, fit_intercept: bool) -> None:
    """The hot loops against tasks.losses, row by row."""
    model, group = objective(loss, fit_intercept), rows(loss, sparse)
    parameters = np.random.default_rng(2).normal(size=(1, model.layout.size))
    partial = model.loss_and_gradient(group, parameters)
    raw = model.predict(parameters[0], group.X)
    y, weight = model.target(group), model.weight(group)
    assert weight is not None
    residual = weight[:, None] * loss.gradient(y, raw)
    X = group.X.toarray() if isinstance(group.X, sp.csr_array) else group.X
    np.testing.assert_allclose(partial.loss_sum, [weight @ loss.value(y, raw)], rtol=1e-12)
    np.testing.assert_allclose(partial.gradient_sum[0], model.join(residual.T @ X, residual.sum(axis=0)), rtol=1e-10, atol=1e-12)
    assert partial.weight_sum == pytest.approx(weight.sum(), rel=1e-14)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_objective_derivatives_equal_finite_differences(loss: Loss, sparse: bool) -> None:
    model, group = objective(loss), rows(loss, sparse)
    penalty = L2(np.linspace(0.1, 0.9, model.layout.n_coef))
    start = np.random.default_rng(3).normal(size=model.layout.size)

    def at(parameters: Array) -> Any:
        return evaluate(model.hessian(group, parameters[None]), 0, model.layout, penalty, parameters)

    found = at(start)
    np.testing.assert_allclose(found.gradient, approx_fprime(start, lambda w: at(w).value, 1e-7), atol=1e-6)
    numeric = np.array([approx_fprime(start, lambda w, j=j: at(w).gradient[j], 1e-7) for j in range(len(start))])
    np.testing.assert_allclose(found.hessian, numeric, atol=1e-6)
    direction = np.random.default_rng(4).normal(size=(1, len(start)))
    product = model.hessian_vector(group, start[None], direction).gradient_sum[0]
    np.testing.assert_allclose(product, model.hessian(group, start[None]).hessian_sum[0] @ direction[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_margins_of_ten_thousand_are_stable(loss: Loss) -> None:
    c = OUTPUTS[loss.name]
    model = LinearObjective(loss, 1, c, False, np.arange(max(2, c)) if loss.classification else None)
    X = np.array([[1e4], [-1e4], [0.0]])
    y = np.array([0, 1, 1]) if loss.classification else np.array([0.0, 1.0, 1.0])
    parameters = np.linspace(1.0, 0.5, c)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partial = model.hessian(Group(X, y, None, np.array([0, 3]), 0), parameters)
        expected = loss.value(y if c > 1 else y.astype(float), X @ parameters.reshape(c, 1).T)
    np.testing.assert_allclose(partial.loss_sum, [expected.sum()], rtol=1e-14)
    assert np.all(np.isfinite(partial.gradient_sum))
    assert partial.hessian_sum is not None
    assert np.all(np.isfinite(partial.hessian_sum))


# -- penalties -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [L2(0.7), L2(np.array([0.1, 2.0, 0.0]))], ids=["one strength", "strengths"])
def test_penalty(penalty: L2) -> None:
    coef = np.array([0.3, -2.0, 5.0])
    np.testing.assert_allclose(penalty.gradient(coef), approx_fprime(coef, penalty.value, 1e-7), atol=1e-5)
    numeric = [approx_fprime(coef, lambda w, j=j: penalty.gradient(w)[j], 1e-7)[j] for j in range(3)]
    np.testing.assert_allclose(penalty.curvature(coef), numeric, atol=1e-5)
    step = 0.4
    prox = penalty.prox(coef, step)  # the minimiser: its own gradient vanishes
    np.testing.assert_allclose(prox - coef + step * penalty.gradient(prox), 0.0, atol=1e-12)


# -- strategies and executors --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["one thread", "threads", "cluster"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "cluster":
        client: Client = request.getfixturevalue("client")
        yield ClusterExecutor(client)
    else:
        yield ThreadExecutor(1 if request.param == "one thread" else 3)


def fit_quietly(model: Any, dataset: Dataset) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(dataset)


def strategy_names() -> list[str]:
    return [name for name in SOLVERS if name != "auto"]


@pytest.mark.parametrize("solver", strategy_names())
@pytest.mark.usefixtures("client")
def test_strategy_on_partitions(solver: str) -> None:
    """One partition against 37 (to rounding), threads against cluster (to the bit), dense against CSR (to rounding)."""
    X, y = breast_cancer()
    model = LogisticRegression(solver=solver, C=0.05, tol=1e-9, max_iter=5000)
    pieces = uneven(len(X), 37)
    on_cluster = fit_quietly(model, Dataset.from_arrays(X, y, partition_rows=pieces))
    digest, coef = on_cluster.parameters_sha256_, on_cluster.coef_
    with dask.config.set(scheduler="threads"):
        assert fit_quietly(model, Dataset.from_arrays(X, y, partition_rows=pieces)).parameters_sha256_ == digest
        assert largest_relative(fit_quietly(model, Dataset.from_arrays(X, y, n_partitions=1)).coef_, coef) < 1e-6
        assert largest_relative(fit_quietly(model, Dataset.from_arrays(sp.csr_array(X), y, partition_rows=pieces)).coef_, coef) < 1e-6


@pytest.mark.parametrize("power", REDUCTIONS)
def test_executor_reductions(executor: Executor, power: Any) -> None:
    """Bitwise the tree over partitions computed one by one."""
    X, y = wine()
    model = LinearObjective(LOSSES["multinomial"], X.shape[1], 3, True, np.arange(3))
    pieces = uneven(len(X), 11)
    random = np.random.default_rng(0)
    parameters, direction = random.normal(size=(2, 1, model.layout.size))
    shared = RoundInput(model, power, parameters, direction if power in ("hessian_vector", "gradient_difference") else None, 1)
    reduction = REDUCTIONS[power]
    bounds = np.concatenate([[0], np.cumsum(pieces)])
    parts = [
        reduction.map([Group(X[a:b].copy(), y[a:b], None, np.array([0, b - a]), i)], shared) for i, (a, b) in enumerate(pairwise(bounds))
    ]
    while len(parts) > 1:
        parts = [reduction.combine(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    found = executor.map_reduce(Dataset.from_arrays(X, y, partition_rows=pieces), reduction, shared)
    assert pickle.dumps(found) == pickle.dumps(parts[0])


def test_executors_pass_on_what_a_task_raises(executor: Executor) -> None:
    X, y = wine()
    wrong = LinearObjective(LOSSES["multinomial"], X.shape[1] + 1, 3, True, np.arange(3))
    shared = RoundInput(wrong, "loss_and_gradient", np.zeros((1, wrong.layout.size)), None, 1)
    with pytest.raises((ValueError, AssertionError)):
        executor.map_reduce(Dataset.from_arrays(X, y, n_partitions=5), REDUCTIONS["loss_and_gradient"], shared)


@pytest.mark.parametrize("strategy", [LBFGS(tol=1e-9, max_iter=500), Newton(tol=1e-9)], ids=["lbfgs", "newton"])
def test_models_share_passes(executor: Executor, strategy: Any) -> None:
    """k = 3 penalties in one fit equal three fits, in the rounds of the longest."""
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y, n_partitions=7)
    model = LinearObjective(LOSSES["logistic"], X.shape[1], 1, True, np.arange(2))
    penalties = [L2(s) for s in (1e-3, 1e-2, 1e-1)]
    together = train(executor, dataset, model, penalties, strategy, np.zeros((3, model.layout.size)))
    alone = [train(executor, dataset, model, [penalty], strategy, np.zeros((1, model.layout.size))) for penalty in penalties]
    assert {status.kind for status in together.statuses} == {"converged"}
    assert len(together.history) <= max(len(result.history) for result in alone) + 2
    for i, result in enumerate(alone):
        assert largest_relative(together.parameters[i], result.parameters[0]) < 1e-6


# -- estimators ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimator_leaves_its_story(estimator: LinearModel) -> None:
    X, y = DATA[type(estimator).__name__]()
    model = type(estimator)(**estimator.get_params()).fit(X, y)
    assert model.n_rounds_ == len(model.history_) >= model.history_[-1]["iteration"]
    assert [row["round"] for row in model.history_] == list(range(1, model.n_rounds_ + 1))
    assert model.history_[-1]["objective"] <= model.history_[0]["objective"]
    assert len(model.parameters_sha256_) == 64
    assert model.solver_.name in SOLVERS
    assert model.solver_.reason
    assert model.status_.kind == "converged"
    assert model.bytes_per_round_ > 0
