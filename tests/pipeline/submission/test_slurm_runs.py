"""Runs through a real SLURM, from `submit` to their end."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from distributed import Client

from pipeline.cli import main
from pipeline.cluster.queue.slurm import job_state
from pipeline.cluster.security import read_certificates
from pipeline.submission.run_directory import SUBMITTED_FILE, Submission
from pipeline.submission.status import run_status
from tests.pipeline.submission.runs import ENDLESS, SMALL, digest, ended, job_id, submit, until

pytestmark = pytest.mark.timeout(120)


def processes(job: str) -> list[psutil.Process]:
    """Those of a job."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job:
                found.append(process)
    return found


def listening(job: str) -> set[Any]:
    """Where they listen, but for SLURM's own."""
    found = set()
    for process in processes(job):
        with contextlib.suppress(psutil.Error):
            if "python" not in process.name():
                continue
            found |= {connection.laddr for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN}
    return found


def answer_to_http(address: str, port: int) -> bytes:
    """What a plain HTTP request is answered with; empty when the connection is closed."""
    with socket.create_connection((address.replace("0.0.0.0", "127.0.0.1"), port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(OSError):
            return plain.recv(100)
    return b""


@pytest.mark.long
def test_a_run_ends_with_the_digest_of_the_same_job_in_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit("breast_cancer", "--gpus", "1") if os.getuid() == 0 else submit("breast_cancer")
    assert main(["logs", "breast_cancer", "--follow"]) == 0
    status = ended(run)
    assert status.state == "finished" and status.detail.startswith(f"job {job_id(run)}: accuracy 0.9"), status
    assert main(["train", "breast_cancer", "--in-process", "--quiet", "--out", "here"]) == 0
    assert digest(run) == digest(Path("here"))
    assert capsys.readouterr().out.count(digest(run)) == 2  # followed, and printed here
    assert {path.name for path in run.iterdir()} == {
        *("submitted.json", "submit.sh", "job.toml", "logs", "ended.json"),
        *("metrics.json", "model.safetensors", "history.jsonl", "digests.jsonl", "loss.png"),
    }
    assert {path.name for path in (run / "logs").iterdir()} == {f"{log}.log" for log in ("batch", "scheduler", "workers", "train")}
    assert (run / "logs/workers.log").read_text().count("Registered to:      tls://") == 2
    assert json.loads((run / "ended.json").read_text()) == {"job_id": job_id(run), "exit_status": 0, "reason": ""}


@pytest.mark.long
def test_a_running_run_is_closed_to_others_and_outlives_a_worker(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit("digits", *ENDLESS)
    job = job_id(run)
    assert "round " in until(run, lambda status: "objective" in status.detail).detail

    address = json.loads((run / "scheduler.json").read_text())["address"]
    assert address.startswith("tls://")
    assert (run / "tls").stat().st_mode & 0o777 == 0o700 and not (run / "tls/ca-key.pem").exists()
    with pytest.raises(OSError, match=r"Timed out|encrypt|closed"):
        Client(address.replace("tls://", "tcp://"), timeout=2)
    with Client(address, security=read_certificates(run / "tls")) as client:
        before = client.scheduler_info(n_workers=-1)["workers"]
        assert len(before) == 2
        places = listening(job)
        assert sum(place.ip == "127.0.0.1" for place in places) >= 3  # the dashboards
        assert {answer_to_http(place.ip, place.port) for place in places if place.ip != "127.0.0.1"} <= {b""}

        assert main(["submit", "digits", *SMALL]) == 2
        assert f"belongs to job {job}, which is running; end it with `scancel {job}`" in capsys.readouterr().err

        name, worker = next(iter(before.items()))
        pid = client.run(os.getpid, workers=[name])[name]
        os.kill(pid, signal.SIGKILL)
        assert worker["nanny"]
        deadline = time.monotonic() + 60
        while len(now := client.scheduler_info(n_workers=-1)["workers"]) < 2 or name in now:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    round_then = int(run_status(run).detail.split("round ")[1].split(",")[0])
    until(run, lambda status: "round " in status.detail and int(status.detail.split("round ")[1].split(",")[0]) > round_then)

    subprocess.run(["scancel", job], check=True, timeout=30)
    status = ended(run)
    assert status.state == "cancelled" and status.detail.startswith(f"job {job}: submit --resume goes on after round ")
    assert not (run / "tls").exists() and not (run / "scheduler.json").exists()
    assert not [process for process in processes(job) if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_a_requeued_run_starts_again_and_ends_with_the_right_digest(here: Path) -> None:
    run = submit("breast_cancer")
    job = job_id(run)
    until(run, lambda status: (run / "scheduler.json").exists())
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
    assert until(run, lambda status: status.state != "running").state == "requeued"
    again = False
    deadline = time.monotonic() + 60
    while not again and time.monotonic() < deadline:  # SLURM lets a requeued job wait for two minutes
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, timeout=30, stderr=subprocess.DEVNULL)
        again = (state := job_state(job)) is not None and state.state == "RUNNING" and state.restarts == 1
        time.sleep(0.3)
    assert "(start 2)" in run_status(run).detail
    assert ended(run).state == "finished"
    assert main(["train", "breast_cancer", "--in-process", "--quiet", "--out", "here"]) == 0
    assert digest(run) == digest(Path("here"))
    batch = (run / "logs/batch.log").read_text()
    assert f"job {job}, start 1, " in batch and f"job {job}, start 2, " in batch


@pytest.mark.long
def test_a_run_that_fails_tells_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 0, 1]}).to_csv("rows.csv", index=False)
    Path("gone.toml").write_text('[data]\nkind = "csv"\npath = "rows.csv"\ntarget = "y"\n[estimator]\nname = "LogisticRegression"\n')
    run = submit("gone.toml", "--prologue", "rm rows.csv")
    status = ended(run)
    assert (status.state, status.detail) == ("failed", f"job {job_id(run)}: exit status 2")
    assert "no file matches" in status.lines[-1]
    capsys.readouterr()
    assert main(["status"]) == 0 and main(["logs", "gone"]) == 0
    assert capsys.readouterr().out.count("no file matches") == 2
    assert not (run / "tls").exists()


