"""Local SGD against its updates written out in NumPy; no Dask here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tasks.objectives.penalties import L2, ElasticNet, soft_threshold
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.batches import Batch, Sampling, select
from tasks.rows.partition import arrays_of
from tasks.strategies.base import RUNNING
from tasks.strategies.local_sgd import N_STEPS, LocalSGD, LocalUpdates
from tasks.strategies.optimizers import SGD, Momentum, Nesterov
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.tasks.strategies.groups import N_ROUNDS, OBJECTIVE, RATE, STRENGTH, WEIGHT, Float64, N, P, T, X, Y, groups_of

PENALTY = L2(STRENGTH)
SAMPLING = Sampling(2, N_ROUNDS, level=1)


def fitted(strategy: StochasticGradient, penalty: Any = PENALTY, groups: Any = None) -> tuple[Any, list[Float64]]:
    """The last state, and the parameters after each round."""
    fit, groups, iterates = Fit(OBJECTIVE, (penalty,), strategy), groups or groups_of(), list[Float64]()
    states = fit.init(np.zeros((1, P + 1)))
    while (this := fit.ask(states)) is not None:
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        states = fit.update(states, this, sums)
        iterates.append(states[0].iterate.parameters)
    return states[0], iterates


LOCAL = {each.name for each in fields(LocalUpdates)}


def local(**more: Any) -> LocalSGD:
    own = LocalUpdates(**{name: value for name, value in more.items() if name in LOCAL})
    more = {name: value for name, value in more.items() if name not in LOCAL}
    return LocalSGD(**{"sampling": SAMPLING, "schedule": RATE, "max_epochs": 3, "tol": -np.inf, **more}, local=own)


def rows_of(subtree: int, visit: int) -> Any:
    """The numbers of the rows that a subtree draws."""
    epoch, number = divmod(visit, N_ROUNDS)
    return select(groups_of(np.arange(N), None)[2 * subtree : 2 * subtree + 2], Batch(SAMPLING, epoch, number)).y


def gradient(rows: Any, at: Float64) -> Float64:
    design = np.column_stack([X[rows], np.ones(len(rows))])
    mean = WEIGHT[rows] @ (design * (expit(design @ at) - Y[rows])[:, None]) / WEIGHT[rows].sum()
    return np.asarray(mean + STRENGTH * np.append(at[:-1], 0.0))


def expected(
    lengths: list[int], momentum: float = 0.0, proximal: float = 0.0, outer: Any = None, *, kept: bool = False, controlled: bool = False
) -> list[Float64]:
    """The means after rounds of so many updates each; outer: (step, momentum) of Nesterov's on them; kept: whether momentum goes on in the
    next round; controlled: by SCAFFOLD's control variates."""
    at, visit, iterates, velocity = np.zeros(P + 1), 0, list[Float64](), np.zeros(P + 1)
    momenta, controls, mean = np.zeros((T, P + 1)), np.zeros((T, P + 1)), np.zeros(P + 1)
    for length in lengths:
        total, weight, control = np.zeros(P + 1), 0.0, np.zeros(P + 1)
        for subtree in range(T):
            here, v, own = at, momenta[subtree] if kept else np.zeros(P + 1), 0.0
            drift = mean - controls[subtree] if controlled else np.zeros(P + 1)
            seen, steps = np.zeros(P + 1), 0.0
            for h in range(length):
                rows = rows_of(subtree, visit + h)
                if WEIGHT[rows].sum():
                    g = gradient(rows, here)
                    seen, steps = seen + RATE(visit + h) * g, steps + RATE(visit + h)
                    v = momentum * v - RATE(visit + h) * (g + drift + proximal * (here - at))
                    here, own = here + v, own + WEIGHT[rows].sum()
            momenta[subtree] = v
            controls[subtree] = seen / steps if steps else controls[subtree]
            total, weight, control = total + own * here, weight + own, control + own * controls[subtree]
        visit += length
        mean = control / weight
        if outer is None:
            at = total / weight
        else:
            step, m = outer
            moved = at - total / weight
            velocity = m * velocity - step * moved
            at = at + m * velocity - step * moved
        iterates.append(at)
    return iterates


def assert_near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n_steps", "lengths"), [(1, [1] * 12), (3, [3] * 4), (5, [5, 5, 2]), (7, [7, 5]), (100, [12])])
def test_rounds_are_means_of_local_updates(n_steps: int, lengths: list[int]) -> None:
    state, iterates = fitted(local(n_steps=n_steps))
    assert_near(iterates, expected(lengths))
    assert state.status.kind == "converged"
    assert state.iteration == 12
    assert len(state.losses) == 3


def test_rounds_that_grow() -> None:
    assert_near(fitted(local(n_steps=1, growth=2.0))[1], expected([1, 2, 4, 5]))


