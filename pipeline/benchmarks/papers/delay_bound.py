"""M. Li et al., *Scaling distributed machine learning with the parameter server*, OSDI 2014: a bound on delay trades waiting for work.

Not as there, seconds are those of a clock that is made up: each of the workers takes a random time for a round, and one round after the
other. What is computed is real. Rounds are small mini-batches of a dense problem, and each is an update by one worker. An iteration of all
workers is as many updates as there are workers, so a delay of d iterations is a bound of (d + 1) workers - 1 updates that may be missed.
"""

from __future__ import annotations

from statistics import median_low
from typing import Final, NamedTuple

import numpy as np

from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rows.draws import generator
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient

PAPER: Final = "Li et al. 2014, bounded delay"
WORKERS: Final = 4
SUBTREES: Final = 64
BATCH: Final = 4
GAP: Final = 0.05
"""Of the smallest objective, relative."""
STEPS: Final = (0.2, 0.1, 0.05, 0.025, 0.0125)
"""Step sizes that are tried; of each delay the one that is there first counts."""
CLOCKS: Final = (0, 1, 2)
"""Seeds of clocks; the median of what they say counts."""
DELAYS: Final = (0, 1, 3, 7, None)
"""Iterations of all workers."""
MOST_UPDATES: Final = 1_500
EVERY: Final = 8
"""Updates from one look at the objective to the next."""


class Course(NamedTuple):
    """The course of a fit until it had the gap. seconds: of the clock; idle: the share of the workers' time in which they had nothing to
    do."""

    seconds: float
    updates: int
    idle: float
    step: float


class Clock:
    """Workers that take a random time for each round, of one second on average, one after the other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.free = np.zeros(WORKERS)
        self.busy = 0.0
        self.ends: dict[int, float] = {}

    def begin(self, number: int, subtree: int | None) -> None:
        """Have the worker of that subtree do that round, when it is free. The weight of all rows is there at once."""
        if subtree is None:
            self.ends[number] = self.now
            return
        worker, seconds = subtree * WORKERS // SUBTREES, float(generator(self.seed, "a round", number).exponential())
        self.ends[number] = self.free[worker] = max(self.now, float(self.free[worker])) + seconds
        self.busy += seconds

    def take(self, candidates: list[int]) -> int:
        """Wait for the first of these rounds, and have its number."""
        number = min(candidates, key=self.ends.__getitem__)
        self.now = max(self.now, self.ends.pop(number))
        return number

    @property
    def idle(self) -> float:
        """The share of the time so far in which workers had nothing to do."""
        ahead = float(np.sum(np.maximum(self.free - self.now, 0.0)))
        return max(0.0, 1.0 - (self.busy - ahead) / (WORKERS * self.now))


def delay_bound(report: Report, settings: Settings) -> None:
    """Count updates and seconds to the gap for each bound on staleness."""
    problem = Problem(n_rows=215_000, n_columns=20, n_partitions=SUBTREES)
    judge = Judge.of(problem)
    delays = (0, 3, None) if settings.quick else DELAYS
    found = {delay: fastest(judge, problem, delay) for delay in delays}
    rows = [("any" if delay is None else delay, *found[delay]) for delay in delays]
    columns = ("most iterations missed", "seconds of the clock", "updates", "idle", "step size")
    title = f"{PAPER}: logistic regression, {problem.n_rows:,} x {problem.n_columns}, {WORKERS} workers, to a gap of {GAP:g}"
    report.tables.append(Table(title, columns, rows))
    tightest, loosest = found[delays[0]], found[delays[-1]]
    between = min(found[delay].seconds for delay in delays[1:-1])
    report.targets += [
        Target(f"{PAPER}: idle without delay", "at least", 0.4, tightest.idle),
        Target(f"{PAPER}: idle with any delay", "at most", 0.1, loosest.idle),
        Target(f"{PAPER}: updates with any delay over those without: work rises", "at least", 1.2, loosest.updates / tightest.updates),
        Target(
            f"{PAPER}: seconds at the best delay between, over those at the better end",
            "at most",
            1.0,
            between / min(tightest.seconds, loosest.seconds),
        ),
    ]


def fastest(judge: Judge, problem: Problem, delay: int | None) -> Course:
    """The course at the step size that is there first, by the median of the clocks."""
    bound, found = None if delay is None else (delay + 1) * WORKERS - 1, []
    for step in STEPS:
        courses = [train(judge, problem, bound, step, seed) for seed in CLOCKS]
        if None not in courses:
            found.append(median_low(course for course in courses if course is not None))
    assert found, "a step size is so small that it comes to the gap in the end"
    return min(found)


def train(judge: Judge, problem: Problem, bound: int | None, step: float, seed: int) -> Course | None:
    """The course of a fit, whose rounds end as the clock says; None where it does not get there."""
    data = Dataset.from_arrays(judge.X, judge.y, n_partitions=problem.n_partitions)
    objective = LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=np.arange(2))
    sampling = batches_of(data.schema, data.source.n_groups, BATCH, take_turns=True).sampling
    assert sampling.n_turns == SUBTREES, "each partition takes turns"
    one = StochasticGradient(sampling, schedule=Constant(step), max_epochs=100, tol=-np.inf)
    fit = Fit(objective, (L2(1 / problem.n_rows),), Asynchronous(one, Overlap(bound, "as-they-come", balanced=False)))
    states, clock, executor = fit.init(np.zeros((1, objective.layout.size))), Clock(seed), ThreadExecutor()
    begun: set[int] = set()
    for n_updates in range(MOST_UPDATES):
        for number in fit.under_way(states):
            if number not in begun:
                this = fit.ask(states, number)
                assert this is not None
                begun.add(number)
                assert this.broadcast.batch is not None
                clock.begin(number, this.broadcast.batch.subtree)
        x = states[0].iterate.parameters
        if n_updates % EVERY == 0 and judge.gap(x[None, :-1], x[-1:]) <= GAP:
            return Course(clock.now, n_updates, clock.idle, step)
        number = clock.take(fit.candidates(states))
        this = fit.ask(states, number)
        assert this is not None
        states = fit.update(states, this, executor.map_reduce(data.rows, this.reduction, this.broadcast))
    return None
