"""Submitting runs to a real SLURM, and waiting for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.cli import main
from pipeline.submission.run_directory import submitted
from pipeline.submission.status import ACTIVE, RunStatus, run_status

TWO_WORKERS = ("--jobs", "2", "--memory", "512MiB")
SMALL = (*TWO_WORKERS, "--walltime", "00:10:00")


def changes(*given: str) -> tuple[str, ...]:
    """A job's changes as arguments."""
    return tuple(word for change in given for word in ("--set", change))


# gradient descent on classes that can be told apart has no end within minutes
ENDLESS = changes("estimator.solver=gradient-descent", "estimator.C=1e6", "estimator.tol=0", "estimator.max_iter=100_000_000")


def submit(*arguments: str, small: tuple[str, ...] = SMALL) -> Path:
    """The run's directory."""
    assert main(["submit", *arguments, *small]) == 0
    return max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime)


def job_id(run: Path) -> str:
    """The job that a run is at."""
    submission = submitted(run)
    assert submission is not None
    return submission.job_id


def until(run: Path, holds: Callable[[RunStatus], bool], seconds: float = 90.0) -> RunStatus:
    """The first status for which it holds."""
    deadline = time.monotonic() + seconds
    while not holds(status := run_status(run)):
        assert time.monotonic() < deadline, status
        time.sleep(0.3)
    return status


def ended(run: Path, seconds: float = 90.0) -> RunStatus:
    return until(run, lambda status: status.state not in ACTIVE, seconds)


def digest(run: Path) -> str:
    return str(json.loads((run / "metrics.json").read_text())["parameters_sha256"])
