"""Asynchronous strategies against delayed gradients written out in NumPy, and against any order of arrivals; no Dask here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tasks.objectives.penalties import L2, ElasticNet, soft_threshold
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.batches import Batch, Sampling, select, turns
from tasks.rows.partition import Group
from tasks.strategies.asynchronous import Asynchronous, AsynchronousState, Overlap
from tasks.strategies.base import Overlapping
from tasks.strategies.optimizers import Momentum
from tasks.strategies.schedules import Constant, InverseScaling
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.tasks.strategies.groups import N_ROUNDS, OBJECTIVE, RATE, STRENGTH, WEIGHT, Float64, N, P, T, X, Y, groups_of

SAMPLING = Sampling(2, N_ROUNDS, level=1, n_turns=T)

Choose = Callable[[AsynchronousState, Sequence[int]], int]


def strategy(**more: Any) -> StochasticGradient:
    return StochasticGradient(**{"sampling": SAMPLING, "schedule": RATE, "max_epochs": 3, "tol": -np.inf, **more})


def oldest(state: AsynchronousState, candidates: Sequence[int]) -> int:
    return candidates[0]


class Course:
    """A fit whose results arrive as `choose` says; checks at every step what must hold. `taken`: (number, subtree, updates missed)."""

    def __init__(self, strategy: Any, choose: Choose = oldest, groups: Sequence[Group] | None = None) -> None:
        groups = groups_of() if groups is None else groups
        fit = Fit(OBJECTIVE, (L2(STRENGTH),), strategy)
        states, self.taken = fit.init(np.zeros((1, P + 1))), list[tuple[int, int | None, int]]()
        self.iterates = list[Float64]()
        while (numbers := fit.under_way(states)) != []:
            candidates = fit.candidates(states)
            number = candidates[0] if len(candidates) == 1 else choose(states[0], candidates)
            assert number in numbers
            this = fit.ask(states, number)
            assert this is not None
            if fit.overlapping is not None:
                self.check(states[0], strategy.overlap)
                batch = this.broadcast.batch
                assert batch is not None
                self.taken.append((number, batch.subtree, fit.staleness(states, this)))
            (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
            states = fit.update(states, this, sums)
            self.iterates.append(states[0].iterate.parameters)
        self.state = states[0]

    @staticmethod
    def check(state: AsynchronousState, overlap: Overlap) -> None:
        subtrees = [asked.subtree for asked in state.asked]
        assert len(set(subtrees)) == len(subtrees) <= T
        assert overlap.staleness is None or len(subtrees) <= overlap.staleness + 1

    @property
    def updates(self) -> list[tuple[int, int | None, int]]:
        return [each for each in self.taken if each[1] is not None]

    @property
    def arrivals(self) -> tuple[int, ...]:
        return tuple(subtree for _, subtree, _ in self.updates if subtree is not None)


def rows_of(subtree: int, epoch: int, visit: int) -> Any:
    """The numbers of the rows that a subtree draws."""
    groups = groups_of(np.arange(N), None)[2 * subtree : 2 * subtree + 2]
    return select(groups, Batch(SAMPLING, epoch, visit, subtree)).y


def gradient(rows: Any, at: Float64) -> Float64:
    """Of Σ s_i loss_i over these rows, divided by what a round weighs on average, and of the penalty."""
    design = np.column_stack([X[rows], np.ones(len(rows))])
    sums = WEIGHT[rows] @ (design * (expit(design @ at) - Y[rows])[:, None])
    return np.asarray(sums / (WEIGHT.sum() / (N_ROUNDS * T)) + STRENGTH * np.append(at[:-1], 0.0))


def delayed(staleness: int, n_epochs: int = 3, damped: bool = False) -> list[Float64]:
    """x_{u+1} = x_u - step_u g_u(x_{max(0, u - staleness)}), the subtrees in turn."""
    iterates, count = [np.zeros(P + 1)], 0
    for epoch in range(n_epochs):
        for visit in range(N_ROUNDS):
            for subtree in turns(SAMPLING):
                seen = max(0, count - staleness)
                factor = 1 / (1 + count - seen) if damped else 1.0
                iterates.append(iterates[-1] - RATE(count) * factor * gradient(rows_of(subtree, epoch, visit), iterates[seen]))
                count += 1
    return iterates[1:]


def share_of_work(order: Sequence[int], n_workers: int, staleness: int) -> float:
    """The share of their time in which workers compute, each of which has an equal run of the subtrees and takes a second for a round,
    where results are taken in order."""
    n_rounds, now, free, ends = 50 * len(order), 0.0, np.zeros(n_workers), list[float]()
    for taken in range(n_rounds):
        while len(ends) <= min(taken + staleness, n_rounds - 1):
            worker = order[len(ends) % len(order)] * n_workers // len(order)
            free[worker] = max(now, free[worker]) + 1.0
            ends.append(float(free[worker]))
        now = max(now, ends[taken])
    return n_rounds / (n_workers * now)


@pytest.mark.parametrize(("n_workers", "staleness"), [(2, 4), (4, 8), (8, 16)])
def test_workers_share_what_is_under_way(n_workers: int, staleness: int) -> None:
    order = turns(Sampling(0, 2, n_turns=64))
    by_chance = [np.random.default_rng(seed).permutation(64).tolist() for seed in range(5)]
    assert share_of_work(order, n_workers, staleness) > 0.98
    assert np.mean([share_of_work(each, n_workers, staleness) for each in by_chance]) < 0.93


# -- in order ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damped", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
def test_each_gradient_is_as_old_as_was_asked_for(staleness: int, damped: bool) -> None:
    course = Course(Asynchronous(strategy(), Overlap(staleness, damped=damped)))
    np.testing.assert_allclose(course.iterates[1:], delayed(staleness, damped=damped), rtol=1e-10, atol=1e-13)
    assert [missed for _, _, missed in course.updates] == [min(staleness, u) for u in range(3 * N_ROUNDS * T)]


@pytest.mark.parametrize("more", [{}, {"optimizer": Momentum()}, {"variance_reduction": True}, {"accumulate": 3}, {"average_from": 2}])
def test_without_staleness_it_is_the_synchronous_fit(more: dict[str, Any]) -> None:
    plain, overlapping = Course(strategy(**more)), Course(Asynchronous(strategy(**more), Overlap(0)))
    assert len(plain.iterates) == len(overlapping.iterates)
    assert all(np.array_equal(a, b) for a, b in zip(plain.iterates, overlapping.iterates, strict=True))
    assert plain.state.losses == overlapping.state.inner.losses


@pytest.mark.parametrize("more", [{"variance_reduction": True}, {"early_stopping": True}])
def test_what_is_about_all_rows_is_asked_for_by_itself(more: dict[str, Any]) -> None:
    sampling = SAMPLING._replace(validation_fraction=0.2 if "early_stopping" in more else 0.0)
    course = Course(Asynchronous(strategy(sampling=sampling, **more), Overlap(3)))
    assert course.state.status.kind == "converged"
    alone = [position for position, (_, subtree, _) in enumerate(course.taken) if subtree is None]
    assert len(alone) == {"variance_reduction": 2, "early_stopping": 4}[next(iter(more))]
    for position in alone[1:]:
        assert len(course.taken[:position]) - alone.index(position) in (N_ROUNDS * T, 2 * N_ROUNDS * T, 3 * N_ROUNDS * T)


def test_an_epoch_visits_every_row_once() -> None:
    for staleness in (0, 3, None):
        course = Course(Asynchronous(strategy(max_epochs=1), Overlap(staleness)))
        assert Counter(course.arrivals) == dict.fromkeys(range(T), N_ROUNDS)
    seen = np.concatenate([rows_of(subtree, 0, visit) for subtree in range(T) for visit in range(N_ROUNDS)])
    assert sorted(seen) == list(range(N))


# -- as they come --------------------------------------------------------------------------------------------------------------------


def at_random(seed: int) -> Choose:
    random = np.random.default_rng(seed)
    return lambda state, candidates: int(random.choice(candidates))


@pytest.mark.parametrize("staleness", [0, 1, 3, 7, None])
@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_arrivals_stays_within_the_bound_and_repeats(seed: int, staleness: int | None) -> None:
    overlap = Overlap(staleness, "as-they-come")
    course = Course(Asynchronous(strategy(), overlap), at_random(seed))
    assert len(course.updates) == 3 * N_ROUNDS * T
    assert len({number for number, _, _ in course.taken}) == len(course.taken)
    if staleness is not None:
        assert max(missed for _, _, missed in course.updates) <= staleness
    again = Course(Asynchronous(strategy(), replace(overlap, arrivals=course.arrivals)), at_random(seed + 100))
    assert again.arrivals == course.arrivals
    assert np.array_equal(again.state.iterate.parameters, course.state.iterate.parameters)
    np.testing.assert_allclose(course.state.shares, np.bincount(course.arrivals, minlength=T) / len(course.arrivals))


def test_an_altered_record_is_refused() -> None:
    overlap = Overlap(2, "as-they-come")
    arrivals = list(Course(Asynchronous(strategy(), overlap), at_random(1)).arrivals)
    for position in range(8, 20):
        for other in set(range(T)) - {arrivals[position]}:
            altered = (*arrivals[:position], other, *arrivals[position + 1 :])
            with pytest.raises(ValueError, match=r"the record of arrivals has subtree \d as number \d+, .*altered"):
                Course(Asynchronous(strategy(), replace(overlap, arrivals=altered)))


def test_arrivals_are_taken_once_and_for_all() -> None:
    """Also those of what can be gone through only once."""
    assert Overlap(order="as-they-come", arrivals=(n for n in (2, 0, 1))).arrivals == (2, 0, 1)  # type: ignore[arg-type]
    for wrong in ((n for n in (2, -5)), [0, True], "01", 3.5):
        with pytest.raises(TypeError, match=r"arrivals must be the numbers of subtrees, in their order, got (-5|True|'01'|3.5)$"):
            Overlap(order="as-they-come", arrivals=wrong)  # type: ignore[arg-type]


def test_a_subtree_that_answers_less_often_takes_larger_steps() -> None:
    """⌈u / T⌉ / u_t times, where u_t of u updates were its own, at most 4."""
    overlap = Overlap(None, "as-they-come", damped=True)
    one = strategy(schedule=Constant(1e-9), max_epochs=3)
    course = Course(Asynchronous(one, overlap), seldom(2, every=6))
    updates, at = Counter[int](), course.iterates[0]
    visits, factors = Counter[int](), list[float]()
    for (_, subtree, missed), iterate in zip(course.updates, course.iterates[1:], strict=True):
        assert subtree is not None
        updates[subtree] += 1
        epoch, visit = divmod(visits[subtree], N_ROUNDS)
        visits[subtree] += 1
        factors.append(min(4.0, -(-updates.total() // T) / updates[subtree]))
        factor = factors[-1] / (1 + missed)
        np.testing.assert_allclose((at - iterate) / 1e-9, factor * gradient(rows_of(subtree, epoch, visit), at), rtol=1e-5, atol=1e-6)
        at = iterate
    assert max(factors) == 4.0


def test_where_all_answer_equally_often_all_count_alike() -> None:
    orders: tuple[Any, ...] = ("in-order", "as-they-come")
    found = [Course(Asynchronous(strategy(), Overlap(0, order))).iterates for order in orders]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "more",
    [{"variance_reduction": True, "schedule": Constant(0.3), "average_from": 0}, {"optimizer": Momentum(0.5)}],
    ids=["svrg", "momentum"],
)
def test_damping_changes_how_far_updates_go_and_not_where_to(more: dict[str, Any]) -> None:
    slow = {"schedule": InverseScaling(1.0, 0.6), "max_epochs": 100, "average_from": 1000, **more}
    plain, damped = (Course(Asynchronous(strategy(**slow), Overlap(3, damped=damped))).state.iterate.parameters for damped in (False, True))
    np.testing.assert_allclose(damped, plain, atol=0.05)


def test_damping_leaves_the_prox_in_proportion() -> None:
    """The step of the gradient is that of the prox."""
    fit = Fit(OBJECTIVE, (ElasticNet(0.3, 0.0),), Asynchronous(strategy(schedule=Constant(0.5)), Overlap(3, damped=True)))
    groups, states = groups_of(), fit.init(np.zeros((1, P + 1)))
    for _ in range(6):
        (number,) = fit.candidates(states)
        this = fit.ask(states, number)
        assert this is not None
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        before, missed = states[0].inner.parameters, fit.staleness(states, this)
        batch = this.broadcast.batch
        states = fit.update(states, this, sums)
        if batch is None or batch.subtree is None:
            continue
        step = 0.5 / (1 + missed)
        moved = before - step * states[0].iterate.gradient
        moved[:P] = soft_threshold(moved[:P], step * 0.3)
        np.testing.assert_allclose(states[0].inner.parameters, moved, rtol=1e-12, atol=1e-15)


def seldom(subtree: int, every: int = 4) -> Choose:
    """Arrivals of which a subtree's come when it has been passed over so often."""
    passed = 0

    def choose(state: AsynchronousState, candidates: Sequence[int]) -> int:
        nonlocal passed
        others = [asked for asked in state.asked if asked.subtree != subtree]
        mine = next((asked for asked in state.asked if asked.subtree == subtree), None)
        passed += 1
        if mine is not None and (passed >= every * T or not others):
            passed = 0
            return mine.number
        return others[0].number

    return choose


