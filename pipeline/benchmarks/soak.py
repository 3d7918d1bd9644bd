"""The case about lasting: many fits on one cluster whose workers die at random, and what grows meanwhile."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import dask
import numpy as np
import psutil
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from pipeline.benchmarks.cluster import time_limit
from pipeline.benchmarks.contenders import OURS
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.cluster.connect import connect
from pipeline.data.dataset import Dataset
from pipeline.estimators.logistic import LogisticRegression
from pipeline.estimators.sgd import SGDClassifier

N_WORKERS: Final = 3
WARM: Final = 6
"""Fits that nobody looks at: they compile, and fill memory that is used again."""
QUICK_FITS: Final = 30
DEATHS: Final = 0.5
"""The share of fits in which a worker is killed."""
HANG: Final = 60.0
GROWTH: Final = 1.1


WHAT: Final = (
    "client, MiB",
    "scheduler, MiB",
    "worker, MiB",
    "client, file handles",
    "scheduler, file handles",
    "worker, file handles",
    "tasks on the scheduler",
    "task groups on the scheduler",
)
MORE: Final = (2, 2, 2, 0, 0)
"""File handles, tasks and task groups that there may be more of at the end."""
Fit = Callable[[], str]


def soak(report: Report, settings: Settings) -> None:
    """Fits of several kinds in turn; in half of them some worker is killed at a random moment."""
    n_fits = QUICK_FITS if settings.quick else settings.fits
    kinds = fits(Problem(n_rows=20_000, n_columns=20, n_partitions=24))
    with dask.config.set(scheduler="threads"):
        expected = {name: fit() for name, fit in kinds.items()}
    random = np.random.default_rng(0)
    looks, seconds, n_deaths, n_hangs, n_wrong = [], [], 0, 0, 0
    with cluster_processes() as (scheduler, client):
        kept = min(client.scheduler_info(n_workers=-1)["workers"])
        processes = [psutil.Process(), psutil.Process(scheduler.pid), psutil.Process(client.run(os.getpid)[kept])]
        for i in range(WARM + n_fits):
            name, fit = list(kinds.items())[i % len(kinds)]
            killer = threading.Timer(0.4 * random.random(), kill_one, (client, kept, int(random.integers(1 << 30))))
            if dying := random.random() < DEATHS:
                killer.start()
            start = time.perf_counter()
            try:
                with time_limit(HANG):
                    n_wrong += fit() != expected[name]
            except TimeoutError:
                n_hangs += 1
            seconds.append(time.perf_counter() - start)
            if dying:
                killer.join()
                n_deaths += 1
            client.wait_for_workers(N_WORKERS, timeout=HANG)
            looks.append(look(client, processes))
    summarise(report, looks[WARM:], seconds[WARM:])
    report.targets.append(Target(f"fits of {n_fits} that hung", "at most", 0, float(n_hangs)))
    report.targets.append(Target("digests that differ from those in process", "at most", 0, float(n_wrong)))
    report.notes.append(
        f"{n_deaths} times one of {N_WORKERS} workers was killed by SIGKILL, 0 to 0.4 s after the beginning of a fit; one worker never is,"
        f" and is the one that is looked at. The first {WARM} fits do not count. Fits in turn: {', '.join(kinds)}."
    )


def summarise(report: Report, looks: list[list[float]], seconds: list[float]) -> None:
    """The last tenth beside the first."""
    tenth = max(1, len(looks) // 10)
    first, last = ([median(column) for column in zip(*some, strict=True)] for some in (looks[:tenth], looks[-tenth:]))
    rows = [(what, before, after, after / before if before else None) for what, before, after in zip(WHAT, first, last, strict=True)]
    rows.append(("seconds of a fit", median(seconds[:tenth]), median(seconds[-tenth:]), median(seconds[-tenth:]) / median(seconds[:tenth])))
    report.tables.append(Table(f"{OURS}, {len(looks)} fits", ("what", "first tenth", "last tenth", "growth"), rows))
    for what, _, _, growth in rows[:3]:
        report.targets.append(Target(f"memory of the last tenth over the first: {what.removesuffix(', MiB')}", "at most", GROWTH, growth))
    for (what, before, after, _), more in zip(rows[3:8], MORE, strict=True):
        report.targets.append(Target(f"more in the last tenth: {what}", "at most", more, after - before))


def fits(problem: Problem) -> dict[str, Fit]:
    """Each makes its dataset anew, and lets it go."""
    X, y = problem.arrays()

    def sent() -> Dataset:
        return Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)

    def made() -> Dataset:
        return Dataset.from_function(problem.partition, n_partitions=problem.n_partitions, n_columns=problem.n_columns)

    def fit(model: Any, make: Callable[[], Dataset]) -> str:
        rows = make()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return str(model.fit(rows).parameters_sha256_)
        finally:
            rows.release()

    return {
        "lbfgs, rows sent": lambda: fit(LogisticRegression(solver="lbfgs", tol=1e-8), sent),
        "gradient descent, rows made": lambda: fit(LogisticRegression(solver="gradient-descent", tol=0.0, max_iter=300), made),
        "mini-batches, rows made": lambda: fit(SGDClassifier(loss="log_loss", max_iter=3, tol=None, random_state=0), made),
    }


def kill_one(client: Client, kept: str, draw: int) -> None:
    """One of the others."""
    others = sorted(set(client.scheduler_info(n_workers=-1)["workers"]) - {kept})
    if others:
        worker = others[draw % len(others)]
        for pid in client.run(os.getpid, workers=[worker], on_error="ignore").values():
            os.kill(pid, signal.SIGKILL)


def look(client: Client, processes: list[psutil.Process]) -> list[float]:
    """After a fit, in the order of WHAT. processes: client, scheduler, and the worker that is never killed."""
    gc.collect()
    client.run(gc.collect, on_error="ignore")
    tasks, groups = client.run_on_scheduler(lambda dask_scheduler: (len(dask_scheduler.tasks), len(dask_scheduler.task_groups)))
    memory = [process.memory_info().rss / 2**20 for process in processes]
    return [*memory, *(float(process.num_fds()) for process in processes), float(tasks), float(groups)]


@contextmanager
def cluster_processes() -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """A scheduler and workers with nannies, each in a process of its own, and a client."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "scheduler.json"
        local = ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
        commands = [["scheduler", "--host", "127.0.0.1", "--port", "0", *local]]
        commands.append(["worker", "--nworkers", str(N_WORKERS), "--nthreads", "1", "--local-directory", directory, *local])
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [subprocess.Popen([sys.executable, "-m", "dask", *command], **quiet) for command in commands]
        try:
            with connect(scheduler_file=str(file), timeout=HANG) as connection:
                assert connection.client is not None
                connection.client.wait_for_workers(N_WORKERS, timeout=HANG)
                yield processes[0], connection.client
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(HANG)
