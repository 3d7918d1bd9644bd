"""The records in a submitted run's directory, besides the files that `pipeline.runs.run` writes.

submit.sh        the batch script
submitted.json   what `Submission` holds
continued.json   what `Continued` holds, once the run goes on in a further job
logs/            batch.log, scheduler.log, workers.log, train.log
ended.json       what `Ended` holds, once the script has ended in order
scheduler.json, tls/   while the job runs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from pipeline.files.whole import replace_file

SCRIPT_FILE: Final = "submit.sh"
SCHEDULER_FILE: Final = "scheduler.json"
TLS_DIRECTORY: Final = "tls"
SUBMITTED_FILE: Final = "submitted.json"
CONTINUED_FILE: Final = "continued.json"
ENDED_FILE: Final = "ended.json"

LINE_BYTES: Final = 4096

MAX_JOBS: Final = 50  # of a chain, unless the user says otherwise
Log: TypeAlias = Literal["train", "scheduler", "workers", "batch"]


def log_file(run: Path, log: Log) -> Path:
    """The path of a log in a run's directory."""
    return run / "logs" / f"{log}.log"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A small file of a run's directory."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the record; None when the file is not there, or is not such a record."""
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        names = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        return (
            cls(**{name: found[name] for name in names & found.keys()}) if isinstance(found, Mapping) and found.keys() >= needed else None
        )

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        replace_file(path, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class Submission(Record):
    """A submission of a run. job_id: the queue's; command: the one that submitted it; time: in ISO 8601, with the zone; host: where the
    command ran; resume: whether it goes on from a checkpoint, and in further jobs; number: which of them job_id is."""

    job_id: str
    queue: str
    command: list[str]
    time: str
    host: str
    resume: bool = False
    number: int = 1


@dataclass(frozen=True, kw_only=True)
class Continued(Record):
    """The job that a run is at, the number-th of its chain; first_job_id: the one that was submitted by hand."""

    first_job_id: str
    job_id: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Ended(Record):
    """The end of a batch script. exit_status: the script's, 143 when the queue ended it; reason: why no further job goes on with a run
    whose walltime is over."""

    job_id: str
    exit_status: int
    reason: str = ""


def submitted(run: Path) -> Submission | None:
    """The submission of a run's directory, with the job that it is at by now; None when it was not."""
    submission = Submission.read(run / SUBMITTED_FILE)
    continued = Continued.read(run / CONTINUED_FILE)
    if submission is None or continued is None or continued.first_job_id != submission.job_id:  # the chain is of an earlier submission
        return submission
    return replace(submission, job_id=continued.job_id, number=continued.number)


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file of JSON lines of at most LINE_BYTES; None when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LINE_BYTES))
            lines = file.read().split(b"\n")[:-1]
        found = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
