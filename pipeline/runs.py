"""A run: a job's data split, fitted and scored where it lives, and the files that it leaves.

    job.toml           the job as it ran, every key and override; `python -m pipeline train job.toml` runs it again
    model.safetensors  the model: see `pipeline.models.model_files`
    history.jsonl      a line for every round: see `pipeline.history.Row`; numbers that are not finite are null;
                       .history.jsonl.part has the rounds so far of a fit that runs, as .digests.jsonl.part their digests
    loss.png           objective and largest |gradient| by round
    metrics.json       what `Metrics` holds; written last, so a run that has it is whole
    digests.jsonl      digests of the sums of each round, for `verify`: see `pipeline.verification.records`
    checkpoints/       of a run that is not whole, or was interrupted: see `pipeline.Checkpoint`; .digests.jsonl.part is there as long

But for the rounds so far, each file is replaced whole, by a rename, when a run of that name was there already.
"""

from __future__ import annotations

import io
import json
import math
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.base import ClassifierMixin

from pipeline.checkpoints.keeper import Checkpoint, checkpoints_in, remove_checkpoints
from pipeline.config import Job
from pipeline.data.dataset import Dataset
from pipeline.estimators.base import GradientModel
from pipeline.estimators.mini_batches import MiniBatchModel
from pipeline.history import Row, finite, json_line, share_read
from pipeline.models.files import replace_file
from pipeline.models.model_files import MODEL_FILE, save_model
from pipeline.progress import RoundLog, RoundProgress
from pipeline.training import INTERRUPTED
from pipeline.verification.records import UNFINISHED, RoundRecord, publish_record
from tasks import DISTRIBUTION, __version__

METRICS_FILE: Final = "metrics.json"
ROUNDS_FILE: Final = ".history.jsonl.part"
CHECKPOINTS: Final = "checkpoints"
PACKAGES: Final = ("dask", "distributed", "numba", "numpy", "pandas", "scikit-learn", "scipy")


class Metrics(TypedDict):
    """test_score, train_score: of `score_name`, accuracy or r2; test_score is None when no rows were kept back.
    rounds: passes over the data or a sample of it; resumed_from: those done before, by the run that this one
    goes on from; iterations: accepted steps; status: converged, stalled, diverged or out of rounds.
    load_seconds: reading and checking the rows where they live; fit_seconds: the fit on data that is loaded, compiling the kernels on a
    machine's first run included; score_seconds: both scores; seconds: all three.
    rows_per_second: rows read by the rounds of this fit / fit_seconds, where a round on every k-th row counts n_train_rows / k of them, a
    score of rows held out those.
    bytes_per_round: numbers to and from one worker in the largest round; tasks_per_round: tasks, or calls, of the largest.
    quarantined: partitions that were left out, each with its place and the reason.
    """

    name: str
    estimator: str
    score_name: str
    test_score: float | None
    train_score: float
    solver: str
    solver_reason: str
    status: str
    status_reason: str
    rounds: int
    resumed_from: int
    iterations: int
    parameters_sha256: str
    rows_per_second: float
    bytes_per_round: int
    tasks_per_round: int
    n_partitions: int
    n_columns: int
    n_train_rows: int
    n_test_rows: int
    quarantined: list[dict[str, Any]]
    load_seconds: float
    fit_seconds: float
    score_seconds: float
    seconds: float
    cluster: str
    platform: str
    versions: dict[str, str]


class Run(NamedTuple):
    """What a job made: the fitted model, its metrics, and the directory with the files."""

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
            directory.rmdir()  # leaves nothing behind, unless a run or a checkpoint is in there
    return Run(model, metrics, directory)


def fit_and_score(
    job: Job, train: Dataset, test: Dataset | None, progress: RoundProgress, *, resume: bool = False
) -> tuple[GradientModel, Metrics]:
    """The fitted model and what there is to say of it."""
    times = [time.perf_counter()]
    progress.step("read and check")
    n_train, n_test = train.schema.n_rows, 0 if test is None else test.schema.n_rows
    times.append(time.perf_counter())
    model = job.estimator.build().set_params(checkpoint=checkpoint_of(job, resume=resume))
    directory = Path(job.output.directory)
    if not job.output.record:
        (directory / UNFINISHED).unlink(missing_ok=True)  # of a fit that ended before
    with RoundLog(directory / ROUNDS_FILE) as log, RoundRecord(directory) if job.output.record else nullcontext() as record:
        model.set_callbacks(progress, log)
        model._record = record
        model.fit(train)
        model._record = None
        model.set_callbacks()
        model.set_params(checkpoint=None)
    times.append(time.perf_counter())
    progress.step("score")
    scores = (None if test is None else model.score(test), model.score(train))
    times.append(time.perf_counter())
    return model, make_metrics(job, model, train, (n_train, n_test), scores, times)


def checkpoint_of(job: Job, *, resume: bool) -> Checkpoint:
    """How a run's fit is saved."""
    section = job.checkpoint
    return Checkpoint(
        directory=Path(job.output.directory) / CHECKPOINTS,
        every_seconds=section.every_seconds,
        every_rounds=section.every_rounds,
        resume=resume,
        shared=False,
        remove=False,  # before the model is written
    )


