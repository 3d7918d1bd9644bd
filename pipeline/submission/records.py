"""What a submitted run's directory holds besides what `pipeline.runs` writes.

submit.sh        the batch script
submitted.json   what `Submission` holds
logs/            batch.log, scheduler.log, workers.log, train.log
ended.json       what `Ended` holds, once the script has ended in order
scheduler.json, tls/   while the job runs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from pipeline.models.files import replace_file

SCRIPT_FILE: Final = "submit.sh"
SCHEDULER_FILE: Final = "scheduler.json"
TLS_DIRECTORY: Final = "tls"
SUBMITTED_FILE: Final = "submitted.json"
ENDED_FILE: Final = "ended.json"

LINE_BYTES: Final = 4096

Log: TypeAlias = Literal["train", "scheduler", "workers", "batch"]


def log_file(run: Path, log: Log) -> Path:
    """Where a log of a run's directory is."""
    return run / "logs" / f"{log}.log"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A small file of a run's directory."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None when the file is not there, or is not such a record."""
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        names = [f.name for f in fields(cls)]
        return cls(**{name: found[name] for name in names}) if isinstance(found, Mapping) and found.keys() >= set(names) else None

    def write(self, path: Path) -> None:
        """Write it whole."""
        replace_file(path, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class Submission(Record):
    """job_id: the queue's; command: that submitted it; time: in ISO 8601, with the zone; host: where the command ran."""

    job_id: str
    queue: str
    command: list[str]
    time: str
    host: str


@dataclass(frozen=True, kw_only=True)
class Ended(Record):
    """exit_status: the script's, 143 when the queue ended it."""

    job_id: str
    exit_status: int


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