@pytest.mark.long
def test_a_run_whose_scheduler_cannot_start_fails_soon(here: Path) -> None:
    run = submit("breast_cancer", "--interface", "none0")
    status = ended(run)
    assert (status.state, status.detail) == ("failed", f"job {job_id(run)}: exit status 1")
    assert any("the scheduler did not start" in line for line in status.lines)


def test_a_run_whose_prologue_ends_it_shows_how_slurm_saw_it_end(here: Path) -> None:
    run = submit("breast_cancer", "--prologue", "exit 3")
    status = ended(run)
    words = "SLURM says FAILED, exit status 3, nothing was logged: a line of the prologue may be the reason"
    assert (status.state, status.detail) == ("failed", f"job {job_id(run)}: {words}")
    run = submit("breast_cancer", "--prologue", "echo no such module >&2; exit 4")
    status = ended(run)
    assert (status.detail, status.lines[-1]) == (f"job {job_id(run)}: SLURM says FAILED, exit status 4", "  no such module")


@pytest.mark.long
def test_a_run_that_slurm_kills_for_its_memory_has_failed(here: Path) -> None:
    greedy = "x = bytearray(2 << 30); x[::4096] = x[::4096]; __import__('time').sleep(60)"
    run = submit("breast_cancer", "--prologue", shlex.join([sys.executable, "-c", greedy]))
    status = ended(run)
    assert (status.state, status.detail) == ("failed", f"job {job_id(run)}: SLURM says FAILED, signal 9"), status
    assert any("exceeded memory limit" in line for line in status.lines)


def test_what_slurm_refuses_is_told_in_its_words_and_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["scontrol", "create", "PartitionName=short", "Nodes=ALL", "MaxTime=5"], check=True, timeout=30)
    try:
        for arguments, words in (
            (["--memory", "4000GiB"], "SLURM refuses the job: Memory specification can not be satisfied"),
            (["--partition", "nowhere"], "invalid partition specified: nowhere"),
            (["--directive=--constraint=ib"], "Invalid feature specification"),
            (["--partition", "short", "--walltime", "1h"], "SLURM would let the job wait for ever: PartitionTimeLimit"),
        ):
            start = time.monotonic()
            assert main(["submit", "breast_cancer", *arguments]) == 2
            assert time.monotonic() - start < 20
            out, err = capsys.readouterr()
            assert out == "" and words in err and err.count("\n") == 1
        assert list(here.iterdir()) == [here / "runs"] and list(here.glob("runs/*")) == []
        assert subprocess.run(["squeue", "-h"], capture_output=True, check=True, timeout=30).stdout == b""
    finally:
        subprocess.run(["scontrol", "delete", "PartitionName=short"], check=False, timeout=30)


def test_a_job_that_submit_cannot_follow_is_cancelled(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bin").mkdir()
    for name in ("sbatch", "scancel"):
        (here / "bin" / name).symlink_to(shutil.which(name) or "")
    with monkeypatch.context() as without:
        without.setenv("PATH", f"{here / 'bin'}")
        assert main(["submit", "breast_cancer", "--directive=--begin=now+1hour"]) == 2
    assert "there is no scontrol" in capsys.readouterr().err
    assert list(here.glob("runs/*")) == []
    assert subprocess.run(["squeue", "-h"], capture_output=True, check=True, timeout=30).stdout == b""


def test_a_refused_job_leaves_an_earlier_run_as_it_was(here: Path) -> None:
    assert main(["train", "breast_cancer", "--in-process", "--quiet"]) == 0
    before = {path.name: path.read_bytes() for path in Path("runs/breast_cancer").iterdir()}
    assert main(["submit", "breast_cancer", "--partition", "nowhere"]) == 2
    assert {path.name: path.read_bytes() for path in Path("runs/breast_cancer").iterdir()} == before


@pytest.mark.long
def test_a_job_that_waits_says_for_what_and_is_not_submitted_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit("breast_cancer", "--directive=--begin=now+1hour")
    status = run_status(run)
    assert status.state == "waiting" and status.detail.startswith(f"job {job_id(run)}: BeginTime, expected to start 2"), status
    assert main(["submit", "breast_cancer"]) == 2
    assert "which is pending" in capsys.readouterr().err
    subprocess.run(["scancel", job_id(run)], check=True, timeout=30)
    assert ended(run).state == "cancelled"


def test_jobs_that_slurm_does_not_know_are_judged_by_their_files(here: Path) -> None:
    run = Path("runs/old")
    run.mkdir(parents=True)
    Submission(job_id="999999", queue="slurm", command=[], time="2020-01-01T00:00:00+00:00", host="").write(run / SUBMITTED_FILE)
    assert run_status(run).state == "unknown to the queue"
    for job, exit_status, state in (("1", 0, "unknown to the queue"), ("999999", 0, "finished"), ("999999", 1, "failed")):
        (run / "ended.json").write_text(json.dumps({"job_id": job, "exit_status": exit_status}))
        assert run_status(run).state == state
    (run / "ended.json").write_text(json.dumps({"job_id": "999999", "exit_status": 143}))
    assert run_status(run).detail == "job 999999: exit status 143, ended by the queue"
