"""The case about who waits, without a cluster: each way trains each model that it is for, and what is seen is drawn and judged."""

from __future__ import annotations

import pytest

from pipeline.benchmarks.asynchronous import WAYS, Ending, Watch, drawn, line, smallest, strategy, targets
from pipeline.benchmarks.contests import contests
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from tasks.objectives.linear import LinearObjective
from tasks.rounds.fitting import Fit


@pytest.mark.long
def test_each_way_lowers_the_loss_and_is_judged() -> None:
    endings = []
    for contest in contests(quick=True):
        linear = isinstance(contest.objective, LinearObjective)
        begin = contest.value(contest.start)
        for way in (way for way in WAYS if linear or not way.consensus):
            data = contest.dataset()
            fit, watch = Fit(contest.objective, (contest.penalty,), strategy(contest, way, data, 2)), Watch(0.0)
            result = train(ThreadExecutor(), data, fit, fit.init(contest.start[None]), [watch])
            curve = [(at, sent, contest.value(where)) for at, sent, where in watch.seen]
            assert curve[-1][2] < begin, (contest.name, way.name)
            assert contest.optimum is None or curve[-1][2] >= contest.optimum * (1 - 1e-12)
            endings.append(Ending(contest, way, "one slow", curve, curve[-1][0], len(result.history), watch.staleness))
    optima = {ending.contest.name: smallest(endings, ending.contest) for ending in endings}
    admm = next(ending for ending in endings if ending.way.consensus)
    assert line(admm, optima["logistic"])[5] == pytest.approx(0.0, abs=1e-4)
    assert drawn(endings, optima).startswith(b"\x89PNG")
    assert len(targets(endings, optima)) == 2 * len(optima)
