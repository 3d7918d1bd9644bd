"""The promise: the same bits in process, on any number of workers and threads, and after a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from typing import Any

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from tasks.rounds.local_models import FEWEST_ROWS
from tests.data import breast_cancer, diabetes, digits, uneven, weights
from tests.rounds import AfterRounds

BINARY = ("gradient-descent", "nesterov", "lbfgs", "newton", "newton-cg", "sampled-newton", "sampled-lbfgs", "admm")
PARTITIONS = (1, 7, 37, 1000)
LARGE = 20 * FEWEST_ROWS


def fits() -> dict[str, str]:
    """Digest of every solver at every partition count; few steps each, so that many fit into the time."""
    found = {}
    X, y = breast_cancer()
    for n_partitions in PARTITIONS:
        rows = uneven(len(X), n_partitions)
        for solver in BINARY:
            model = LogisticRegression(solver=solver, tol=1e-12, max_iter=3, class_weight="balanced")
            found[f"{solver} {n_partitions}"] = digest(model, Dataset.from_arrays(X, y, weights(len(X)), partition_rows=rows))
    X, y = digits()
    for solver in ("lbfgs", "newton-cg", "sampled-lbfgs"):
        model = LogisticRegression(solver=solver, tol=1e-12, max_iter=3)
        found[f"multinomial {solver}"] = digest(model, Dataset.from_arrays(X.astype(np.float32), y, partition_rows=uneven(len(X), 37)))
    X = np.random.default_rng(0).normal(size=(6 * LARGE, 5))
    y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    rows = [LARGE, 2 * LARGE, LARGE // 2, LARGE + LARGE // 2, LARGE]
    found["models of partitions"] = digest(LogisticRegression(), Dataset.from_arrays(X, y, partition_rows=rows))
    X, y = diabetes()
    found["ridge"] = digest(Ridge(), Dataset.from_arrays(X, y, n_partitions=37))
    found["linear"] = digest(LinearRegression(), Dataset.from_arrays(X, np.stack([y, -y], axis=1), n_partitions=7))
    near = np.column_stack([X[:, :8], X[:, 2] + 1e-9 * X[:, 8]])  # whose Gram matrix loses digits
    rows = uneven(len(X), 37)
    found["linear, in a basis"] = digest(LinearRegression(), Dataset.from_arrays(near, y, weights(len(X)), partition_rows=rows))
    return found


def digest(model: Any, dataset: Dataset) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the few steps are meant
        return str(model.fit(dataset).parameters_sha256_)


@pytest.fixture(scope="module")
def in_process() -> dict[str, str]:
    return fits()


@pytest.mark.long
def test_other_partitions_give_other_bits(in_process: dict[str, str]) -> None:
    """Otherwise equality below would show nothing."""
    assert len(set(in_process.values())) > 0.8 * len(in_process)


@pytest.mark.parametrize(("n_workers", "threads"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)])
@pytest.mark.long
def test_same_bits_on_any_cluster(in_process: dict[str, str], n_workers: int, threads: int) -> None:
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=threads, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert fits() == in_process


def kill_worker(cluster: LocalCluster, killed: list[int]) -> None:
    """SIGKILL one that was not killed before."""
    pids = [nanny.process.pid for nanny in cluster.workers.values() if nanny.process is not None]
    pid = next(pid for pid in pids if pid is not None and pid not in killed)
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["numpy", "dask", "split"])
@pytest.mark.long
def test_a_killed_worker_changes_nothing(kind: str) -> None:
    X, y = breast_cancer()

    def dataset() -> Dataset:
        if kind == "dask":
            return Dataset.from_dask(da.from_array(X, chunks=(17, 7)), da.from_array(y, chunks=100))
        whole = Dataset.from_arrays(X, y, n_partitions=34)
        return whole if kind == "numpy" else whole.split(0.3, seed=1)[0]

    expected = digest(LogisticRegression(solver="lbfgs", tol=1e-8), dataset())
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster):
        killed: list[int] = []
        killer = AfterRounds((3, 5), lambda: kill_worker(cluster, killed))
        model = LogisticRegression(solver="lbfgs", tol=1e-8).set_callbacks(killer)
        assert digest(model, dataset()) == expected
        assert len(killed) == 2


@pytest.mark.timeout(120)
@pytest.mark.long
def test_two_fits_at_once_and_a_fit_inside_a_task(client: Client, in_process: dict[str, str]) -> None:
    X, y = breast_cancer()
    arrays = da.from_array(X, chunks=(100, -1)), da.from_array(y, chunks=100)
    expected = digest(LogisticRegression(), Dataset.from_dask(*arrays))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest(LogisticRegression(), Dataset.from_dask(*arrays)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected, expected]
    futures = [client.submit(fit_in_task, *inputs, pure=False) for inputs in (arrays, (X, y), arrays)]
    in_task = client.gather(futures)
    assert in_task[0] == in_task[2] == expected
    assert in_task[1] == digest(LogisticRegression(), Dataset.from_arrays(X, y))


def fit_in_task(X: Any, y: Any) -> str:
    return str(LogisticRegression().fit(X, y).parameters_sha256_)


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_round_takes_few_tasks_and_leaves_none(client: Client) -> None:
    X, y = breast_cancer()
    rows = uneven(len(X), 1024)
    model = LogisticRegression(solver="lbfgs").fit(Dataset.from_arrays(X, y, partition_rows=rows))
    assert model.tasks_per_round_ <= 8
    wide = np.random.default_rng(0).normal(size=(64, 100_000))  # the parameters travel as a task of their own, sums meet on the cluster
    model = LogisticRegression(solver="lbfgs", tol=0.05).fit(wide, wide[:, 0] > 0)
    assert model.tasks_per_round_ <= 8
    deadline = time.monotonic() + 20
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.run_on_scheduler(lambda dask_scheduler: sorted(map(str, dask_scheduler.tasks))) == []
