"""The arguments of python -m pipeline submit | status | logs | certificates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from pipeline.submission.resources import MIB, Resources
from pipeline.submission.run_directory import MAX_JOBS, Log
from tasks.lazy import Lazy

if TYPE_CHECKING:
    from pipeline.submission import commands as bodies
else:
    bodies = Lazy("pipeline.submission.commands")

MEMORY: Final = f"{Resources.memory // (1024 * MIB)}GiB"


def add_submit(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `submit`."""
    command = commands.add_parser("submit", parents=[common], help="run a job in a batch queue", allow_abbrev=False)
    command.add_argument("job", metavar="JOB", help="a bundled job's name (python -m pipeline jobs) or a job file, FILE.toml")
    command.add_argument("--queue", default="slurm", metavar="QUEUE", help="slurm")
    command.add_argument("--jobs", type=int, default=Resources.jobs, metavar="N", help="workers (default: %(default)s)")
    command.add_argument("--cores", type=int, default=Resources.cores, metavar="C", help="threads of each worker (default: %(default)s)")
    command.add_argument("--memory", default=MEMORY, metavar="M", help="memory of each worker (default: %(default)s)")
    command.add_argument("--gpus", type=int, default=Resources.gpus, metavar="G", help="GPUs of each worker (default: %(default)s)")
    command.add_argument("--walltime", metavar="TIME", help="HH:MM:SS, D-HH:MM:SS, or 2h (default: the partition's)")
    command.add_argument("--account", metavar="A", help="whom to charge")
    command.add_argument("--partition", metavar="P", help="where to run")
    command.add_argument(
        "--directive", action="append", default=[], metavar="OPTION", help="another #SBATCH option: --directive=--qos=short"
    )
    command.add_argument("--prologue", action="append", default=[], metavar="LINE", help="a shell line to run first: 'module load x'")
    command.add_argument("--local-directory", metavar="DIR", help="where workers spill to (default: the node's temporary directory)")
    command.add_argument("--interface", metavar="NAME", help="network interface, ib0 for instance (default: that of the node's address)")
    command.add_argument("--python", default=sys.executable, metavar="FILE", help="Python on the nodes (default: this one)")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change the job, e.g. data.n_partitions=8"
    )
    command.add_argument("--out", metavar="DIR", help="the run's directory (default: runs/NAME)")
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's checkpoint, and in further jobs as walltimes end, until done",
    )
    command.add_argument("--max-jobs", type=int, metavar="N", help=f"with --resume: so many jobs at most (default: {MAX_JOBS})")
    command.add_argument("--dry-run", action="store_true", help="print the script; write and submit nothing")
    command.set_defaults(chosen=lambda: bodies.submit)


def add_status(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `status`."""
    command = commands.add_parser("status", parents=[common], help="what became of runs", allow_abbrev=False)
    command.add_argument("runs", nargs="*", metavar="RUN", help="names under runs/, or directories (default: all in runs/)")
    command.set_defaults(chosen=lambda: bodies.status)


def add_logs(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `logs`."""
    command = commands.add_parser("logs", parents=[common], help="print a log of a submitted run", allow_abbrev=False)
    command.add_argument("name", metavar="RUN", help="a name under runs/, or a directory")
    command.add_argument("--which", choices=get_args(Log), default="train")
    command.add_argument("--follow", action="store_true", help="go on until the job has ended")
    command.set_defaults(chosen=lambda: bodies.logs)


def add_certificates(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `certificates`."""
    command = commands.add_parser("certificates", parents=[common], help="make an authority and certificates for TLS", allow_abbrev=False)
    command.add_argument("directory", type=Path, metavar="DIR", help="where to; must not have an authority yet")
    command.add_argument("--host", action="append", default=[], metavar="H", dest="hosts", help="a name or address to write into them")
    command.set_defaults(chosen=lambda: bodies.certificates)


ADD_COMMANDS: Final = (add_submit, add_status, add_logs, add_certificates)
