"""Runs that a real SLURM cuts, and that go on in further jobs. Walltimes are whole minutes, so these tests take minutes each."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

from pipeline.cli import main
from pipeline.cluster.queue.slurm import job_state
from pipeline.submission.status import ACTIVE, run_status
from tests.pipeline.submission.runs import ENDLESS, SMALL, TWO_WORKERS, changes, digest, ended, job_id, submit, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

MINUTE = (*TWO_WORKERS, "--walltime", "1m")
SLOW = """
import sys, time
from pathlib import Path

from pipeline import cli
from pipeline.execution.sessions import Sessions
from pipeline.training.progress import RoundLog

before, of_round = float(sys.argv[1]), Path(sys.argv[2])
add = RoundLog.on_fit_task_end

def slowly(self, estimator, context, *, metadata=None):
    time.sleep(float(of_round.read_text()))
    return add(self, estimator, context, metadata=metadata)

time.sleep(before)
RoundLog.on_fit_task_end = slowly
Sessions.due = lambda self: False
sys.exit(cli.main(sys.argv[3:]))
"""


def slow(directory: Path, *, before: float = 0.0, round_: float = 0.0) -> tuple[str, ...]:
    """Arguments for a Python whose trainings take their time, on any machine: so many seconds before they begin, and in each round."""
    set_pace(directory, round_)
    (directory / "slow.py").write_text(SLOW)
    python = shlex.quote(sys.executable)
    words = shlex.join([sys.executable, str(directory / "slow.py"), str(before), str(directory / "pace")])
    wrapper = directory / "python"
    wrapper.write_text(f'#!/usr/bin/env bash\n[ "$3" = train ] && exec {words} "${{@:3}}"\nexec {python} "$@"\n')
    wrapper.chmod(0o755)
    return ("--python", str(wrapper))


def set_pace(directory: Path, seconds: float) -> None:
    """Of rounds, from the next one on."""
    (directory / "pace.new").write_text(str(seconds))
    (directory / "pace.new").rename(directory / "pace")


def rounds(n: int) -> tuple[str, ...]:
    """Changes for a job of about so many rounds."""
    return changes("estimator.solver=gradient-descent", "estimator.C=1e6", "estimator.tol=0", f"estimator.max_iter={n}")


def undisturbed(n: int) -> str:
    """The digest of that job in process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert main(["train", "breast_cancer", *rounds(n), "--in-process", "--quiet", "--out", "undisturbed"]) == 0
    return digest(Path("undisturbed"))


