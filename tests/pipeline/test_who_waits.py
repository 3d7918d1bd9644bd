"""The case about who waits, without a cluster: each way trains each model that it is for, and what is seen is drawn and judged."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.benchmarks.asynchronous import WAYS, Ending, Watch, Way, drawn, line, strategy, targets
from pipeline.benchmarks.contests import GAP, Contest, contests, pace
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from tasks.objectives.linear import LinearObjective
from tasks.rows.partition import Group


@pytest.fixture
def paced() -> Iterator[None]:
    """Afterwards rows take no time again."""
    yield
    pace(0.0)


@pytest.mark.long
def test_each_way_lowers_the_loss_and_is_judged() -> None:
    endings = []
    for contest in contests(quick=True):
        linear = isinstance(contest.objective, LinearObjective)
        begin, smallest = contest.value(contest.start), contest.goal / (1 + GAP) if linear else 0.0
        for way in (way for way in WAYS if linear or not way.consensus):
            watch = fitted(contest, way, 30.0 if way.consensus else 0.7)  # it comes to its end by itself, long before
            curve = [(at, sent, contest.value(where)) for at, sent, where in watch.seen]
            assert smallest * (1 - 1e-12) <= curve[-1][2] < begin, (contest.name, way.name)
            endings.append(Ending(contest, way, "one slow", curve, watch.n_rounds, watch.staleness))
    admm = next(ending for ending in endings if ending.way.consensus)
    assert admm.arrived is not None and line(admm)[5] == pytest.approx(1 / (1 + GAP) - 1, abs=1e-4)
    assert drawn(endings).startswith(b"\x89PNG")
    assert len(targets(endings)) == 4


def fitted(contest: Contest, way: Way, seconds: float) -> Watch:
    """What is seen of one fit in process."""
    data = contest.dataset()
    fit, watch = contest.fit(strategy(contest, way, data)), Watch(0.0, seconds)
    train(ThreadExecutor(), data, fit, fit.init(contest.start[None]), [watch])
    return watch


@pytest.mark.usefixtures("paced")
def test_rows_take_their_time() -> None:
    for contest in contests(quick=True):
        group = Group(contest.X[:20], contest.y[:20], None, np.array([0, 20]), 0)
        pace(0.0)
        contest.objective.loss_and_gradient(group, contest.start[None])  # compiles
        pace(1e-3)
        began = time.perf_counter()
        contest.objective.loss_and_gradient(group, contest.start[None])
        assert time.perf_counter() - began >= 1e-3 * group.n_rows


def test_what_comes_after_the_seconds_does_not_count() -> None:
    (contest, _) = contests(quick=True)
    watch = fitted(contest, WAYS[0], 0.0)
    assert watch.over and watch.n_rounds == 1 and len(watch.seen) == 1