def test_epochs_are_as_many_steps_as_they_have() -> None:
    """To the bit; the last round has what is left of the fit."""
    for in_epochs, in_steps, lengths in (
        ({"n_epochs": 1}, {"n_steps": N_ROUNDS}, [4, 4, 4]),
        ({"n_epochs": 2}, {"n_steps": 2 * N_ROUNDS}, [8, 4]),
        ({"n_epochs": 1, "growth": 1.5}, {"n_steps": N_ROUNDS, "growth": 1.5}, [4, 6, 2]),
        ({"n_epochs": 9}, {"n_steps": None}, [12]),
    ):
        (state, found), (other, wanted) = fitted(local(**{"n_steps": N_STEPS, **in_epochs})), fitted(local(**in_steps))
        assert len(found) == len(wanted) and all(map(np.array_equal, found, wanted))
        assert (state.losses, state.iteration, state.status) == (other.losses, other.iteration, other.status)
        assert_near(found, expected(lengths))


def test_momentum_goes_on_in_the_next_round() -> None:
    assert_near(fitted(local(n_steps=4, optimizer=Momentum(0.7)))[1], expected([4] * 3, momentum=0.7, kept=True))


def test_momentum_that_begins_anew_in_each_round() -> None:
    assert_near(fitted(local(n_steps=4, optimizer=Momentum(0.7), keep_slots=False))[1], expected([4] * 3, momentum=0.7))


@pytest.mark.parametrize("lengths", [[1] * 12, [3] * 4, [5, 5, 2]])
def test_control_variates(lengths: list[int]) -> None:
    assert_near(fitted(local(n_steps=lengths[0], control_variates=True))[1], expected(lengths, controlled=True))


def test_control_variates_with_momentum() -> None:
    both = local(n_steps=4, optimizer=Momentum(0.7), control_variates=True)
    assert_near(fitted(both)[1], expected([4] * 3, momentum=0.7, kept=True, controlled=True))


def test_with_control_variates_many_local_updates_end_at_the_optimum() -> None:
    """Of rows that are sorted by label, where plain means end elsewhere. By whole batches, so that nothing else keeps them away."""
    order = np.argsort(Y, kind="stable")
    design = np.column_stack([X[order], np.ones(N)])

    def slope(at: Float64) -> Float64:
        mean = WEIGHT[order] @ (design * (expit(design @ at) - Y[order])[:, None]) / WEIGHT.sum()
        return np.asarray(mean + STRENGTH * np.append(at[:-1], 0.0))

    whole: dict[str, Any] = {"sampling": Sampling(2, 1, level=1), "schedule": Constant(0.3), "n_steps": 10, "max_epochs": 600}
    found = {}
    for controlled in (False, True):
        state, _ = fitted(local(control_variates=controlled, **whole), groups=groups_of(Y[order], WEIGHT[order], X[order]))
        found[controlled] = float(np.max(np.abs(slope(state.iterate.parameters))))
    assert found[True] < 1e-10
    assert found[False] > 1e-3


def test_what_is_remembered_is_of_one_model() -> None:
    with pytest.raises(ValueError, match="is for one model, got 2 penalties"):
        Fit(OBJECTIVE, (PENALTY, PENALTY), local(optimizer=Momentum(0.7)))


def test_a_proximal_term_keeps_near() -> None:
    assert_near(fitted(local(n_steps=4, proximal=0.9))[1], expected([4] * 3, proximal=0.9))


def test_an_outer_optimizer() -> None:
    """DiLoCo."""
    assert_near(fitted(local(n_steps=4, outer=Nesterov(0.9), outer_step=0.7))[1], expected([4] * 3, outer=(0.7, 0.9)))


def test_one_round_averages_independent_models() -> None:
    assert_near(fitted(local(n_steps=None))[1], expected([12]))


@pytest.mark.parametrize("penalty", [L2(STRENGTH), ElasticNet(0.05, 0.01)])
def test_one_step_is_the_synchronous_fit(penalty: Any) -> None:
    plain, steps = StochasticGradient(SAMPLING, SGD(), RATE, max_epochs=3, tol=-np.inf), local(n_steps=1)
    if penalty.kinks:  # the mean of proxes is not the prox of means
        with pytest.raises(AssertionError):
            assert_near(fitted(steps, penalty)[1], fitted(plain, penalty)[1])
        return
    (there, wanted), (here, found) = fitted(plain, penalty), fitted(steps, penalty)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(here.losses, there.losses, rtol=1e-12)


