"""The case about networks: what an epoch of mini-batches takes, and what is learned meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, Protocol

from pipeline.benchmarks.child import Child, load, stored
from pipeline.benchmarks.cluster import N_WORKERS, time_limit, worker_pids, workers
from pipeline.benchmarks.contenders import SCIKIT_LEARN
from pipeline.benchmarks.data import Clusters
from pipeline.benchmarks.race import MISSING
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.trainers import (
    PYTORCH,
    Arithmetic,
    Network,
    OursTrainer,
    PyTorch,
    Rows,
    ScikitLearnTrainer,
    Train,
    Trainer,
    Training,
)

N_EPOCHS: Final = 4
PROCESS, CLUSTER = "one process", f"{N_WORKERS} workers"
MAX_PROCESS: Final = 0.85
MAX_CLUSTER: Final = 1.2
MAX_SCIKIT_LEARN: Final = 1.0
MAX_DIFFERENCE: Final = 0.01
NOTES: Final = [
    f"A training is {N_EPOCHS} epochs from new parameters. Trainings take turns; the first epoch of each has what comes before it in "
    + "it and is not counted, and the medians are over all others.",
    "Ours: from the last round of an epoch to that of the next, by history_, in a fit that cannot end early: all that happens between two "
    + f"rounds is in it. PyTorch: a loop over X[order[i:i + B]], shuffled anew each epoch. {SCIKIT_LEARN}: a partial_fit an epoch, which "
    + "checks the rows each time.",
    "The limit is what NumPy takes for the matrix products and activations of an epoch, over the rows as they lie: no shuffling, no Adam.",
    f"In process, each has a process of its own with the rows in memory and as many threads as cores. {CLUSTER}: one thread each, the rows "
    + "resident; the share of rounds that workers ran among themselves, without the client.",
    "Accuracy: on rows that nobody trained on. Ours and scikit-learn's have their default penalty (alpha=1e-4 over the rows of a batch), "
    + "PyTorch none.",
    "Peak MiB: growth of resident memory, of both workers' on the cluster, during an epoch by somebody who holds the rows and has trained "
    + "on a few of them.",
]


class Place(Protocol):
    """A place where a trainer trains. Raises TimeoutError after `limit` seconds, RuntimeError when the training failed."""

    name: str

    def train(self, n_epochs: int, limit: float) -> Training: ...

    def measured(self, limit: float) -> int:
        """Bytes that memory grows by during one epoch."""

    def close(self) -> None: ...


def ready(trainer: Trainer, rows: Rows) -> Train:
    """The trainer's `Train`, compiled and warm."""
    trainer.prepare(rows.head())(1)
    return trainer.prepare(rows)


def ready_there(trainer: Trainer, folder: Path, n_test: int) -> Train:
    """The trainer's `Train` in a process of its own."""
    return ready(trainer, Rows.of(*load(folder), n_test))


class OwnProcess:
    """A trainer in a process of its own."""

    name = PROCESS

    def __init__(self, trainer: Trainer, folder: Path, n_test: int) -> None:
        self._child = Child(trainer.library, partial(ready_there, trainer, folder, n_test))

    def train(self, n_epochs: int, limit: float) -> Training:
        training: Training = self._child.ask(n_epochs, limit)[1]
        return training

    def measured(self, limit: float) -> int:
        return self._child.measured_ask(1, limit)[2]

    def close(self) -> None:
        self._child.close()


class Workers:
    """A trainer in this process, whose rows are with the workers of the current client."""

    name = CLUSTER

    def __init__(self, trainer: Trainer, rows: Rows, pids: Sequence[int]) -> None:
        self._train = ready(trainer, rows)
        self._pids = pids

    def train(self, n_epochs: int, limit: float) -> Training:
        with time_limit(limit):
            return self._train(n_epochs)

    def measured(self, limit: float) -> int:
        gc.collect()
        with PeakMemory(self._pids) as memory:
            self.train(1, limit)
        return memory.growth

    def close(self) -> None:
        """Close nothing: the cluster belongs to its context."""


@dataclass
class Standing:
    """The results of a trainer at its place, None where its library is missing."""

    trainer: Trainer
    place: Place | None
    epochs: list[float] = field(default_factory=list)
    training: Training | None = None
    peak_bytes: int | None = None
    remark: str = ""

    @property
    def median(self) -> float | None:
        return median(self.epochs) if self.epochs else None

    @property
    def accuracy(self) -> float | None:
        return None if self.training is None else self.training.accuracy


