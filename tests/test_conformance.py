"""The table that every loss, penalty, strategy, executor and estimator enters."""

from __future__ import annotations

import dataclasses
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
from scipy.optimize import approx_fprime, minimize_scalar
from sklearn import linear_model
from sklearn._loss import HalfPoissonLoss
from sklearn.exceptions import ConvergenceWarning

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
from pipeline.estimators.base import GradientModel
from pipeline.estimators.solvers import SOLVERS
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import Result, train
from tasks.objectives.base import GramSums
from tasks.objectives.evaluation import evaluate
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES, EpsilonInsensitiveLoss, HuberLoss, Loss, SquaredEpsilonInsensitiveLoss
from tasks.objectives.penalties import L2, ElasticNet, Penalty, soft_threshold
from tasks.rounds.fitting import Fit
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.rows.batches import Batch, Sampling
from tasks.rows.partition import Group
from tasks.strategies.base import Consensus, LocalSteps, Subtrees
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.local_sgd import LocalUpdates
from tasks.strategies.newton import Newton
from tasks.strategies.optimizers import OPTIMIZERS, Momentum
from tests.data import breast_cancer, diabetes, largest_relative, uneven, weights, wine

Array = NDArray[Any]
P = 4
ONE_VS_REST = ("logistic", "hinge", "modified_huber")
CASES: dict[str, tuple[Loss, int]] = {
    **{name: (loss, 3 if loss.coupled else 1) for name, loss in LOSSES.items()},
    **{f"{name} one-vs-rest": (LOSSES[name], 3) for name in ONE_VS_REST},
}
every_loss = pytest.mark.parametrize(("loss", "c"), CASES.values(), ids=CASES)
ESTIMATORS: list[GradientModel] = [
    LinearRegression(),
    Ridge(),
    LogisticRegression(),
    SGDClassifier(),
    SGDClassifier(solver="async", random_state=0),
    SGDClassifier(solver="async", order="as-they-come", random_state=0),
    SGDClassifier(solver="parameter-server", random_state=0),
    SGDClassifier(solver="parameter-server", compression="int8", random_state=0),
    SGDClassifier(compression="top-k", random_state=0),
    SGDRegressor(tol=10.0),
    SGDRegressor(tol=10.0, solver="local-sgd", random_state=0),
    MLPClassifier(tol=1e-2, random_state=0),
    MLPClassifier(tol=1e-2, random_state=0, solver="local-sgd"),
    MLPClassifier(tol=1e-2, random_state=0, compression="int8"),
    SGDRegressor(tol=10.0, solver=LocalUpdates(8, control_variates=True), optimizer="momentum", random_state=0),
    MLPRegressor(solver="lbfgs", hidden_layer_sizes=(), alpha=10.0, max_iter=500),
]
DATA = dict.fromkeys(("LogisticRegression", "SGDClassifier", "MLPClassifier"), breast_cancer)


def rows(loss: Loss, c: int, sparse: bool = False, n: int = 60) -> Group:
    random = np.random.default_rng(0)
    X = random.normal(size=(n, P)) * (random.random((n, P)) < 0.7)
    y: Array = random.normal(size=n)
    y = np.where(loss.takes(y), y, -y)
    if loss.classification:
        y = random.integers(0, max(2, c), n)
    offsets = np.array([0, 13, 13, 40, n], dtype=np.int64)
    return Group(sp.csr_array(X) if sparse else X, y, weights(n), offsets, 0)


def objective(loss: Loss, c: int, fit_intercept: bool = True) -> LinearObjective:
    classes = np.arange(max(2, c)) if loss.classification else None
    class_weight = None if classes is None else np.linspace(0.5, 1.5, len(classes))
    assert loss.n_outputs(1, 0 if classes is None else len(classes)) == c
    return LinearObjective(loss, P, c, fit_intercept, classes, class_weight)


# -- losses --------------------------------------------------------------------------------------------------------------------------


