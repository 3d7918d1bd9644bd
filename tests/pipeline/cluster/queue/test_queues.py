"""connect(queue="slurm") with a real SLURM: jobs that train, are refused, end, wait, vanish; nothing is left in the queue or on disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from distributed import Client

import pipeline
from pipeline import Dataset, LogisticRegression, connect
from pipeline.cli import main
from pipeline.cluster.queue.queue_jobs import JobEndedError, JobRefusedError, QueueTimeoutError
from pipeline.cluster.queue.replacements import Keeper
from pipeline.cluster.queue.systems import dask_jobqueue
from pipeline.cluster.security import InsecureConnectionError
from pipeline.cluster.workers import WAIT_FOR_WORKERS
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(90)

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(600, 3))
Y = (X[:, 0] + 0.5 * RANDOM.normal(size=600) > 0).astype(np.int64)


def data() -> Dataset:
    return Dataset.from_arrays(X, Y, n_partitions=6)


def in_process() -> str:
    return LogisticRegression(solver="lbfgs").fit(data()).parameters_sha256_


def squeue() -> dict[str, str]:
    out = subprocess.run(["squeue", "-h", "-o", "%i %T"], check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in out.splitlines())


def until(holds: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def n_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


@pytest.fixture
def job(slurm: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The arguments of the smallest job; afterwards nothing of it is left."""
    shared = tmp_path / "shared"
    with dask.config.set({"jobqueue.slurm.shared-temp-directory": str(shared)}):
        yield {"queue": "slurm", "cores": 1, "memory": "500MB", "log_directory": tmp_path / "logs"}
    until(lambda: not squeue())
    assert not shared.exists() or list(shared.iterdir()) == []


@pytest.mark.long
def test_trains_over_tls_to_the_digest_of_this_process(job: dict[str, Any], tmp_path: Path) -> None:
    expected = in_process()
    with connect(**job, jobs=2) as connection:
        assert connection.client is not None
        assert dask.config.get(WAIT_FOR_WORKERS) == 600
        assert connection.encrypted and str(connection.address).startswith("tls://")
        assert LogisticRegression(solver="lbfgs").fit(data()).parameters_sha256_ == expected
        with pytest.raises(InsecureConnectionError, match="takes TLS only"):
            connect(str(connection.address).replace("tls://", "tcp://"), timeout=5)
        keys = [path for path in (tmp_path / "shared").glob("tls-*/*") if path.stat().st_mode & 0o077]
        assert keys == [] and next((tmp_path / "shared").iterdir()).stat().st_mode & 0o777 == 0o700
        connection.scale(3)
        connection.client.wait_for_workers(3, timeout=30)
        dashboards_are_local(connection.client)
        connection.scale(1)
        until(lambda: list(squeue().values()).count("RUNNING") == 1)
        assert LogisticRegression(solver="lbfgs").fit(data()).parameters_sha256_ == expected
    assert dask.config.get(WAIT_FOR_WORKERS, None) is None
    assert "No scheduler connected" in repr(connection)


def dashboards_are_local(client: Client) -> None:
    info = client.scheduler_info(n_workers=-1)
    ports = {info["services"]["dashboard"], *(worker["services"]["dashboard"] for worker in info["workers"].values())}
    assert len(ports) > 1
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port in ports]
    assert {address.port for address in listening} == ports
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.long
def test_plain_when_asked_for(job: dict[str, Any]) -> None:
    with connect(**job, tls=False) as connection:
        assert str(connection.address).startswith("tcp://") and not connection.encrypted
        assert "plain" in repr(connection) and "slurm jobs" in repr(connection)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": "900TB"}, "Memory specification can not be satisfied"),
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"directives": ["--no-such-option"]}, "unrecognized option"),
    ],
)
def test_a_refusal_has_the_words_of_the_queue(job: dict[str, Any], wrong: dict[str, Any], words: str) -> None:
    start = time.monotonic()
    with pytest.raises(JobRefusedError, match=words):
        connect(**job | wrong)
    assert time.monotonic() - start < 20


