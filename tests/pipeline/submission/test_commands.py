"""submit, status, logs and certificates where no SLURM is needed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cluster.queue.slurm import QueueState, shown_state
from pipeline.cluster.security import read_certificates
from pipeline.submission.run_directory import SUBMITTED_FILE, Submission, last_line


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that ends with 2 says, in a line."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_dry_run_prints_the_script_and_leaves_no_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "digits", "--jobs", "2", "--memory", "1GB", "--walltime", "01:00:00", "--out", "a b", "--dry-run"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    assert lines[:2] == ["#!/usr/bin/env bash", "#SBATCH --job-name=digits"]
    assert "#SBATCH --mem-per-cpu=954M" in lines and "#SBATCH --time=01:00:00" in lines
    assert f"run='{here}/a b'" in lines and f"python={sys.executable}" in lines and f"here={here}" in lines
    assert list(here.iterdir()) == []


def test_the_runs_directory_is_that_of_the_job(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, directory in (([], "runs/digits"), (["--set", "name=mine"], "runs/mine"), (["--set", "output.directory=x"], "x")):
        assert main(["submit", "digits", "--dry-run", *arguments]) == 0
        assert f"run={here}/{directory}" in capsys.readouterr().out.splitlines()


def test_how_many_jobs_a_run_may_take_is_in_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, line in (((), "max_jobs=0"), (("--resume",), "max_jobs=50"), (("--resume", "--max-jobs", "3"), "max_jobs=3")):
        assert main(["submit", "digits", "--dry-run", *arguments]) == 0
        assert line in capsys.readouterr().out.splitlines()


def test_mistakes_are_known_before_the_queue_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "did you mean 'digits'?" in refused(capsys, "submit", "digit")
    assert "no file matches" in refused(capsys, "submit", "pixels")
    assert "memory must be a size" in refused(capsys, "submit", "digits", "--memory", "much")
    for walltime in ("long", "90", "01:00:00\n"):
        assert "--walltime must be a time" in refused(capsys, "submit", "digits", "--walltime", walltime)
    assert "give --resume, too" in refused(capsys, "submit", "digits", "--max-jobs", "3")
    assert "--max-jobs must be at least 1, got 0" in refused(capsys, "submit", "digits", "--resume", "--max-jobs", "0")
    assert "--queue pbs: submit speaks to slurm only" in refused(capsys, "submit", "digits", "--queue", "pbs")
    assert "there is no sbatch on this machine" in refused(capsys, "submit", "digits")
    assert list(here.iterdir()) == []


def test_a_job_that_cannot_be_noted_is_cancelled(
    tmp_path_factory: pytest.TempPathFactory, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = tmp_path_factory.mktemp("commands")
    for name, answer in (("sbatch", "42"), ("scontrol", "JobId=42 JobState=RUNNING Reason=None"), ("scancel", "")):
        (commands / name).write_text(f"#!/bin/sh\necho {name} $* >> {commands}/log\necho '{answer}'\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    with monkeypatch.context() as patch:
        patch.setattr(Submission, "write", no_space)
        assert "No space left on device" in refused(capsys, "submit", "digits", "--memory", "1GB")
    assert (commands / "log").read_text().splitlines()[-1] == "scancel 42"
    assert list(here.rglob("*.*")) == []
    assert main(["submit", "digits", "--memory", "1GB"]) == 0
    assert (here / "runs/digits" / SUBMITTED_FILE).is_file()
    assert (commands / "log").read_text().count("scancel") == 1


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.long
def test_runs_that_were_not_submitted_have_a_status_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["train", "breast_cancer", "--in-process", "--quiet"]) == 0
    capsys.readouterr()
    for arguments in ([], ["breast_cancer"], ["runs/breast_cancer"], ["runs"]):
        assert main(["status", *arguments]) == 0
        out = capsys.readouterr().out
        assert out.startswith("breast_cancer   finished    accuracy 0.9") and out.count("\n") == 1
    (here / "empty").mkdir()
    assert "empty is no run" in refused(capsys, "status", "empty")
    assert "there is no run nowhere" in refused(capsys, "status", "nowhere")
    assert "logs/train.log" in refused(capsys, "logs", "breast_cancer")


def test_a_submitted_run_needs_the_queues_commands(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run").mkdir()
    Submission(job_id="1", queue="slurm", command=[], time="", host="").write(here / "run" / SUBMITTED_FILE)
    monkeypatch.setenv("PATH", "")
    assert "there is no scontrol on this machine" in refused(capsys, "status", "run")


@pytest.mark.long
def test_a_name_as_long_as_its_column_stands_apart_from_the_state(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "breast_cancer", "--in-process", "--quiet", "--out", "runs/" + "x" * 30]) == 0
    capsys.readouterr()
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("x" * 30 + " finished")


def test_records_that_are_not_are_none(here: Path) -> None:
    path = here / "submitted.json"
    assert Submission.read(path) is None
    for text in ("", "[1]", '{"job_id": "1"}', "{"):
        path.write_text(text)
        assert Submission.read(path) is None


SHOWN = (
    "JobId=12 JobName=clicks UserId=me(1000) JobState=PENDING Reason={} Dependency=(null) Requeue=1 Restarts=1 StartTime={}"
    " Comment=JobState=RUNNING"
)


def test_what_scontrol_shows_is_read() -> None:
    waiting = shown_state(SHOWN.format("Resources", "2026-11-21T14:03:39"))
    assert waiting == QueueState(state="PENDING", reason="Resources", since="2026-11-21T14:03:39", restarts=1)
    assert shown_state(SHOWN.format("None", "Unknown")) == QueueState(state="PENDING", restarts=1)
    failed = shown_state("JobId=12 JobName=clicks JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0 DerivedExitCode=0:9")
    assert (failed.exit_code, failed.ending) == ("3:0", "exit status 3")
    for exit_code, ending in (("0:9", "signal 9"), ("0:15", "signal 15"), ("0:0", ""), ("10:0", "exit status 10")):
        assert QueueState(state="FAILED", exit_code=exit_code).ending == ending
    assert waiting.active and not QueueState(state="TIMEOUT").active


def test_the_last_whole_line_of_a_file(here: Path) -> None:
    path = here / "rounds"
    assert last_line(path) is None
    for text, found in (("", None), ('{"round": 1', None), ('{"round": 1}\n{"ro', {"round": 1}), ('{"round": 1}\n' * 1000, {"round": 1})):
        path.write_text(text)
        assert last_line(path) == found


def test_certificates_are_made_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certificates", "tls", "--host", "node1", "--host", "10.0.0.1"]) == 0
    assert "tls" in capsys.readouterr().out
    assert Path("tls").stat().st_mode & 0o777 == 0o700
    assert read_certificates("tls").require_encryption
    assert "is there already" in refused(capsys, "certificates", "tls")
