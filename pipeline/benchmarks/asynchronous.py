"""The case about who waits: synchronous, asynchronous and local updates, on four workers of which one may be slow."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from distributed import Client, LocalCluster
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.benchmarks.contests import EPOCHS, GAP, N_PARTITIONS, UPDATES, Contest, contests, pace
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.residency import following
from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import Row
from pipeline.training.loop import train
from pipeline.training.minimise import subtrees
from pipeline.training.observers import Observer
from tasks.objectives.linear import LinearObjective
from tasks.rounds.fitting import Report as RoundReport
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.base import Strategy
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

SECONDS: Final = 20.0
"""That each way has."""
N_WORKERS: Final = 4
UPDATE_SECONDS: Final = 0.024
"""That the rows of an update take a worker which is not slow; so many times as many:"""
EQUAL: Final = (1.0,) * N_WORKERS
ONE_SLOW: Final = (4.0, 1.0, 1.0, 1.0)
SOONER: Final = 2.0
BIASED: Final = 0.05
AS_MANY: Final = 0.8
FOR_EVER: Final = 1_000_000
RACED: Final = ("synchronous", "asynchronous, in order, staleness 8", "parameter server, in order, staleness 8")
"""Whose updates a second are counted."""


class Way(NamedTuple):
    """One way to train. rows_move: whether rows may move from the slow worker to the others; consensus: whether by ADMM."""

    name: str
    overlap: Overlap | None = None
    local: LocalUpdates | None = None
    rows_move: bool = False
    consensus: bool = False


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
    Way("local, 8 updates a round", local=LocalUpdates(8, control_variates=True)),
    Way("local, 64 updates a round", local=LocalUpdates(64, control_variates=True)),
    Way("ADMM", consensus=True),
)


@dataclass(eq=False)
class Watch(Observer):
    """Remembers where a fit stood, at most every `every` seconds of it, with the bytes that rounds sent and received, and how many there
    were; ends it when `seconds` are over. What comes after that does not count."""

    every: float
    seconds: float
    began: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, float, Array]] = field(default_factory=list)
    n_bytes: int = 0
    n_rounds: int = 0
    staleness: int = 0
    over: bool = False

    def hear(self, row: Row, report: RoundReport) -> None:
        if self.over:
            return
        self.n_rounds += 1
        self.n_bytes += report.traffic.sent + report.traffic.received
        self.staleness = max(self.staleness, report.staleness)

    def after(self, row: Row) -> bool:
        return self.over

    def rest(self, saved: Saved) -> None:
        now = time.perf_counter() - self.began
        over = now > self.seconds
        if not self.over and (over or not self.seen or now - self.seen[-1][0] >= self.every):
            self.seen.append((now, self.n_bytes, saved.states[0].iterate.parameters))
        self.over = over


class Ending(NamedTuple):
    """What was seen of one fit. curve: seconds, bytes and objective, look after look."""

    contest: Contest
    way: Way
    workers: str
    curve: list[tuple[float, float, float]]
    n_rounds: int
    staleness: int

    @property
    def arrived(self) -> tuple[float, float] | None:
        """Seconds and bytes to the goal."""
        return next(((at, sent) for at, sent, value in self.curve if value <= self.contest.goal), None)

    @property
    def beyond(self) -> float:
        """How far above the goal it was at the end, relative."""
        return self.curve[-1][2] / self.contest.goal - 1.0


def asynchronous(report: Report, settings: Settings) -> None:
    """Train both models in all ways, with four equal workers and with a slow one among them; and count updates a second."""
    endings: list[Ending] = []
    seconds = 0.5 if settings.quick else SECONDS
    speeds: dict[tuple[str, str], list[float]] = {}
    for contest in contests(settings.quick):
        ways = [way for way in WAYS if not way.consensus or isinstance(contest.objective, LinearObjective)]
        for paces, workers in ((EQUAL, "equal"), (ONE_SLOW, "one slow")):
            with four_workers() as client:
                for way in ways:  # what compiles does so here, for all of them
                    run(client, contest, way, None, 0.1)
                for way in [way for way in ways if way.name in RACED] * (settings.repeats if workers == "equal" else 0):
                    watch = run(client, contest, way, None, seconds / 5)
                    speeds.setdefault((contest.name, way.name), []).append(watch.n_rounds / watch.seen[-1][0])
                for way in ways:
                    watch = run(client, contest, way, paces, seconds)
                    curve = [(at, sent, contest.value(where)) for at, sent, where in watch.seen]
                    endings.append(Ending(contest, way, workers, curve, watch.n_rounds, watch.staleness))
    columns = ("model", "way", "workers", "s to the goal", "MB to the goal", "above the goal at the end", "rounds", "largest staleness")
    problem = endings[0].contest.problem
    title = f"log loss, {problem.n_rows:,} x {problem.n_columns} float64, rows sorted by label, four workers, {seconds:g} s each"
    report.tables.append(Table(title, columns, [line(ending) for ending in endings]))
    counted = [(*key, median(found)) for key, found in speeds.items()]
    title = "the same fits on rows that take no time but what they compute, for a fifth of the seconds"
    report.tables.append(Table(title, ("model", "way", "updates a second"), counted))
    report.figure = drawn(endings)
    report.targets += [*targets(endings), *as_many(speeds)]
    report.notes += [
        f"Goal: of the linear model, {GAP:g} of the smallest objective above it, which Newton finds in process; of the network, where"
        f" {EPOCHS} epochs of synchronous mini-batches in process end.",
        f"An update is of a {UPDATES}th of the rows, a local one of a {UPDATES * N_PARTITIONS}th, in each of {N_PARTITIONS} subtrees. The"
        f" rows of an update take a worker {1e3 * UPDATE_SECONDS:g} ms; the slow one {1e3 * UPDATE_SECONDS * ONE_SLOW[0]:g} ms. It waits"
        " for that time, so cores are free for the others.",
        "Steps are as large as noise lets them be, and stale gradients; all that are not local are of one size but those without a bound.",
        "Local updates, where there are several a round, have control variates. Bytes are those between processes (`bytes_sent` and"
        " `bytes_received`). Before what is timed, each way trains on the same workers for a moment.",
    ]


def line(ending: Ending) -> tuple[Cell, ...]:
    """The line of a fit in the table."""
    at, sent = ending.arrived or (None, None)
    megabytes = None if sent is None else sent / 1e6
    what = (ending.contest.name, ending.way.name, ending.workers)
    return (*what, at, megabytes, ending.beyond, ending.n_rounds, ending.staleness)


def drawn(endings: Sequence[Ending]) -> bytes:
    """How far above the goal fits are against seconds, and against bytes, of each model with each set of workers, as a PNG."""
    kinds = list(dict.fromkeys((ending.contest.name, ending.workers) for ending in endings))
    figure = Figure(figsize=(10, 3 * len(kinds) + 1), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    colours, handles = {way.name: colormaps["tab20"](number) for number, way in enumerate(WAYS)}, {}
    for (name, workers), pair in zip(kinds, figure.subplots(len(kinds), 2, sharey="row"), strict=True):
        for ending in (each for each in endings if (each.contest.name, each.workers) == (name, workers)):
            above = [max(value / ending.contest.goal - 1.0, 1e-3) for _, _, value in ending.curve]
            for axes, which, unit in zip(pair, (0, 1), (1.0, 1e6), strict=True):
                at = [max(point[which], 1e-3 * unit) / unit for point in ending.curve]
                (handles[ending.way.name],) = axes.loglog(at, above, color=colours[ending.way.name], linewidth=1)
        pair[0].set(title=f"{name}, {workers}", ylabel="above the goal", xlabel="seconds")
        pair[1].set(xlabel="MB")
    figure.legend(list(handles.values()), list(handles), fontsize="small", loc="outside lower center", ncols=3)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@contextmanager
def four_workers() -> Iterator[Client]:
    """A cluster of its own."""
    with LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        yield client


def run(client: Client, contest: Contest, way: Way, paces: Sequence[float] | None, seconds: float) -> Watch:
    """One fit of so many seconds on rows that begin in equal shares: what was seen of it. paces: how many times the time of an
    update each worker takes; None: rows take no time."""
    dataset = contest.dataset()
    executor = dataset.executor()
    fit = contest.fit(strategy(contest, way, dataset))
    row_seconds = UPDATE_SECONDS * UPDATES / dataset.schema.n_rows  # they are resident now
    for worker, times in zip(sorted(client.scheduler_info(n_workers=-1)["workers"]), paces or (0.0,) * N_WORKERS, strict=True):
        client.run(pace, times * row_seconds, workers=[worker])
    with nullcontext() if way.rows_move else rows_stay(), executor.span("bench-asynchronous"):
        watch = Watch(0.02, seconds)
        train(executor, dataset, fit, fit.init(contest.start[None]), [watch])
        executor.release(dataset.rows)
    return watch


def strategy(contest: Contest, way: Way, dataset: Dataset) -> Strategy:
    """What trains until it is told to end, or is done."""
    if way.consensus:
        return ADMM(subtrees(dataset), tol=1e-6, max_iter=FOR_EVER)
    schema, n_groups = dataset.schema, dataset.source.n_groups
    batches = contest.batches(schema, n_groups, take_turns=way.overlap is not None, apart=way.local is not None)
    missed = 0
    if way.overlap is not None:
        others = batches.sampling.n_turns - 1
        missed = others if way.overlap.staleness is None else min(others, way.overlap.staleness)
    plain = StochasticGradient(batches.sampling, schedule=contest.schedule(missed), max_epochs=FOR_EVER, tol=-np.inf)
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


def targets(endings: Sequence[Ending]) -> list[Target]:
    """What is promised of those who do not wait."""
    found: list[Target] = []
    for name in dict.fromkeys(ending.contest.name for ending in endings):
        own = [ending for ending in endings if ending.contest.name == name]
        slow = {ending.way.name: ending.arrived for ending in own if ending.workers == "one slow"}
        plain, free = slow["synchronous"], slow["asynchronous, no bound"]
        promise = f"{name}: time to the goal with a slow worker: synchronous, rows not moving, over asynchronous without a bound"
        found.append(Target(promise, "at least", SOONER, None if plain is None or free is None else plain[0] / free[0]))
        worst = max(ending.beyond for ending in own)
        found.append(Target(f"{name}: above the goal at the end, the worst of all ways", "at most", BIASED, worst))
    return found
