"""Submission: from a job and its resources to a run that waits in the queue."""

from __future__ import annotations

import datetime as dt
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.cluster.queue import slurm
from pipeline.cluster.queue.queue_jobs import JobRefusedError
from pipeline.files.whole import replace_file
from pipeline.jobs.job import Job
from pipeline.submission.run_directory import SCRIPT_FILE, SUBMITTED_FILE, Submission, log_file, submitted
from pipeline.submission.script import BatchJob, slurm_script

JOB_FILE: Final = "job.toml"
WORKERS_SECONDS: Final = 300.0  # for the workers to come; after that the run goes on with those that are there
SETTLING_SECONDS: Final = 3.0
ADVICE: Final = "start Dask in a script of your own, as docs/running.md shows"


def check_queue(queue: str) -> None:
    """Raises ValueError for a queue that `submit` does not speak to."""
    if queue != "slurm":
        raise ValueError(f"--queue {queue}: submit speaks to slurm only; for others, {ADVICE}")


def check_data(job: Job) -> None:
    """Look for the job's data, as the training will, without reading its rows. Raises OSError, ValueError or TypeError."""
    job.split.parts(job.data.dataset())


def check_not_active(directory: Path) -> None:
    """Raises ValueError when an earlier submission of this run still waits or runs."""
    if (before := submitted(directory)) is None:
        return
    state = slurm.job_state(before.job_id)
    if state is not None and state.active:
        cure = f"end it with `scancel {before.job_id}`, or choose another directory with --out"
        raise ValueError(f"{directory} belongs to job {before.job_id}, which is {state.state.lower()}; {cure}")


def submit_job(job: Job, batch: BatchJob, command: Sequence[str]) -> Submission:
    """Write the run's directory and submit its script to SLURM; command: what the user typed.

    Raises what `check_data`, `check_not_active` and `queued` raise, and OSError; the directory is then as it was.
    """
    check_data(job)
    check_not_active(batch.directory)
    if shutil.which("sbatch") is None:
        slurm.ask("sbatch", "--version")  # raises, before anything is written
    files = [batch.directory / name for name in (JOB_FILE, SCRIPT_FILE, SUBMITTED_FILE)]
    with unchanged_on_error(files):
        replace_file(files[0], job.toml())
        replace_file(files[1], slurm_script(batch))
        with queued(files[1]) as job_id:
            now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
            submission = Submission(
                job_id=job_id, queue="slurm", command=list(command), time=now, host=platform.node(), resume=batch.resume
            )
            submission.write(files[2])
    return submission


@contextmanager
def queued(script: Path) -> Iterator[str]:
    """Submit a script, and have the job's id in the block; when that fails, the job is cancelled.

    Raises JobRefusedError, within seconds, for a job that SLURM refuses or that could only wait for ever; FileNotFoundError without
    sbatch; TimeoutError when SLURM does not answer.
    """
    done = slurm.ask("sbatch", "--parsable", str(script))
    if done.returncode != 0:
        raise JobRefusedError(f"SLURM refuses the job: {slurm.words(done.stderr)}")
    job_id = done.stdout.strip().partition(";")[0]
    try:
        if (reason := never_reason(job_id)) is not None:
            raise JobRefusedError(f"SLURM would let the job wait for ever: {reason}; ask for less, or for another --partition")
        yield job_id
    except BaseException:
        slurm.ask("scancel", job_id)  # otherwise nobody would know of the job
        raise


def never_reason(job_id: str) -> str | None:
    """Why a new job can never run, as far as SLURM says so within SETTLING_SECONDS: only its scheduler's first look at the job tells, and
    says more than the UNSPECIFIC reason before it."""
    deadline = time.monotonic() + SETTLING_SECONDS
    reason = None
    while (found := slurm.job_state(job_id)) is not None and found.state == "PENDING" and time.monotonic() < deadline:
        reason = found.reason if found.reason in slurm.NEVER else None
        if reason not in (None, slurm.UNSPECIFIC):
            break
        time.sleep(0.2)
    return reason


@contextmanager
def unchanged_on_error(files: Sequence[Path]) -> Iterator[None]:
    """Make the files' directory and logs/ in it; when the block fails, the files are what they were, and empty directories go."""
    directory = files[0].parent
    logs = log_file(directory, "batch").parent
    logs.mkdir(parents=True, exist_ok=True)
    before = {path: path.read_bytes() for path in files if path.is_file()}
    try:
        yield
    except BaseException:
        for path in files:
            if path in before:
                replace_file(path, before[path])
            else:
                path.unlink(missing_ok=True)
        for empty in (logs, directory):
            with suppress(OSError):
                empty.rmdir()
        raise
