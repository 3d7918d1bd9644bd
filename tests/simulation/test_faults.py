"""Thousands of ways in which a fit may be disturbed: it ends, and in the bits of the fit that nothing disturbs.

A failure prints the problem and the schedule, which run the same way again: put them into `KEPT`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.simulation.fits import GROUPS, STRATEGIES, Outcome, Problem, survive
from tests.simulation.loop import FOREVER
from tests.simulation.world import ACTING, KINDS, MOMENTS, Fault, Schedule

COLLECT_EVERY = 100

faults = st.builds(
    Fault,
    kind=st.sampled_from(KINDS),
    moment=st.sampled_from(MOMENTS),
    after=st.one_of(st.integers(0, 100), st.integers(0, 800)),
    who=st.one_of(st.just(ACTING), st.integers(0, 8)),
    seconds=st.sampled_from((0.3, 3.0, 12.0, 100.0, 400.0, FOREVER)),
)
rarely = st.sampled_from((False, False, False, True))
schedules = st.builds(
    Schedule,
    seed=st.integers(0, 2**32 - 1),
    n_workers=st.sampled_from((1, 2, 3, 3, 4, 5, 6, 7, 8, 9)),
    n_threads=st.sampled_from((1, 1, 2)),
    mode=st.sampled_from(("sessions", "sessions", "calls", "tasks")),
    message_time=st.sampled_from((1e-4, 1e-3, 2e-2)),
    capacity=st.sampled_from((100, 1 << 20)),
    small=rarely,
    restless=rarely,
    in_client=st.booleans(),
    silent=st.booleans(),
    again=rarely,
    faults=st.lists(faults, max_size=8).map(tuple),
)
problems = st.builds(
    Problem,
    n_groups=st.sampled_from(GROUPS),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    stop_at=st.sampled_from((0, 0, 0, 5)),
)

KEPT: tuple[tuple[Problem, Schedule], ...] = (
    (  # the last worker dies when its results have been waited for, before they are gathered
        Problem(3, "sgd"),
        Schedule(207388624, 1, mode="tasks", faults=(Fault("kill", "client", 27, who=0),)),
    ),
    (  # rows are sent to workers that die one after the other
        Problem(1, "sgd"),
        Schedule(75253670, 4, mode="calls", in_client=True, faults=(Fault("kill all", after=2, who=0, seconds=15.0),)),
    ),
    (  # and while there is none
        Problem(3, "sgd"),
        Schedule(374048733, 4, 1, "tasks", 2e-2, in_client=True, faults=(Fault("kill all", after=54, who=1, seconds=15.0),)),
    ),
)
"""Those that have found something."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Futures let go of results when they are collected, which must not depend on when the collector runs."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


class Tally:
    """What happened in all schedules."""

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()

    def add(self, found: Outcome) -> None:
        self.happened.update(found.world.happened)
        self.happened.update({"fits": 1, "errors": found.error is not None, "rounds of sessions": found.rounds})
        if self.happened["fits"] % COLLECT_EVERY == 0:
            gc.collect()

    def of_kind(self, kind: str, moment: str = "") -> int:
        return sum(n for name, n in self.happened.items() if name.startswith(f"{kind} at {moment}"))


def run_schedules(n: int, *, derandomize: bool) -> Tally:
    tally = Tally()

    @given(problem=problems, schedule=schedules)
    @settings(max_examples=n, deadline=None, derandomize=derandomize, suppress_health_check=list(HealthCheck))
    def run(problem: Problem, schedule: Schedule) -> None:
        tally.add(survive(problem, schedule))

    for problem, schedule in KEPT:
        run: Callable[[], None] = example(problem=problem, schedule=schedule)(run)  # type: ignore[no-redef]
    run()
    return tally


@pytest.mark.timeout(120)
@pytest.mark.long
def test_some_schedules() -> None:
    tally = run_schedules(150, derandomize=True)
    assert tally.happened["rounds of sessions"] > 300
    assert sum(map(tally.of_kind, KINDS)) > 75


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_ten_thousand_schedules() -> None:
    """All kinds of faults came, at all moments; the worst of them at all moments of a session."""
    tally = run_schedules(10_000, derandomize=False)
    moments = [moment for moment in MOMENTS if moment != "any"]
    of_moments = {moment: sum(tally.of_kind(kind, moment) for kind in KINDS) for moment in moments}
    assert min(of_moments.values()) > 100
    assert min(map(tally.of_kind, KINDS)) > 100
    for kind in ("kill", "stop", "cut"):
        assert all(tally.of_kind(kind, moment) for moment in ("enter", "send", "receive", "compute", "answer"))
    assert tally.happened["rounds of sessions"] > 20_000
    assert tally.happened["two deaths at once"] > 20
    assert tally.happened["pieces moved"] > 1000
    assert 0 < tally.happened["errors"] < 1000


@pytest.mark.parametrize("mode", ["sessions", "calls", "tasks"])
def test_a_schedule_runs_the_same_way_again(mode: str) -> None:
    faults = (Fault("kill", "compute", 30, seconds=3.0), Fault("stop", "receive", 20, seconds=12.0), Fault("lose", "client", 10))
    schedule = Schedule(7, n_workers=5, mode=mode, restless=True, faults=faults)  # type: ignore[arg-type]
    found = [survive(Problem(), schedule) for _ in range(2)]
    one, other = ((each.world.loop.steps, each.world.loop.now, each.rounds, each.world.happened) for each in found)
    assert one == other
    assert sum(found[0].world.happened.values()) >= 2