@every_loss
def test_loss_gradient_equals_finite_differences(loss: Loss, c: int) -> None:
    random = np.random.default_rng(1)
    model = objective(loss, c)
    for _ in range(10):
        raw = random.normal(size=c) * 3
        for y in (0, 1):
            target = model.target(Group(np.zeros((1, P)), np.array([y]), None, np.array([0, 1]), 0))
            numeric = approx_fprime(raw, lambda r, t=target: float(loss.value(t, r[None])[0]), 1e-7)
            np.testing.assert_allclose(loss.gradient(target, raw[None])[0], numeric, atol=1e-5)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@every_loss
def test_sums_equal_the_definition(loss: Loss, c: int, sparse: bool, fit_intercept: bool) -> None:
    """The hot loops against tasks.objectives.losses, row by row."""
    model, group = objective(loss, c, fit_intercept), rows(loss, c, sparse)
    parameters = np.random.default_rng(2).normal(size=(1, model.layout.size))
    partial = model.loss_and_gradient(group, parameters)
    raw = model.predict(parameters[0], group.X)
    y, weight = model.target(group), model.weight(group)
    assert weight is not None
    if model.one_vs_rest:
        assert model.class_weight is not None
        by_output = weight[:, None] * np.where(y == 1, model.class_weight, 1.0)
        loss_sum = sum(by_output[:, a] @ loss.value(y[:, [a]], raw[:, [a]]) for a in range(c))
    else:
        by_output, loss_sum = weight[:, None], weight @ loss.value(y, raw)
    residual = by_output * loss.gradient(y, raw)
    X = group.X.toarray() if isinstance(group.X, sp.csr_array) else group.X
    np.testing.assert_allclose(partial.loss_sum, [loss_sum], rtol=1e-12)
    np.testing.assert_allclose(partial.gradient_sum[0], model.join(residual.T @ X, residual.sum(axis=0)), rtol=1e-10, atol=1e-12)
    assert partial.weight_sum == pytest.approx([weight.sum()], rel=1e-14)
    if c == 3:  # what another loss keeps with the same group is not taken for this one's
        objective(LOSSES["logistic" if loss.coupled else "multinomial"], c).weight_sum(group)
    assert model.weight_sum(group) == pytest.approx(weight.sum(), rel=1e-14)


