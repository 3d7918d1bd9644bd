"""What the commands of `python -m pipeline` do; loaded when one is chosen, because this takes seconds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pipeline.cluster.queue.queue_options import parse_memory
from pipeline.jobs import OF_QUEUES, Format, Made
from pipeline.jobs.job import bundled_jobs, read_job
from pipeline.jobs.pixels import make_pixels
from pipeline.models.model_files import MODEL_FILE, load_model
from pipeline.models.predictions import predict_files
from pipeline.planning import make_plan, plan_text
from pipeline.runs.metrics import Metrics
from pipeline.runs.run import CHECKPOINTS, run_job
from pipeline.runs.verify import verify
from pipeline.sources.errors import PartitionError
from pipeline.submission.status import find_directory
from pipeline.training.checkpoints.keeper import checkpoints_in
from pipeline.training.checkpoints.termination import OUT_OF_TIME, Terminated
from pipeline.training.loop import INTERRUPTED
from pipeline.training.progress import RoundProgress

DATA_MAKERS: Final[dict[Made, Callable[[Path, Format, int], tuple[int, int]]]] = {"pixels": make_pixels}


def train(arguments: argparse.Namespace) -> int:
    """Run a job and say how it went."""
    replace: dict[str, dict[str, Any]] = {}
    of_cluster = {key: vars(arguments)[key] for key in ("tls", *OF_QUEUES) if vars(arguments)[key] is not None}
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
    model = load_model(find_model(arguments.model), **({} if arguments.module is None else {"module": arguments.module}))
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


def report(metrics: Metrics, directory: Path) -> str:
    """What `train` prints."""
    score = f"{metrics['score_name']} on {{}} rows"
    test = "no rows kept back"
    if metrics["test_score"] is not None:
        test = f"{metrics['test_score']:.6f} ({score.format(metrics['n_test_rows'])})"
    compiling = f", beside {metrics['compile_seconds']:.3g} s of compiling" if metrics["compile_seconds"] else ""
    lines = {
        "job": f"{metrics['name']}: {metrics['estimator']}, {metrics['n_columns']} columns, {metrics['n_partitions']} partitions",
        "solver": f"{metrics['solver']} ({metrics['solver_reason']})",
        "status": f"{metrics['status']} ({metrics['status_reason']})",
        "test score": test,
        "train score": f"{metrics['train_score']:.6f} ({score.format(metrics['n_train_rows'])})",
        "rounds": f"{metrics['rounds']} in {metrics['fit_seconds']:.3g} s{compiling}",
        "rows per second": f"{metrics['rows_per_second']:,.0f}",
        "bytes per round": f"{metrics['bytes_per_round']:,}",
        "digest": metrics["parameters_sha256"],
        "written to": f"{directory}",
    }
    return "\n".join(f"{name:17}{text}" for name, text in lines.items())
