"""The case about plans: what `python -m pipeline plan` predicts beside what a cluster then takes."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
from dask.system import cpu_count
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.cluster import N_WORKERS, worker_pids, workers
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.jobs.job import Job
from pipeline.planning import make_plan

TIME_ERROR: Final = 0.3
MEMORY_ERROR: Final = 0.2
DISTURBED: Final = 0.1
PLENTY: Final = 1 << 50


def make_jobs(folder: Path, *, quick: bool) -> list[Job]:
    """The jobs of the case: rounds that read memory, rounds that sum large Hessians, and several outputs, from files."""
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
    """The measurements of a job: seconds of a round, the mean of each undisturbed fit; what each worker computed in a round; fits, and
    rounds of one; the most bytes of both workers, rows being loaded included; training rows."""

    round_seconds: Sequence[float]
    computed_seconds: float
    n_fits: int
    n_rounds: int
    peak_bytes: int
    n_rows: int


def measure(job: Job, repeats: int, limit: float) -> Measured:
    """Run the job on a fresh cluster of two workers with one thread each, until `repeats` fits were undisturbed or for `limit` seconds."""
    with workers() as (client, _), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        train, _ = job.split.parts(job.data.dataset())
        model = job.estimator.build()
        pids = worker_pids(client)
        with PeakMemory(pids) as memory:
            model.fit(train)
        seconds: list[float] = []
        n_fits, before, stop = 0, processor_seconds(pids), time.perf_counter() + limit
        while len(seconds) < repeats and time.perf_counter() < stop:
            start, others = time.perf_counter(), seconds_of_others(pids)
            model.fit(train)
            taken = time.perf_counter() - start
            n_fits += 1
            if seconds_of_others(pids) - others <= DISTURBED * taken * cpu_count():
                seconds.append(taken / model.n_rounds_)
        computed = (processor_seconds(pids) - before) / len(pids) / n_fits / model.n_rounds_
        return Measured(seconds, computed, n_fits, model.n_rounds_, memory.peak, train.schema.n_rows)


def seconds_of_others(pids: Sequence[int]) -> float:
    """The processors' seconds so far, for all processes of this machine but these and this one."""
    times = psutil.cpu_times()
    return sum(times[:3]) - processor_seconds([*pids, os.getpid()])  # user, nice, system


def processor_seconds(pids: Sequence[int]) -> float:
    """The processors' seconds of these processes so far, summed."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def plan(report: Report, settings: Settings) -> None:
    """Plan each job, then fit it."""
    rows: list[tuple[Cell, ...]] = []
    with TemporaryDirectory() as folder:
        for job in make_jobs(Path(folder), quick=settings.quick):
            together = make_plan(job, 1, PLENTY, cores=N_WORKERS)  # the threads share this machine's memory
            apart = make_plan(job, N_WORKERS, PLENTY)
            found = measure(job, settings.repeats, 1.0 if settings.quick else settings.limit)
            predicted, bytes_ = together.round_seconds, N_WORKERS * apart.memory.peak
            measured = median(found.round_seconds) if len(found.round_seconds) == settings.repeats else None
            ratio = None if measured is None else predicted / measured
            share = together.probed_partitions / together.n_partitions
            rows.append(
                (
                    *(job.name, found.n_rows, together.n_columns, together.solver.split()[0], share),
                    *(1e3 * predicted, None if measured is None else 1e3 * measured, ratio, 1e3 * found.computed_seconds),
                    *(together.n_rounds, found.n_rounds, found.n_fits),
                    *(bytes_ / 2**20, found.peak_bytes / 2**20, bytes_ / found.peak_bytes),
                )
            )
            time_error = None if ratio is None else abs(ratio - 1)
            report.targets += [
                Target(f"error of a round's predicted time, {job.name}", "at most", TIME_ERROR, time_error),
                Target(f"error of the workers' predicted memory, {job.name}", "at most", MEMORY_ERROR, abs(bytes_ / found.peak_bytes - 1)),
            ]
    columns = ("job", "train rows", "columns", "solver", "share probed", "predicted ms a round", "measured", "ratio")
    more = ("workers computed ms", "predicted rounds", "measured", "fits", "predicted MiB", "measured", "ratio")
    report.tables.append(Table("Plans and fits on two workers", columns + more, rows))
    report.notes += [
        f"Time: `--jobs 1 --cores {N_WORKERS}`, because the two worker processes of one thread each share one machine's memory; measured: "
        + f"fit / rounds on rows that are loaded, the median of {settings.repeats} fits during which other processes took at most "
        + f"{DISTURBED:.0%} of the machine, of as many fits as it took to find these.",
        "Workers computed: the processors' seconds of a worker in a round, over all fits; they are hardly disturbed by others.",
        f"Memory: {N_WORKERS} times that of `--jobs {N_WORKERS}`; measured: resident memory of both processes, summed, the most of "
        + "samples every 20 ms while the rows were loaded and fitted for the first time.",
    ]
