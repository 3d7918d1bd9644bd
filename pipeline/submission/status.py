"""The status of runs: from their files, and from the queue for those that were submitted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pipeline.cluster.queue import slurm
from pipeline.runs.metrics import METRICS_FILE
from pipeline.runs.run import CHECKPOINTS, ROUNDS_FILE
from pipeline.submission.run_directory import ENDED_FILE, SUBMITTED_FILE, Ended, Log, Submission, last_line, log_file, submitted
from pipeline.training.checkpoints.keeper import checkpoints_in

State: TypeAlias = Literal["waiting", "running", "requeued", "finished", "failed", "cancelled", "out of time", "unknown to the queue"]

ENDINGS: Final[dict[str, State]] = {"CANCELLED": "cancelled", "TIMEOUT": "out of time", "DEADLINE": "out of time"}
ACTIVE: Final = ("waiting", "running", "requeued")
LOG_LINES: Final = 8
LOGS: Final[tuple[Log, ...]] = ("batch", "train")  # the logs whose ends `status` shows
BY_QUEUE: Final = 143  # the script's exit status when the queue ended it


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The status of a run; detail: a line; lines: the end of its log, when it failed."""

    directory: Path
    state: State
    detail: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.directory.name:15} {self.state:11} {self.detail}".rstrip()
        return "\n".join([head, *(f"    {line}" for line in self.lines)])


def find_runs(names: list[str], root: Path = Path("runs")) -> list[Path]:
    """Directories of runs: those named, by a path or under runs/, or all in a directory that is no run itself; without names all in runs/.

    Raises FileNotFoundError for a name that is neither.
    """
    found: list[Path] = []
    for place in [root] if not names else [find_directory(name, root) for name in names]:
        inside = [path for path in sorted(place.glob("*")) if is_run(path)]
        if not is_run(place) and not inside and names:
            raise FileNotFoundError(f"{place} is no run, and has none in it")
        found += [place] if is_run(place) else inside
    return found


def find_directory(name: str, root: Path = Path("runs")) -> Path:
    """A directory by its path, or by its name under runs/. Raises FileNotFoundError."""
    for path in (Path(name), root / name):
        if path.is_dir():
            return path
    raise FileNotFoundError(f"there is no run {name}, neither here nor under {root}/")


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run which was submitted or has ended."""
    return any((path / name).is_file() for name in (SUBMITTED_FILE, METRICS_FILE))


def run_status(directory: Path) -> RunStatus:
    """The status of a run. Raises OSError when it may be in the queue and that does not answer."""
    submission = submitted(directory)
    if submission is None:
        return RunStatus(directory=directory, state="finished", detail=score(directory))
    ended = Ended.read(directory / ENDED_FILE)
    if ended is not None and ended.job_id != submission.job_id:
        ended = None  # this is the end of an earlier job
    if ended is not None and ended.exit_status == 0:
        return RunStatus(directory=directory, state="finished", detail=f"{job_words(submission)}: {score(directory)}")
    queue = slurm.job_state(submission.job_id)
    if queue is not None and queue.active:
        return active(directory, submission, queue)
    return over(directory, submission, queue, ended)


def active(directory: Path, submission: Submission, queue: slurm.QueueState) -> RunStatus:
    """A run that waits or runs."""
    job = job_words(submission)
    saved = saved_rounds(directory) if submission.resume else 0
    if queue.state in slurm.WAITING:
        state: State = "requeued" if queue.restarts else "waiting"
        expected = f", expected to start {queue.since}" if queue.since else ""
        rounds = f", {saved} rounds so far" if saved else ""
        return RunStatus(directory=directory, state=state, detail=f"{job}: {queue.reason or 'SLURM gives no reason'}{expected}{rounds}")
    again = f" (start {queue.restarts + 1})" if queue.restarts else ""
    row = last_line(directory / ROUNDS_FILE)
    rounds = f"{saved} rounds so far" if saved else "no round yet"
    if row is not None:
        rounds = f"round {row['round']}, objective {number(row['objective'])}"
    odd = "" if queue.state == "RUNNING" else f", {queue.state.lower()}"
    return RunStatus(directory=directory, state="running", detail=f"{job} since {queue.since}{again}{odd}, {rounds}")


def over(directory: Path, submission: Submission, queue: slurm.QueueState | None, ended: Ended | None) -> RunStatus:
    """A run that is over, and has not ended well."""
    state, reasons = ending(directory, submission, queue, ended)
    if saved := saved_rounds(directory):
        reasons.append(f"submit --resume goes on after round {saved}")
    detail = f"{job_words(submission)}: {', '.join(reasons)}" if reasons else job_words(submission)
    return RunStatus(directory=directory, state=state, detail=detail, lines=log_end(directory))


def ending(directory: Path, submission: Submission, queue: slurm.QueueState | None, ended: Ended | None) -> tuple[State, list[str]]:
    """The end of a run that did not end well, and why."""
    if ended is not None and ended.reason:
        return "out of time", [ended.reason]
    if queue is not None and queue.state in ENDINGS:
        return ENDINGS[queue.state], []
    if ended is None and (queue is None or queue.state == "COMPLETED"):
        return "unknown to the queue", [f"submitted {submission.time}"]
    reasons = [] if ended is None else [f"exit status {ended.exit_status}"]
    if queue is not None and (ended is None or queue.state != "FAILED"):
        reasons += [f"SLURM says {queue.state}"] + [queue.ending] * (ended is None and queue.ending != "")
    elif ended is not None and ended.exit_status == BY_QUEUE:
        reasons.append("ended by the queue")
    if ended is None and not has_words(directory):
        reasons.append("nothing was logged: a line of the prologue may be the reason")
    return "failed", reasons


def job_words(submission: Submission) -> str:
    """The job that a run is at, and which of its chain that is."""
    return f"job {submission.job_id}" + (f", number {submission.number} of its chain" if submission.number > 1 else "")


def saved_rounds(directory: Path) -> int:
    """The number of rounds after which a run was last saved; 0 when there is no checkpoint. Their names end in it."""
    return max((int(path.stem.rpartition("-")[2]) for path in checkpoints_in(directory / CHECKPOINTS)), default=0)


def score(directory: Path) -> str:
    """The scores of a run that is whole, in a line."""
    try:
        metrics: dict[str, Any] = json.loads((directory / METRICS_FILE).read_bytes())
        value = metrics["train_score"] if metrics["test_score"] is None else metrics["test_score"]
        return f"{metrics['score_name']} {number(value)}, {metrics['status']} after {metrics['rounds']} rounds"
    except (OSError, ValueError, KeyError):
        return f"no {METRICS_FILE} there any more"


def number(value: float | None) -> str:
    """A figure; files of JSON have null for those that are not finite."""
    return "not finite" if value is None else f"{value:.6g}"


def has_words(directory: Path) -> bool:
    """Whether the logs of the batch script and of the training have more than the line that the script begins with."""
    return any(not re.match(r"(job \d+, start \d+, on | *$)", line) for log in LOGS for line in log_lines(directory, log))


def log_lines(directory: Path, log: Log) -> list[str]:
    """The lines of a log; none when it is not there."""
    path = log_file(directory, log)
    return path.read_text(errors="replace").rstrip().splitlines() if path.is_file() else []


def log_end(directory: Path) -> tuple[str, ...]:
    """The last lines of the logs of the batch script and of the training."""
    found: list[str] = []
    for log in LOGS:
        if lines := log_lines(directory, log):
            found += [f"{log_file(directory, log)}:", *(f"  {line}" for line in lines[-LOG_LINES:])]
    return tuple(found)