@pytest.mark.parametrize("balanced", [True, False])
def test_rows_sorted_by_label_do_not_bias_the_optimum(balanced: bool) -> None:
    """A slow subtree has most rows of one class: unless its gradients count for more, fits end elsewhere."""
    order = np.argsort(Y, kind="stable")
    x, y = X[order], Y[order]
    weight = np.ones(N)

    def objective(at: Float64) -> float:
        raw = x @ at[:-1] + at[-1]
        return float(np.mean(np.logaddexp(0, raw) - y * raw) + STRENGTH / 2 * at[:-1] @ at[:-1])

    best = minimize(objective, np.zeros(P + 1), method="BFGS", options={"gtol": 1e-9}).x
    overlap = Overlap(None, "as-they-come", balanced=balanced)
    rates = strategy(schedule=InverseScaling(2.0, 0.75), max_epochs=150, average_from=1500)
    course = Course(Asynchronous(rates, overlap), seldom(1), groups_of(y, weight, x))
    assert course.state.shares[1] < 0.5 / T
    error = float(np.linalg.norm(course.state.iterate.parameters - best) / np.linalg.norm(best))
    assert error < 0.02 if balanced else error > 0.2


# -- what it is ----------------------------------------------------------------------------------------------------------------------


def test_it_goes_on_from_any_state() -> None:
    """What is under way is in the state."""
    whole = Asynchronous(strategy(), Overlap(3))
    fit, groups = Fit(OBJECTIVE, (L2(STRENGTH),), whole), groups_of()
    states = fit.init(np.zeros((1, P + 1)))
    while fit.under_way(states):
        (number,) = fit.candidates(states)
        this = Fit(OBJECTIVE, (L2(STRENGTH),), Asynchronous(strategy(), Overlap(3))).ask(states, number)
        assert this is not None
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        states = fit.update(states, this, sums)
    assert np.array_equal(states[0].iterate.parameters, Course(whole).state.iterate.parameters)