def metrics(run: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((run / "metrics.json").read_text())
    return found


def saved_round(detail: str) -> int:
    found = re.search(r"submit --resume goes on after round (\d+)", detail)
    assert found, detail
    return int(found[1])


def no_job_is_left() -> bool:
    """Whether none waits or runs, within the time that the last one takes to end its processes."""
    deadline = time.monotonic() + 40
    while (found := subprocess.run(["squeue", "-h"], capture_output=True, check=True, timeout=30).stdout) and time.monotonic() < deadline:
        time.sleep(0.3)
    return found == b""


def past_round(run: Path, n: int, seconds: float = 90.0) -> None:
    """Wait until more rounds than that are done."""

    def holds(detail: str) -> bool:
        found = re.search(r"round (\d+), objective", detail)
        return found is not None and int(found[1]) > n

    until(run, lambda status: holds(status.detail), seconds)


@pytest.fixture
def patient(slurm: Path) -> Iterator[None]:
    """A SLURM that leaves jobs the usual half minute after SIGTERM."""
    path = slurm / "slurm.conf"
    before = path.read_text()
    for text in (before.replace("KillWait=3", "KillWait=30"), before):
        path.write_text(text)
        subprocess.run(["scontrol", "reconfigure"], check=True, timeout=30)
        if text != before:
            yield


@pytest.mark.usefixtures("patient")
def test_a_run_cut_by_its_walltime_and_by_scancel_goes_on_to_the_undisturbed_digest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest_then = undisturbed(85)
    arguments = ("breast_cancer", *rounds(85), *slow(here, round_=1.0), "--resume")  # more rounds than seconds
    run = submit(*arguments, small=MINUTE)
    first = job_id(run)
    status = until(run, lambda status: "number 2 of its chain" in status.detail, 120)
    assert f"job {job_id(run)}, number 2 of its chain" in status.detail and status.state in ACTIVE
    assert f"the run continues as job {job_id(run)}" in (run / "logs/batch.log").read_text()
    assert job_id(run) != first
    assert main(["submit", *arguments, *MINUTE]) == 2
    assert f"end it with `scancel {job_id(run)}`" in capsys.readouterr().err
    assert "rounds so far" in status.detail
    saved = max(int(path.stem.rpartition("-")[2]) for path in (run / "checkpoints").iterdir())
    past_round(run, saved)

    subprocess.run(["scancel", job_id(run)], check=True, timeout=30)
    status = ended(run)
    assert status.state == "cancelled" and (then := saved_round(status.detail)) > saved
    assert no_job_is_left()

    set_pace(here, 0.0)
    run = submit(*arguments, small=MINUTE)
    status = ended(run, 120)
    assert status.state == "finished", status
    assert digest(run) == digest_then
    assert metrics(run)["resumed_from"] >= then
    assert not (run / "checkpoints").exists() and not (run / "tls").exists()
    assert no_job_is_left()


@pytest.mark.usefixtures("patient")
def test_sigterm_at_the_time_limit_goes_on_too_and_a_chain_has_a_limit(here: Path) -> None:
    late = ("--prologue", "export SLURM_JOB_END_TIME=9999999999")  # the training does not see it coming
    run = submit("breast_cancer", *ENDLESS, *slow(here, round_=0.5), *late, "--resume", "--max-jobs", "2", small=MINUTE)
    until(run, lambda status: "number 2 of its chain" in status.detail, 120)
    status = ended(run, 150)
    assert status.state == "out of time" and "--max-jobs 2 is reached" in status.detail, status
    assert saved_round(status.detail) > 2
    assert "the walltime is over; --max-jobs 2 is reached" in (run / "logs/batch.log").read_text()
    assert no_job_is_left()


def test_a_run_that_gets_to_no_round_does_not_go_on_for_ever(here: Path) -> None:
    run = submit("breast_cancer", *ENDLESS, *slow(here, before=200), "--resume", small=MINUTE)
    status = ended(run, 150)
    assert status.state == "out of time"
    assert status.detail == f"job {job_id(run)}: no further round was saved within the walltime; ask for a longer one"
    assert no_job_is_left()


def test_a_run_without_resume_is_out_of_time_and_says_how_to_go_on(here: Path) -> None:
    run = submit("digits", *ENDLESS, small=MINUTE)
    status = ended(run, 150)
    assert status.state == "out of time" and "submitted without --resume" in status.detail
    assert saved_round(status.detail) > 0
    assert json.loads((run / "ended.json").read_text())["exit_status"] == 75
    assert "python -m pipeline submit --resume goes on from" in (run / "logs/batch.log").read_text()


def test_a_requeued_run_goes_on_from_its_checkpoint(here: Path) -> None:
    digest_then = undisturbed(30)
    run = submit("breast_cancer", *rounds(30), *slow(here, round_=0.5), small=SMALL)
    job = job_id(run)
    past_round(run, 4)
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
    until(run, lambda status: status.state != "running")
    deadline = time.monotonic() + 60
    while (state := job_state(job)) is None or state.state != "RUNNING" or state.restarts != 1:
        assert time.monotonic() < deadline, state
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, timeout=30, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
    assert "(start 2)" in run_status(run).detail
    assert ended(run).state == "finished"
    assert digest(run) == digest_then and metrics(run)["resumed_from"] > 4
