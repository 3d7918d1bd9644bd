"""Fixtures that several tests share: clusters of real processes, and a real SLURM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from hypothesis import settings

from pipeline.execution.sessions import Sessions

PRELOADED = [
    "distributed",
    "dask.array",
    "dask.dataframe",
    "numba",
    "pytest",
    "scipy.sparse.linalg",
    "scipy.special",
    "sklearn.linear_model",
]
settings.register_profile("unhurried", deadline=None)  # no test is timed, and machines have other work
settings.load_profile("unhurried")

NODE = Path(__file__).parent / "slurm" / "node.sh"


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM have their usual effect in this process and in its children, who inherit it: tests send them to both. A shell
    that starts pytest by `nohup`, or by `&` in a script, has it ignore them. SIGHUP is left alone: no test sends it, and it would end what
    nohup is to keep."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ignored = [number for number in usual if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual[number])
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, usual)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def quick_starts() -> Iterator[None]:
    """Workers are forked by a process that has imported what they need: they start in a tenth of a second, which takes seconds otherwise,
    and are processes of their own all the same."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(PRELOADED)
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def slurm_is_installed() -> bool:
    return shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is not None


@pytest.fixture(scope="session")
def slurm_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running SLURM of one node with 8 CPUs. Skipped where Debian's slurmctld, slurmd, slurm-client and munge are not installed."""
    if not slurm_is_installed():
        assert "REQUIRE_SLURM" not in os.environ, "slurmctld is not installed"
        pytest.skip("needs slurmctld, slurmd, slurm-client and munge")
    directory = tmp_path_factory.mktemp("slurm")
    for parent in (directory, *directory.parents[:2]):  # munged wants its socket reachable
        parent.chmod(0o755)
    subprocess.run([NODE, "up", directory], check=True, timeout=60, stdout=subprocess.DEVNULL)
    try:
        yield directory
    finally:
        subprocess.run([NODE, "down", directory], check=False, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def slurm(slurm_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The SLURM that `sbatch`, `squeue` and `scancel` find in this test; its directory."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_directory / "slurm.conf"))
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")
    return slurm_directory


@pytest.fixture
def rounds_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No resident rounds: for what must happen right after a certain round."""
    monkeypatch.setattr(Sessions, "due", lambda self: False)
