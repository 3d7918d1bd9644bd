"""Clusters whose workers follow the work, down to none: a fit asks for the first, and ends in the same digest whoever leaves meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster

from pipeline import Dataset, LogisticRegression, connect
from pipeline.cluster.workers import WAIT_FOR_WORKERS, WorkersUnavailableError
from tests.data import breast_cancer
from tests.faults.scene import arrays, fitted, made, model, undisturbed
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(180)


def until_workers(client: Client, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(client.scheduler_info(n_workers=-1)["workers"]) != n:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def join(client: Client, n: int) -> None:
    """Some work that is not the fit's brings up all workers, and ends."""
    futures = client.map(time.sleep, [0.5] * 40, pure=False)
    until_workers(client, n)
    client.gather(futures)


def tasks_there(client: Client) -> list[str]:
    return [str(key) for key in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))]


@pytest.fixture(scope="module")
def adaptive() -> Iterator[Client]:
    """None as long as nobody asks, two at most."""
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        dask.config.set({WAIT_FOR_WORKERS: 60}),
    ):
        cluster.adapt(minimum=0, maximum=2, interval="500ms", wait_count=2, target_duration="200ms")
        yield client


@pytest.fixture
def client(adaptive: Client) -> Iterator[Client]:
    until_workers(adaptive, 0)
    with adaptive.as_current():
        yield adaptive
    deadline = time.monotonic() + 20
    while tasks_there(adaptive) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tasks_there(adaptive) == []


@pytest.mark.long
def test_fits_bring_up_workers(client: Client) -> None:
    X, y = breast_cancer()
    lazy = da.from_array(X, chunks=(50, -1)), da.from_array(y, chunks=50)
    with dask.config.set(scheduler="threads"):
        expected = LogisticRegression().fit(*lazy).parameters_sha256_, LogisticRegression().fit(X, y).parameters_sha256_
    assert LogisticRegression().fit(*lazy).parameters_sha256_ == expected[0]
    until_workers(client, 0)
    assert LogisticRegression().fit(X, y).parameters_sha256_ == expected[1]


@pytest.mark.faults
@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
def test_workers_that_leave_during_a_fit(make: Any, client: Client) -> None:
    """The work looks idle to the scheduler: rounds are calls and sessions. Those that are ended hand over their rows."""
    rows, log = make(), client.cluster._adaptive.log
    log.clear()
    seen = []

    def wait() -> None:
        join(client, 2)
        before = len(log)
        time.sleep(3)
        seen.extend(said["status"] for _, said in list(log)[before:])
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1  # the rows' holder

    assert fitted(model().set_callbacks(AfterRounds((3, 7, 15), wait)), rows) == undisturbed()
    assert seen.count("down") >= 3
    rows.release()


@pytest.mark.long
def test_nobody_comes() -> None:
    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        dask.config.set({WAIT_FOR_WORKERS: 1}),
    ):
        with pytest.raises(WorkersUnavailableError, match=r"no worker joined tcp://.* in 1 s; start workers"):
            LogisticRegression().fit(*breast_cancer())
        dataset = Dataset.from_arrays(*breast_cancer())
        with pytest.raises(WorkersUnavailableError):
            _ = dataset.schema
        deadline = time.monotonic() + 10
        while tasks_there(client) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert tasks_there(client) == []


@pytest.mark.long
def test_a_connection_that_adapts() -> None:
    with dask.config.set(scheduler="threads"):
        expected = LogisticRegression().fit(*breast_cancer()).parameters_sha256_
    with connect(n_workers=1, threads_per_worker=1) as connection, dask.config.set({WAIT_FOR_WORKERS: 60}):
        assert connection.client is not None
        for minimum, maximum in ((-1, 2), (2, 1), (0, 0)):
            with pytest.raises(ValueError, match=f"adapt needs 0 <= minimum <= maximum, .* got {minimum} and {maximum}"):
                connection.adapt(minimum, maximum)
        connection.adapt(0, 2)
        until_workers(connection.client, 0)
        assert LogisticRegression().fit(*breast_cancer()).parameters_sha256_ == expected
