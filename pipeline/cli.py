"""python -m pipeline train | plan | submit | ... (see `parser`): arguments in, exit status out.

Exit status: 0 when done, 1 when `verify` finds a difference or `doctor` something wrong, 2 for a mistake of the user's (the message on
stderr says what to do), 130 when interrupted, 143 when ended by SIGTERM, 75 when the walltime of its SLURM job is nearly over and
`--resume` can go on in another.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from pipeline.cluster.code.library import VersionMismatchError
from pipeline.cluster.interrupts import imports_done
from pipeline.cluster.queue.systems import SYSTEMS
from pipeline.jobs import OF_QUEUES, Format, Made
from pipeline.submission.arguments import ADD_COMMANDS
from tasks.lazy import Lazy

if TYPE_CHECKING:
    from pipeline import benchmarks
    from pipeline import commands as bodies
    from pipeline.diagnosis import doctor as diagnosis
else:
    bodies, benchmarks, diagnosis = Lazy("pipeline.commands"), Lazy("pipeline.benchmarks"), Lazy("pipeline.diagnosis.doctor")

Command = Callable[[argparse.Namespace], int]
USER_ERRORS: Final = (ValueError, TypeError, OSError, VersionMismatchError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argv: by default the process's."""
    arguments = parser().parse_args(argv)
    try:
        command: Command = arguments.chosen()
        imports_done()
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = show_warning
            return command(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="python -m pipeline", description="Models trained on data that lives in partitions.")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error comes from")
    for add in (add_train, add_verify, add_plan, *ADD_COMMANDS, add_predict, add_make_data, add_jobs, add_bench, add_doctor):
        add(commands, common)
    return main_parser


def add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    command = commands.add_parser("train", parents=[common], help="run a job: fit, score, write runs/NAME/", allow_abbrev=False)
    add_job(command)
    add_where(command)
    of_jobs = command.add_argument_group("with --queue (more of them: --set cluster.KEY=VALUE)")
    for name, (kind, metavar, words) in OF_QUEUES.items():
        of_jobs.add_argument(f"--{name}", type=kind, metavar=metavar, help=words)
    command.add_argument("--out", metavar="DIR", help="the run's directory (default: runs/NAME)")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint that an earlier run of this job left there")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(chosen=lambda: bodies.train)


def add_where(command: argparse.ArgumentParser) -> None:
    """The arguments that name a cluster in place of the job's own."""
    where = command.add_mutually_exclusive_group()
    where.add_argument("--n-workers", type=int, metavar="N", help="N processes on this machine (default: a thread for each of its cores)")
    where.add_argument("--in-process", action="store_true", help="threads in this process, no cluster")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a running scheduler, e.g. tcp://10.0.0.1:8786")
    where.add_argument("--scheduler-file", metavar="FILE", help="a running scheduler's file")
    where.add_argument("--queue", metavar="SYSTEM", help=f"jobs in a queue: {', '.join(SYSTEMS)}")
    command.add_argument("--tls", metavar="DIR", help="the directory of the certificates (python -m pipeline certificates DIR)")


def add_verify(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `verify`."""
    command = commands.add_parser(
        "verify",
        parents=[common],
        help="train a run's job again, and name the first round and group that differ",
        description="Exit status: 0 when every round is the same, 1 when one differs.",
        allow_abbrev=False,
    )
    command.add_argument("directory", metavar="RUN", help="a run's directory, or its name under runs/")
    add_where(command)
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(chosen=lambda: bodies.verify_run)


def add_job(command: argparse.ArgumentParser) -> None:
    """The arguments that name a job."""
    command.add_argument("job", metavar="JOB", help="a bundled job's name (python -m pipeline jobs) or a job file, FILE.toml")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change the job, e.g. data.n_partitions=8"
    )


def add_plan(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `plan`."""
    command = commands.add_parser(
        "plan", parents=[common], help="what a job would take on a cluster, probed in seconds", allow_abbrev=False
    )
    add_job(command)
    command.add_argument("--jobs", type=int, required=True, metavar="N", help="batch jobs, a worker process each")
    command.add_argument("--memory", required=True, metavar="M", help="of each job, e.g. 4GB")
    command.add_argument("--cores", type=int, default=1, metavar="C", help="worker threads of each job (default 1)")
    command.add_argument("--json", action="store_true", help="one JSON object instead of text")
    command.set_defaults(chosen=lambda: bodies.plan)


def add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `predict`."""
    command = commands.add_parser("predict", parents=[common], help="predict the rows of CSV or Parquet files", allow_abbrev=False)
    command.add_argument("model", metavar="RUN", help="a run's directory, its name under runs/, or a model.safetensors")
    command.add_argument("data", nargs="+", metavar="DATA", help="files, directories or globs, CSV or Parquet")
    command.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to, .csv or .parquet")
    command.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="copy this column of the data too")
    command.add_argument("--module", metavar="PLACE", help="of a PyTorch model, whose code no file has: where its module is, nets:Net say")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(chosen=lambda: bodies.predict)


def add_make_data(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `make-data`."""
    command = commands.add_parser("make-data", parents=[common], help="make the files that a bundled job reads", allow_abbrev=False)
    command.add_argument("name", choices=get_args(Made))
    command.add_argument("--out", type=Path, metavar="DIR", help="where to (default: data/NAME)")
    command.add_argument("--format", choices=get_args(Format), default="parquet", dest="file_format")
    command.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th line of pixels")
    command.set_defaults(chosen=lambda: bodies.make_data)


def add_jobs(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `jobs`."""
    command = commands.add_parser("jobs", parents=[common], help="list the bundled jobs")
    command.set_defaults(chosen=lambda: bodies.jobs)


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `bench`; those after the name are the benchmark's own."""
    command = commands.add_parser("bench", parents=[common], help="run a benchmark, or list them")
    command.add_argument("name", nargs="?", metavar="NAME")
    command.add_argument("args", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own arguments")
    command.set_defaults(chosen=lambda: benchmarks.bench)


def add_doctor(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `doctor`."""
    command = commands.add_parser(
        "doctor",
        parents=[common],
        help="what works here, what does not, and what to do about it",
        description="Exit status: 0 when all that is needed works, 1 when something is missing or broken.",
        allow_abbrev=False,
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("address", nargs="?", metavar="ADDRESS", help="look at this scheduler and its workers, too: tcp://10.0.0.1:8786")
    where.add_argument("--scheduler-file", metavar="FILE", help="the same of a scheduler's file")
    command.add_argument("--tls", metavar="DIR", help="the directory of the certificates (python -m pipeline certificates DIR)")
    command.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds to wait for the scheduler (default: %(default)g)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    command.set_defaults(chosen=lambda: diagnosis.doctor)


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning as a line for users, without its place in the code."""
    print(f"warning: {message}", file=sys.stderr)