@pytest.mark.long
def test_jobs_that_could_never_run_are_refused_at_once(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")  # as inside another job, for which these speak
    monkeypatch.setenv("SLURM_TIMELIMIT", "1")
    start = time.monotonic()
    with pytest.raises(JobRefusedError, match=r"the slurm queue would let its jobs wait for ever, job \d+ PENDING \w+; ask for less"):
        connect(**job | {"cores": 1000})
    assert time.monotonic() - start < 20
    until(lambda: not squeue())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prologue": ["module load nothing", "exit 3"]}, "module: command not found"),
        ({"python": "/no/python"}, "/no/python"),
    ],
)
@pytest.mark.long
def test_a_job_that_ends_early_shows_its_log(job: dict[str, Any], wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(JobEndedError, match=rf"job \d+ ended before its worker joined; the end of its log:\n(?s:.*){words}"):
        connect(**job | wrong)


@pytest.mark.long
def test_a_job_that_ends_without_a_word_says_what_may_have_ended_it(job: dict[str, Any]) -> None:
    with pytest.raises(JobEndedError, match=r"job \d+ ended before its worker joined; it wrote nothing to .*a line of the prologue"):
        connect(**job, prologue=["exit 3"])


@pytest.mark.long
def test_a_job_that_waits_is_waited_for_so_long(job: dict[str, Any]) -> None:
    start = time.monotonic()
    with pytest.raises(QueueTimeoutError, match=r"no worker joined in 4 s.* job \d+: PENDING: (BeginTime|None)"):
        connect(**job, directives=["--begin=now+1hour"], timeout=4)
    assert time.monotonic() - start < 30


@pytest.mark.long
def test_a_job_that_vanishes_is_replaced_and_the_fit_goes_on(job: dict[str, Any]) -> None:
    expected = in_process()
    cancelled: list[str] = []

    def cancel() -> None:
        cancelled.append(min(squeue(), key=int))
        subprocess.run(["scancel", *cancelled], check=True)
        until(lambda: n_workers(client) < 2)

    with connect(**job, jobs=2) as connection:
        assert connection.client is not None
        client = connection.client
        client.wait_for_workers(2, timeout=30)
        assert LogisticRegression(solver="lbfgs").set_callbacks(AfterRounds((3,), cancel)).fit(data()).parameters_sha256_ == expected
        assert cancelled
        until(lambda: n_workers(client) == 2)
        assert LogisticRegression(solver="lbfgs").fit(data()).parameters_sha256_ == expected


@pytest.mark.long
def test_the_last_worker_is_waited_for_in_a_fit(job: dict[str, Any]) -> None:
    expected = in_process()
    with connect(**job), dask.config.set({WAIT_FOR_WORKERS: 60}):
        rows = data()
        LogisticRegression(solver="lbfgs").fit(rows)
        subprocess.run(["scancel", *squeue()], check=True)
        assert LogisticRegression(solver="lbfgs").fit(rows).parameters_sha256_ == expected


@pytest.mark.long
def test_a_queue_that_refuses_later_is_asked_again(job: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    def partition(state: str) -> None:
        subprocess.run(["scontrol", "update", "PartitionName=debug", f"State={state}"], check=True)

    with connect(**job) as connection:
        assert connection.client is not None
        partition("INACTIVE")
        try:
            subprocess.run(["scancel", *squeue()], check=True)
            until(lambda: "the queue refuses it: sbatch: error:" in caplog.text)
            assert "the next time in" in caplog.text
        finally:
            partition("UP")
        client = connection.client
        until(lambda: n_workers(client) == 1)


@pytest.mark.long
def test_a_cluster_that_adapts_is_left_to_itself(job: dict[str, Any]) -> None:
    with connect(**job) as connection:
        assert connection.cluster is not None
        keeper = Keeper(connection._queue)  # type: ignore[arg-type]
        assert not keeper.idle
        connection.adapt(0, 2)
        assert keeper.idle
        connection.scale(1)
        until(lambda: not keeper.idle)
    assert keeper.idle


@pytest.mark.long
def test_fits_bring_up_jobs(slurm: Path, tmp_path: Path) -> None:
    """dask-jobqueue's own cluster, from no job at all; the jobs end after each fit."""
    expected = in_process()
    options: dict[str, Any] = {"cores": 1, "memory": "500MB", "interface": "lo", "log_directory": str(tmp_path / "logs")}
    with (
        dask.config.set({WAIT_FOR_WORKERS: 60}),
        dask_jobqueue().SLURMCluster(**options, scheduler_options={"dashboard_address": "127.0.0.1:0"}) as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum=0, maximum=2, interval="500ms", wait_count=2)
        for _ in range(2):
            assert not squeue()
            assert LogisticRegression(solver="lbfgs").fit(data()).parameters_sha256_ == expected
            assert n_workers(client) > 0
            until(lambda: not squeue())
    until(lambda: not squeue())


@pytest.mark.long
def test_what_is_not_given_is_as_jobqueue_yaml_has_it(job: dict[str, Any], tmp_path: Path) -> None:
    site = {
        "jobqueue.slurm.cores": 2,
        "jobqueue.slurm.memory": "600MB",
        "jobqueue.slurm.processes": 2,
        "jobqueue.slurm.log-directory": str(tmp_path / "site-logs"),
        "jobqueue.slurm.interface": "lo",
        "jobqueue.slurm.worker-extra-args": ["--lifetime", "6s"],  # workers leave in time; their jobs are replaced
        "jobqueue.slurm.scheduler-options": {"dashboard_address": "127.0.0.1:0"},
    }
    with dask.config.set(site), connect(queue="slurm", walltime="2h", min_workers=2) as connection:
        assert connection.cluster is not None and connection.client is not None
        assert str(connection.address).startswith("tls://127.0.0.1:")
        script = connection.cluster.job_script()
        assert "--cpus-per-task=2\n#SBATCH --mem=573M\n#SBATCH -t 02:00:00" in script
        first, client = set(squeue()), connection.client
        assert list((tmp_path / "site-logs").iterdir())
        until(lambda: set(squeue()) - first)
        until(lambda: n_workers(client) == 2)


@pytest.mark.long
def test_each_process_sees_one_gpu_of_its_job(job: dict[str, Any]) -> None:
    gpus = subprocess.run(["sinfo", "-h", "-o", "%G"], check=True, capture_output=True, text=True).stdout
    if "gpu:2" not in gpus:
        pytest.skip("the SLURM here has no GPUs, which root alone can pretend")
    with connect(**job | {"cores": 2}, gpu=True, gpus=2, min_workers=2) as connection:
        assert connection.client is not None
        seen = connection.client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["0", "1"]
        assert [worker["nthreads"] for worker in connection.client.scheduler_info()["workers"].values()] == [1, 1]


@pytest.mark.long
def test_train_in_a_queue(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    of_jobs = ["--jobs", "2", "--cores", "1", "--memory", "500MB", "--walltime", "00:10:00", "--set", "cluster.log_directory=logs"]
    train = ["train", "breast_cancer", "--quiet"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
        "DASK_JOBQUEUE__SLURM__SHARED_TEMP_DIRECTORY": str(tmp_path / "shared"),
    }
    command = [sys.executable, "-m", "pipeline", *train, "--queue", "slurm", *of_jobs]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=80, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.chdir(tmp_path)
    assert main([*train, "--in-process"]) == 0
    here = capsys.readouterr().out
    assert next(line for line in here.splitlines() if line.startswith("digest")) in done.stdout
    assert main([*train, "--cores", "2"]) == 2
    assert "'cores' is not known" in capsys.readouterr().err


@pytest.mark.long
def test_an_interrupt_while_jobs_wait_leaves_nothing(job: dict[str, Any], tmp_path: Path) -> None:
    """In a process of its own: importing dask-jobqueue changes what Ctrl-C does, once."""
    code = """if True:
        import sys
        from pipeline import connect
        try:
            connect(queue="slurm", cores=1, memory="500MB", directives=["--begin=now+1hour"], log_directory="logs")
        except KeyboardInterrupt:
            print("interrupted")
    """
    environment = os.environ | {
        "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
        "DASK_JOBQUEUE__SLURM__SHARED_TEMP_DIRECTORY": str(tmp_path / "shared"),
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    until(squeue)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n" and process.returncode == 0


def test_without_the_queue_s_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("bsub") is None
    with pytest.raises(FileNotFoundError, match=r"queue='lsf': there is no bsub on this machine; connect from a login node"):
        connect(queue="lsf", cores=1, memory="1GB")
