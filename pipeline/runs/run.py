"""A run: a job's data split, fitted and scored where it lives, and the files that it leaves.

    job.toml           the job as it ran, every key and override; `python -m pipeline train job.toml` runs it again
    model.safetensors  the model: see `pipeline.models.model_files`
    history.jsonl      a line for every round: see `pipeline.training.history.Row`; numbers that are not finite are null;
                       .history.jsonl.part has the rounds so far of a fit that runs, as .digests.jsonl.part their digests
    loss.png           objective and largest |gradient| by round
    metrics.json       what `Metrics` holds; written last, so a run that has it is whole
    digests.jsonl      digests of the sums of each round, for `verify`: see `pipeline.runs.records`
    checkpoints/       of a run that is not whole, or was interrupted: see `pipeline.Checkpoint`; .digests.jsonl.part is there as long

But for the rounds so far, each file is replaced whole, by a rename, when a run of that name was there already.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.cluster.asking import ask
from pipeline.data.dataset import Dataset
from pipeline.estimators.base import GradientModel
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.current import current_executor
from pipeline.files.whole import replace_file
from pipeline.jobs.job import Job
from pipeline.models.model_files import MODEL_FILE, save_model
from pipeline.runs.metrics import METRICS_FILE, Metrics, Moment, make_metrics
from pipeline.runs.plots import loss_plot
from pipeline.runs.records import UNFINISHED, RoundRecord, publish_record
from pipeline.training.checkpoints.keeper import Checkpoint, checkpoints_in, remove_checkpoints
from pipeline.training.history import finite, json_line
from pipeline.training.loop import INTERRUPTED
from pipeline.training.progress import RoundLog, RoundProgress
from tasks import DISTRIBUTION, __version__
from tasks.machine.compilation import compile_seconds

ROUNDS_FILE: Final = ".history.jsonl.part"
CHECKPOINTS: Final = "checkpoints"


class Run(NamedTuple):
    """The results of a job: the fitted model, its metrics, and the directory with the files."""

    model: GradientModel
    metrics: Metrics
    directory: Path


def run_job(job: Job, progress: RoundProgress | None = None, *, resume: bool = False) -> Run:
    """Look for the job's data, start or reach its cluster, fit and score there, and write the run's directory.

    resume: go on from the checkpoints in that directory, if there are any; without, they go. Raises OSError when the cluster or the files
    do not answer, ValueError or TypeError for data that cannot be fitted, and for checkpoints of another job.
    """
    directory = Path(job.output.directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with progress or RoundProgress(quiet=True) as shown:
            train, test = job.split.parts(job.data.dataset())  # lazy: what is not there is an error before anything is started
            shown.step(f"start {job.cluster.kind}")
            with job.cluster.connect():
                model, metrics = fit_and_score(job, train, test, shown, resume=resume)
        write_run(directory, job, model, metrics)
        if model.status_.reason != INTERRUPTED:
            remove_checkpoints(directory / CHECKPOINTS)
    finally:
        if not checkpoints_in(directory / CHECKPOINTS):
            (directory / UNFINISHED).unlink(missing_ok=True)
        with suppress(OSError):
            directory.rmdir()  # an empty directory goes; one with a run or a checkpoint stays
    return Run(model, metrics, directory)


def fit_and_score(
    job: Job, train: Dataset, test: Dataset | None, progress: RoundProgress, *, resume: bool = False
) -> tuple[GradientModel, Metrics]:
    """The fitted model and what there is to say of it."""
    moments = [moment()]
    progress.step("read and check")
    n_train, n_test = train.schema.n_rows, 0 if test is None else test.schema.n_rows
    moments.append(moment())
    model = job.estimator.build().set_params(checkpoint=checkpoint_of(job, resume=resume))
    directory = Path(job.output.directory)
    if not job.output.record:
        (directory / UNFINISHED).unlink(missing_ok=True)  # left by an earlier fit
    with RoundLog(directory / ROUNDS_FILE) as log, RoundRecord(directory) if job.output.record else nullcontext() as record:
        model.set_callbacks(progress, log)
        model._record = record
        model.fit(train)
        model._record = None
        model.set_callbacks()
        model.set_params(checkpoint=None)
    moments.append(moment())
    progress.step("score")
    scores = (None if test is None else model.score(test), model.score(train))
    moments.append(moment())
    return model, make_metrics(job, model, train, (n_train, n_test), scores, moments)


def moment() -> Moment:
    """This moment. Workers that do not answer, or have no library to ask yet, count as having compiled nothing."""
    executor = current_executor()
    workers: dict[str, float] = {}
    if isinstance(executor, ClusterExecutor):
        with suppress(ModuleNotFoundError, OSError):
            workers = ask(executor.client, compile_seconds, list(executor.client.scheduler_info(n_workers=-1)["workers"]))
    return Moment(time.perf_counter(), compile_seconds(), workers)


def checkpoint_of(job: Job, *, resume: bool) -> Checkpoint:
    """The checkpoint options of a run's fit."""
    return Checkpoint(
        directory=Path(job.output.directory) / CHECKPOINTS,
        **vars(job.checkpoint),
        resume=resume,
        shared=False,
        remove=False,  # before the model is written
    )


def write_run(directory: Path, job: Job, model: GradientModel, metrics: Metrics) -> None:
    """Write the files, metrics.json last; an earlier run's goes first, for it is of other files."""
    (directory / METRICS_FILE).unlink(missing_ok=True)
    replace_file(directory / "job.toml", f"# as run by {DISTRIBUTION} {__version__}\n{job.toml()}")
    save_model(model, directory / MODEL_FILE)
    replace_file(directory / "history.jsonl", "".join(map(json_line, model.history_)))
    replace_file(directory / "loss.png", loss_plot(model, metrics))
    publish_record(directory, metrics["rounds"])
    replace_file(directory / METRICS_FILE, json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")