def test_models_share_rounds() -> None:
    penalties = (L2(STRENGTH), L2(0.5))
    one, groups = Asynchronous(strategy(), Overlap(2)), groups_of()
    fit = Fit(OBJECTIVE, penalties, one)
    states = fit.init(np.zeros((2, P + 1)))
    while fit.under_way(states):
        this = fit.ask(states, fit.under_way(states)[0])
        assert this is not None
        assert len(this.requests) == 2
        (sums,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
        states = fit.update(states, this, sums)
    np.testing.assert_allclose(states[0].iterate.parameters, Course(one).state.iterate.parameters, rtol=1e-12)


def test_protocol_and_wrong_arguments() -> None:
    assert isinstance(Asynchronous(strategy()), Overlapping)
    assert not isinstance(strategy(), Overlapping)
    numbers = [{"staleness": each} for each in (-1, 1.5, True, np.inf, np.nan, "2")]
    wrong: Any
    for wrong in (*numbers, {"order": "in order"}, {"arrivals": (1, 2)}):
        with pytest.raises(ValueError, match=r"(staleness|order) must|arrivals are"):
            Overlap(**wrong)
    for wrong in ({"damped": "no"}, {"order": "as-they-come", "arrivals": "012"}, {"order": "as-they-come", "arrivals": [1.5]}):
        with pytest.raises(TypeError, match=r"damped must|arrivals must"):
            Overlap(**wrong)
    with pytest.raises(TypeError, match="overlap must be an Overlap"):
        Asynchronous(strategy(), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="take_turns=True"):
        Asynchronous(strategy(sampling=Sampling(0, 3)))
