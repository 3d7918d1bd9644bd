"""States cut into slices: together they are the state, and move as it does."""

from __future__ import annotations

import itertools
import pickle
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.objectives.evaluation import Evaluation
from tasks.objectives.penalties import L2, ElasticNet
from tasks.rows.batches import Sampling
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.optimizers import Adam, Momentum
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.workers.slices import Cut, cut_penalty, cut_state, cuts, join_states

N = 11
N_FREE = 2


def strategy(**more: Any) -> Asynchronous:
    one = StochasticGradient(Sampling(0, 3, n_turns=4), schedule=Constant(0.1), max_epochs=3, tol=-np.inf, **more)
    return Asynchronous(one, Overlap(2))


def moved(one: Asynchronous, state: Any, gradient: Any, penalty: Any, n_free: int) -> Any:
    evaluation = Evaluation(1.5, gradient, None, n_free, 3.0, penalty=penalty)
    return one.update(state, evaluation)


@settings(max_examples=60)
@given(
    bounds=st.lists(st.integers(0, N), max_size=4).map(lambda inner: [0, *sorted(inner), N]),
    n_rounds=st.integers(0, 20),
    optimizer=st.sampled_from([Momentum(0.5), Adam(weight_decay=0.1)]),
    more=st.sampled_from([{}, {"average_from": 2}, {"accumulate": 2}, {"variance_reduction": True}]),
    penalty=st.sampled_from([L2(0.3), ElasticNet(0.05, np.linspace(0.1, 1, N - N_FREE)), ElasticNet(np.linspace(0, 0.2, N - N_FREE))]),
)
def test_slices_move_as_the_whole_does(bounds: list[int], n_rounds: int, optimizer: Any, more: Any, penalty: Any) -> None:
    one, random = strategy(optimizer=optimizer, **more), np.random.default_rng(0)
    whole = one.init(random.normal(size=N))
    slices = [Cut(begin, end) for begin, end in itertools.pairwise(bounds) if begin < end]
    parts = [cut_state(whole, cut) for cut in slices]
    for _ in range(n_rounds):
        gradient = random.normal(size=N)
        whole = moved(one, whole, gradient, penalty, N_FREE)
        for i, cut in enumerate(slices):
            n_free = max(0, cut.end - max(cut.begin, N - N_FREE))
            parts[i] = moved(one, parts[i], cut.of(gradient), cut_penalty(penalty, Cut(cut.begin, cut.end - n_free)), n_free)
    joined = join_states(parts)
    assert one.candidates(joined) == one.candidates(whole)
    assert pickle.dumps(plain(joined)) == pickle.dumps(plain(whole))


def plain(value: Any) -> Any:
    """Everything in a state, in tuples, numbers and bytes."""
    if isinstance(value, tuple):
        return (type(value).__name__, *map(plain, value))
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def test_a_vector_in_several_places_is_cut_once() -> None:
    """So it travels once."""
    state = strategy().init(np.arange(1000.0))
    assert state.inner.iterate.parameters is state.inner.parameters
    part = cut_state(state, Cut(100, 900))
    assert part.inner.iterate.parameters is part.inner.parameters is part.asked[0].request.parameters
    whole = join_states([part, cut_state(state, Cut(900, 1000))])
    assert whole.inner.iterate.parameters is whole.inner.parameters


def test_slices_of_different_states_are_not_joined() -> None:
    one = strategy()
    state = one.init(np.arange(4.0))
    with pytest.raises(ValueError, match="slices of one state differ"):
        join_states([cut_state(state, Cut(0, 2)), cut_state(state._replace(n_taken=1), Cut(2, 4))])


@given(n=st.integers(1, 10**7), most=st.integers(1, 100))
def test_slices_are_whole_blocks_without_gaps(n: int, most: int) -> None:
    found = cuts(n, most)
    assert 1 <= len(found) <= most
    assert reduce(lambda end, cut: cut.end if cut.begin == end else -1, found, 0) == n
    assert all(cut.size > 0 and cut.begin % 32768 == 0 for cut in found)
    assert len(found) == min(most, -(-n // 32768))
