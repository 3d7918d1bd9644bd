"""Rows follow the workers: to those that join, away from those that leave, from slow ones to fast ones; the bits stay."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait

from pipeline import Dataset, LogisticRegression
from pipeline.execution.residency import following
from pipeline.execution.residency.balance import Speeds
from pipeline.execution.residency.moving import move
from tasks.objectives.linear import LinearObjective
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(60)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4000, 6))
Y = (X[:, 0] + RANDOM.normal(size=4000) > 0).astype(np.int64)


@pytest.fixture
def two_workers() -> Iterator[tuple[LocalCluster, Client]]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield cluster, client


def make(kind: str) -> Dataset:
    if kind == "numpy":
        return Dataset.from_arrays(X, Y, n_partitions=40)
    return Dataset.from_dask(da.from_array(X, chunks=(100, -1)), da.from_array(Y, chunks=100))


def here(kind: str, model: LogisticRegression) -> str:
    with dask.config.set(scheduler="threads"):
        return str(model.fit(make(kind)).parameters_sha256_)


def pieces(dataset: Dataset, client: Client) -> dict[str, int]:
    work = dataset.source.resident[client.id].work
    return {each.worker: len(each.keys) for each in work}


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers count as equally fast, whatever else the machine does: rows go by their number."""
    monkeypatch.setattr(Speeds, "of", lambda self, worker: 1.0)


def pace(seconds: float) -> None:
    os.environ["PACE"] = str(seconds)


class Paced(LinearObjective):
    """Takes as long for each group as the process's environment says."""

    def loss_and_gradient(self, group: Any, parameters: Any) -> Any:
        time.sleep(float(os.environ.get("PACE", "0")))
        return super().loss_and_gradient(group, parameters)


class PacedRegression(LogisticRegression):
    """Fits it."""

    def _objective(self, schema: Any) -> Paced:
        found = super()._objective(schema)
        return Paced(*(getattr(found, each.name) for each in fields(found)))


