"""The Poisson loss against scikit-learn's regressor, for every solver, cut and form of rows; targets that it refuses; overflow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize
from sklearn.linear_model import PoissonRegressor

from pipeline import Dataset, mini_batches, minimise
from pipeline.training.minimise import Minimum
from tasks import kernels
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import PoissonLoss
from tasks.objectives.penalties import L2
from tasks.rows.partition import Block, make_group
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.newton import Newton
from tasks.strategies.newton_cg import NewtonCG
from tasks.strategies.optimizers import SGD
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.data import uneven, weights

P = 4
N = 900
ALPHA = 0.01
STRATEGIES: dict[str, Any] = {
    "newton": Newton(tol=1e-10),
    "newton-cg": NewtonCG(tol=1e-10),
    "lbfgs": LBFGS(tol=1e-10, max_iter=500),
    "gradient descent": GradientDescent(tol=1e-9, max_iter=5000),
    "nesterov": GradientDescent(nesterov=True, tol=1e-9, max_iter=5000),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def counts(scale: float = 1.0) -> tuple[Any, Any]:
    random = np.random.default_rng(4)
    X = random.normal(size=(N, P)) * (random.random((N, P)) < 0.7)
    return scale * X, random.poisson(np.exp(0.4 * X @ np.array([1.0, -0.5, 0.3, 0.0]) + 0.2)).astype(np.float64)


def objective(n_columns: int = P, fit_intercept: bool = True) -> LinearObjective:
    return LinearObjective(PoissonLoss(), n_columns, 1, fit_intercept)


def fitted(data: Dataset, strategy: Any, penalty: float = ALPHA, start: Any = None) -> Minimum:
    with dask.config.set(scheduler="threads"):
        return minimise(objective(), data, strategy, np.zeros(P + 1) if start is None else start, penalty=L2(penalty))


@pytest.fixture(scope="module")
def peer() -> Any:
    X, y = counts()
    model = PoissonRegressor(alpha=ALPHA, solver="newton-cholesky", tol=1e-12, max_iter=100).fit(X, y, sample_weight=weights(N))
    return np.append(model.coef_, model.intercept_)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("n_partitions", [1, 7, 37])
@every_strategy
def test_coefficients_are_those_of_scikit_learn(strategy: Any, n_partitions: int, sparse: bool, peer: Any) -> None:
    X, y = counts()
    data = Dataset.from_arrays(sp.csr_array(X) if sparse else X, y, weights(N), partition_rows=uneven(N, n_partitions))
    found = fitted(data, strategy)
    assert found.status.kind == "converged", found.status
    np.testing.assert_allclose(found.parameters, peer, rtol=1e-7, atol=1e-8)


def test_several_targets_are_fits_of_their_own() -> None:
    X, y = counts()
    both = np.column_stack([y, np.roll(y, 5)])
    together = minimise(
        LinearObjective(PoissonLoss(), P, 2, True), Dataset.from_arrays(X, both, n_partitions=5), Newton(tol=1e-11), np.zeros(2 * P + 2)
    )
    for a in range(2):
        model = PoissonRegressor(alpha=0.0, solver="newton-cholesky", tol=1e-12).fit(X, both[:, a])
        own = together.parameters[[*range(a * P, (a + 1) * P), 2 * P + a]]
        np.testing.assert_allclose(own, np.append(model.coef_, model.intercept_), rtol=1e-8, atol=1e-9)


# -- targets -------------------------------------------------------------------------------------------------------------------------


def test_negative_targets_are_named() -> None:
    X, y = counts()
    y[130] = -2.0
    data = Dataset.from_arrays(X, y, partition_rows=[100, 100, N - 200])
    message = r"the poisson loss needs y to be at least 0, got -2.0 in row 30 of partition 1; drop such rows, or use another loss"
    with pytest.raises(ValueError, match=message):
        fitted(data, LBFGS())
    with pytest.raises(ValueError, match="Some value"):  # as scikit-learn
        PoissonRegressor().fit(X, y)
    batch = make_group([Block(X, y)], 7)
    batch.draw = (0, 0, 0, 7)
    with pytest.raises(ValueError, match=r"got -2.0 in a mini-batch of partitions from 7 on"):
        LinearObjective(PoissonLoss(), P, 1, True).target(batch)


def test_all_zero_targets_are_refused() -> None:
    X, _ = counts()
    with pytest.raises(ValueError, match=r"the poisson loss has no minimum where y has mean 0\.0; use another"):
        fitted(Dataset.from_arrays(X, np.zeros(N), n_partitions=3), LBFGS())
    with pytest.raises(ValueError, match="has no minimum"):  # no row that counts has any
        fitted(Dataset.from_arrays(X, np.r_[1.0, np.zeros(N - 1)], np.r_[0.0, np.ones(N - 1)], n_partitions=3), LBFGS())


# -- overflow ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "mean"), [(700.0, np.exp(700.0)), (720.0, np.inf), (1e4, np.inf), (-1e4, 0.0), (-720.0, 0.0)])
def test_the_largest_predictions(raw: float, mean: float) -> None:
    arguments = (np.ones((1, 1)), np.array([2.0]))
    bounds = np.array([0, 1])
    rest = (bounds, np.array([[raw]]), np.zeros(1), 1)
    loss, _, gradient, _ = kernels.loss_and_gradient(PoissonLoss(), *arguments, None, *rest)
    np.testing.assert_allclose([loss[0], gradient[0, 0]], [mean - 2 * raw, mean - 2.0], rtol=1e-14)
    np.testing.assert_allclose(kernels.hessian(PoissonLoss(), *arguments, None, *rest, False)[4], [[[mean]]], rtol=1e-14)
    nothing = kernels.hessian(PoissonLoss(), *arguments, np.zeros(1), *rest, False)  # a row without weight
    assert not any(np.any(part) for part in nothing)


def test_exp_is_exact_to_two_ulp() -> None:
    raw = np.concatenate([-np.geomspace(1e-12, 707.0, 500), np.geomspace(1e-12, 707.0, 500)])
    for value in raw:
        rest = (np.ones((1, 1)), np.zeros(1), None, np.array([0, 1]), np.array([[value]]), np.zeros(1), 1)
        exact = np.exp(np.longdouble(value))
        assert abs(kernels.loss_and_gradient(PoissonLoss(), *rest)[0][0] - exact) <= 2 * np.spacing(float(exact))


@every_strategy
@pytest.mark.parametrize("start", [0.0, 3.0], ids=["from zero", "from far away"])
def test_steps_that_overflow_are_taken_back(strategy: Any, start: float) -> None:
    """Columns of a thousand: the first steps of most strategies make exp overflow."""
    X, y = counts(1e3)
    data = Dataset.from_arrays(X, y, n_partitions=7)
    model = objective()
    at = np.full(P + 1, start * 1e-3)
    found = fitted(data, replace(strategy, max_iter=500), 0.0, at)
    assert np.all(np.isfinite(found.parameters))

    def loss(parameters: Any) -> float:
        return float(np.mean(PoissonLoss().value(y, model.predict(parameters, X))))

    if found.status.kind == "converged":
        assert loss(found.parameters) <= minimize_by_scipy(X, y) + 1e-9
    else:
        assert found.status.kind in ("stalled", "out of rounds"), found.status
        assert loss(found.parameters) < loss(at)


def minimize_by_scipy(X: Any, y: Any) -> float:
    scale = np.abs(X).max()

    def loss(w: Any) -> Any:
        raw = X @ (w[:-1] / scale) + w[-1]
        residual = np.exp(raw) - y
        return np.mean(np.exp(raw) - y * raw), np.append(residual @ X / scale, residual.sum()) / len(y)

    return float(minimize(loss, np.zeros(X.shape[1] + 1), jac=True, method="BFGS", options={"gtol": 1e-10}).fun)


def test_a_start_that_overflows_says_so() -> None:
    X, y = counts()
    data = Dataset.from_arrays(X, y, n_partitions=3)
    for strategy in STRATEGIES.values():
        found = fitted(data, strategy, start=np.full(P + 1, 1e4))
        assert found.status.kind == "diverged", found.status
        assert found.parameters.tolist() == [1e4] * (P + 1)


def test_mini_batches_that_diverge_say_so() -> None:
    X, y = counts()
    data = Dataset.from_arrays(X, y, n_partitions=3)
    found = fitted(data, StochasticGradient(mini_batches(data, 50), SGD(), Constant(1e3), max_epochs=5))
    assert found.status.kind == "diverged"
    assert np.all(np.isfinite(found.parameters))
