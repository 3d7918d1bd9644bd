"""The case about plans: what `python -m pipeline plan` predicts beside what a cluster then takes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.cluster import N_WORKERS, worker_pids, workers
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.config import Job
from pipeline.planning import make_plan

TIME_ERROR: Final = 0.3
MEMORY_ERROR: Final = 0.2
PLENTY: Final = 1 << 50


def make_jobs(folder: Path, *, quick: bool) -> list[Job]:
    """Rounds that read memory, rounds that sum large Hessians, and several outputs, from files."""
    share = 20 if quick else 1
    problem = Problem(n_rows=400_000 // share, n_columns=60, n_classes=6, n_partitions=16)
    for name, array in zip(("X", "y"), problem.arrays(), strict=True):
        np.save(folder / f"{name}.npy", array)
    files = {"kind": "npy", "X": str(folder / "X.npy"), "y": str(folder / "y.npy"), "n_partitions": problem.n_partitions}
    tables = {
        "gradients": (generated(16, 250_000 // share, 28), {}),
        "hessians": (generated(32, 4_000 // share, 400), {"solver": "newton"}),
        "classes": (files, {}),
    }
    return [
        Job.read({"name": name, "data": data, "estimator": {"name": "LogisticRegression", **options}}, name)
        for name, (data, options) in tables.items()
    ]


def generated(n_partitions: int, rows_per_partition: int, n_columns: int) -> dict[str, Any]:
    """A [data] section of rows drawn where they will live."""
    return {"kind": "generated", "n_partitions": n_partitions, "rows_per_partition": rows_per_partition, "n_columns": n_columns}


class Measured(NamedTuple):
    """Seconds of a round, the mean of each fit; what each worker computed in a round; rounds of a fit; the most bytes of both workers, rows
    being loaded included."""

    round_seconds: Sequence[float]
    computed_seconds: float
    n_rounds: int
    peak_bytes: int
    n_rows: int


def measure(job: Job, repeats: int) -> Measured:
    """The job on a fresh cluster of two workers with one thread each."""
    with workers() as (client, _), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        train, _ = job.split.parts(job.data.dataset())
        model = job.estimator.build()
        pids = worker_pids(client)
        with PeakMemory(pids) as memory:
            model.fit(train)
        seconds, before = [], processor_seconds(pids)
        for _ in range(repeats):
            start = time.perf_counter()
            model.fit(train)
            seconds.append((time.perf_counter() - start) / model.n_rounds_)
        computed = (processor_seconds(pids) - before) / len(pids) / repeats / model.n_rounds_
        return Measured(seconds, computed, model.n_rounds_, memory.peak, train.schema.n_rows)


def processor_seconds(pids: Sequence[int]) -> float:
    """Of these processes so far, summed."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def plan(report: Report, settings: Settings) -> None:
    """Each job planned, then fitted."""
    rows: list[tuple[Cell, ...]] = []
    with TemporaryDirectory() as folder:
        for job in make_jobs(Path(folder), quick=settings.quick):
            together = make_plan(job, 1, PLENTY, cores=N_WORKERS)  # the threads share this machine's memory
            apart = make_plan(job, N_WORKERS, PLENTY)
            found = measure(job, settings.repeats)
            seconds, bytes_ = median(found.round_seconds), N_WORKERS * apart.memory.peak
            ratios = together.round_seconds / seconds, bytes_ / found.peak_bytes
            what = (
                job.name,
                found.n_rows,
                together.n_columns,
                together.solver.split()[0],
                together.probed_partitions / together.n_partitions,
            )
            times = (
                1e3 * together.round_seconds,
                1e3 * seconds,
                ratios[0],
                1e3 * found.computed_seconds,
                together.n_rounds,
                found.n_rounds,
            )
            rows.append((*what, *times, bytes_ / 2**20, found.peak_bytes / 2**20, ratios[1]))
            report.targets += [
                Target(f"error of a round's predicted time, {job.name}", "at most", TIME_ERROR, abs(ratios[0] - 1)),
                Target(f"error of the workers' predicted memory, {job.name}", "at most", MEMORY_ERROR, abs(ratios[1] - 1)),
            ]
    columns = ("job", "train rows", "columns", "solver", "share probed", "predicted ms a round", "measured", "ratio")
    more = ("workers computed ms", "predicted rounds", "measured", "predicted MiB", "measured", "ratio")
    report.tables.append(Table("Plans and fits on two workers", columns + more, rows))
    report.notes += [
        f"Time: `--jobs 1 --cores {N_WORKERS}`, because the two worker processes of one thread each share one machine's memory; measured: "
        + f"fit / rounds on rows that are loaded, the median of {settings.repeats} fits. The processors' seconds of each worker tell "
        + "whether it had a core to itself: with a busy machine, measured rounds take much longer.",
        f"Memory: {N_WORKERS} times that of `--jobs {N_WORKERS}`; measured: resident memory of both processes, summed, the most of "
        + "samples every 20 ms while the rows were loaded and fitted for the first time.",
    ]
