"""The case about who waits: synchronous, asynchronous and local updates, on four workers of which one may be slow."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from distributed import Client, LocalCluster
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.benchmarks.contests import Contest, contests
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.slow_worker import SHARES, held_back
from pipeline.data.dataset import Dataset
from pipeline.execution.residency import following
from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import Row
from pipeline.training.loop import train
from pipeline.training.minimise import subtrees
from pipeline.training.observers import Observer
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.rounds.fitting import Fit
from tasks.rounds.fitting import Report as RoundReport
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.base import Strategy
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

GAP: Final = 0.01
"""Of the smallest objective, relative: who is that near has arrived."""
UPDATES: Final = 64
"""Of an epoch, synchronous or asynchronous: an update is of as many rows in both."""
APART: Final = 16
EPOCHS: Final = 10
SOONER: Final = 2.0
BIASED: Final = 0.05
EVEN: Final = (0.4,) * len(SHARES)
AS_MANY: Final = 0.8
RACED: Final = ("synchronous", "asynchronous, in order, staleness 8", "parameter server, in order, staleness 8")
"""Whose updates a second are counted."""


class Way(NamedTuple):
    """One way to train. rows_move: whether rows may move from the slow worker to the others; consensus: whether by ADMM."""

    name: str
    overlap: Overlap | None = None
    local: LocalUpdates | None = None
    rows_move: bool = False
    consensus: bool = False

    @property
    def turns(self) -> bool:
        return self.overlap is not None or self.local is not None


WAYS: Final = (
    Way("synchronous"),
    Way("synchronous, rows move", rows_move=True),
    Way("asynchronous, staleness 2", Overlap(2, "as-they-come")),
    Way("asynchronous, staleness 8", Overlap(8, "as-they-come")),
    Way("asynchronous, no bound", Overlap(None, "as-they-come")),
    Way("asynchronous, in order, staleness 8", Overlap(8)),
    Way("parameter server, staleness 8", Overlap(8, "as-they-come", served=True)),
    Way("parameter server, no bound", Overlap(None, "as-they-come", served=True)),
    Way("parameter server, in order, staleness 8", Overlap(8, served=True)),
    Way("local, 1 update a round", local=LocalUpdates(1)),
    Way("local, 8 updates a round", local=LocalUpdates(8)),
    Way("local, 64 updates a round", local=LocalUpdates(64)),
    Way("ADMM", consensus=True),
)


@dataclass(eq=False)
class Watch(Observer):
    """Remembers where a fit stood, at most every `every` seconds of it, and the bytes that rounds sent and received."""

    every: float
    began: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, float, Array]] = field(default_factory=list)
    n_bytes: int = 0
    staleness: int = 0

    def hear(self, row: Row, report: RoundReport) -> None:
        self.n_bytes += report.traffic.sent + report.traffic.received
        self.staleness = max(self.staleness, report.staleness)

    def rest(self, saved: Saved) -> None:
        now = time.perf_counter() - self.began
        if not self.seen or now - self.seen[-1][0] >= self.every:
            self.seen.append((now, self.n_bytes, saved.states[0].iterate.parameters))


class Ending(NamedTuple):
    """What was seen of one fit. curve: seconds, bytes and objective, look after look."""

    contest: Contest
    way: Way
    workers: str
    curve: list[tuple[float, float, float]]
    seconds: float
    n_rounds: int
    staleness: int

    def arrived(self, optimum: float) -> tuple[float, float] | None:
        """Seconds and bytes to the gap."""
        return next(((at, sent) for at, sent, value in self.curve if value <= (1.0 + GAP) * optimum), None)


def asynchronous(report: Report, settings: Settings) -> None:
    """Train both models in all ways, with four equal workers and with a slow one among them; and count updates a second."""
    endings: list[Ending] = []
    n_epochs = 1 if settings.quick else EPOCHS
    speeds: dict[tuple[str, str], list[float]] = {}
    for contest in contests(settings.quick):
        ways = [way for way in WAYS if not way.consensus or isinstance(contest.objective, LinearObjective)]
        for shares, workers in ((EVEN, "equal"), (SHARES, "one slow")):
            with four_workers() as client:
                for way in ways:  # what compiles does so here, for all of them
                    run(client, contest, way, None, 1)
                for way in [way for way in ways if way.name in RACED] * (settings.repeats if workers == "equal" else 0):
                    _, n_rounds, seconds = run(client, contest, way, None, n_epochs)
                    speeds.setdefault((contest.name, way.name), []).append(n_rounds / seconds)
                for way in ways:
                    watch, n_rounds, seconds = run(client, contest, way, shares, n_epochs)
                    curve = [(at, sent, contest.value(where)) for at, sent, where in watch.seen]
                    endings.append(Ending(contest, way, workers, curve, seconds, n_rounds, watch.staleness))
    optima = {ending.contest.name: smallest(endings, ending.contest) for ending in endings}
    columns = ("model", "way", "workers", "s to the gap", "MB to the gap", "gap at the end", "s in all", "rounds", "largest staleness")
    rows = [line(ending, optima[ending.contest.name]) for ending in endings]
    report.tables.append(Table(f"log loss, {endings[0].contest.problem.name}, rows sorted by label, four workers", columns, rows))
    counted = [(*key, median(found)) for key, found in speeds.items()]
    title = "the same fits, nobody held back, with all that begins and ends a fit"
    report.tables.append(Table(title, ("model", "way", "updates a second"), counted))
    report.figure = drawn(endings, optima)
    report.targets += [*targets(endings, optima), *as_many(speeds)]
    report.notes += [
        f"Gap: of the objective over the smallest, relative; arrived: at most {GAP:g}. Newton finds the linear model's smallest one in"
        " process; the network's is the smallest that was seen here, by every eighth row.",
        "Each worker has 0.4 of a core; the slow one 0.1. Bytes are those between processes (`bytes_sent` and `bytes_received`).",
        f"An update is of a {UPDATES}th of the rows, a local one of a {UPDATES * APART}th, in each of {APART} subtrees.",
        "The linear model's step sizes fall with the root of the updates, from what is stable for the staleness that may come; the network"
        " trains by Adam, 0.001.",
        "Before what is timed, each way trains for one epoch on the same workers.",
    ]


def smallest(endings: Sequence[Ending], contest: Contest) -> float:
    """The smallest objective of a contest."""
    if contest.optimum is not None:
        return contest.optimum
    return min(value for ending in endings if ending.contest is contest for _, _, value in ending.curve)


def line(ending: Ending, optimum: float) -> tuple[Cell, ...]:
    """The line of a fit in the table."""
    at, sent = ending.arrived(optimum) or (None, None)
    gap = ending.curve[-1][2] / optimum - 1.0
    megabytes = None if sent is None else sent / 1e6
    what = (ending.contest.name, ending.way.name, ending.workers)
    return (*what, at, megabytes, gap, ending.seconds, ending.n_rounds, ending.staleness)


def drawn(endings: Sequence[Ending], optima: dict[str, float]) -> bytes:
    """The gap against seconds, and against bytes, of each model with each set of workers, as a PNG."""
    kinds = list(dict.fromkeys((ending.contest.name, ending.workers) for ending in endings))
    figure = Figure(figsize=(10, 3 * len(kinds)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for (name, workers), pair in zip(kinds, figure.subplots(len(kinds), 2, sharey="row"), strict=True):
        for ending in (each for each in endings if (each.contest.name, each.workers) == (name, workers)):
            gaps = [max(value / optima[name] - 1.0, 1e-6) for _, _, value in ending.curve]
            for axes, which, unit in zip(pair, (0, 1), (1.0, 1e6), strict=True):
                axes.loglog([max(point[which], 1e-3 * unit) / unit for point in ending.curve], gaps, label=ending.way.name, linewidth=1)
        pair[0].set(title=f"{name}, {workers}", ylabel="gap", xlabel="seconds")
        pair[1].set(xlabel="MB")
    pair[1].legend(fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@contextmanager
def four_workers() -> Iterator[Client]:
    """A cluster of its own."""
    with LocalCluster(n_workers=len(SHARES), threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        yield client


def run(client: Client, contest: Contest, way: Way, shares: Sequence[float] | None, n_epochs: int) -> tuple[Watch, int, float]:
    """One fit on rows that begin in equal shares: what was seen of it, its rounds, and its seconds. shares: of a core, for each worker;
    None: nobody is held back."""
    dataset = contest.dataset()
    fit = Fit(contest.objective, (contest.penalty,), strategy(contest, way, dataset, n_epochs))
    executor = dataset.executor()
    pids = client.run(os.getpid)
    slowed = nullcontext() if shares is None else held_back([pids[worker] for worker in sorted(pids)], shares)
    with nullcontext() if way.rows_move else rows_stay(), executor.span("bench-asynchronous"):
        with slowed:
            watch = Watch(0.02)
            result = train(executor, dataset, fit, fit.init(contest.start[None]), [watch])
            seconds = time.perf_counter() - watch.began
        watch.seen.append((seconds, watch.n_bytes, result.parameters[0]))
        executor.release(dataset.rows)
    return watch, len(result.history), seconds


def strategy(contest: Contest, way: Way, dataset: Dataset, n_epochs: int) -> Strategy:
    """What trains so many epochs; of ADMM, ten times as many rounds, if it is not done before."""
    if way.consensus:
        return ADMM(subtrees(dataset), tol=1e-6, max_iter=10 * n_epochs)
    n_rows = dataset.schema.n_rows  # they are resident now
    batch = n_rows // UPDATES // (1 if way.local is None else APART)
    batches = batches_of(dataset.schema, dataset.source.n_groups, batch, take_turns=way.turns)
    missed = 0
    if way.local is not None:
        batches = batches.apart
    elif way.overlap is not None:
        others = batches.sampling.n_turns - 1
        missed = others if way.overlap.staleness is None else min(others, way.overlap.staleness)
    schedule = contest.schedule(missed, batches.batch_rows)
    plain = StochasticGradient(batches.sampling, contest.optimizer, schedule, max_epochs=n_epochs, tol=-np.inf)
    if way.local is not None:
        return LocalSGD.of(plain, way.local)
    return plain if way.overlap is None else Asynchronous(plain, way.overlap)


def as_many(speeds: dict[tuple[str, str], list[float]]) -> list[Target]:
    """What is promised of servers: about as many updates as synchronous rounds on the workers."""
    found = []
    for name in dict.fromkeys(name for name, _ in speeds):
        plain, served = (median(speeds[name, RACED[which]]) for which in (0, -1))
        found.append(Target(f"{name}: updates a second of a parameter server over synchronous ones", "at least", AS_MANY, served / plain))
    return found


@contextmanager
def rows_stay() -> Iterator[None]:
    """A block in which rows do not move to faster workers."""
    before = following.LOST
    following.LOST = np.inf  # type: ignore[misc]
    try:
        yield
    finally:
        following.LOST = before  # type: ignore[misc]


def targets(endings: Sequence[Ending], optima: dict[str, float]) -> list[Target]:
    """What is promised of those who do not wait."""
    found: list[Target] = []
    for name, optimum in optima.items():
        own = [ending for ending in endings if ending.contest.name == name]
        slow = {ending.way.name: ending.arrived(optimum) for ending in own if ending.workers == "one slow"}
        plain, free = slow["synchronous"], slow["asynchronous, no bound"]
        promise = f"{name}: time to the gap with a slow worker: synchronous, rows not moving, over asynchronous without a bound"
        found.append(Target(promise, "at least", SOONER, None if plain is None or free is None else plain[0] / free[0]))
        worst = max(ending.curve[-1][2] / optimum - 1.0 for ending in own)
        found.append(Target(f"{name}: largest gap at the end, of all ways", "at most", BIASED, worst))
    return found
