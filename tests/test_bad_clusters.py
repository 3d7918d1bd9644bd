"""Clusters that cannot do the work say why, in bounded time."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import tasks
from pipeline import Dataset, LogisticRegression
from pipeline.cluster.code.code import VersionMismatchError
from pipeline.cluster.workers import WAIT_FOR_WORKERS, WorkersUnavailableError

pytestmark = pytest.mark.timeout(60)

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = (X[:, 0] + 0.5 * RANDOM.normal(size=60) > 0).astype(np.int64)


def lazy(rows: Any) -> da.Array:
    return da.from_array(rows, chunks=(20, -1)[: rows.ndim])


@pytest.mark.long
def test_no_workers() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
        dask.config.set({WAIT_FOR_WORKERS: 2}),
    ):
        start = time.monotonic()
        with pytest.raises(WorkersUnavailableError, match=r"no worker joined .* in 2 s; start workers"):
            LogisticRegression().fit(lazy(X), lazy(Y))
        assert time.monotonic() - start < 10


def test_asynchronous_client() -> None:
    async def fit() -> None:
        async with Client(processes=False, n_workers=1, dashboard_address=":0", asynchronous=True):
            with pytest.raises(ValueError, match="asynchronous; fit needs a synchronous one"):
                LogisticRegression().fit(X, Y)

    asyncio.run(fit())


@pytest.mark.long
def test_errors_of_workers_reach_the_caller(client: Client) -> None:
    broken = X.copy()
    broken[45, 1] = np.nan
    with pytest.raises(ValueError, match=r"column 'x1' of X, row 5 of partition 2"):
        LogisticRegression().fit(lazy(broken), lazy(Y))
    kept = lazy(np.ones(60)) > 0
    with pytest.raises(ValueError, match=r"partition 2 \(chunk \(2, 0\) of .*\): .*X has 20 rows but y has 10"):
        LogisticRegression().fit(lazy(X)[kept], lazy(Y[:50])[kept[:50]])
    found = LogisticRegression(solver="newton").fit(lazy(X), lazy(Y))  # and the cluster goes on
    assert found.parameters_sha256_ == LogisticRegression(solver="newton").fit(Dataset.from_arrays(X, Y, n_partitions=3)).parameters_sha256_


@pytest.mark.long
def test_workers_of_another_version(tmp_path: Path) -> None:
    shutil.copytree(Path(tasks.__file__).parent, tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "tasks" / "rows.py").open("a") as file:
        file.write("\n# another version\n")
    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        dask.config.set({WAIT_FOR_WORKERS: 30}),
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--nthreads=1", "--no-dashboard"]
        worker = subprocess.Popen(command, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            client.wait_for_workers(1, timeout=30)
            with pytest.raises(VersionMismatchError, match=r"worker tcp://.* runs another version of dask-descent .*; install the same"):
                LogisticRegression().fit(lazy(X), lazy(Y))
        finally:
            worker.terminate()
            worker.wait(20)


@pytest.mark.parametrize("content", ["", "def load(): ...\n"])
def test_a_tasks_module_of_the_users(tmp_path: Path, content: str) -> None:
    (tmp_path / "tasks.py").write_text(content)
    run = subprocess.run([sys.executable, "-c", "import pipeline"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "tasks.py, which is not dask-descent's package; rename that file" in run.stderr
