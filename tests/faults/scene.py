"""A cluster of real processes, a fit on it, and what happens to it at a certain moment."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import dask
import psutil
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from pipeline import Checkpoint, Dataset, LogisticRegression
from pipeline.cluster import pulse
from pipeline.cluster.connect import connect
from tests.data import breast_cancer
from tests.faults.gate import Gate, GatedMake, GatedObjective, Where

N_PARTITIONS: Final = 24
N_WORKERS: Final = 3
N_ROUNDS: Final = 30
STOPPED: Final = 3.0
POLICIES: Final = {"dask-descent.stall-limit": "20s", "dask-descent.wait-for-workers": 40}


class GatedRegression(LogisticRegression):
    """Fits it."""

    gate: Gate | None = None
    where: Where = "task"
    fatal: int | None = None

    def _objective(self, schema: Any) -> GatedObjective:
        found = super()._objective(schema)
        return GatedObjective(*(getattr(found, each.name) for each in fields(found)), self.gate, self.where, self.fatal)


def model(gate: Gate | None = None, where: Where = "task", *, n_rounds: int = N_ROUNDS) -> LogisticRegression:
    """So many steps of gradient descent."""
    found = GatedRegression(solver="gradient-descent", tol=0.0, max_iter=n_rounds)
    found.gate, found.where = gate, where
    return found


def arrays() -> Dataset:
    X, y = breast_cancer()
    return Dataset.from_arrays(X, y, n_partitions=N_PARTITIONS)


def made(gate: Gate | None = None) -> Dataset:
    """The same rows, made on the workers."""
    X, y = breast_cancer()
    return Dataset.from_function(GatedMake(X, y, N_PARTITIONS, gate), n_partitions=N_PARTITIONS, n_columns=X.shape[1])


def fitted(found: LogisticRegression, dataset: Dataset) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return str(found.fit(dataset).parameters_sha256_)


def undisturbed(n_rounds: int = N_ROUNDS) -> str:
    """The digest that threads of this process come to."""
    with dask.config.set(scheduler="threads"):
        return fitted(model(n_rounds=n_rounds), arrays())


def goes_on_here(dataset: Dataset, kept: Checkpoint) -> tuple[int, str]:
    """The round that the same fit, on threads of this process, goes on from, and the digest that it comes to."""
    found = model().set_params(checkpoint=kept)
    with dask.config.set(scheduler="threads"):
        digest = fitted(found, dataset)
    return found.resumed_from_, digest


# -- what happens to a worker ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Victim:
    """A worker's process, and the client of its cluster."""

    client: Client
    pid: int

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def address(self) -> str:
        return next(address for address, pid in self.client.run(os.getpid).items() if pid == self.pid)


def kill(victim: Victim) -> None:
    victim.signal(signal.SIGKILL)


def terminate(victim: Victim) -> None:
    victim.signal(signal.SIGTERM)


def stop(victim: Victim) -> None:
    victim.signal(signal.SIGSTOP)


def stop_for_a_while(victim: Victim) -> None:
    victim.signal(signal.SIGSTOP)
    threading.Timer(STOPPED, resume, (victim.pid,)).start()


def resume(pid: int) -> None:
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGCONT)


SIGNALS: Final[dict[str, Callable[[Victim], None]]] = {
    "SIGKILL": kill,
    "SIGTERM": terminate,
    "SIGSTOP": stop,
    "SIGSTOP, SIGCONT": stop_for_a_while,
}


# -- scenes ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def at(gate: Gate, action: Callable[[int], str]) -> Iterator[None]:
    """While the block runs: when a process comes to the gate, action(pid) happens, and says what the process is told."""

    def act() -> None:
        pid = gate.await_one()
        gate.tell(action(pid))

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        yield
        acting.result(timeout=1.0)  # it happened during the block


@contextmanager
def own_cluster(n_workers: int = N_WORKERS, **policies: Any) -> Iterator[Client]:
    """Workers with nannies, and a scheduler of ours."""
    with dask.config.set(POLICIES | policies), connect(n_workers=n_workers, threads_per_worker=1) as connection:
        assert connection.client is not None
        connection.client.wait_for_workers(n_workers, timeout=30)
        yield connection.client


def n_tasks(client: Client) -> int:
    return int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


def zombies() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("dask-descent")}


@contextmanager
def nothing_stays(client: Client) -> Iterator[None]:
    """No task of the block's is on the scheduler after it, no thread of ours here, no zombie, and nobody listens to the scheduler; and
    that without the garbage collector, which may come much later."""
    before = our_threads()
    gc.collect()
    gc.disable()
    try:
        yield
        deadline = time.monotonic() + 10
        while (n_tasks(client) or zombies() or our_threads() - before) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert n_tasks(client) == 0
    finally:
        gc.enable()
    assert not zombies()
    assert our_threads() <= before
    assert pulse.pulse_of(client)._users == 0
