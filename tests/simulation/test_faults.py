"""Thousands of ways in which a fit may be disturbed: it ends, and in the bits of the fit that nothing disturbs.

A failure prints the problem and the schedule, which run the same way again: put them into `KEPT`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.execution import calls
from pipeline.execution.residency.loader import Loader
from tests.simulation.fits import Outcome, survive
from tests.simulation.loop import FOREVER
from tests.simulation.problems import GROUPS, OVERLAPPING, STRATEGIES, Problem
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


def problems(strategies: Collection[str]) -> st.SearchStrategy[Problem]:
    return st.builds(
        Problem,
        n_groups=st.sampled_from(GROUPS),
        strategy=st.sampled_from(sorted(strategies)),
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
    (  # servers that have gone on are to go back to where the client stopped
        Problem(3, "served, compressed", stop_at=5),
        Schedule(0, 2, mode="sessions", message_time=2e-2),
    ),
    (  # rows that have changed are made again where the fit before is to be forgotten, and nobody hears of it
        Problem(1, "compressed, copied"),
        Schedule(
            1,
            1,
            again=True,
            faults=(
                Fault("kill", "connect", 47, who=ACTING, seconds=0.3),
                Fault("kill", "enter", 0, who=ACTING, seconds=0.3),
                Fault("change", after=19, who=ACTING, seconds=0.3),
            ),
        ),
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
        self.happened["out of turn"] += found.n_out_of_turn
        if self.happened["fits"] % COLLECT_EVERY == 0:
            gc.collect()

    def of_kind(self, kind: str, moment: str = "") -> int:
        return sum(n for name, n in self.happened.items() if name.startswith(f"{kind} at {moment}"))


def run_schedules(n: int, strategies: Collection[str], *, derandomize: bool) -> Tally:
    tally = Tally()

    @given(problem=problems(strategies), schedule=schedules)
    @settings(max_examples=n, derandomize=derandomize, suppress_health_check=list(HealthCheck))
    def run(problem: Problem, schedule: Schedule) -> None:
        tally.add(survive(problem, schedule))

    for problem, schedule in [kept for kept in KEPT if kept[0].strategy in strategies]:
        run: Callable[[], None] = example(problem=problem, schedule=schedule)(run)  # type: ignore[no-redef]
    run()
    return tally


@pytest.mark.timeout(120)
@pytest.mark.long
def test_some_schedules() -> None:
    tally = run_schedules(120, STRATEGIES, derandomize=True)
    assert tally.happened["rounds of sessions"] > 200
    assert sum(map(tally.of_kind, KINDS)) > 60


@pytest.mark.timeout(120)
@pytest.mark.long
def test_some_schedules_with_several_rounds_under_way() -> None:
    tally = run_schedules(60, OVERLAPPING, derandomize=True)
    assert tally.happened["out of turn"] > 5
    assert sum(map(tally.of_kind, KINDS)) > 30


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_six_thousand_schedules() -> None:
    """All kinds of faults came, at all moments; the worst of them at all moments of a session."""
    tally = run_schedules(6000, STRATEGIES, derandomize=False)
    require_all_kinds(tally, [moment for moment in MOMENTS if moment != "any"])
    for kind in ("kill", "stop", "cut"):
        assert all(tally.of_kind(kind, moment) for moment in ("enter", "send", "receive", "compute", "answer"))
    assert tally.happened["rounds of sessions"] > 10_000


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_four_thousand_schedules_with_several_rounds_under_way() -> None:
    tally = run_schedules(4000, OVERLAPPING, derandomize=False)
    require_all_kinds(tally, ["connect", "compute", "write", "read", "client", "move"])
    assert tally.happened["out of turn"] > 500


def require_all_kinds(tally: Tally, moments: Collection[str]) -> None:
    """All kinds of faults came, and at all these moments."""
    of_moments = {moment: sum(tally.of_kind(kind, moment) for kind in KINDS) for moment in moments}
    assert min(of_moments.values()) > 50
    assert min(map(tally.of_kind, KINDS)) > 50
    assert tally.happened["two deaths at once"] > 10
    assert tally.happened["pieces moved"] > 500
    assert 0 < tally.happened["errors"] < 600


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_workers_do_short_rounds_by_themselves(strategy: str) -> None:
    """Though small groups of a thread are put together for them, also where subtrees go their own ways."""
    assert survive(Problem(16, strategy), Schedule(1, n_workers=2)).rounds > 3


def test_a_stopped_worker_holds_up_its_own_subtrees_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come: its calls time out, and while tasks wait for it in their place all others are taken."""
    monkeypatch.setattr(calls, "PATIENCE", 0.05)
    found = survive(Problem(16, "as they come"), Schedule(3, 4, mode="calls", faults=(Fault("stop", "compute", 120, 1, 100.0),)))
    assert found.world.happened["stop at compute"] == 1
    (fitted,) = found.fits
    assert sum(seconds > 50.0 for seconds in fitted.seconds) == 2 == len(set(fitted.arrivals)) / 4


@pytest.mark.parametrize("mode", ["calls", "tasks"])
def test_rows_that_a_restart_takes_are_made_again_once(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """However many rounds were under way."""
    loads, load = [], Loader.load

    def counted(loader: Loader, *arguments: Any, **more: Any) -> Any:
        loads.append(arguments)
        return load(loader, *arguments, **more)

    monkeypatch.setattr(Loader, "load", counted)
    survive(Problem(37, "in order 4"), Schedule(27, 4, mode=mode, faults=(Fault("restart", after=100, seconds=1.0),)))  # type: ignore[arg-type]
    assert len(loads) == 2


@pytest.mark.parametrize("mode", ["sessions", "calls", "tasks"])
@pytest.mark.parametrize("strategy", ["lbfgs", "as they come"])
def test_a_schedule_runs_the_same_way_again(mode: str, strategy: str) -> None:
    faults = (Fault("kill", "compute", 30, seconds=3.0), Fault("stop", "receive", 20, seconds=12.0), Fault("lose", "client", 10))
    schedule = Schedule(7, n_workers=5, mode=mode, restless=True, faults=faults)  # type: ignore[arg-type]
    found = [survive(Problem(strategy=strategy), schedule) for _ in range(2)]
    one, other = ((each.world.loop.steps, each.world.loop.now, each.rounds, each.fits, each.world.happened) for each in found)
    assert one == other
    assert sum(found[0].world.happened.values()) >= 2