def take_turns(standings: Sequence[Standing], settings: Settings) -> None:
    """Train each once, `repeats` times in turn; memory first, which also warms up."""
    for turn in range(1 + settings.repeats):
        for standing in standings:
            if standing.place is None or standing.remark:
                continue
            try:
                if turn == 0:
                    standing.peak_bytes = standing.place.measured(settings.limit)
                    continue
                standing.training = standing.place.train(N_EPOCHS, settings.limit)
                standing.epochs += standing.training.epochs[1:]
            except (TimeoutError, RuntimeError) as error:
                standing.remark = str(error).strip().splitlines()[-1]


def epoch(report: Report, settings: Settings) -> None:
    """The epoch of a network of one hidden layer; each library in a process of its own, and ours on two workers."""
    data, n_test, network = Clusters(n_rows=110_000, n_columns=784), 10_000, Network()
    if settings.quick:
        data, n_test, network = Clusters(n_rows=3_000, n_columns=20), 1_000, Network(hidden=16, batch_size=128, n_partitions=8)
    X, y = data.arrays()
    ours = OursTrainer(network)
    trainers: list[Trainer] = [ours, PyTorch(network), ScikitLearnTrainer(network), Arithmetic(network)]
    with stored(X, y) as folder, workers() as (client, _):
        standings = [started(trainer, folder, n_test) for trainer in trainers]
        standings.insert(1, Standing(ours, Workers(ours, Rows.of(X, y, n_test), worker_pids(client))))
        try:
            take_turns(standings, settings)
        finally:
            for standing in standings:
                if standing.place is not None:
                    standing.place.close()
    title = f"{data.name} less {n_test:,} to test, {network.hidden} hidden units, batches of {network.batch_size}, Adam"
    report.tables.append(epoch_table(title, standings))
    report.targets += targets(standings)
    report.notes += NOTES


def started(trainer: Trainer, folder: Path, n_test: int) -> Standing:
    """The standing of a trainer with a process of its own, if its library is there."""
    return Standing(trainer, None, remark=MISSING) if trainer.missing else Standing(trainer, OwnProcess(trainer, folder, n_test))


def epoch_table(title: str, standings: Sequence[Standing]) -> Table:
    """The standings, in the order they were given; ratios to the first, which is ours in process."""
    ours = standings[0].median
    columns = (
        "library", "where", "median s an epoch", "fastest s", "epochs", "times ours", "accuracy", "peak MiB", "resident rounds", "remark",
    )  # fmt: skip
    return Table(title, columns, [epoch_row(standing, ours) for standing in standings])


def epoch_row(standing: Standing, ours: float | None) -> tuple[Cell, ...]:
    """One line of the table; `ours` is our median."""
    return (
        standing.trainer.library,
        None if standing.place is None else standing.place.name,
        standing.median,
        min(standing.epochs, default=None),
        len(standing.epochs),
        over(standing.median, ours),
        standing.accuracy,
        None if standing.peak_bytes is None else standing.peak_bytes / 2**20,
        None if standing.training is None else standing.training.resident,
        standing.remark,
    )


def targets(standings: Sequence[Standing]) -> list[Target]:
    """The targets: ours, in process and on two workers, beside the peers, and whether as much was learned."""
    here, there = standings[:2]
    peers = {standing.trainer.library: standing for standing in standings[2:]}
    torch, sklearn = peers[PYTORCH], peers[SCIKIT_LEARN]
    accuracies = [one.accuracy for one in (here, there, torch, sklearn) if one.accuracy is not None]
    return [
        Target(f"median epoch in process over {PYTORCH}'s", "at most", MAX_PROCESS, over(here.median, torch.median)),
        Target(f"median epoch in process over {SCIKIT_LEARN}'s", "at most", MAX_SCIKIT_LEARN, over(here.median, sklearn.median)),
        Target(f"median epoch on {CLUSTER} over {PYTORCH}'s", "at most", MAX_CLUSTER, over(there.median, torch.median)),
        Target(f"largest difference of accuracies after {N_EPOCHS} epochs", "at most", MAX_DIFFERENCE, max(accuracies) - min(accuracies)),
    ]


def over(seconds: float | None, others: float | None) -> float | None:
    """The ratio of the two, None where one was not measured."""
    return None if seconds is None or others is None else seconds / others
