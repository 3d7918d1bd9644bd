"""What the batch script does when its training ends, with stand-ins for SLURM's commands and for the training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.queue.slurm import QueueState
from pipeline.submission import status
from pipeline.submission.resources import Resources
from pipeline.submission.run_directory import CONTINUED_FILE, ENDED_FILE, SUBMITTED_FILE, Continued, Ended, Submission, submitted
from pipeline.submission.script import BatchJob, slurm_script
from pipeline.submission.status import run_status

pytestmark = pytest.mark.timeout(60)

STAND_INS = {
    "python": """
case "$*" in
  *certificates*) mkdir -p "$4" && touch "$4/ca-key.pem" ;;
  *scheduler*) touch "$RUN/scheduler.json"; echo up >"$RUN/scheduler.json"; exec sleep 60 ;;
  *train*) echo "train $* until ${SLURM_JOB_END_TIME:-nobody knows}" >>"$RUN/calls"; eval "$TRAIN" ;;
esac""",
    "srun": "exec sleep 60",
    "squeue": "echo 2030-01-01T00:00:00",
    "scontrol": '[ "$1" = update ] && echo "scontrol $*" >>"$RUN/calls" || echo "JobId=7 JobState=COMPLETING Reason=$REASON Restarts=0"',
    "sbatch": 'echo "sbatch $* ${SLURM_MEM_PER_NODE:-}${SLURM_JOB_ID:-}" >>"$RUN/calls"; [ "$SBATCH" = refuses ] && exit 1; echo "8;lab"',
}


@dataclass
class Script:
    """A batch script whose surroundings are stand-ins."""

    run: Path
    environment: dict[str, str]

    def start(self, train: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """train: lines of the shell's, what the training does."""
        command = ["bash", str(self.run / "submit.sh"), *arguments]
        variables = {**self.environment, "TRAIN": train, **environment}
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __call__(self, train: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """The exit status, and what the batch log has."""
        process = self.start(train, *arguments, **environment)
        out, _ = process.communicate(timeout=50)
        return process.returncode, out

    def end(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM when the training says that it is up, by a file of that name."""
        deadline = time.monotonic() + 30
        while not (self.run / "up").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    @property
    def calls(self) -> list[str]:
        path = self.run / "calls"
        return [line for line in path.read_text().splitlines() if not line.startswith("train")] if path.exists() else []

    def record(self, name: str) -> Any:
        return json.loads((self.run / name).read_text()) if (self.run / name).exists() else None


def saves(n_rounds: int) -> str:
    """A checkpoint, beside a user's own file."""
    return f'cd "$RUN"; mkdir -p checkpoints; touch checkpoints/{{mine,Ridge-0123456789abcdef-{n_rounds:09d}}}.safetensors'


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    def make(*, resume: bool = True, max_jobs: int = 3) -> Script:
        run, commands = tmp_path / "a run", tmp_path / "bin"
        (run / "logs").mkdir(parents=True)
        commands.mkdir()
        for name, text in STAND_INS.items():
            (commands / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (commands / name).chmod(0o755)
        batch = BatchJob(
            name="x",
            directory=run,
            working_directory=tmp_path,
            python=str(commands / "python"),
            resources=Resources(),
            resume=resume,
            max_jobs=max_jobs,
        )
        (run / "submit.sh").write_text(slurm_script(batch))
        path = f"{commands}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        asked = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "512", "REASON": "None", "SBATCH": "takes"}
        return Script(run, {**kept, **asked, "PATH": path, "RUN": str(run)})

    return make


def next_job(script: Script, number: int, first: str = "7") -> list[str]:
    """What the script is to say to SLURM for a further job."""
    return [
        f"sbatch --parsable --dependency=afterany:7 {script.run}/submit.sh {first} {number} ",
        "scontrol update JobId=7 Requeue=0",
    ]


def test_a_job_that_runs_out_of_time_goes_on_in_a_further_one(script: Callable[..., Script]) -> None:
    chain = script()
    code, log = chain(f"{saves(12)}; exit 75")
    assert code == 75 and "the walltime is over; the run continues as job 8" in log
    assert chain.calls == next_job(chain, 2)
    assert chain.record(CONTINUED_FILE) == {"first_job_id": "7", "job_id": "8", "number": 2}
    assert chain.record(ENDED_FILE) == {"job_id": "7", "exit_status": 75, "reason": ""}
    assert not (chain.run / "tls").exists() and not (chain.run / "scheduler.json").exists()


def test_a_further_job_knows_its_chain_and_leaves_what_was_there(script: Callable[..., Script]) -> None:
    chain = script()
    subprocess.run(["bash", "-c", saves(12)], check=True, env={**os.environ, "RUN": str(chain.run)})
    (chain.run / "logs/train.log").write_text("before\n")
    code, log = chain(f'ls "$RUN/checkpoints"; cat "$RUN/continued.json"; {saves(13)}; exit 75', "5", "2")
    assert code == 75 and "continues as job 8" in log
    assert chain.calls == next_job(chain, 3, first="5")
    words = (chain.run / "logs/train.log").read_text()
    assert words.startswith("before\n") and "000000012" in words
    assert '{"first_job_id": "5", "job_id": "7", "number": 2}' in words


def test_the_training_is_told_when_the_walltime_ends_and_to_go_on(script: Callable[..., Script]) -> None:
    chain = script()
    code, log = chain("exit 0")
    assert code == 0 and log.startswith("job 7, start 1, on ") and log.count("\n") == 1
    chain("exit 0", SLURM_JOB_END_TIME="99")
    end = subprocess.run(["date", "--date=2030-01-01T00:00:00", "+%s"], capture_output=True, text=True, check=True).stdout.strip()
    first, second = (chain.run / "calls").read_text().splitlines()
    assert first == f"train -m pipeline train {chain.run}/job.toml --quiet --resume until {end}"
    assert second.endswith("until 99")


@pytest.mark.parametrize(
    ("train", "arguments", "reason"),
    [
        ("exit 75", (), "no further round was saved within the walltime; ask for a longer one"),
        (f"{saves(12)}; exit 75", ("5", "3"), "--max-jobs 3 is reached"),
        (f"{saves(12)}; exit 75", ("refused",), "SLURM takes no further job from here"),
    ],
)
def test_a_chain_ends_by_name(script: Callable[..., Script], train: str, arguments: tuple[str, ...], reason: str) -> None:
    chain = script()
    refused = "refused" in arguments
    code, log = chain(train, *(() if refused else arguments), SBATCH="refuses" if refused else "takes")
    assert code == 75 and f"the walltime is over; {reason}\n" in log
    assert ("submit --resume goes on from" in log) == ("mkdir" in train)
    assert len(chain.calls) == refused
    assert chain.record(ENDED_FILE) == {"job_id": "7", "exit_status": 75, "reason": reason}


@pytest.mark.long
def test_a_job_that_adds_no_round_to_the_one_before_ends_the_chain(script: Callable[..., Script]) -> None:
    chain = script()
    chain(f"{saves(12)}; exit 75")
    code, log = chain(f"{saves(12)}; exit 75", "5", "2")
    assert code == 75 and "no further round was saved within the walltime" in log
    assert chain.calls == next_job(chain, 2)


@pytest.mark.long
def test_a_run_submitted_to_begin_anew_does_so_and_does_not_go_on(script: Callable[..., Script]) -> None:
    plain = script(resume=False)
    subprocess.run(["bash", "-c", saves(99)], check=True, env={**os.environ, "RUN": str(plain.run)})
    code, log = plain(f'ls "$RUN/checkpoints"; {saves(12)}; exit 75')
    assert "99" not in (plain.run / "logs/train.log").read_text()
    assert code == 75 and "submit --resume goes on from" in log and "000000012" in log
    assert plain.calls == [] and plain.record(ENDED_FILE)["reason"] == "submitted without --resume"
    plain('ls "$RUN/checkpoints"', SLURM_RESTART_COUNT="1")
    assert "000000012" in (plain.run / "logs/train.log").read_text()  # a requeue goes on


@pytest.mark.parametrize(("reason", "goes_on"), [("TimeLimit", True), ("None", False)])
@pytest.mark.long
def test_sigterm_waits_for_the_checkpoint_and_goes_on_at_the_time_limit_alone(
    script: Callable[..., Script], reason: str, goes_on: bool
) -> None:
    chain = script()
    process = chain.start(f"trap 'sleep 2; {saves(12)}; exit 143' TERM; touch \"$RUN/up\"; while :; do sleep .1; done", REASON=reason)
    chain.end(process)
    assert process.returncode == 143
    assert (chain.run / "checkpoints").exists()
    assert chain.calls == (next_job(chain, 2) if goes_on else [])
    assert chain.record(ENDED_FILE) == {"job_id": "7", "exit_status": 143, "reason": ""}


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_training_that_ends_for_a_reason_of_its_own_ends_the_chain(script: Callable[..., Script], code: int) -> None:
    chain = script()
    assert chain(f"{saves(12)}; exit {code}")[0] == code
    assert chain.calls == [] and chain.record(ENDED_FILE)["exit_status"] == code


@pytest.mark.long
def test_a_training_that_is_done_when_sigterm_comes_is_done(script: Callable[..., Script]) -> None:
    chain = script()
    process = chain.start('trap "" TERM; touch "$RUN/up"; sleep 2; exit 0')
    chain.end(process)
    assert process.returncode == 0 and chain.record(ENDED_FILE)["exit_status"] == 0


# -- what `status` says of a chain ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was submitted as job 7, and is at job 9."""
    Submission(job_id="7", queue="slurm", command=[], time="now", host="", resume=True).write(tmp_path / SUBMITTED_FILE)
    Continued(first_job_id="7", job_id="9", number=3).write(tmp_path / CONTINUED_FILE)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/Ridge-0123456789abcdef-000000057.safetensors").touch()
    (tmp_path / "checkpoints/mine-58.safetensors").touch()
    return tmp_path


CHAIN = "job 9, number 3 of its chain"
GOES_ON = "submit --resume goes on after round 57"


@pytest.mark.parametrize(
    ("queue", "ended", "state", "detail"),
    [
        (QueueState(state="PENDING", reason="Dependency"), None, "waiting", f"{CHAIN}: Dependency, 57 rounds so far"),
        (QueueState(state="PENDING", reason="Dependency"), ("7", 75, ""), "waiting", f"{CHAIN}: Dependency, 57 rounds so far"),
        (QueueState(state="RUNNING", since="12:00"), None, "running", f"{CHAIN} since 12:00, 57 rounds so far"),
        (QueueState(state="CANCELLED"), ("9", 143, ""), "cancelled", f"{CHAIN}: {GOES_ON}"),
        (QueueState(state="FAILED"), ("9", 75, "--max-jobs 3 is reached"), "out of time", f"{CHAIN}: --max-jobs 3 is reached, {GOES_ON}"),
        (QueueState(state="TIMEOUT"), ("9", 143, "--max-jobs 3 is reached"), "out of time", f"{CHAIN}: --max-jobs 3 is reached, {GOES_ON}"),
        (QueueState(state="TIMEOUT"), None, "out of time", f"{CHAIN}: {GOES_ON}"),
        (QueueState(state="FAILED"), ("9", 2, ""), "failed", f"{CHAIN}: exit status 2, {GOES_ON}"),
        (None, ("9", 75, "--max-jobs 3 is reached"), "out of time", f"{CHAIN}: --max-jobs 3 is reached, {GOES_ON}"),
        (None, ("9", 0, ""), "finished", f"{CHAIN}: no metrics.json there any more"),
    ],
)
def test_status_follows_the_chain(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    queue: QueueState | None,
    ended: tuple[str, int, str] | None,
    state: str,
    detail: str,
) -> None:
    asked: list[str] = []

    def job_state(job_id: str) -> QueueState | None:
        asked.append(job_id)
        return queue

    monkeypatch.setattr(status.slurm, "job_state", job_state)
    if ended is not None:
        Ended(job_id=ended[0], exit_status=ended[1], reason=ended[2]).write(run / ENDED_FILE)
    found = run_status(run)
    assert (found.state, found.detail) == (state, detail)
    assert set(asked) <= {"9"}


def test_rounds_of_a_fit_that_goes_on_count_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status.slurm, "job_state", lambda job_id: QueueState(state="RUNNING", since="12:00"))
    (run / ".history.jsonl.part").write_text('{"round": 58, "objective": 0.5}\n')
    assert run_status(run).detail == f"{CHAIN} since 12:00, round 58, objective 0.5"
    (run / ".history.jsonl.part").write_text("")
    Submission(job_id="10", queue="slurm", command=[], time="now", host="").write(run / SUBMITTED_FILE)
    assert run_status(run).detail == "job 10 since 12:00, no round yet"  # which begins anew


def test_a_chain_of_an_earlier_submission_is_none(run: Path) -> None:
    found = submitted(run)
    assert found is not None and (found.job_id, found.number) == ("9", 3)
    Submission(job_id="8", queue="slurm", command=[], time="now", host="").write(run / SUBMITTED_FILE)
    found = submitted(run)
    assert found is not None and (found.job_id, found.number) == ("8", 1)
    (run / SUBMITTED_FILE).unlink()
    assert submitted(run) is None
