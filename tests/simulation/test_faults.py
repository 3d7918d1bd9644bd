"""Thousands of ways in which a fit may be disturbed: it ends, and in the bits of the fit that nothing disturbs."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.simulation.fits import GROUPS, STRATEGIES, Problem, survive
from tests.simulation.loop import FOREVER
from tests.simulation.world import ACTING, KINDS, MOMENTS, Fault, Schedule

COLLECT_EVERY = 100

faults = st.builds(
    Fault,
    kind=st.sampled_from(KINDS),
    moment=st.sampled_from(MOMENTS),
    after=st.integers(0, 150),
    who=st.one_of(st.just(ACTING), st.integers(0, 8)),
    seconds=st.sampled_from((0.3, 3.0, 12.0, 100.0, 400.0, FOREVER)),
)
schedules = st.builds(
    Schedule,
    seed=st.integers(0, 2**32 - 1),
    n_workers=st.integers(1, 9),
    n_threads=st.integers(1, 2),
    mode=st.sampled_from(("sessions", "sessions", "calls", "tasks")),
    message_time=st.sampled_from((1e-4, 1e-3, 2e-2)),
    capacity=st.sampled_from((100, 1 << 20)),
    small=st.booleans(),
    restless=st.booleans(),
    in_client=st.booleans(),
    silent=st.booleans(),
    again=st.booleans(),
    faults=st.lists(faults, max_size=6).map(tuple),
)
problems = st.builds(
    Problem,
    n_groups=st.sampled_from(GROUPS),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    stop_at=st.sampled_from((0, 0, 0, 5)),
)
happened: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Futures let go when they are collected: that must not depend on when the collector runs."""
    gc.collect()
    gc.freeze()
    gc.disable()
    happened.clear()
    yield
    gc.enable()
    gc.unfreeze()


def run(problem: Problem, schedule: Schedule) -> None:
    found = survive(problem, schedule)
    happened.update(found.world.happened)
    happened["fits"] += 1
    happened["errors"] += found.error is not None
    happened["rounds of sessions"] += found.rounds
    if happened["fits"] % COLLECT_EVERY == 0:
        gc.collect()


def kept(test: Callable[..., None]) -> Callable[..., None]:
    """Schedules that have found something."""
    for problem, schedule in KEPT:
        test = example(problem=problem, schedule=schedule)(test)
    return test


KEPT: tuple[tuple[Problem, Schedule], ...] = ()


@kept
@given(problem=problems, schedule=schedules)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_some_schedules(problem: Problem, schedule: Schedule) -> None:
    run(problem, schedule)


@pytest.mark.faults
@pytest.mark.timeout(900)
@given(problem=problems, schedule=schedules)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_ten_thousand_schedules(problem: Problem, schedule: Schedule) -> None:
    run(problem, schedule)
