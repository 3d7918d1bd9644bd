"""python -m pipeline train | plan | submit | ... (see `parser`): arguments in, exit status out.

Exit status: 0 when done, 1 when `verify` finds a difference, 2 for a mistake of the user's (the message on stderr says what to do), 130
when interrupted, 143 when ended by SIGTERM, 75 when the walltime of its SLURM job is nearly over and `--resume` can go on in another.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

from pipeline.cluster.code.identity import VersionMismatchError
from pipeline.cluster.interrupts import imports_done
from pipeline.cluster.queue.queue_options import parse_memory
from pipeline.cluster.queue.systems import SYSTEMS
from pipeline.jobs.job import bundled_jobs, read_job
from pipeline.jobs.pixels import Format, make_pixels
from pipeline.models.model_files import MODEL_FILE, load_model
from pipeline.models.predictions import predict_files
from pipeline.planning import make_plan, plan_text
from pipeline.runs.metrics import Metrics
from pipeline.runs.run import CHECKPOINTS, run_job
from pipeline.runs.verify import verify
from pipeline.sources.errors import PartitionError
from pipeline.submission.commands import ADD_COMMANDS
from pipeline.submission.status import find_directory
from pipeline.training.checkpoints.keeper import checkpoints_in
from pipeline.training.checkpoints.termination import OUT_OF_TIME, Terminated
from pipeline.training.loop import INTERRUPTED
from pipeline.training.progress import RoundProgress

DATA_MAKERS: Final = {"pixels": make_pixels}
OF_JOBS: Final = {
    "jobs": (int, "N", "how many (default: 1)"),
    "cores": (int, "N", "of each job"),
    "memory": (str, "SIZE", "of each job, 16GB"),
    "walltime": (str, "TIME", "of each job, 01:00:00 or 2h"),
    "gpus": (int, "N", "of each job"),
    "account": (str, "NAME", "who pays"),
    "partition": (str, "NAME", "where it runs"),
}
USER_ERRORS: Final = (ValueError, TypeError, OSError, VersionMismatchError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argv: by default the process's."""
    imports_done()
    arguments = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = show_warning
            status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="python -m pipeline", description="Models trained on data that lives in partitions.")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error comes from")
    for add in (add_train, add_verify, add_plan, *ADD_COMMANDS, add_predict, add_make_data, add_jobs, add_bench):
        add(commands, common)
    return main_parser


def add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    command = commands.add_parser("train", parents=[common], help="run a job: fit, score, write runs/NAME/", allow_abbrev=False)
    add_job(command)
    add_where(command)
    of_jobs = command.add_argument_group("with --queue (more of them: --set cluster.KEY=VALUE)")
    for name, (kind, metavar, words) in OF_JOBS.items():
        of_jobs.add_argument(f"--{name}", type=kind, metavar=metavar, help=words)
    command.add_argument("--out", metavar="DIR", help="the run's directory (default: runs/NAME)")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint that an earlier run of this job left there")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=train)


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
    command.set_defaults(run=verify_run)


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
    command.set_defaults(run=plan)


def add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `predict`."""
    command = commands.add_parser("predict", parents=[common], help="predict the rows of CSV or Parquet files", allow_abbrev=False)
    command.add_argument("model", metavar="RUN", help="a run's directory, its name under runs/, or a model.safetensors")
    command.add_argument("data", nargs="+", metavar="DATA", help="files, directories or globs, CSV or Parquet")
    command.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to, .csv or .parquet")
    command.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="copy this column of the data too")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=predict)


def add_make_data(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `make-data`."""
    command = commands.add_parser("make-data", parents=[common], help="make the files that a bundled job reads", allow_abbrev=False)
    command.add_argument("name", choices=sorted(DATA_MAKERS))
    command.add_argument("--out", type=Path, metavar="DIR", help="where to (default: data/NAME)")
    command.add_argument("--format", choices=get_args(Format), default="parquet", dest="file_format")
    command.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th line of pixels")
    command.set_defaults(run=make_data)