@every_loss
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_objective_derivatives_equal_finite_differences(loss: Loss, c: int, sparse: bool) -> None:
    model, group = objective(loss, c), rows(loss, c, sparse)
    penalty = L2(np.linspace(0.1, 0.9, model.layout.n_coef))
    start = np.random.default_rng(3).normal(size=model.layout.size)

    def at(parameters: Array) -> Any:
        return evaluate(model.hessian(group, parameters[None]), 0, model.layout, penalty, parameters)

    found = at(start)
    np.testing.assert_allclose(found.gradient, approx_fprime(start, lambda w: at(w).value, 1e-7), atol=1e-6)
    numeric = np.array([approx_fprime(start, lambda w, j=j: at(w).gradient[j], 1e-7) for j in range(len(start))])
    np.testing.assert_allclose(found.hessian, numeric, atol=1e-6)
    direction = np.random.default_rng(4).normal(size=(1, len(start)))
    hessian = model.hessian(group, start[None]).hessian_sum[0]
    assert bool(np.any(hessian)) == loss.smooth
    product = model.hessian_vector(group, start[None], direction).gradient_sum[0]
    np.testing.assert_allclose(product, hessian @ direction[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("loss", "c"), [case for case in CASES.values() if case[0].name != "poisson"], ids=str)
def test_margins_of_ten_thousand_are_stable(loss: Loss, c: int) -> None:
    model = LinearObjective(loss, 1, c, False, np.arange(max(2, c)) if loss.classification else None)
    X = np.array([[1e4], [-1e4], [0.0]])
    y = np.array([0, 1, 1]) if loss.classification else np.array([0.0, 1.0, 1.0])
    group = Group(X, y, None, np.array([0, 3]), 0)
    parameters = np.linspace(1.0, 0.5, c)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partial = model.hessian(group, parameters)
        expected = loss.value(model.target(group), X @ parameters.reshape(c, 1).T)
    np.testing.assert_allclose(partial.loss_sum, [expected.sum()], rtol=1e-14)
    assert np.all(np.isfinite(partial.gradient_sum))
    assert partial.hessian_sum is not None
    assert np.all(np.isfinite(partial.hessian_sum))


def of_scikit_learn(loss: Loss, y: float, raw: float) -> tuple[float, float]:
    """Value and derivative by the object that scikit-learn's SGD estimators compute with, or its generalised linear models; y as there."""
    if loss.name == "poisson":
        value, slope = HalfPoissonLoss().loss_gradient(np.array([y]), np.array([raw]))
        return float(value[0]), float(slope[0])
    name = {"squared": "squared_error", "logistic": "log_loss"}.get(loss.name, loss.name)
    kind, *arguments = (linear_model.SGDClassifier if loss.classification else linear_model.SGDRegressor).loss_functions[name]
    theirs = kind(*(dataclasses.astuple(loss) or arguments))
    if name in ("squared_error", "log_loss", "huber"):  # these take arrays
        value, slope = np.empty(1), np.empty(1)
        theirs.loss_gradient(np.array([y]), np.array([raw]), None, value, slope, 1)
        return float(value[0]), float(slope[0])
    return theirs.py_loss(raw, y), theirs.py_dloss(raw, y)


GRID = (-1e3, -2.5, -1.0, -0.75, -0.5, -0.1, -1e-9, 0.0, 1e-9, 0.1, 0.25, 0.5, 0.6, 0.75, 1.0, 1.5, 3.0, 1e3)
PARAMETERS = [HuberLoss(0.5), EpsilonInsensitiveLoss(0.5), EpsilonInsensitiveLoss(0.0), SquaredEpsilonInsensitiveLoss(0.5), HuberLoss(0.0)]


@pytest.mark.parametrize("loss", [*(loss for loss in LOSSES.values() if not loss.coupled), *PARAMETERS], ids=str)
def test_losses_are_those_of_scikit_learn(loss: Loss) -> None:
    """At the kinks, too: margins of -1, 0 and 1, errors of epsilon (0.5 is exact) and zero."""
    model = LinearObjective(loss, 1, 1, False, np.arange(2) if loss.classification else None)
    for y in (0.0, 1.0) if loss.classification else (0.0, 0.25, 0.5):
        for raw in GRID:
            label = 2 * y - 1 if loss.classification and loss.name != "logistic" else y
            expected = of_scikit_learn(loss, label, raw)
            with np.errstate(over="ignore"):  # of exp, to inf
                defined = loss.value(np.array([y]), np.array([[raw]]))[0], loss.gradient(np.array([y]), np.array([[raw]]))[0, 0]
            np.testing.assert_allclose(defined, expected, rtol=1e-13, atol=1e-15)
            partial = model.loss_and_gradient(Group(np.ones((1, 1)), np.array([y]), None, np.array([0, 1]), 0), np.array([[raw]]))
            np.testing.assert_allclose((partial.loss_sum[0], partial.gradient_sum[0, 0]), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["logistic", "modified_huber"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(name: str, n_classes: int) -> None:
    random = np.random.default_rng(6)
    X, y = random.normal(size=(200, P)), np.arange(200) % n_classes
    model = linear_model.SGDClassifier(loss="log_loss" if name == "logistic" else name, random_state=0).fit(X, y)
    model.coef_, model.intercept_ = random.normal(size=model.coef_.shape), np.full(len(model.coef_), -1.0)
    raw = model.decision_function(X).reshape(len(X), -1)
    assert np.any(raw.max(axis=1) < -1)  # of no class, to modified_huber: uniform
    expected = model.predict_proba(X)
    np.testing.assert_allclose(LOSSES[name].mean(raw), expected if n_classes > 2 else expected[:, 1:], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_who_gives_probabilities(loss: Loss) -> None:
    raw = np.array([[-3.0, 0.2, 2.0], [0.0, 0.0, 0.0]])
    if loss.classification and not loss.probabilistic:
        with pytest.raises(ValueError, match=f"the {loss.name} loss gives no probabilities; use"):
            loss.mean(raw)
    elif loss.classification:
        np.testing.assert_allclose(loss.mean(raw).sum(axis=1), 1.0)
    else:
        assert not loss.probabilistic
        np.testing.assert_array_equal(loss.mean(raw), np.exp(raw) if loss.inverse_link == "exp" else raw)


@pytest.mark.parametrize("kind", [HuberLoss, EpsilonInsensitiveLoss, SquaredEpsilonInsensitiveLoss])
@pytest.mark.parametrize("epsilon", [-0.1, float("nan")])
def test_epsilon_is_not_negative(kind: Any, epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"the {kind.name} loss needs epsilon >= 0, got {epsilon}"):
        kind(epsilon)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("name", ONE_VS_REST)
def test_one_vs_rest_is_one_binary_problem_a_class(name: str, sparse: bool) -> None:
    """With class weights as in scikit-learn: the class of the problem has its weight, all others together have weight 1."""
    model, group = objective(LOSSES[name], 3), rows(LOSSES[name], 3, sparse)
    assert model.class_weight is not None
    labelled = LinearObjective(model.loss, P, 3, True, np.array(["ham", "jam", "spam"]), model.class_weight)
    labels = Group(group.X, np.array(["ham", "jam", "spam"])[group.y], group.sample_weight, group.offsets, 0)
    parameters = np.random.default_rng(5).normal(size=(2, model.layout.size))  # two models share the pass
    together = model.hessian(group, parameters)
    assert (
        labelled.loss_and_gradient(labels, parameters).gradient_sum.tobytes()
        == model.loss_and_gradient(group, parameters).gradient_sum.tobytes()
    )
    loss_sum = np.zeros(2)
    for a in range(3):
        own = np.r_[a * P : (a + 1) * P, 3 * P + a]
        binary = LinearObjective(model.loss, P, 1, True, np.array([False, True]), np.array([1.0, model.class_weight[a]]))
        alone = binary.hessian(Group(group.X, group.y == a, group.sample_weight, group.offsets, 0), parameters[:, own])
        loss_sum += alone.loss_sum
        np.testing.assert_allclose(together.gradient_sum[:, own], alone.gradient_sum, rtol=1e-12, atol=1e-13)
        assert together.hessian_sum is not None
        assert alone.hessian_sum is not None
        np.testing.assert_allclose(together.hessian_sum[:, own[:, None], own], alone.hessian_sum, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(together.loss_sum, loss_sum, rtol=1e-13)


def test_only_softmax_intercepts_are_centred() -> None:
    """Any shift of them all predicts the same there, and something else in one-vs-rest."""
    intercept = np.arange(5.0, 8.0)
    assert objective(LOSSES["multinomial"], 3).centred(intercept).tolist() == [-1.0, 0.0, 1.0]
    assert objective(LOSSES["logistic"], 3).centred(intercept) is intercept


# -- penalties -----------------------------------------------------------------------------------------------------------------------


STRENGTHS = np.array([0.1, 2.0, 0.0])
PENALTIES: dict[str, Penalty] = {
    "l2": L2(0.7),
    "l2 strengths": L2(STRENGTHS),
    "l1": ElasticNet(l1=0.3),
    "elastic net": ElasticNet(0.3, 0.7),
    "elastic net strengths": ElasticNet(STRENGTHS, STRENGTHS[::-1].copy()),
}
every_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


@every_penalty
def test_penalty_derivatives_equal_finite_differences(penalty: Penalty) -> None:
    """Those of the smooth part: what is left is Σ l1 |coef|."""
    coef = np.array([0.3, -2.0, 5.0])
    kinks = penalty.l1 * np.sign(coef) if isinstance(penalty, ElasticNet) else 0.0
    np.testing.assert_allclose(penalty.gradient(coef) + kinks, approx_fprime(coef, penalty.value, 1e-7), atol=1e-5)
    numeric = [approx_fprime(coef, lambda w, j=j: penalty.gradient(w)[j], 1e-7)[j] for j in range(3)]
    np.testing.assert_allclose(penalty.curvature(coef), numeric, atol=1e-5)


@pytest.mark.parametrize("strength", [-1.0, np.nan, np.array([1.0, -1e-300])], ids=str)
def test_penalties_refuse_strengths_that_are_none(strength: Any) -> None:
    for make in (L2, lambda l1: ElasticNet(l1=l1), lambda l2: ElasticNet(l2=l2)):
        with pytest.raises(ValueError, match="must be a number of at least 0, or one for each coefficient"):
            make(strength)


@every_penalty
@pytest.mark.parametrize("step", [0.4, 3.0])
def test_penalty_prox_is_the_minimiser(penalty: Penalty, step: float) -> None:
    """Of the part with kinks, which penalties without one leave alone."""
    assert penalty.kinks == isinstance(penalty, ElasticNet)
    for coef in (np.array([0.3, -2.0, 5.0]), np.array([0.1, -0.2, 0.0]), np.array([-0.12, 0.8, -0.9])):
        prox = penalty.prox(coef, step)
        for j in range(3):

            def at(u: float, j: int = j, coef: Array = coef) -> float:
                moved = np.zeros(3)  # the value is a sum over coefficients, so one can be minimised alone
                moved[j] = u
                smooth = L2(penalty.l2 if isinstance(penalty, ElasticNet) else penalty.strength).value(moved)  # type: ignore[attr-defined]
                return 0.5 * (u - coef[j]) ** 2 + step * (penalty.value(moved) - smooth)

            found = minimize_scalar(at, bounds=(-6.0, 6.0), method="bounded", options={"xatol": 1e-10})
            assert prox[j] == pytest.approx(found.x, abs=2e-7)
            assert at(prox[j]) <= found.fun + 1e-15


@every_penalty
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_penalty_keeps_the_dtype(penalty: Penalty, dtype: Any) -> None:
    coef = np.array([0.3, -2.0, 5.0], dtype=dtype)
    step = np.float64(0.4)
    for found in (
        penalty.gradient(coef),
        penalty.curvature(coef),
        penalty.prox(coef, 0.4),
        penalty.prox(coef, step),
        soft_threshold(coef, step),
    ):
        assert found.dtype == dtype
        assert found.shape == coef.shape
    wide = coef.astype(np.float64)
    np.testing.assert_allclose(penalty.gradient(coef), penalty.gradient(wide), rtol=1e-6)
    np.testing.assert_allclose(penalty.prox(coef, 0.4), penalty.prox(wide, 0.4), rtol=1e-6)
    assert penalty.value(coef) == penalty.value(wide)


def test_soft_threshold_has_exact_zeros() -> None:
    assert soft_threshold(np.array([0.5, -0.5, 0.25, -2.0, 0.0]), 0.5).tolist() == [0.0, 0.0, 0.0, -1.5, 0.0]


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


def strategy_names() -> list[Any]:
    """Solvers by name; those that take thousands of rounds are long, or slow."""
    marks = {"gradient-descent": pytest.mark.long, "nesterov": pytest.mark.long, "admm": pytest.mark.slow}
    return [pytest.param(name, marks=marks[name]) if name in marks else name for name in SOLVERS if name != "auto"]


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


def bits(partial: Any) -> Any:
    """What two sums must share to be equal to the bit."""
    return tuple(map(bits, partial)) if isinstance(partial, tuple) else None if partial is None else np.asarray(partial).tobytes()


@pytest.mark.parametrize("oracle", ORACLES)
def test_executor_reductions(executor: Executor, oracle: str) -> None:
    """Bitwise the tree over partitions computed one by one."""
    X, y = wine()
    p = X.shape[1]
    model = LinearObjective(LOSSES["multinomial"], p, 3, True, np.arange(3))
    if ORACLES[oracle].needs is GramSums:
        model = LinearObjective(LOSSES["squared"], p, 1, True)
    pieces = uneven(len(X), 11)
    random = np.random.default_rng(0)
    parameters, direction = random.normal(size=(2, 1, model.layout.size))
    along = {"hessian_vector": direction, "gradient_difference": direction, "gram_in_basis": random.normal(size=(1, p, p))}
    broadcast = Broadcast(model, oracle, parameters, along.get(oracle), 1, (L2(),))
    if oracle == "local_steps":
        broadcast = broadcast._replace(batch=Batch(Sampling(1, 3), 0, 1), local=LocalSteps((0.2, 0.1, 0.05), Momentum()))
    if oracle == "consensus":
        duals, own = random.normal(size=(1, 11, model.layout.size)), Consensus(Subtrees(tuple(range(11))), 0.3)
        broadcast = broadcast._replace(direction=duals, local=own)
    reduction = reduction_of(broadcast)
    bounds = np.concatenate([[0], np.cumsum(pieces)])
    parts = [
        reduction.map([Group(X[a:b].copy(), y[a:b], None, np.array([0, b - a]), i)], broadcast) for i, (a, b) in enumerate(pairwise(bounds))
    ]
    while len(parts) > 1:
        parts = [reduction.combine(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    found = executor.map_reduce(Dataset.from_arrays(X, y, partition_rows=pieces).rows, reduction, broadcast)
    assert bits(found) == bits(parts[0])


def test_executors_pass_on_what_a_task_raises(executor: Executor) -> None:
    X, y = wine()
    wrong = LinearObjective(LOSSES["multinomial"], X.shape[1] + 1, 3, True, np.arange(3))
    broadcast = Broadcast(wrong, "loss_and_gradient", np.zeros((1, wrong.layout.size)), None, 1)
    with pytest.raises((ValueError, AssertionError)):
        executor.map_reduce(Dataset.from_arrays(X, y, n_partitions=5).rows, reduction_of(broadcast), broadcast)


@pytest.mark.parametrize("strategy", [LBFGS(tol=1e-9, max_iter=500), Newton(tol=1e-9)], ids=["lbfgs", "newton"])
def test_models_share_passes(executor: Executor, strategy: Any) -> None:
    """k = 3 penalties in one fit equal three fits, in the rounds of the longest."""
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y, n_partitions=7)
    model = LinearObjective(LOSSES["logistic"], X.shape[1], 1, True, np.arange(2))
    penalties = [L2(s) for s in (1e-3, 1e-2, 1e-1)]

    def trained(*penalties: Penalty) -> Result:
        fit = Fit(model, penalties, strategy)
        return train(executor, dataset, fit, fit.init(np.zeros((len(penalties), model.layout.size))))

    together, alone = trained(*penalties), [trained(penalty) for penalty in penalties]
    assert {status.kind for status in together.statuses} == {"converged"}
    assert len(together.history) <= max(len(result.history) for result in alone) + 2
    for i, result in enumerate(alone):
        assert largest_relative(together.parameters[i], result.parameters[0]) < 1e-6


# -- estimators ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimator_leaves_its_story(estimator: GradientModel) -> None:
    X, y = DATA.get(type(estimator).__name__, diabetes)()
    model = type(estimator)(**estimator.get_params()).fit(X, y)
    assert model.n_rounds_ == len(model.history_)
    assert model.n_rounds_ >= model.history_[-1]["iteration"] or model.history_[-1]["oracle"] == "local_steps"  # several a round
    assert [row["round"] for row in model.history_] == list(range(1, model.n_rounds_ + 1))
    assert model.history_[-1]["objective"] <= model.history_[0]["objective"]
    assert len(model.parameters_sha256_) == 64
    assert model.solver_.name in (*type(model)._solvers, *OPTIMIZERS)
    assert model.solver_.reason
    assert model.status_.kind == "converged"
    assert model.bytes_per_round_ > 0
