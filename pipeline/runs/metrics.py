"""The metrics that a run measures of itself, as metrics.json has them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypedDict

from sklearn.base import ClassifierMixin

from pipeline.data.dataset import Dataset
from pipeline.estimators.base import GradientModel
from pipeline.jobs.job import Job
from pipeline.training.history import Row, share_read
from tasks import DISTRIBUTION, __version__

METRICS_FILE: Final = "metrics.json"


PACKAGES: Final = ("dask", "distributed", "numba", "numpy", "pandas", "scikit-learn", "scipy")


class Moment(NamedTuple):
    """A moment of a run. time: by `time.perf_counter`; here: seconds that this process has compiled until then; workers: by address, the
    same of each."""

    time: float
    here: float
    workers: Mapping[str, float]

    def compiling_until(self, later: Moment) -> float:
        """Seconds of compiling: of this process, and of the worker that took longest."""
        took = [seconds - self.workers.get(address, 0.0) for address, seconds in later.workers.items()]
        return min(later.here - self.here + max(took, default=0.0), later.time - self.time)


class Metrics(TypedDict):
    """The figures of a run. test_score, train_score: of `score_name`, accuracy or r2; test_score is None when no rows were kept back.
    rounds: passes over the data or a sample of it; resumed_from: those done before, by the run that this one
    goes on from; iterations: accepted steps; status: converged, stalled, diverged or out of rounds.
    load_seconds: reading and checking the rows where they live; fit_seconds: the fit on data that is loaded; score_seconds: both scores;
    compile_seconds: compiling kernels, which a machine's first run does, in this process and, beside it, in the worker that took longest:
    it is in none of the others; seconds: all four.
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
    compile_seconds: float
    seconds: float
    cluster: str
    platform: str
    versions: dict[str, str]


def make_metrics(
    job: Job, model: GradientModel, train: Dataset, n_rows: tuple[int, int], scores: tuple[float | None, float], moments: Sequence[Moment]
) -> Metrics:
    """Make the metrics of a run. n_rows: for training and testing; scores: test and train; moments: at the start, when loaded, fitted,
    scored."""
    compiling = [start.compiling_until(stop) for start, stop in pairwise(moments)]
    load, fit, score = (stop.time - start.time - took for (start, stop), took in zip(pairwise(moments), compiling, strict=True))
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
        compile_seconds=sum(compiling),
        seconds=moments[-1].time - moments[0].time,
        cluster=str(job.cluster.kind),
        platform=platform.platform(),
        versions=versions(),
    )


def rows_read(history: Sequence[Row], n_rows: int, held_out: float = 0.0) -> int:
    """Rows that all rounds of a fit on n_rows rows read together; held_out: the share of them that only scores read."""
    return round(n_rows * sum(share_read(row, held_out) for row in history))


def versions() -> dict[str, str]:
    """The versions of Python, of this library, and of the packages that its numbers depend on."""
    return {"python": platform.python_version(), DISTRIBUTION: __version__} | {package: version(package) for package in PACKAGES}
