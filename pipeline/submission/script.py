"""The batch script of a run: scheduler, workers and training in one allocation. Text from dataclasses; nothing is looked up here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from pipeline.cluster.pulse import worker_ttl
from pipeline.cluster.queue.systems import clock
from pipeline.cluster.security import tls_environment
from pipeline.runs.run import CHECKPOINTS
from pipeline.submission.resources import MIB, Resources, one_line
from pipeline.submission.run_directory import MAX_JOBS, SCHEDULER_FILE, TLS_DIRECTORY, log_file
from pipeline.training.checkpoints.files import SUFFIX

WORKER_SHARE: Final = 0.9  # the rest is for nannies, and on the first node for the scheduler and the training
BODY: Final = (resources.files("pipeline.submission") / "batch.sh").read_text()


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A run that is to be submitted.

    directory: the run's, absolute; working_directory: where relative paths of the job start; python: of every node; prologue: shell lines
    that run first, as they are; local_directory: for what workers spill, by default the node's temporary directory; interface: of the
    network, by default that of the node's own address; resume: whether it goes on from the run's checkpoint, and when its walltime is over
    in a further job, max_jobs at most.

    Raises ValueError for max_jobs below 1.
    """

    name: str
    directory: Path
    working_directory: Path
    python: str
    resources: Resources
    prologue: tuple[str, ...] = ()
    local_directory: str | None = None
    interface: str | None = None
    resume: bool = False
    max_jobs: int = MAX_JOBS

    def __post_init__(self) -> None:
        if self.max_jobs < 1:
            raise ValueError(f"--max-jobs must be at least 1, got {self.max_jobs}")


def slurm_script(job: BatchJob) -> str:
    """The script for sbatch. Raises ValueError for paths with line breaks.

    Started again, by a requeue, it goes on from the checkpoint. Its arguments, in the further jobs of a chain, which it submits itself:
    the first job's id, and which of them it is. Its exit status is that of the training, 75 when the walltime was nearly over; 1, with a
    line in the batch log, when the scheduler or all workers ended before it; 143 when the queue ended it.
    """
    run = quoted(str(job.directory))
    left = f"{run}/{CHECKPOINTS}/*-{16 * '?'}-{9 * '?'}{SUFFIX} {run}/logs/{{scheduler,workers,train}}.log"
    anew = f'[ "${{SLURM_RESTART_COUNT:-0}}" != 0 ] || rm -f {left}'
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {option}" for option in options(job)),
        "# The scheduler, the workers and the training, all inside this allocation. Started again, it goes on from the checkpoint.",
        'echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname), $(date)"',
        "first=${1:-$SLURM_JOB_ID} number=${2:-1} # of a chain of jobs: the one submitted by hand, and which of them this is",
        "set -- # a file that the prologue sources would see them",
        *([] if job.resume else [anew]),
        *job.prologue,
        *(f"export {name}={quoted(value)}" for name, value in environment(job).items()),
        f"run={run}",
        f"here={quoted(str(job.working_directory))}",
        f"python={quoted(job.python)}",
        f"max_jobs={job.max_jobs if job.resume else 0}",
        f"scheduler=({scheduler(job)})",
        f"workers=({workers(job)})",
    ]
    return "\n".join(lines) + "\n" + BODY


def options(job: BatchJob) -> list[str]:
    """The options that stand behind #SBATCH."""
    asked = job.resources
    found = [
        f"--job-name={job.name}",
        f"--output={sbatch_quoted(str(log_file(job.directory, 'batch')), pattern=True)}",
        "--open-mode=append",
        "--requeue",
        f"--ntasks={asked.jobs}",
        f"--cpus-per-task={asked.cores}",
        f"--mem-per-cpu={-(-asked.memory // (asked.cores * MIB))}M",
    ]
    found += [f"--gpus-per-task={asked.gpus}"] if asked.gpus else []
    found += [f"--time={clock(asked.walltime)}"] if asked.walltime else []
    found += [f"--account={sbatch_quoted(asked.account)}"] if asked.account else []
    found += [f"--partition={sbatch_quoted(asked.partition)}"] if asked.partition else []
    return [*found, *asked.directives]


def sbatch_quoted(text: str, *, pattern: bool = False) -> str:
    """Text as sbatch reads it in its lines; pattern: where % has a meaning."""
    text = one_line(text.replace("%", "%%") if pattern else text)
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def quoted(text: str) -> str:
    """Text as one word of the shell's."""
    return shlex.quote(one_line(text))


def environment(job: BatchJob) -> dict[str, str]:
    """Variables for all of Dask's processes: nothing connects without a certificate, and a run does not wait for ever, neither for a first
    worker nor for one that has stopped."""
    return {
        **tls_environment(job.directory / TLS_DIRECTORY),
        "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "600s",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{worker_ttl():g}s",
    }


def scheduler(job: BatchJob) -> str:
    """The scheduler's command; its dashboard speaks plain HTTP, so it is for this node alone."""
    interface = f" --interface {quoted(job.interface)}" if job.interface else ""
    return f'"$python" -m dask scheduler --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$run/{SCHEDULER_FILE}"{interface}'


def workers(job: BatchJob) -> str:
    """The workers' command: a task each, one dead task leaves the others; nannies bring back workers that die."""
    asked = job.resources
    launcher = ["srun", f"--ntasks={asked.jobs}", f"--cpus-per-task={asked.cores}", "--kill-on-bad-exit=0", "--export=ALL", "--label"]
    launcher += [f"--gpus-per-task={asked.gpus}"] if asked.gpus else []
    worker = ['"$python" -m dask worker --nanny', f'--scheduler-file "$run/{SCHEDULER_FILE}"', "--dashboard-address 127.0.0.1:0"]
    worker += [f"--nthreads {asked.cores}", f"--memory-limit {int(asked.memory * WORKER_SHARE) // MIB}MiB", "--death-timeout 60"]
    worker += [f"--local-directory {quoted(job.local_directory)}"] if job.local_directory else []
    worker += [f"--interface {quoted(job.interface)}"] if job.interface else []
    return " ".join([*launcher, *worker])
