"""How many threads a fit in this process has, and where it runs: as Dask itself would."""

from __future__ import annotations

import multiprocessing.pool
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.threaded
import numpy as np
import pytest
from dask.system import cpu_count
from distributed import Client, LocalCluster

from pipeline import Dataset, LinearRegression, LogisticRegression, SGDClassifier
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.current import current_executor
from pipeline.execution.threads import SubtreeQueue, ThreadExecutor

pytestmark = pytest.mark.timeout(60)

several_cores = pytest.mark.skipif(cpu_count() == 1, reason="this process may use one core anyway")

COUNTED = """
import dask.system
from pipeline.execution.threads import ThreadExecutor
print(dask.system.cpu_count(), ThreadExecutor().n_threads)
"""

# a mount namespace of its own in which the quota is where Dask looks for it: as in a container
BY_FILES_V1 = """
mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/cpu,cpuacct &&
echo 50000 > /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us && echo 100000 > /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us &&
exec "$@"
"""
BY_FILES_V2 = """
mount -t tmpfs none /sys/fs/cgroup && group=$(tail -n 1 /proc/self/cgroup | sed 's/.*://') && mkdir -p "/sys/fs/cgroup$group" &&
echo 100000 100000 > "/sys/fs/cgroup$group/cpu.max" && exec "$@"
"""
REAL_V1 = """
echo 100000 > "$GROUP/cpu.cfs_period_us" && echo 100000 > "$GROUP/cpu.cfs_quota_us" && echo $$ > "$GROUP/cgroup.procs" &&
mkdir "$PLACE" && mount --bind "$GROUP" "$PLACE" && mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/cpu,cpuacct &&
mount --bind "$PLACE" /sys/fs/cgroup/cpu,cpuacct && exec "$@"
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of our own, version 1."""
    group = Path(f"/sys/fs/cgroup/cpu/dask-descent-test-{os.getpid()}")
    if not (group.parent / "cpu.cfs_quota_us").exists() and not (group.parent / "cpu.shares").exists():
        pytest.skip("there is no cgroup v1 controller of CPUs here")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    yield group
    group.rmdir()


def in_namespace(script: str, **variables: str) -> list[int]:
    """What is counted there by Dask, and by us."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", COUNTED]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@several_cores
@pytest.mark.parametrize("script", [BY_FILES_V1, BY_FILES_V2], ids=["v1", "v2"])
@pytest.mark.long
def test_a_quota_of_cpus(script: str) -> None:
    assert in_namespace(script) == [1, 1]


@several_cores
@pytest.mark.long
def test_a_real_quota_of_cpus(group: Path, tmp_path: Path) -> None:
    assert in_namespace(REAL_V1, GROUP=str(group), PLACE=str(tmp_path / "group")) == [1, 1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_an_affinity_that_is_set_later() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert ThreadExecutor().n_threads == 1
    finally:
        os.sched_setaffinity(0, before)
    assert ThreadExecutor().n_threads == cpu_count()


def rows() -> Dataset:
    X = np.random.default_rng(0).normal(size=(4000, 5))
    return Dataset.from_dask(da.from_array(X, chunks=(100, -1)), da.from_array((X[:, 0] + X[:, 1] > 0).astype(int), chunks=100))


def fit(monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """A fit's digest, and how many threads worked on its rounds."""
    drain, seen = SubtreeQueue.drain, set()

    def noted(self: SubtreeQueue) -> None:
        seen.add(threading.get_ident())
        drain(self)

    with monkeypatch.context() as patch:
        patch.setattr(SubtreeQueue, "drain", noted)
        return LogisticRegression(solver="lbfgs").fit(rows()).parameters_sha256_, len(seen)


@pytest.mark.long
def test_dasks_number_of_threads_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = fit(monkeypatch)
    with ThreadPoolExecutor(3) as pool, multiprocessing.pool.ThreadPool(2) as old_pool:
        cases: list[tuple[dict[str, Any], int]] = [
            ({"num_workers": 1}, 1),
            ({"num_workers": np.int64(2)}, 2),
            ({"num_workers": 5}, 5),
            ({"num_workers": 5, "pool": pool}, 3),
            ({"pool": old_pool}, 2),
            ({"scheduler": pool}, 3),
            ({"scheduler": "threads", "num_workers": 1}, 1),
            ({"scheduler": "Threads", "num_workers": 4}, 4),
            ({"scheduler": dask.threaded.get, "num_workers": 4}, 4),
            ({"scheduler": "synchronous", "num_workers": 4}, 1),
            ({"scheduler": dask.get}, 1),
        ]
        for configuration, n_threads in cases:
            with dask.config.set(configuration):
                executor = current_executor()
                assert isinstance(executor, ThreadExecutor) and executor.n_threads == n_threads, configuration
                digest, seen = fit(monkeypatch)
            assert digest == expected, configuration
            assert 1 <= seen <= n_threads


@pytest.mark.parametrize("number", [0, -1, 1.5, "two"])
def test_a_number_of_threads_that_is_none(number: Any) -> None:
    with (
        dask.config.set(num_workers=number),
        pytest.raises(ValueError, match=r"num_workers in Dask's configuration must be a whole number"),
    ):
        LinearRegression().fit(rows())


@pytest.mark.parametrize("model", [LinearRegression(n_jobs=1), LogisticRegression(n_jobs=-1), SGDClassifier(n_jobs=2)])
def test_n_jobs_says_what_limits_threads(model: Any) -> None:
    named = r"dask\.config\.set\(num_workers=.*DASK_NUM_WORKERS"
    with pytest.raises(ValueError, match=rf"n_jobs={model.n_jobs}\) is not available: leave it None; .*{named}"):
        model.fit(rows())


@pytest.mark.long
def test_child_processes_read_the_environment() -> None:
    """What the refusal of n_jobs names: `dask.config.set` does not reach them."""
    environment = os.environ | {"DASK_NUM_WORKERS": "3"}
    with dask.config.set(num_workers=1):
        done = subprocess.run([sys.executable, "-c", COUNTED], env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "3"


def test_a_client_as_dasks_scheduler(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(cluster, set_as_default=False) as client, dask.config.set(scheduler=client):
        executor = current_executor()
        assert isinstance(executor, ClusterExecutor) and executor.client is client
        found, seen = fit(monkeypatch)
    assert seen == 0
    assert found == fit(monkeypatch)[0]
