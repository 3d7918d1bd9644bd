"""A fit as pure functions: which requests share a pass, and what the strategies learn from its sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import r2_score

from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.batches import HELD_OUT, Batch, Sampling, select, split
from tasks.rows.partition import Group
from tasks.strategies.newton import Newton
from tasks.strategies.stochastic_gradient import StochasticGradient

RANDOM = np.random.default_rng(0)
X, Y, WEIGHT = RANDOM.normal(size=(60, 3)), RANDOM.normal((5.0, -3.0), size=(60, 2)), RANDOM.random(60)
GROUPS = [Group(X[a:b], Y[a:b], WEIGHT[a:b], np.array([0, b - a]), number) for number, (a, b) in enumerate(((0, 25), (25, 60)))]
OBJECTIVE = LinearObjective(LOSSES["squared"], 3, 2, True)


def answered(fit: Fit, states: list[Any], groups: list[Group] = GROUPS) -> tuple[Any, list[Any], Any]:
    """A round: what was asked, the states after it, the report."""
    asked = fit.ask(states)
    assert asked is not None
    (partial,) = reduce_groups(enumerate(groups), len(groups), asked.reduction, asked.shared).values()
    after = fit.update(states, asked, partial)
    return asked, after, fit.report(asked, partial, after, 0.25)


def test_objectives_must_have_the_powers_that_are_asked_for() -> None:
    with pytest.raises(TypeError, match="NetworkObjective is not compatible with Newton: it must implement hessian"):
        Fit(NetworkObjective(LOSSES["squared"], (3, 2)), (L2(),), Newton())


def test_scores_of_regression_are_those_of_the_rows_held_out() -> None:
    strategy = StochasticGradient(Sampling(1, 2, validation_fraction=0.4), early_stopping=True)
    fit = Fit(OBJECTIVE, (L2(0.1), L2(1.0)), strategy)
    states = fit.init(np.zeros((2, OBJECTIVE.layout.size)))
    for power in ("loss_and_gradient", "loss_and_gradient", "score"):
        asked, states, _ = answered(fit, states)
        assert asked.shared.power == power
    rows = [select([group], Batch(strategy.sampling, 0, HELD_OUT)) for group in GROUPS]
    x, y, weight = (np.concatenate(parts) for parts in ([g.X for g in rows], [g.y for g in rows], [g.sample_weight for g in rows]))  # type: ignore[misc]
    for state in states:
        coef, intercept = OBJECTIVE.split(state.parameters)
        expected = r2_score(y, x @ coef.T + intercept, sample_weight=weight)
        assert state.scores == (pytest.approx(expected, rel=1e-12),)


@pytest.mark.parametrize("classes", [None, np.arange(2)], ids=["regression", "classification"])
@pytest.mark.parametrize("fraction", [1e-9, 0.4], ids=["no rows", "rows of no weight"])
def test_scores_of_no_rows_that_count_are_no_numbers(classes: Any, fraction: float) -> None:
    """Such epochs improve nothing, and the parameters of the last stay."""
    sampling = Sampling(1, 2, validation_fraction=fraction)
    objective = OBJECTIVE if classes is None else LinearObjective(LOSSES["logistic"], 3, 1, True, classes)
    groups = []
    for group in GROUPS:
        out = split(group, sampling)[1]
        assert bool(len(out)) == (fraction == 0.4)
        y = group.y if classes is None else (group.y[:, 0] > 5).astype(int)  # type: ignore[call-overload, index]
        weight = np.where(np.isin(np.arange(group.n_rows), out), 0.0, 1.0)
        groups.append(Group(group.X, y, weight, group.offsets, group.first_partition))
    fit = Fit(objective, (L2(0.1),), StochasticGradient(sampling, early_stopping=True, patience=2))
    states = fit.init(np.zeros((1, objective.layout.size)))
    for _ in range(6):
        assert states[0].status.kind == "running"
        _, states, report = answered(fit, states, groups)
        assert np.isfinite(report.objective)
    assert states[0].status.kind == "converged"
    assert np.isnan(states[0].scores).tolist() == [True, True]
    assert states[0].accepted.parameters.tobytes() == states[0].parameters.tobytes() != bytes(states[0].parameters.nbytes)


def test_only_requests_for_the_same_sums_share_a_round() -> None:
    """The first model decides; the other, an epoch ahead, waits."""
    fit = Fit(OBJECTIVE, (L2(0.1), L2(1.0)), StochasticGradient(Sampling(1, 2)))
    states = fit.init(np.zeros((2, OBJECTIVE.layout.size)))
    ahead = states[1]._replace(epoch=states[1].epoch._replace(number=1))
    asked, after, report = answered(fit, [states[0], ahead])
    assert list(asked.requests) == [0]
    assert after[1] is ahead
    assert (after[0].iteration, report.iteration, report.power, report.elapsed) == (1, 1, "loss_and_gradient", 0.25)
    asked, after, _ = answered(fit, states)
    assert list(asked.requests) == [0, 1]
    assert [state.iteration for state in after] == [1, 1]


def test_models_that_are_done_ask_for_nothing() -> None:
    fit = Fit(OBJECTIVE, (L2(0.1),), StochasticGradient(Sampling(1, 1), max_epochs=1))
    _, states, _ = answered(fit, fit.init(np.zeros((1, OBJECTIVE.layout.size))))
    assert states[0].status.kind == "out of rounds"
    assert fit.ask(states) is None
