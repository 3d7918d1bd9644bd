"""Consensus ADMM against Newton's optimum, scikit-learn's elastic net, and its own formulas; no Dask here."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import ElasticNet as Reference

from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2, ElasticNet
from tasks.objectives.standardisation import Standardisation
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.partition import Group
from tasks.strategies.admm import ADMM, meeting
from tasks.strategies.base import Agreeing, Subtrees
from tasks.strategies.newton import Newton

Float64 = NDArray[np.float64]
RANDOM = np.random.default_rng(0)
SIZES = (130, 20, 90, 0, 110, 70, 60, 45)
N, P = sum(SIZES), 4
X = RANDOM.normal(size=(N, P)) * [1.0, 0.5, 2.0, 1.0] + [0.0, 1.0, 0.0, 0.5]
RAW = X @ [1.0, -2.0, 0.0, 0.5] + 0.3
WEIGHT = np.where(RANDOM.random(N) < 0.2, 0.0, RANDOM.random(N) + 0.5)
TARGETS: dict[str, Any] = {
    "logistic": (RAW + RANDOM.logistic(size=N) > 0).astype(np.int64),
    "squared": RAW + RANDOM.normal(size=N),
    "poisson": RANDOM.poisson(np.exp(np.clip(0.3 * RAW, -3, 2))).astype(np.float64),
    "multinomial": (RAW + RANDOM.normal(size=N) > 0).astype(np.int64) + (RAW > 2),
}


def objective_of(loss: str, standard: Standardisation | None = None) -> LinearObjective:
    y = TARGETS[loss]
    classes = np.unique(y) if loss in ("logistic", "multinomial") else None
    return LinearObjective(LOSSES[loss], P, 3 if loss == "multinomial" else 1, True, classes, standard=standard)


def groups_of(y: Any, weight: Any = WEIGHT, order: Any = None) -> list[Group]:
    order = np.arange(N) if order is None else order
    bounds = np.concatenate([[0], np.cumsum(SIZES)]).tolist()
    rows = [order[a:b] for a, b in pairwise(bounds)]
    return [Group(X[own], y[own], weight[own], np.array([0, len(own)]), number) for number, own in enumerate(rows)]


def fitted(strategy: Any, objective: Any, groups: list[Group], *penalties: Any) -> list[Any]:
    fit = Fit(objective, penalties, strategy)
    states = fit.init(np.zeros((len(penalties), objective.layout.size)))
    while (this := fit.ask(states)) is not None:
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        states = fit.update(states, this, sums)
    return states


def admm(level: int = 0, **more: Any) -> ADMM:
    return ADMM(Subtrees(tuple(range(0, len(SIZES), 1 << level)), level), **{"tol": 1e-9, "max_iter": 2000, **more})


@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize("loss", TARGETS)
def test_it_ends_at_the_optimum(loss: str, level: int, by_label: bool) -> None:
    y, objective, penalty = TARGETS[loss], objective_of(loss), L2(0.02)
    groups = groups_of(y, order=np.argsort(y, kind="stable") if by_label else None)
    (state,) = fitted(admm(level), objective, groups, penalty)
    (best,) = fitted(Newton(tol=1e-12), objective, groups, penalty)
    assert state.status.kind == "converged"
    assert state.iterate.value == pytest.approx(best.iterate.value, rel=1e-12)
    found, wanted = state.iterate.parameters, best.iterate.parameters
    if loss == "multinomial":  # to whose intercepts anything may be added
        found, wanted = (np.append(each[: 3 * P], each[3 * P :] - each[3 * P :].mean()) for each in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert state.residuals.primal < 1e-5


def test_standardised_columns_have_the_same_optimum() -> None:
    standard = Standardisation(X.mean(axis=0), np.array([1.0, 2.0, 0.5, 1.0]))
    y = TARGETS["logistic"]
    groups, objective = groups_of(y), objective_of("logistic", standard)
    (state,) = fitted(admm(), objective, groups, L2(0.02))
    (best,) = fitted(Newton(tol=1e-12), objective, groups, L2(0.02))
    np.testing.assert_allclose(state.iterate.parameters, best.iterate.parameters, atol=1e-7)


def test_kinks_end_at_scikit_learns_elastic_net() -> None:
    y, l1, l2 = TARGETS["squared"], 0.3, 0.05
    (state,) = fitted(admm(), objective_of("squared"), groups_of(y), ElasticNet(l1, l2))
    reference = Reference(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), tol=1e-14, max_iter=100_000).fit(X, y, sample_weight=WEIGHT)
    assert state.status.kind == "converged"
    np.testing.assert_allclose(state.iterate.parameters, [*reference.coef_, reference.intercept_], atol=1e-7)
    assert np.array_equal(state.iterate.parameters[:P] == 0, reference.coef_ == 0)
    assert 0 < np.count_nonzero(state.iterate.parameters[:P]) < P


def test_models_share_rounds() -> None:
    y, penalties = TARGETS["logistic"], (L2(0.02), L2(0.5))
    together = fitted(admm(max_iter=7), objective_of("logistic"), groups_of(y), *penalties)
    for state, penalty in zip(together, penalties, strict=True):
        (alone,) = fitted(admm(max_iter=7), objective_of("logistic"), groups_of(y), penalty)
        np.testing.assert_allclose(state.iterate.parameters, alone.iterate.parameters, rtol=1e-9)


def test_a_subtree_without_weight_does_not_count() -> None:
    y = TARGETS["logistic"]
    weight = WEIGHT.copy()
    weight[: SIZES[0]] = 0.0
    (state,) = fitted(admm(), objective_of("logistic"), groups_of(y, weight), L2(0.02))
    (best,) = fitted(Newton(tol=1e-12), objective_of("logistic"), groups_of(y, weight), L2(0.02))
    np.testing.assert_allclose(state.iterate.parameters, best.iterate.parameters, atol=1e-7)
    assert not np.any(state.duals[0])


def test_what_it_says_of_agreement() -> None:
    """Residuals by their definitions, from what the subtrees returned; reports have those of the worst model."""
    fit, groups = Fit(objective_of("logistic"), (L2(0.02), L2(0.5)), admm(1, max_iter=12)), groups_of(TARGETS["logistic"])
    assert isinstance(fit.strategy, Agreeing) and not isinstance(Newton(), Agreeing)
    states, expected = fit.init(np.zeros((2, P + 1))), dict[int, Any]()
    assert fit.residuals(states) is None
    while (this := fit.ask(states)) is not None:
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        before, states = states, fit.update(states, this, sums)
        for position, model in enumerate(this.requests):
            if states[model].status.kind == "running":
                off = np.linalg.norm(sums.places[:, position] - states[model].z, axis=1)
                step = np.linalg.norm(states[model].z - before[model].z)
                expected[model] = np.sqrt(np.average(off**2, weights=sums.weights[:, position])), before[model].rho * step
        found = fit.report(this, sums, states, 0.0).residuals
        assert found is not None
        np.testing.assert_allclose(found, np.max(list(expected.values()), axis=0), rtol=1e-12)
    assert [state.iteration for state in states] == [12, 12] and len(expected) == 2


@pytest.mark.parametrize("penalty", [L2(0.0), L2(0.7), ElasticNet(0.3, 0.2), L2(np.array([0.1, 2.0, 0.0]))])
def test_where_all_meet_is_the_smallest(penalty: Any) -> None:
    mean, rho = np.array([0.8, -0.3, 0.1, 5.0]), 0.4
    found = meeting(mean, rho, penalty, 1)
    assert found[3] == 5.0

    def objective(coef: Float64) -> float:
        return penalty.value(coef) + 0.5 * rho * float(np.sum((coef - mean[:3]) ** 2))  # type: ignore[no-any-return]

    best = minimize(objective, np.zeros(3), method="Powell", options={"xtol": 1e-10, "ftol": 1e-14})
    assert objective(found[:3]) <= best.fun + 1e-12


def test_the_end_says_why() -> None:
    y = TARGETS["logistic"]
    (state,) = fitted(admm(max_iter=2), objective_of("logistic"), groups_of(y), L2(0.02))
    assert state.status.kind == "out of rounds" and state.iteration == 2
    broken = X.copy()
    broken[5] = 1e308
    groups = groups_of(y)
    groups[0] = Group(broken[: SIZES[0]], y[: SIZES[0]], None, np.array([0, SIZES[0]]), 0)
    with np.errstate(all="ignore"):
        (state,) = fitted(admm(), objective_of("logistic"), groups, L2(0.02))
    assert state.status.kind == "diverged"


def test_wrong_arguments() -> None:
    for wrong in ({"rho": 0.0}, {"tol": -1.0}, {"max_iter": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            admm(**wrong)
    with pytest.raises(ValueError, match="ascend"):
        ADMM(Subtrees((0, 3, 2)))
