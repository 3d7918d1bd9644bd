"""Quadratic models of partitions about their own optima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.objectives.base import Sums, add_sums
from tasks.objectives.evaluation import evaluate
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2
from tasks.reductions.tree import tree_sum
from tasks.rounds.local_models import FEWEST_ROWS, local_hessian
from tasks.rows.partition import Group
from tasks.strategies.newton import Newton

P = 4
START = np.full((1, P + 1), 0.1)


def logistic(fit_intercept: bool = True) -> LinearObjective:
    return LinearObjective(LOSSES["logistic"], P, 1, fit_intercept, np.arange(2))


def rows(sizes: list[int], label: Callable[[Any, Any], Any] | None = None, seed: int = 0) -> Group:
    random = np.random.default_rng(seed)
    n = sum(sizes)
    X = random.normal(size=(n, P)) + 0.3
    raw = X @ [2.0, -1.0, 0.5, 0.0] + 0.4 + random.logistic(size=n)
    y = (raw > 0).astype(np.int64) if label is None else label(raw, np.arange(n))
    return Group(X, y, random.random(n) + 0.5, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), 0)


def optimum(objective: LinearObjective, group: Group, penalty: L2, strategy: Newton | None = None) -> tuple[Any, int]:
    """Parameters and rounds, each round answered by the whole group."""
    strategy = strategy or Newton(tol=1e-12)
    state, rounds = strategy.init(START[0]), 0
    while state.status.kind == "running":
        request = strategy.request(state)
        at = request.parameters[None]
        partial = local_hessian(objective, group, at, [penalty]) if request.oracle == "local_hessian" else objective.hessian(group, at)
        state = strategy.update(state, evaluate(partial, 0, objective.layout, penalty, request.parameters))
        rounds += 1
    assert state.status.kind == "converged", state.status
    return state.iterate.parameters, rounds


def distance(a: Any, b: Any) -> float:
    return float(np.max(np.abs(a - b)))


@pytest.mark.parametrize("strength", [1e-6, 1.0])
def test_the_model_of_one_partition_has_its_minimum_at_the_optimum(strength: float) -> None:
    objective, group, penalty = logistic(), rows([3 * FEWEST_ROWS]), L2(strength)
    best, _ = optimum(objective, group, penalty)
    steps = []
    for partial in (local_hessian(objective, group, START, [penalty]), objective.hessian(group, START)):
        evaluation = evaluate(partial, 0, objective.layout, penalty, START[0])
        assert evaluation.hessian is not None
        steps.append(START[0] - np.linalg.solve(evaluation.hessian, evaluation.gradient))
    assert distance(steps[0], best) < 2e-3
    assert distance(steps[0], best) < 0.1 * distance(steps[1], best)


def test_models_of_partitions_add_up_along_the_tree() -> None:
    objective, group, penalty = logistic(), rows([FEWEST_ROWS, 50, 2 * FEWEST_ROWS, 0, FEWEST_ROWS + 7]), L2(0.01)
    whole = local_hessian(objective, group, START, [penalty])
    pieces = list(group.partitions())
    single = tree_sum([local_hessian(objective, piece, START, [penalty]) for piece in pieces], add_sums)
    for found, expected in zip(whole, single, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("label", [None, lambda raw, i: np.ones(len(i), np.int64)], ids=["few rows", "one class"])
def test_without_an_optimum_of_its_own_a_partition_is_expanded_where_it_is_asked(label: Any) -> None:
    objective = logistic()
    group = rows([FEWEST_ROWS - 1] * 3, label) if label is None else rows([FEWEST_ROWS] * 3, label)
    found, expected = local_hessian(objective, group, START, [L2(0.0)]), objective.hessian(group, START)
    assert_same(found, expected)


def assert_same(found: Sums, expected: Sums) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_weights_does_not_matter(factor: float) -> None:
    objective, group = logistic(), rows([2 * FEWEST_ROWS] * 2)
    expected = local_hessian(objective, group, START, [L2(0.01)])
    assert group.sample_weight is not None
    scaled = Group(group.X, group.y, factor * group.sample_weight, group.offsets, 0)
    found = local_hessian(objective, scaled, START, [L2(0.01)])
    np.testing.assert_allclose(found.gradient_sum, factor * expected.gradient_sum, rtol=1e-9)


def test_models_of_a_pass_are_those_of_each_alone() -> None:
    objective, group, starts = logistic(), rows([2 * FEWEST_ROWS] * 2), np.stack([START[0], -START[0]])
    penalties = [L2(0.01), L2(1.0)]
    together = local_hessian(objective, group, starts, penalties)
    for i, penalty in enumerate(penalties):
        alone = local_hessian(objective, group, starts[i : i + 1], [penalty])
        assert together.hessian_sum is not None
        assert alone.hessian_sum is not None
        np.testing.assert_allclose(together.gradient_sum[i], alone.gradient_sum[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(together.hessian_sum[i], alone.hessian_sum[0], rtol=1e-9)


def test_newton_starts_nearer_to_the_end() -> None:
    objective, group, penalty = logistic(), rows([2 * FEWEST_ROWS] * 4), L2(0.001)
    plain, many = optimum(objective, group, penalty)
    local, few = optimum(objective, group, penalty, Newton(tol=1e-12, local_start=True))
    np.testing.assert_allclose(local, plain, rtol=1e-9, atol=1e-11)
    assert few < many


def test_partitions_that_contradict_each_other_cost_rounds_but_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of the second half are turned round: each half has an optimum, far from that of all rows."""
    objective, penalty, half = logistic(), L2(1e-4), 2 * FEWEST_ROWS
    group = rows([half, half], lambda raw, i: ((raw > 0) ^ (i >= half)).astype(np.int64))
    plain, _ = optimum(objective, group, penalty)
    local, _ = optimum(objective, group, penalty, Newton(tol=1e-12, local_start=True))
    np.testing.assert_allclose(local, plain, rtol=1e-7, atol=1e-9)

    def misleading(*arguments: Any) -> Sums:
        partial = objective.hessian(group, arguments[2])
        return partial._replace(gradient_sum=-50 * partial.gradient_sum)

    monkeypatch.setattr("tests.tasks.rounds.test_local_models.local_hessian", misleading)
    back, _ = optimum(objective, group, penalty, Newton(tol=1e-12, local_start=True))
    np.testing.assert_array_equal(back, plain)