def test_kinks_make_zeros() -> None:
    """Each subtree's update ends with the prox."""
    _, (first, *_) = fitted(local(n_steps=1, schedule=Constant(0.5)), ElasticNet(0.2, 0.0))
    total, weight = np.zeros(P + 1), 0.0
    for subtree in range(T):
        rows = rows_of(subtree, 0)
        own = WEIGHT[rows].sum()
        if own:
            here = -0.5 * gradient(rows, np.zeros(P + 1))
            here[:P] = soft_threshold(here[:P], 0.5 * 0.2)
            total, weight = total + own * here, weight + own
    assert_near(first, total / weight)


def test_epochs_are_scored_and_end_fits() -> None:
    sampling = SAMPLING._replace(validation_fraction=0.3)
    state, iterates = fitted(local(sampling=sampling, n_steps=3, early_stopping=True, patience=2, tol=0.0, max_epochs=60))
    assert state.status.kind == "converged"
    assert 2 < len(state.scores) < 60
    assert len(iterates) == 3 * len(state.scores)  # rounds of 3 and of 1 updates, and a score, an epoch


def test_wrong_arguments() -> None:
    wrong: dict[str, Any] = {
        "n_steps": 0,
        "n_epochs": 0,
        "growth": 0.5,
        "outer_step": 0.0,
        "proximal": -1.0,
        "accumulate": 2,
        "variance_reduction": True,
        "parts": ((slice(0, 2), RATE),),
    }
    for name in ("keep_slots", "control_variates"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
            local(**{name: 1})
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            local(**{name: value})
    for n_steps, words in ((3, "3 steps"), (None, "all steps")):
        with pytest.raises(ValueError, match=f"both of {words} and of 2 epochs"):
            local(n_steps=n_steps, n_epochs=2)
    with pytest.raises(ValueError, match="no turns"):
        local(sampling=SAMPLING._replace(n_turns=5))
    scored = SAMPLING._replace(validation_fraction=0.2)
    one_round: list[dict[str, Any]] = [{"n_steps": None}, {"n_epochs": 9, "max_epochs": 3}, {"n_steps": 3 * 4, "max_epochs": 3}]
    one_round += [{**each, "max_epochs": 1, "early_stopping": True, "sampling": scored} for each in one_round]
    for options in one_round:
        with pytest.raises(ValueError, match=r"this fit is one round: .*; give fewer n_steps"):
            local(**options, control_variates=True)
    for options in (
        {"n_steps": 3 * 4 - 1, "max_epochs": 3},
        {"n_steps": None, "max_epochs": 2, "early_stopping": True, "sampling": scored},
    ):
        local(**options, control_variates=True)


def test_what_subtrees_remember_counts_as_memory() -> None:
    """Of the last round and of the one before: momentum, and a control variate, of each number; nothing beside it is kept alive."""
    strategy, groups = local(n_steps=4, optimizer=Momentum(0.7), control_variates=True), groups_of()
    before = sum(group.derived_nbytes for group in groups)
    fitted(strategy, groups=groups)
    (memory, *_) = groups[0].memory.values()
    arrays = [array for values in memory for array in arrays_of(values)]
    assert {array.nbytes if array.base is None else array.base.nbytes for array in arrays} == {8 * (P + 1)}
    with_rows = sum(group.derived_nbytes for group in groups_after_a_fit_that_remembers_nothing())
    assert sum(group.derived_nbytes for group in groups) - before - with_rows == T * 2 * 2 * 8 * (P + 1)


def groups_after_a_fit_that_remembers_nothing() -> Any:
    groups = groups_of()
    fitted(local(n_steps=4, optimizer=Momentum(0.7), keep_slots=False), groups=groups)
    return groups


def test_what_was_remembered_is_forgotten_elsewhere() -> None:
    """As in a new fit: subtrees are asked for no version that they would have of another path."""
    strategy = local(n_steps=4, optimizer=Momentum(0.7), control_variates=True)
    state, _ = fitted(strategy)
    assert (state.remembered.version, state.remembered.n_results) == (3, 3)
    assert state.remembered.control is None  # the fit is over
    fresh = strategy.init(np.zeros(P + 1)).remembered
    assert strategy.resume(state).remembered == strategy.moved(state, np.ones(P + 1)).remembered == fresh
    request = strategy.request(strategy.moved(state._replace(status=RUNNING), np.ones(P + 1)))
    assert request.local is not None and request.local.version == 0


def test_models_share_rounds() -> None:
    fit, groups = Fit(OBJECTIVE, (L2(STRENGTH), L2(0.5)), local(n_steps=4)), groups_of()
    states = fit.init(np.zeros((2, P + 1)))
    while (this := fit.ask(states)) is not None:
        assert len(this.requests) == 2
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        states = fit.update(states, this, sums)
    for state, penalty in zip(states, (L2(STRENGTH), L2(0.5)), strict=True):
        np.testing.assert_allclose(state.iterate.parameters, fitted(local(n_steps=4), penalty)[1][-1], rtol=1e-10)
