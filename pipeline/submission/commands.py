"""The commands of `python -m pipeline` for batch jobs: submit, status, logs, certificates."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Final

from pipeline.cluster.queue.queue_options import parse_memory, seconds
from pipeline.cluster.security import make_certificates
from pipeline.jobs.job import Job, read_job
from pipeline.submission.resources import Resources
from pipeline.submission.run_directory import MAX_JOBS, SCHEDULER_FILE, SUBMITTED_FILE, log_file
from pipeline.submission.script import BatchJob, slurm_script
from pipeline.submission.status import ACTIVE, find_directory, find_runs, run_status
from pipeline.submission.submit import WORKERS_SECONDS, check_data, check_queue, submit_job

POLL_SECONDS: Final = 0.5
POLLS_PER_QUESTION: Final = 10  # how often the queue is asked whether a log may still grow


def submit(arguments: argparse.Namespace) -> int:
    """Submit a job, or print the script that would be."""
    check_queue(arguments.queue)
    job, batch = batch_job(arguments)
    if arguments.dry_run:
        check_data(job)
        print(slurm_script(batch), end="")
        return 0
    submission = submit_job(job, batch, [sys.executable, "-m", "pipeline", *sys.argv[1:]])
    name = shlex.quote(job.output.directory if arguments.out else job.name)
    print(f"job {submission.job_id} submitted; its run is {batch.directory}\npython -m pipeline status {name}")
    return 0


def batch_job(arguments: argparse.Namespace) -> tuple[Job, BatchJob]:
    """The job as it will run, and what to ask of the queue. Raises ValueError for arguments that cannot be."""
    asked = resources(arguments)
    if arguments.max_jobs is not None and not arguments.resume:
        raise ValueError("--max-jobs is for a run that goes on in further jobs; give --resume, too")
    output = {"output": {"directory": arguments.out}} if arguments.out else {}
    directory = Path(read_job(arguments.job, arguments.overrides, output).output.directory).absolute()
    cluster = {"kind": "scheduler", "scheduler_file": str(directory / SCHEDULER_FILE), "n_workers": asked.jobs, "timeout": WORKERS_SECONDS}
    overrides = [each for each in arguments.overrides if not each.startswith("output.")]
    job = read_job(arguments.job, overrides, {"cluster": cluster, "output": {"directory": str(directory)}})
    batch = BatchJob(
        name=job.name,
        directory=directory,
        working_directory=Path.cwd(),
        python=arguments.python,
        resources=asked,
        prologue=tuple(arguments.prologue),
        local_directory=arguments.local_directory,
        interface=arguments.interface,
        resume=arguments.resume,
        max_jobs=MAX_JOBS if arguments.max_jobs is None else arguments.max_jobs,
    )
    return job, batch


def resources(arguments: argparse.Namespace) -> Resources:
    """The resources to ask for. Raises ValueError for what cannot be."""
    try:
        walltime = None if arguments.walltime is None else seconds(arguments.walltime)
    except (ValueError, KeyError) as error:
        raise ValueError(f"--walltime must be a time, 01:30:00 or 90m for instance, got {arguments.walltime!r}") from error
    same = ("jobs", "cores", "gpus", "account", "partition")
    return Resources(
        **{name: vars(arguments)[name] for name in same},
        memory=parse_memory(arguments.memory),
        walltime=walltime,
        directives=tuple(arguments.directive),
    )


def status(arguments: argparse.Namespace) -> int:
    """Tell what is known of runs."""
    for directory in find_runs(arguments.runs):
        print(run_status(directory))
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Print a log; with --follow until the job has ended."""
    directory = find_directory(arguments.name)
    path = log_file(directory, arguments.which)
    follows = arguments.follow and (directory / SUBMITTED_FILE).is_file()
    if not follows and not path.is_file():
        raise FileNotFoundError(f"there is no {path}; python -m pipeline status {shlex.quote(arguments.name)} tells why")
    place, polls, active = 0, 0, True
    while active:
        if polls % POLLS_PER_QUESTION == 0:
            active = follows and run_status(directory).state in ACTIVE
        place += print_from(path, place)
        polls += 1
        if active:
            time.sleep(POLL_SECONDS)
    return 0


def print_from(path: Path, place: int) -> int:
    """Print a file from a place on, in bytes, and return how many there were."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(place)
        found = file.read()
    print(found.decode(errors="replace"), end="", flush=True)
    return len(found)


def certificates(arguments: argparse.Namespace) -> int:
    """Make certificates for TLS."""
    directory = make_certificates(arguments.directory, hosts=arguments.hosts)
    print(f"certificates for scheduler, worker and client are in {directory}; who can read their keys can run code on the cluster")
    return 0
