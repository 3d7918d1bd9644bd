"""A fit as pure functions: which requests share a pass, and what the strategies learn from its sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import r2_score

from tasks.batches import HELD_OUT, Batch, Sampling, select
from tasks.fitting import Fit
from tasks.losses import LOSSES
from tasks.networks import NetworkObjective
from tasks.objectives import LinearObjective
from tasks.partition import Group
from tasks.penalties import L2
from tasks.reductions import reduce_groups
from tasks.strategies.newton import Newton
from tasks.strategies.stochastic_gradient import StochasticGradient

RANDOM = np.random.default_rng(0)
X, Y, WEIGHT = RANDOM.normal(size=(60, 3)), RANDOM.normal((5.0, -3.0), size=(60, 2)), RANDOM.random(60)
GROUPS = [Group(X[a:b], Y[a:b], WEIGHT[a:b], np.array([0, b - a]), number) for number, (a, b) in enumerate(((0, 25), (25, 60)))]
OBJECTIVE = LinearObjective(LOSSES["squared"], 3, 2, True)


def answered(fit: Fit, states: list[Any]) -> tuple[Any, list[Any], Any]:
    """A round: what was asked, the states after it, the report."""
    asked = fit.ask(states)
    assert asked is not None
    (partial,) = reduce_groups(enumerate(GROUPS), len(GROUPS), asked.reduction, asked.shared).values()
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
