"""The case about PyTorch modules: the network of `epoch` as a module, beside PyTorch's own loop and its two distributed processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from pipeline import TorchClassifier
from pipeline.benchmarks.child import load, stored
from pipeline.benchmarks.cluster import N_WORKERS, worker_pids, workers
from pipeline.benchmarks.data import Clusters
from pipeline.benchmarks.epoch import CLUSTER, NOTES, OwnProcess, Place, Standing, Workers, epoch_table, over, started, take_turns
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.trainers import Network, OursTrainer, PyTorch, Rows, Train, Training, differences

DDP: Final = "PyTorch DDP (gloo)"
MAX_PROCESS: Final = 1.1
MAX_CLUSTER: Final = 0.9
MAX_BYTES: Final = 1.0
COUNTERS: Final = Path("/proc/net/dev")
BYTES_NOTES: Final = [
    "Bytes a step: what the loopback interface carried during an epoch, over the steps of it, of everybody who talks on this machine. "
    + "Ours has in it what the client hears of the states now and then, as long as the fit takes; the rounds alone are as history_ has "
    + "them, on the median.",
    f"{DDP}: two processes of one thread, each with every second row and half of a batch, torch.nn.parallel.DistributedDataParallel.",
]


def plain_module(n_columns: int, hidden: int, n_classes: int) -> Any:
    """The network as its users write it."""
    from torch import nn

    return nn.Sequential(nn.Linear(n_columns, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


@dataclass(frozen=True)
class ModuleTrainer(OursTrainer):
    """This library's estimator of the module."""

    def estimator(self, rows: Rows, n_epochs: int) -> TorchClassifier:
        return TorchClassifier(
            plain_module,
            module_params={"n_columns": rows.X.shape[1], "hidden": self.network.hidden, "n_classes": int(rows.y.max()) + 1},
            lr=self.network.learning_rate,
            batch_size=self.network.batch_size,
            max_epochs=n_epochs,
            random_state=0,
        )


@dataclass(frozen=True)
class DistributedPyTorch:
    """Two processes, each with every second row and half of a batch, whose gradients PyTorch averages."""

    network: Network
    library: str = DDP
    folder: Path | None = None
    n_test: int = 0

    @property
    def missing(self) -> bool:
        return PyTorch(self.network).missing

    def prepare(self, rows: Rows) -> Train:
        with closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        numbers = (len(rows.X), self.network.hidden, self.network.batch_size, self.network.learning_rate, port, self.n_test)
        command = [sys.executable, "-m", "pipeline.benchmarks.modules", str(self.folder), *map(str, numbers)]
        other = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        member = Member(rows, self.network, port, 0)

        def train(n_epochs: int) -> Training:
            assert other.poll() is None
            member.announce(n_epochs)
            return member.train(n_epochs)

        return train


class TwoProcesses(OwnProcess):
    """The first of them is the one that is asked."""

    name = f"{N_WORKERS} processes"


class Member:
    """One of the two processes."""

    def __init__(self, rows: Rows, network: Network, port: int, rank: int) -> None:
        import torch
        from torch import distributed

        torch.set_num_threads(1)
        if distributed.is_initialized():  # with a process that has only warmed up
            self.announce(0)
            distributed.destroy_process_group()
        distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=N_WORKERS)
        self.rows, self.network, self.rank = rows, network, rank
        self.X, self.y = (torch.from_numpy(np.ascontiguousarray(array[rank::N_WORKERS])) for array in (rows.X, rows.y))

    def announce(self, n_epochs: int) -> int:
        """Tell the others of an order, or hear it; 0 ends them."""
        from torch import distributed

        order = [n_epochs]
        distributed.broadcast_object_list(order, src=0)
        return order[0]

    def train(self, n_epochs: int) -> Training:
        """Train a new network."""
        import torch

        torch.manual_seed(0)
        model = torch.nn.parallel.DistributedDataParallel(plain_module(self.X.shape[1], self.network.hidden, int(self.rows.y.max()) + 1))
        optimizer, loss = torch.optim.Adam(model.parameters(), lr=self.network.learning_rate), torch.nn.CrossEntropyLoss()
        size, moments = self.network.batch_size // N_WORKERS, [time.perf_counter()]
        for _ in range(n_epochs):
            order = torch.randperm(len(self.X))
            for start in range(0, len(self.X), size):
                chosen = order[start : start + size]
                optimizer.zero_grad()
                loss(model(self.X[chosen]), self.y[chosen]).backward()
                optimizer.step()
            moments.append(time.perf_counter())
        with torch.no_grad():
            predicted = model.module(torch.from_numpy(self.rows.X_test)).argmax(dim=1).numpy()
        return Training(differences(moments), float(np.mean(predicted == self.rows.y_test)))