def make_metrics(
    job: Job, model: GradientModel, train: Dataset, n_rows: tuple[int, int], scores: tuple[float | None, float], times: Sequence[float]
) -> Metrics:
    """n_rows: for training and testing; scores: test and train; times: at the start, when loaded, fitted, scored."""
    load, fit, score = (stop - start for start, stop in pairwise(times))
    return Metrics(
        name=job.name,
        estimator=job.estimator.name,
        score_name="accuracy" if isinstance(model, ClassifierMixin) else "r2",
        test_score=scores[0],
        train_score=scores[1],
        solver=model.solver_.name,
        solver_reason=model.solver_.reason,
        status=model.status_.kind,
        status_reason=model.status_.reason,
        rounds=model.n_rounds_,
        resumed_from=model.resumed_from_,
        iterations=model.history_[-1]["iteration"],
        parameters_sha256=model.parameters_sha256_,
        rows_per_second=rows_read(model.history_[model.resumed_from_ :], n_rows[0], model._held_out) / fit,
        bytes_per_round=model.bytes_per_round_,
        tasks_per_round=model.tasks_per_round_,
        n_partitions=train.n_partitions,
        n_columns=train.n_columns,
        n_train_rows=n_rows[0],
        n_test_rows=n_rows[1],
        quarantined=[each._asdict() for each in train.quarantined],
        load_seconds=load,
        fit_seconds=fit,
        score_seconds=score,
        seconds=times[-1] - times[0],
        cluster=str(job.cluster.kind),
        platform=platform.platform(),
        versions=versions(),
    )


def rows_read(history: Sequence[Row], n_rows: int, held_out: float = 0.0) -> int:
    """Rows that all rounds of a fit on n_rows rows read together; held_out: the share of them that only scores read."""
    return round(n_rows * sum(share_read(row, held_out) for row in history))


def versions() -> dict[str, str]:
    """Of Python, of this library, and of what its numbers hang on."""
    return {"python": platform.python_version(), DISTRIBUTION: __version__} | {package: version(package) for package in PACKAGES}


def write_run(directory: Path, job: Job, model: GradientModel, metrics: Metrics) -> None:
    """Write the files, metrics.json last; an earlier run's goes first, for it is of other files."""
    (directory / METRICS_FILE).unlink(missing_ok=True)
    replace_file(directory / "job.toml", f"# as run by {DISTRIBUTION} {__version__}\n{job.toml()}")
    save_model(model, directory / MODEL_FILE)
    replace_file(directory / "history.jsonl", "".join(map(json_line, model.history_)))
    replace_file(directory / "loss.png", loss_plot(model, metrics))
    publish_record(directory, metrics["rounds"])
    replace_file(directory / METRICS_FILE, json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")


def loss_plot(model: GradientModel, metrics: Metrics) -> bytes:
    """Objective and largest |gradient| at the last accepted point after each round, or what there is of each epoch, as a PNG."""
    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if isinstance(model, MiniBatchModel) and model._by_epochs:
        plot_epochs(model, left, right)
    else:
        plot_rounds(model, left, right)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{metrics['name']}: {metrics['estimator']}, {metrics['solver']}, {metrics['status']} after {metrics['rounds']} rounds")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def plot_rounds(model: GradientModel, left: Axes, right: Axes) -> None:
    """Of a fit in full passes."""
    history: list[Row] = model.history_
    rounds = [row["round"] for row in history]
    left.plot(rounds, [row["objective"] for row in history], marker=".")
    left.set(xlabel="round", ylabel="objective (mean loss + penalty)")
    norms = [row["gradient_norm"] if row["gradient_norm"] > 0 else math.nan for row in history]
    right.plot(rounds, norms, marker=".")
    right.axhline(model.tol, color="grey", linestyle=":", label=f"tol {model.tol:g}")
    right.set(xlabel="round", ylabel="largest |gradient|", yscale="log")
    right.legend()


def plot_epochs(model: MiniBatchModel, left: Axes, right: Axes) -> None:
    """Of a fit by mini-batches, whose rounds are many and say little each."""
    left.plot(range(1, len(model.loss_curve_) + 1), model.loss_curve_, marker=".")
    left.set(xlabel="epoch", ylabel="mean loss + penalty of its batches")
    if model.validation_scores_ is not None:
        right.plot(range(1, len(model.validation_scores_) + 1), model.validation_scores_, marker=".")
        right.set(xlabel="epoch", ylabel="score of the rows held out")
        return
    batches = [row for row in model.history_ if model._is_batch(row)]
    n_rounds = batches[0]["row_step"] if batches else 1
    last = batches[n_rounds - 1 :: n_rounds]
    right.plot(range(1, len(last) + 1), [row["gradient_norm"] if row["gradient_norm"] > 0 else math.nan for row in last], marker=".")
    right.set(xlabel="epoch", ylabel="largest |gradient| of its last batch", yscale="log")
