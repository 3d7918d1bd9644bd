"""SLURM by its commands: scontrol and sacct tell what became of a job, and some of the reasons why jobs wait never end."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Final

ANSWER_SECONDS: Final = 30.0  # SLURM's own commands wait for minutes for a controller that is down
ENDED: Final = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)
WAITING: Final = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"))
# Unless a site enforces its limits when jobs are submitted, those that can never run wait for ever for these reasons.
UNSPECIFIC: Final = "PartitionConfig"
NEVER: Final = frozenset(
    (
        *("AssocMaxCpuPerJobLimit", "AssocMaxMemPerJob", "AssocMaxWallDurationPerJobLimit", "InvalidAccount", "AccountNotAllowed"),
        *("QOSMaxCpuPerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxWallDurationPerJobLimit", "InvalidQOS", "QOSNotAllowed"),
        *("PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", UNSPECIFIC),
    )
)


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """The state of a job. state: SLURM's word, PENDING for instance; reason: why it waits, or ended; since: when it started, if it has;
    restarts: by requeues; exit_code: how it ended, STATUS:SIGNAL."""

    state: str
    reason: str = ""
    since: str = ""
    restarts: int = 0
    exit_code: str = "0:0"

    @property
    def ending(self) -> str:
        """The exit status or the signal, in words; "" for an exit status of 0."""
        status, _, signal = self.exit_code.partition(":")
        return f"signal {signal}" if signal.strip("0") else f"exit status {status}" if status.strip("0") else ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in ENDED


def job_state(job_id: str) -> QueueState | None:
    """The state of a job as SLURM knows it: from the controller, after that has forgotten it from the accounting; None when neither knows
    it.

    Raises FileNotFoundError without scontrol, TimeoutError or ConnectionError when SLURM does not answer.
    """
    done = ask("scontrol", "-o", "show", "job", job_id)
    if done.returncode == 0:
        return shown_state(done.stdout)
    if "Invalid job id" not in done.stderr:
        raise ConnectionError(f"SLURM does not tell of job {job_id}: {words(done.stderr)}")
    return accounted_state(job_id)


def shown_state(text: str) -> QueueState:
    """The state of a job from the text of `scontrol -o show job`; the job's name, which comes before the other fields, has no spaces."""
    found = dict(re.findall(r"\b(JobState|Reason|StartTime|Restarts|ExitCode)=(\S*)", text)[::-1])  # reversed: the first of a name wins
    return QueueState(
        state=found["JobState"],
        reason=found.get("Reason", "").replace("None", ""),
        since=found.get("StartTime", "").replace("Unknown", ""),
        restarts=int(found.get("Restarts", 0)),
        exit_code=found.get("ExitCode", "0:0"),
    )


def accounted_state(job_id: str) -> QueueState | None:
    """The state of a job from `sacct`; None on sites without accounting too."""
    try:
        done = ask("sacct", "-n", "-X", "-P", "-o", "State,Start,ExitCode", "-j", job_id)
    except FileNotFoundError:
        return None
    state, _, rest = done.stdout.strip().partition("\n")[0].partition("|")
    since, _, exit_code = rest.partition("|")
    if done.returncode != 0 or not state:
        return None
    return QueueState(state=state.split()[0], since=since, exit_code=exit_code)  # "CANCELLED by 1000"


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands. Raises FileNotFoundError and TimeoutError."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS, env=environment())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {command[0]} on this machine; run this where SLURM's commands are, on a login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"SLURM did not answer `{' '.join(command)}` in {ANSWER_SECONDS:.0f} s") from error


def environment() -> dict[str, str]:
    """The environment of this process for commands of a queue: inside a job of SLURM's, that job's variables would speak for the new
    one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def words(stderr: str) -> str:
    """The text of a SLURM command in a line, without its prefixes."""
    lines = [re.sub(r"^(sbatch|scontrol|sinfo|slurm_\w+):?( error:| fatal:)? ", "", line) for line in stderr.splitlines()]
    return "; ".join(line.strip().removeprefix("error: ") for line in lines if line.strip()) or "it gives no reason"
