"""The case about workers of different speed: one of four is held back, and rows move to the others."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import cloudpickle
import numpy as np
from distributed import Client, LocalCluster

from pipeline.benchmarks.contenders import OURS
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.reductions.reduction import reduce_on_worker
from tasks.rounds.oracles import Broadcast, reduction_of

SHARES: Final = (0.1, 0.4, 0.4, 0.4)
"""The share of a core for each worker: the first has a quarter of the others', and all together fit on two cores."""
PERIOD: Final = 0.02
SETTLING: Final = 15
LEAST: Final = 0.8


def slow_worker(report: Report, settings: Settings) -> None:
    """Time rounds over rows that begin in equal shares."""
    problem = Problem(n_rows=20_000 if settings.quick else 300_000, n_columns=200, n_partitions=128)
    X, y = problem.arrays()
    here = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    there = Dataset.from_arrays(X, y, n_partitions=problem.n_partitions)
    objective = LinearObjective(LogisticLoss(), problem.n_columns, 1, fit_intercept=True, classes=np.arange(2))
    broadcast = Broadcast(objective, "hessian", np.full((1, objective.layout.size), 0.01), None, 1)
    reduction = reduction_of(broadcast)
    expected = digest(ThreadExecutor().map_reduce(here.rows, reduction, broadcast))
    digests = set()
    with LocalCluster(n_workers=len(SHARES), threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        executor = there.executor()
        executor.map_reduce(there.rows, reduction, broadcast)
        begun = pieces(client, there)
        pids = client.run(os.getpid)
        seconds = []
        with held_back([pids[worker] for worker in sorted(pids)], SHARES):
            alone = speeds_alone(client, there, cloudpickle.dumps((reduction, broadcast)), settings.repeats)
            for _ in range(SETTLING + settings.repeats):
                start = time.perf_counter()
                digests.add(digest(executor.map_reduce(there.rows, reduction, broadcast)))
                seconds.append(time.perf_counter() - start)
        ended = pieces(client, there)
    after, total = median(seconds[SETTLING:]), sum(alone)
    rows = [
        (OURS, "before", seconds[0], problem.n_rows / seconds[0], problem.n_rows / seconds[0] / total, begun),
        (OURS, "after", after, problem.n_rows / after, problem.n_rows / after / total, ended),
    ]
    columns = ("library", "rows moved", "s a round", "rows per s", "share of the workers' sum", "pieces of each")
    report.tables.append(Table(f"Hessian rounds, {problem.name}, four workers, one held back to a quarter", columns, rows))
    speeds = [(f"worker {i}", share, speed) for i, (share, speed) in enumerate(zip(SHARES, alone, strict=True))]
    report.tables.append(Table("Each worker alone", ("worker", "share of a core", "rows per s"), speeds))
    report.targets.append(
        Target("throughput over the sum of the workers' measured speeds", "at least", LEAST, problem.n_rows / after / total)
    )
    report.targets.append(Target("different results among all rounds and those in process", "at most", 1, float(len(digests | {expected}))))
    report.notes.append(
        f"A process stops and continues each worker every {1e3 * PERIOD:.0f} ms, so that it has its share of a core and no more. "
        "The sum is of what each worker does alone, on its own rows, held back in the same way."
    )
    report.notes.append(f"After: the median of the rounds that follow the first {SETTLING}; before: the first round.")


def pieces(client: Client, dataset: Dataset) -> str:
    """The number of shards that each worker has, in words."""
    return " + ".join(str(len(each.keys)) for each in dataset.source.resident[client.id].work)


def digest(partial: Any) -> str:
    """SHA-256 of the sums of a round."""
    return hashlib.sha256(partial.hessian_sum.tobytes() + partial.gradient_sum.tobytes() + partial.loss_sum.tobytes()).hexdigest()


def speeds_alone(client: Client, dataset: Dataset, packed: bytes, repeats: int) -> list[float]:
    """Rows per second of each worker while the others have nothing to do."""
    resident = dataset.source.resident[client.id]
    speeds = []
    for each in resident.work:
        shards = [resident.futures[piece] for piece in resident.assigned[each.thread]]
        n_rows = client.submit(lambda shards: sum(group.n_rows for shard in shards for group in shard.groups(0)), shards).result()
        runs = [
            client.submit(reduce_on_worker, shards, 0, 0, resident.n_groups, packed, workers=[each.worker], pure=False).result()
            for _ in range(max(3, repeats))
        ]
        speeds.append(n_rows / median(run.seconds[0] for run in runs))
    return speeds


@contextmanager
def held_back(pids: Sequence[int], shares: Sequence[float]) -> Iterator[None]:
    """A block in which each process runs for its share of every period only, one after the other as far as that goes."""
    context = multiprocessing.get_context("spawn")
    begun, done = context.Event(), context.Event()
    process = context.Process(target=hold_back, args=(list(pids), list(shares), begun, done), daemon=True)
    process.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        process.join()


def hold_back(pids: Sequence[int], shares: Sequence[float], begun: Any, done: Any) -> None:
    """Stop and continue processes until `done`: the first of them begins each period, the others follow evenly."""
    events = []
    for i, (pid, share) in enumerate(zip(pids, shares, strict=True)):
        begin = i / len(pids)
        events += [(begin, pid, signal.SIGCONT), ((begin + share) % 1, pid, signal.SIGSTOP)]
    start = time.perf_counter()
    begun.set()
    try:
        for period in itertools.count():
            for moment, pid, what in sorted(events):
                time.sleep(max(0.0, start + (period + moment) * PERIOD - time.perf_counter()))
                os.kill(pid, what)
            if done.is_set():
                return
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
