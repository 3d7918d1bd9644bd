"""The case about rounds that the workers run by themselves: what they cost beside a bare call, and what they send."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp
from distributed import Client, LocalCluster
from distributed.security import Security

from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.pump import Pump
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.steps import Steps

N_COLUMNS: Final = 50
N_ROWS: Final = 2_048
LARGE: Final = (100_000, 1_000_000)
"""The numbers of parameters of large models: 0.8 MB and 8 MB."""
AT_MOST: Final = 0.5
MAX_GROWTH: Final = 1.3
CALLS: Final = 50
COLUMNS: Final = ("workers", "partitions", "parameters", "protocol", "actor call, ms", "resident, ms", "by calls, ms", "by graph, ms",
    "resident / actor call", "messages", "hops")  # fmt: skip


class Idle:
    """An actor that has nothing to do."""

    def call(self) -> int:
        return 1


class Setting(NamedTuple):
    """A setting in which all ways are measured together."""

    n_workers: int
    n_partitions: int
    n_columns: int = N_COLUMNS
    encrypted: bool = False


class Found(NamedTuple):
    """The findings of a setting: medians, in seconds; messages and hops of a round, as the workers counted them."""

    actor: float
    resident: float
    calls: float
    graph: float
    messages: int
    hops: int

    def row(self, setting: Setting) -> tuple[Cell, ...]:
        seconds = (1e3 * self.actor, 1e3 * self.resident, 1e3 * self.calls, 1e3 * self.graph, self.resident / self.actor)
        protocol = "tls" if setting.encrypted else "tcp"
        return (setting.n_workers, setting.n_partitions, setting.n_columns, protocol, *seconds, self.messages, self.hops)


def resident(report: Report, settings: Settings) -> None:
    """Measure all settings on the same rows, in turn, in one run."""
    small = [Setting(2, 16), Setting(2, 1024), Setting(2, 16, encrypted=True), Setting(4, 16), Setting(8, 16)]
    large = [Setting(2, 2, n_columns) for n_columns in LARGE]
    found = {setting: measured(setting, settings.repeats) for setting in (small[:2] if settings.quick else small + large)}
    report.tables.append(Table("A gradient round of tiny work", COLUMNS, [each.row(setting) for setting, each in found.items()]))
    for setting in small[0], small[2]:
        if setting in found:
            name = "a resident round over TLS" if setting.encrypted else "a resident round"
            report.targets.append(
                Target(f"{name} over a call of an actor", "at most", AT_MOST, found[setting].resident / found[setting].actor)
            )
    growth = found[small[1]].resident / found[small[0]].resident
    report.targets.append(Target("time of a resident round at 1024 partitions over 16", "at most", MAX_GROWTH, growth))
    report.notes += [
        f"{N_ROWS} dense rows, or 64 sparse ones where parameters are many; gradient steps. All workers and the client on this machine.",
        "Actor call: `actor.method().result()` from the client, which does nothing. Resident: what `advance` took in the client, over its"
        " rounds. By calls: the client calls each worker every round. By graph: a task a worker.",
        "Medians over turns of the four.",
    ]


def measured(setting: Setting, repeats: int) -> Found:
    """Measure the four ways in turn, on a cluster of their own."""
    security = {"security": Security.temporary()} if setting.encrypted else {}
    with (
        LocalCluster(n_workers=setting.n_workers, threads_per_worker=1, processes=True, dashboard_address=":0", **security) as cluster,
        Client(cluster) as client,
    ):
        timed = Timed(client, setting)
        return timed.turns(5 * repeats)


class Timed:
    """A fit that goes on and on, by each way in turn, and its timings."""

    def __init__(self, client: Client, setting: Setting) -> None:
        X, y = table(setting.n_columns)
        self.client = client
        self.dataset = Dataset.from_arrays(X, y, n_partitions=setting.n_partitions)
        self.executor = ClusterExecutor(client)
        objective = LinearObjective(LogisticLoss(), setting.n_columns, 1, fit_intercept=True, classes=self.dataset.schema.classes)
        self.fit = Fit(objective, (L2(1e-6),), Steps(1 << 30, step_size=1e-3))
        self.pump = Pump(self.executor, self.dataset.rows, self.fit)
        self.states = self.fit.init(np.zeros((1, objective.layout.size)))
        self.actor: Any = client.submit(Idle, actor=True).result()

    def turns(self, repeats: int) -> Found:
        seconds: list[list[float]] = [[], [], [], []]
        ways: list[Callable[[], float]] = [self.call_actor, self.advance, lambda: self.rounds(0.0), lambda: self.rounds(np.inf)]
        self.rounds(np.inf)
        for turn in range(2 + repeats):
            for way, found in zip(ways, seconds, strict=True):
                one = way()
                if turn >= 2:
                    found.append(one)
        sessions = self.executor.sessions
        sessions.close()
        actor, resident, calls, graph = map(median, seconds)
        return Found(actor, resident, calls, graph, sessions.messages_per_round, sessions.hops_per_round)

    def call_actor(self) -> float:
        """Seconds of an actor's call, the mean of several."""
        start = time.perf_counter()
        for _ in range(CALLS):
            self.actor.call().result()
        return (time.perf_counter() - start) / CALLS

    def advance(self) -> float:
        """Seconds of a resident round, the mean of many; a busy machine may make several attempts necessary."""
        while True:
            self._last_round(0.0)
            before = self.executor.sessions.rounds
            start = time.perf_counter()
            self.states, reports = self.pump.advance(self.states, 1 << 30)
            taken = time.perf_counter() - start
            if self.executor.sessions.rounds == before + len(reports):
                return taken / len(reports)

    def rounds(self, last_round: float) -> float:
        """Seconds of a round that is asked for from here, the mean of a few. last_round: short for calls, long for tasks."""
        start = time.perf_counter()
        for _ in range(3):
            self._last_round(last_round)
            self.states, _ = self.pump.advance(self.states, 1)
        return (time.perf_counter() - start) / 3

    def _last_round(self, seconds: float) -> None:
        self.dataset.source.resident[self.client.id].last_round = seconds


def table(n_columns: int) -> tuple[Any, Any]:
    """A table of rows that cost next to nothing."""
    rng = np.random.default_rng(0)
    if n_columns == N_COLUMNS:
        return rng.standard_normal((N_ROWS, n_columns)), rng.integers(0, 2, N_ROWS)
    return sp.random_array((64, n_columns), density=10 / n_columns, format="csr", rng=rng), np.arange(64) % 2