@pytest.mark.usefixtures("rounds_from_here", "alike")
@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_a_worker_that_joins_gets_rows(two_workers: tuple[LocalCluster, Client], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    cluster, client = two_workers
    dataset = make(kind)

    def join() -> None:
        cluster.scale(3)
        client.wait_for_workers(3, timeout=30)

    shares: list[int] = []
    see = AfterRounds((4,), lambda: shares.extend(pieces(dataset, client).values()))
    model = LogisticRegression(solver="gradient-descent", tol=1e-8).set_callbacks(AfterRounds((3,), join), see).fit(dataset)
    assert len(shares) == 3
    assert max(shares) <= min(shares) + 2
    everywhere = client.who_has(dataset.source.resident[client.id].futures)
    assert all(len(workers) == 1 for workers in everywhere.values())  # moved, not copied
    assert model.parameters_sha256_ == here(kind, LogisticRegression(solver="gradient-descent", tol=1e-8))


@pytest.mark.usefixtures("rounds_from_here", "alike")
@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_rows_that_dask_took_elsewhere_come_back(
    two_workers: tuple[LocalCluster, Client], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task is given to the worker that is free, rows go with it, and Dask drops those that are there twice from the other one."""
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    _, client = two_workers
    dataset = make(kind)
    LogisticRegression(tol=1e-2).fit(dataset)
    resident = dataset.source.resident[client.id]
    first, other = sorted(pieces(dataset, client))
    move(client, [(future.key, first, other) for future in resident.futures])
    assert set(client.who_has(resident.futures).values()) == {(other,)}
    model = LogisticRegression(solver="gradient-descent", tol=1e-8).fit(dataset)
    shares = pieces(dataset, client).values()
    assert len(shares) == 2
    assert max(shares) <= min(shares) + 2
    assert model.parameters_sha256_ == here(kind, LogisticRegression(solver="gradient-descent", tol=1e-8))


@pytest.mark.usefixtures("rounds_from_here", "alike")
@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_a_worker_that_retires_hands_over(two_workers: tuple[LocalCluster, Client], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    cluster, client = two_workers
    cluster.scale(3)
    client.wait_for_workers(3, timeout=30)
    dataset = make(kind)
    leaving = min(client.scheduler_info(n_workers=-1)["workers"])
    leave = AfterRounds((4,), lambda: client.retire_workers([leaving]))
    shares: dict[str, int] = {}
    see = AfterRounds((5,), lambda: shares.update(pieces(dataset, client)))
    model = LogisticRegression(solver="gradient-descent", tol=1e-8).set_callbacks(leave, see).fit(dataset)
    assert leaving not in shares
    assert len(shares) == 2
    assert max(shares.values()) <= 1.5 * min(shares.values())
    assert model.parameters_sha256_ == here(kind, LogisticRegression(solver="gradient-descent", tol=1e-8))


@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_rows_leave_a_slow_worker(two_workers: tuple[LocalCluster, Client], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    _, client = two_workers
    slow, fast = sorted(client.scheduler_info(n_workers=-1)["workers"])
    client.run(pace, 0.04, workers=[slow])
    client.run(pace, 0.01, workers=[fast])
    dataset = make(kind)
    model = PacedRegression(solver="lbfgs", tol=1e-8).fit(dataset)
    held = pieces(dataset, client)
    assert held[fast] >= 3 * held[slow]
    assert model.parameters_sha256_ == here(kind, LogisticRegression(solver="lbfgs", tol=1e-8))


@pytest.mark.long
def test_rows_that_cannot_be_moved_stay(two_workers: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a scheduler that runs no functions of ours."""
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    cluster, client = two_workers
    scheduler: Any = cluster.scheduler

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("Cannot run functions on this scheduler")

    monkeypatch.setitem(scheduler.handlers, "run_function", refuse)
    dataset = make("dask")
    join = AfterRounds((3,), lambda: (cluster.scale(3), client.wait_for_workers(3, timeout=30)))
    model = LogisticRegression(solver="lbfgs", tol=1e-8).set_callbacks(join).fit(dataset)
    assert len(pieces(dataset, client)) == 2
    assert model.parameters_sha256_ == here("dask", LogisticRegression(solver="lbfgs", tol=1e-8))


class Slow:
    """Bytes that take a second to be unpickled: a move of them can be caught in the act."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        return wait_then_make, (self.seconds,)


def wait_then_make(seconds: float) -> Slow:
    time.sleep(seconds)
    return Slow(seconds)


@pytest.mark.parametrize("dies", ["source", "target"])
@pytest.mark.long
def test_a_worker_that_dies_within_a_move(dies: str) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        source, target = sorted(client.scheduler_info(n_workers=-1)["workers"])
        pids = client.run(os.getpid)
        futures = [client.submit(Slow, 1.0, key=("slow", i), workers=[source], allow_other_workers=True) for i in range(3)]
        wait(futures)
        timer = threading.Timer(0.5, os.kill, (pids[source if dies == "source" else target], signal.SIGKILL))
        timer.start()
        move(client, [(future.key, source, target) for future in futures])  # ends, whatever became of it
        timer.join()
        wait(futures, timeout=30)
        assert all(future.status == "finished" for future in futures)


@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_workers_that_join_and_die_at_once(two_workers: tuple[LocalCluster, Client], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fits on one dataset, and a worker that is killed just after it joined, again and again."""
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    cluster, client = two_workers
    dataset = make(kind)
    dataset.schema  # noqa: B018
    own = set(client.scheduler_info(n_workers=-1)["workers"])

    def join_and_die() -> None:
        cluster.scale(3)
        client.wait_for_workers(3, timeout=30)
        (new,) = set(client.scheduler_info(n_workers=-1)["workers"]) - own
        (pid,) = client.run(os.getpid, workers=[new]).values()
        threading.Timer(0.02, os.kill, (pid, signal.SIGKILL)).start()

    found: list[str] = []

    def fit(callbacks: bool) -> None:
        model = LogisticRegression(solver="gradient-descent", tol=1e-8)
        if callbacks:
            model.set_callbacks(AfterRounds((3,), join_and_die))
        found.append(str(model.fit(dataset).parameters_sha256_))

    threads = [threading.Thread(target=fit, args=(callbacks,)) for callbacks in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [here(kind, LogisticRegression(solver="gradient-descent", tol=1e-8))] * 2