def add_jobs(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `jobs`."""
    command = commands.add_parser("jobs", parents=[common], help="list the bundled jobs")
    command.set_defaults(run=jobs)


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """The arguments of `bench`; those after the name are the benchmark's own."""
    command = commands.add_parser("bench", parents=[common], help="run a benchmark, or list them")
    command.add_argument("name", nargs="?", metavar="NAME")
    command.add_argument("args", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own arguments")
    command.set_defaults(run=bench)


def train(arguments: argparse.Namespace) -> int:
    """Run a job and say how it went."""
    replace: dict[str, dict[str, Any]] = {}
    of_cluster = {key: vars(arguments)[key] for key in ("tls", *OF_JOBS) if vars(arguments)[key] is not None}
    cluster = chosen_cluster(arguments)
    if cluster is not None:
        replace["cluster"] = cluster | of_cluster
    overrides = arguments.overrides if cluster else [*arguments.overrides, *(f"cluster.{key}={of_cluster[key]}" for key in of_cluster)]
    if arguments.out is not None:
        replace["output"] = {"directory": arguments.out}
    job = read_job(arguments.job, overrides, replace)
    try:
        run = run_job(job, RoundProgress(quiet=arguments.quiet), resume=arguments.resume)
    except BaseException as error:
        tell_where_it_goes_on(Path(job.output.directory) / CHECKPOINTS, error)
        raise
    print(report(run.metrics, run.directory))
    if run.metrics["status_reason"] != INTERRUPTED:
        return 0
    tell_where_it_goes_on(run.directory / CHECKPOINTS, KeyboardInterrupt())
    return 130


def verify_run(arguments: argparse.Namespace) -> int:
    """Say whether a run comes out again."""
    overrides = [] if arguments.tls is None else [f"cluster.tls={arguments.tls}"]
    progress = RoundProgress(quiet=arguments.quiet)
    verdict = verify(find_directory(arguments.directory), chosen_cluster(arguments), overrides, progress)
    print(verdict)
    return 0 if verdict.difference is None else 1


def tell_where_it_goes_on(checkpoints: Path, error: BaseException) -> None:
    """What a run leaves that did not come to its end."""
    if isinstance(error, Terminated):
        print("the walltime is nearly over" if error.code == OUT_OF_TIME else "ended by SIGTERM", file=sys.stderr)
    # of a job or of rows that are not what they were, or must be; a partition may be there again
    for_good = isinstance(error, ValueError | TypeError) and not isinstance(error, PartitionError)
    if not for_good and (found := checkpoints_in(checkpoints)):
        print(f"what it had so far is in {found[0]}; the same command with --resume goes on from there", file=sys.stderr)


def plan(arguments: argparse.Namespace) -> int:
    """Say what a job would take."""
    job = read_job(arguments.job, arguments.overrides)
    found = make_plan(job, arguments.jobs, parse_memory(arguments.memory), arguments.cores)
    print(json.dumps(asdict(found)) if arguments.json else plan_text(found))
    return 0


def chosen_cluster(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The [cluster] section that the arguments name in place of the job's own."""
    if arguments.in_process:
        return {"kind": "in-process"}
    if arguments.n_workers is not None:
        return {"kind": "local", "n_workers": arguments.n_workers}
    if arguments.scheduler is not None:
        return {"kind": "scheduler", "address": arguments.scheduler}
    if arguments.scheduler_file is not None:
        return {"kind": "scheduler", "scheduler_file": arguments.scheduler_file}
    return None if arguments.queue is None else {"kind": "queue", "system": arguments.queue}


def predict(arguments: argparse.Namespace) -> int:
    """Predict files with a run's model."""
    model = load_model(find_model(arguments.model))
    with RoundProgress(quiet=arguments.quiet) as progress:
        n_rows = predict_files(model, arguments.data, arguments.out, arguments.keep, progress)
    print(f"{n_rows} rows predicted into {arguments.out}")
    return 0


def find_model(run: str) -> Path:
    """The model file of a run's directory or name, or the file itself."""
    places = (Path(run), Path(run) / MODEL_FILE, Path("runs") / run / MODEL_FILE)
    return next((path for path in places if path.is_file()), places[1])


def make_data(arguments: argparse.Namespace) -> int:
    """Make the files of a bundled job."""
    directory = arguments.out or Path("data") / arguments.name
    n_files, n_rows = DATA_MAKERS[arguments.name](directory, arguments.file_format, arguments.every)
    print(f"{n_rows} rows in {n_files} files under {directory}")
    return 0


def jobs(arguments: argparse.Namespace) -> int:
    """List the bundled jobs."""
    for name in bundled_jobs():
        print(f"{name:16}{read_job(name).description}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark; without a name, list them."""
    try:
        from pipeline import benchmarks

        return benchmarks.run(arguments.name, arguments.args)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; benchmarks need the bench extra: pip install 'dask-descent[bench]'") from error


def report(metrics: Metrics, directory: Path) -> str:
    """What `train` prints."""
    score = f"{metrics['score_name']} on {{}} rows"
    test = "no rows kept back"
    if metrics["test_score"] is not None:
        test = f"{metrics['test_score']:.6f} ({score.format(metrics['n_test_rows'])})"
    lines = {
        "job": f"{metrics['name']}: {metrics['estimator']}, {metrics['n_columns']} columns, {metrics['n_partitions']} partitions",
        "solver": f"{metrics['solver']} ({metrics['solver_reason']})",
        "status": f"{metrics['status']} ({metrics['status_reason']})",
        "test score": test,
        "train score": f"{metrics['train_score']:.6f} ({score.format(metrics['n_train_rows'])})",
        "rounds": f"{metrics['rounds']} in {metrics['fit_seconds']:.3g} s",
        "rows per second": f"{metrics['rows_per_second']:,.0f}",
        "bytes per round": f"{metrics['bytes_per_round']:,}",
        "digest": metrics["parameters_sha256"],
        "written to": f"{directory}",
    }
    return "\n".join(f"{name:17}{text}" for name, text in lines.items())


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning as a line for users, without its place in the code."""
    print(f"warning: {message}", file=sys.stderr)
