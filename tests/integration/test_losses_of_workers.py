"""What a fit does when the cluster under it changes: it goes on with the same bits, or ends soon with a named error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

from pipeline import Dataset, LogisticRegression, WorkersKilledError
from pipeline.cluster.workers import WorkersUnavailableError
from pipeline.execution.cluster import ClusterExecutor
from tasks.loading.mapping import PartitionMap
from tasks.rows.partition import Group
from tests.data import breast_cancer
from tests.rounds import AfterRounds


@pytest.fixture
def own_cluster() -> Iterator[tuple[LocalCluster, Client]]:
    again = dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})  # else Dask gives up a worker that is killed twice
    with (
        again,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def digest(dataset: Dataset) -> str:
    return str(LogisticRegression(solver="lbfgs", tol=1e-8).fit(dataset).parameters_sha256_)


def here(make: Any) -> str:
    with dask.config.set(scheduler="threads"):
        return digest(make())


@pytest.mark.timeout(90)
@pytest.mark.long
def test_kills_at_any_moment_of_a_fit(own_cluster: tuple[LocalCluster, Client]) -> None:
    """Not between rounds only: a thread kills whatever worker there is, every now and then, while fits run."""
    cluster, _ = own_cluster
    X, y = breast_cancer()
    expected = here(lambda: Dataset.from_arrays(X, y, n_partitions=34))
    done = threading.Event()
    killed = []

    def kill() -> None:
        random = np.random.default_rng(0)
        while not done.wait(0.7 + random.random()) and len(killed) < 6:
            pids = [nanny.process.pid for nanny in cluster.workers.values() if nanny.process is not None and nanny.process.pid]
            if pids:
                os.kill(pids[int(random.integers(len(pids)))], signal.SIGKILL)
                killed.append(pids)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        deadline = time.monotonic() + 60
        while len(killed) < 6 and time.monotonic() < deadline:
            assert digest(Dataset.from_arrays(X, y, n_partitions=34)) == expected
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 3


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_a_dataset_outlives_a_restart_of_the_cluster(own_cluster: tuple[LocalCluster, Client], kind: str) -> None:
    _, client = own_cluster
    X, y = breast_cancer()

    def make() -> Dataset:
        if kind == "numpy":
            return Dataset.from_arrays(X, y, n_partitions=8)
        return Dataset.from_dask(da.from_array(X, chunks=(80, -1)), da.from_array(y, chunks=80))

    dataset = make()
    first = digest(dataset)
    client.restart()
    assert digest(dataset) == first == here(make)


@pytest.mark.timeout(90)
@pytest.mark.long
def test_rows_that_went_down_are_made_again(own_cluster: tuple[LocalCluster, Client]) -> None:
    """Those that the cluster held, and those of which it loses some while results are fetched."""
    _, client = own_cluster
    here, labels = breast_cancer()
    X, y = da.from_array(here, chunks=(80, -1)), da.from_array(labels, chunks=80)
    data = Dataset.from_dask(X, y)
    model = LogisticRegression().fit(data)
    client.restart()
    np.testing.assert_array_equal(model.predict(data).compute(), model.predict(here))
    model.score(data)  # resident again
    results = ClusterExecutor(client).map_partitions(data.rows, PartitionMap("rows", n_rows, None))
    assert next(results)[0] == 0
    client.restart()
    assert [number for number, _ in results] == list(range(1, data.n_partitions))
    assert model.score(X, y) == pytest.approx(model.score(here, labels))
    unread = Dataset.from_dask(X, y)
    results = ClusterExecutor(client).map_partitions(unread.rows, PartitionMap("rows", n_rows, None))
    assert next(results)[0] == 0
    client.restart()
    assert [number for number, _ in results] == list(range(1, unread.n_partitions))


def n_rows(group: Group, broadcast: Any) -> int:
    return group.n_rows


def die(group: Group, partition: int) -> None:
    if group.first_partition == partition:
        os._exit(1)


@pytest.mark.timeout(180)  # four workers die, one after the other, and come again
@pytest.mark.long
def test_a_function_that_kills_every_worker(own_cluster: tuple[LocalCluster, Client]) -> None:
    _, client = own_cluster
    X, y = breast_cancer()
    data = Dataset.from_dask(da.from_array(X, chunks=(80, -1)), da.from_array(y, chunks=80))
    with pytest.raises(WorkersKilledError, match=r"'die' was tried again and again.* died with partitions .*7"):
        list(ClusterExecutor(client).map_partitions(data.rows, PartitionMap("die", die, 7)))


@pytest.mark.timeout(90)
def test_a_load_that_failed_can_be_repeated(client: Client, tmp_path: Path) -> None:
    X, y = breast_cancer()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    dataset = Dataset.read_npy(tmp_path / "X.npy", tmp_path / "y.npy", n_partitions=4)
    (tmp_path / "X.npy").rename(tmp_path / "away.npy")
    with pytest.raises((OSError, ValueError), match=r"X\.npy"):
        LogisticRegression().fit(dataset)
    (tmp_path / "away.npy").rename(tmp_path / "X.npy")
    assert LogisticRegression().fit(dataset).score(dataset) > 0.9


@pytest.mark.timeout(90)
def test_two_fits_on_one_dataset(client: Client) -> None:
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y, n_partitions=16)
    expected = here(lambda: Dataset.from_arrays(X, y, n_partitions=16))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest(dataset))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.long
def test_all_workers_die_at_once_and_come_back(own_cluster: tuple[LocalCluster, Client], kind: str) -> None:
    """Dask leaves tasks that were meant for the dead lying beside idle newcomers; the fit has them made anew."""
    _, client = own_cluster
    X, y = breast_cancer()

    def make() -> Dataset:
        if kind == "numpy":
            return Dataset.from_arrays(X, y, n_partitions=8)
        return Dataset.from_dask(da.from_array(X, chunks=(80, -1)), da.from_array(y, chunks=80))

    dataset = make()
    first = digest(dataset)
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    assert digest(dataset) == first == here(make)


@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.timeout(90)
@pytest.mark.long
def test_all_workers_gone_ends_with_a_named_error(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    X, y = breast_cancer()
    with subprocess.Popen([*command, "scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard"], **quiet) as scheduler:
        while not file.exists():
            time.sleep(0.1)
        arguments = ["worker", "--scheduler-file", str(file), "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        with subprocess.Popen([*command, *arguments], **quiet) as worker:
            try:
                with Client(scheduler_file=str(file)) as client, dask.config.set({"dask-descent.wait-for-workers": 3}):
                    client.wait_for_workers(1, timeout=30)
                    model = LogisticRegression(solver="lbfgs", tol=1e-12).set_callbacks(AfterRounds((3,), worker.kill))
                    with pytest.raises(WorkersUnavailableError, match="no worker joined"):
                        model.fit(X, y)
            finally:
                worker.kill()
                scheduler.kill()


@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.timeout(60)
@pytest.mark.long
def test_a_client_closed_by_another_thread(own_cluster: tuple[LocalCluster, Client]) -> None:
    _, client = own_cluster
    X, y = breast_cancer()
    model = LogisticRegression(solver="lbfgs", tol=1e-12).set_callbacks(AfterRounds((3,), client.close))
    with pytest.raises(ConnectionError, match="the client was closed, or lost its scheduler, during the fit"):
        model.fit(X, y)
    dask.config.refresh()  # a client that is closed within its with block leaves itself there as the scheduler


def fit_here(_: int) -> str:
    X, y = breast_cancer()
    with dask.config.set(scheduler="threads"):
        return digest(Dataset.from_arrays(X, y, n_partitions=9))


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fit_in_a_forked_child() -> None:
    """A child has none of its parent's threads, and must not wait for them."""
    expected = fit_here(0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map_async(fit_here, [0]).get(timeout=40) == [expected]
