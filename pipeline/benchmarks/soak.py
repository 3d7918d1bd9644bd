"""The case about lasting: many fits on one cluster whose workers die at random, and what grows meanwhile."""

from __future__ import annotations

import gc
import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

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
"""The number of file handles, tasks and task groups that there may be more of at the end."""
N_TASKS: Final = 72
"""The tasks of a turn: three for each partition, about what a fit submits."""
Fit = Callable[[], str]
Turn = Callable[[], bool]
"""A turn, which tells whether all was as it should be."""


class Lived(NamedTuple):
    """The life of a cluster. looks: in the order of WHAT, after each turn; seconds of each; counts."""

    looks: list[list[float]]
    seconds: list[float]
    deaths: int
    hangs: int
    wrong: int


def soak(report: Report, settings: Settings) -> None:
    """Run fits of several kinds in turn; in half of them some worker is killed at a random moment. Then the same with a client that only
    submits and lets go, on a cluster of its own."""
    n_fits = QUICK_FITS if settings.quick else settings.fits
    problem = Problem(n_rows=20_000, n_columns=20, n_partitions=24)
    kinds = fits(problem)
    with dask.config.set(scheduler="threads"):
        expected = {name: fit() for name, fit in kinds.items()}
    checks = [lambda name=name, fit=fit: fit() == expected[name] for name, fit in kinds.items()]
    ours = live(n_fits, lambda client: checks)
    bare = live(n_fits, lambda client: [lambda: submit_nothing(client)])
    summarise(report, f"{OURS}, {n_fits} fits", ours)
    summarise(report, f"A bare client, {n_fits} times {N_TASKS} empty tasks, for comparison", bare)
    judge(report, ours, bare)
    report.notes.append(
        f"{ours.deaths} times one of {N_WORKERS} workers was killed by SIGKILL, 0 to 0.4 s after the beginning of a fit; one worker never"
        f" is, and is the one that is looked at. The first {WARM} fits do not count. Fits in turn: {', '.join(kinds)}."
        f" Under the bare client {bare.deaths} died."
    )


def judge(report: Report, ours: Lived, bare: Lived) -> None:
    """Judge what grew: nothing may but what Dask's scheduler keeps of any client."""
    (client, scheduler, worker, *_), (_, beside, *_) = growths(ours), growths(bare)
    add = report.targets.append
    add(Target("memory of the last tenth over the first: client", "at most", GROWTH, client))
    add(Target("memory of the last tenth over the first: worker", "at most", GROWTH, worker))
    add(Target("growth of the scheduler's memory over that under a bare client", "at most", GROWTH, scheduler / beside))
    for what, before, after, more in zip(*(column[3:] for column in (WHAT, *tenths(ours))), MORE, strict=True):
        add(Target(f"more in the last tenth: {what}", "at most", more, after - before))
    add(Target(f"fits of {len(ours.looks)} that hung", "at most", 0, float(ours.hangs)))
    add(Target("digests that differ from those in process", "at most", 0, float(ours.wrong)))


def live(n_turns: int, turns_of: Callable[[Client], Sequence[Turn]]) -> Lived:
    """Take turns one after the other on a new cluster. turns_of: given its client, what is done in turn."""
    random = np.random.default_rng(0)
    killed: list[int] = []
    looks, seconds, n_hangs, n_wrong = [], [], 0, 0
    with cluster_processes() as (scheduler, client):
        turns = turns_of(client)
        kept = min(client.scheduler_info(n_workers=-1)["workers"])
        processes = [psutil.Process(), psutil.Process(scheduler.pid), psutil.Process(client.run(os.getpid)[kept])]
        for i in range(WARM + n_turns):
            killer = threading.Timer(0.4 * random.random(), kill_one, (client, kept, int(random.integers(1 << 30)), killed))
            if dying := random.random() < DEATHS:
                killer.start()
            start = time.perf_counter()
            try:
                with time_limit(HANG):
                    n_wrong += not turns[i % len(turns)]()
            except TimeoutError:
                n_hangs += 1
            seconds.append(time.perf_counter() - start)
            if dying:
                killer.join()
            client.wait_for_workers(N_WORKERS, timeout=HANG)
            looks.append(look(client, processes))
    return Lived(looks[WARM:], seconds[WARM:], len(killed), n_hangs, n_wrong)


def submit_nothing(client: Client) -> bool:
    """Submit tasks that do next to nothing, and need no module of ours; whether all did it."""
    futures = client.map(operator.index, range(N_TASKS), pure=False)
    return bool(client.gather(futures) == list(range(N_TASKS)))


def tenths(lived: Lived) -> tuple[list[float], list[float]]:
    """Medians of the first and of the last tenth of the looks."""
    tenth = max(1, len(lived.looks) // 10)
    first, last = ([median(column) for column in zip(*some, strict=True)] for some in (lived.looks[:tenth], lived.looks[-tenth:]))
    return first, last


def growths(lived: Lived) -> list[float]:
    """The growths: the last tenth over the first, of what is never 0."""
    return [after / before for before, after in zip(*tenths(lived), strict=True) if before]


def summarise(report: Report, title: str, lived: Lived) -> None:
    """Report the last tenth beside the first."""
    rows = [(what, before, after, after / before if before else None) for what, before, after in zip(WHAT, *tenths(lived), strict=True)]
    tenth = max(1, len(lived.seconds) // 10)
    before, after = median(lived.seconds[:tenth]), median(lived.seconds[-tenth:])
    rows.append(("seconds of a turn", before, after, after / before))
    report.tables.append(Table(title, ("what", "first tenth", "last tenth", "growth"), rows))


def fits(problem: Problem) -> dict[str, Fit]:
    """The fits by name; each makes its dataset anew, and lets it go."""
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


def kill_one(client: Client, kept: str, draw: int, killed: list[int]) -> None:
    """Kill one of the other workers, if there is one; its process id is added to killed."""
    others = sorted(set(client.scheduler_info(n_workers=-1)["workers"]) - {kept})
    if others:
        worker = others[draw % len(others)]
        for pid in client.run(os.getpid, workers=[worker], on_error="ignore").values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


def look(client: Client, processes: list[psutil.Process]) -> list[float]:
    """Look at what may have grown after a fit, in the order of WHAT. processes: client, scheduler, and the worker that is never killed."""
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