def peer(folder: str, n_rows: str, hidden: str, batch_size: str, learning_rate: str, port: str, n_test: str) -> None:
    """The second process: trains when it is told to, until it is told no more, or the first one is gone."""
    X, y = load(Path(folder))
    rows = Rows.of(X, y, int(n_test))
    rows = rows._replace(X=rows.X[: int(n_rows)], y=rows.y[: int(n_rows)])
    member = Member(rows, Network(int(hidden), int(batch_size), float(learning_rate)), int(port), 1)
    try:
        while n_epochs := member.announce(0):
            member.train(n_epochs)
    except RuntimeError:  # of gloo, whose other end was killed
        return


def loopback_bytes() -> int:
    """Bytes that processes of this machine have sent each other by the network since it started."""
    (line,) = (line for line in COUNTERS.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def bytes_a_step(place: Place | None, n_steps: int, limit: float) -> float | None:
    """What one epoch there sends, a step; None where that cannot be known."""
    if place is None or not COUNTERS.exists():
        return None
    before = loopback_bytes()
    place.train(1, limit)
    return (loopback_bytes() - before) / n_steps


def modules(report: Report, settings: Settings) -> None:
    """An epoch of the module: ours in process and on two workers, PyTorch's loop, and two processes of PyTorch's."""
    data, n_test, network = Clusters(n_rows=110_000, n_columns=784), 10_000, Network()
    if settings.quick:
        data, n_test, network = Clusters(n_rows=3_000, n_columns=20), 1_000, Network(hidden=16, batch_size=128, n_partitions=8)
    if PyTorch(network).missing:
        raise ValueError("this case is about PyTorch: pip install 'dask-descent[torch]'")
    X, y = data.arrays()
    ours = ModuleTrainer(network)
    with stored(X, y) as folder, workers() as (client, _):
        rows = Rows.of(X, y, n_test)
        standings = [started(trainer, folder, n_test) for trainer in (ours, PyTorch(network))]
        standings.append(Standing(ours, Workers(ours, rows, worker_pids(client))))
        distributed = DistributedPyTorch(network, folder=folder, n_test=n_test)
        standings.append(Standing(distributed, TwoProcesses(distributed, folder, n_test)))
        try:
            take_turns(standings, settings)
            n_steps = -(-len(rows.X) // network.batch_size)
            sent = [None if one.remark else bytes_a_step(one.place, n_steps, settings.limit) for one in standings[2:]]
        finally:
            for standing in standings:
                if standing.place is not None:
                    standing.place.close()
    n_parameters = X.shape[1] * network.hidden + network.hidden + network.hidden * (int(y.max()) + 1) + int(y.max()) + 1
    title = f"{data.name} less {n_test:,} to test, a module of {network.hidden} hidden units, batches of {network.batch_size}, Adam"
    report.tables += [epoch_table(title, standings), bytes_table(standings[2:], sent, 4 * n_parameters)]
    report.targets += targets(standings, sent)
    report.notes += [*NOTES, *BYTES_NOTES]


def bytes_table(standings: Sequence[Standing], sent: Sequence[float | None], n_bytes: int) -> Table:
    """What a step sends, of those whose steps send something."""
    rows: list[tuple[Cell, ...]] = [
        (one.trainer.library, None if one.place is None else one.place.name, each, over(each, n_bytes))
        for one, each in zip(standings, sent, strict=True)
    ]
    rounds = rounds_alone(standings[0])
    rows.insert(1, (f"{standings[0].trainer.library}, rounds alone", CLUSTER, rounds, over(rounds, n_bytes)))
    return Table("what a step sends between processes", ("library", "where", "bytes a step", "times the gradient's"), rows)


def rounds_alone(standing: Standing) -> float | None:
    """The bytes of a round, without those of what is around it."""
    return None if standing.training is None else standing.training.bytes_a_round


def targets(standings: Sequence[Standing], sent: Sequence[float | None]) -> list[Target]:
    """The targets: beside PyTorch's loop, and beside its two processes."""
    here, loop, there, distributed = standings
    epochs = [median(one.epochs) if one.epochs else None for one in standings]
    return [
        Target(f"median epoch in process over {loop.trainer.library}'s", "at most", MAX_PROCESS, over(epochs[0], epochs[1])),
        Target(f"median epoch on {CLUSTER} over {distributed.trainer.library}'s", "at most", MAX_CLUSTER, over(epochs[2], epochs[3])),
        Target(f"bytes of a round over a step of {distributed.trainer.library}", "at most", MAX_BYTES, over(rounds_alone(there), sent[1])),
        Target(f"difference of accuracies from {here.trainer.library}'s loop", "at most", 0.01, gap(here, loop, there)),
    ]


def gap(*standings: Standing) -> float | None:
    """The largest difference between their accuracies."""
    found = [one.accuracy for one in standings if one.accuracy is not None]
    return max(found) - min(found) if len(found) == len(standings) else None


if __name__ == "__main__":
    peer(*sys.argv[1:])
