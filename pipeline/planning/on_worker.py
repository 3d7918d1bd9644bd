"""The measurements on one worker process of this machine: what it takes to load, to compute, and to answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Final

import cloudpickle
import numpy as np
import psutil

from pipeline.cluster.connect import connect
from pipeline.cluster.interrupts import spared_interrupts
from pipeline.data.dataset import Dataset
from pipeline.estimators.base import SetUp
from pipeline.planning.costs import Cost, Worker, kind_of, level_of, n_steps_of
from pipeline.planning.sample import Sample, plan_load
from pipeline.planning.strategies import gradients_of, of_short_rounds, under_way
from pipeline.training.loop import train
from tasks.machine.namespaces import on_host
from tasks.machine.threads import single_blas_thread
from tasks.reductions.reduction import reduce_shards
from tasks.rounds.fitting import Fit
from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.rows.partition import Shard
from tasks.strategies.base import Consensus, LocalSteps
from tasks.typing import Array
from tasks.workers.timing import timed_load, timed_reduce

MESSAGES: Final = 8
MESSAGE_ROUNDS: Final = 20
COMPUTED_ROUNDS: Final = 5
BATCHES: Final = 400
SHORT_ROUNDS: Final = 40
"""As many of those that are not about batches."""
ROUND_SECONDS: Final = 0.7
"""The seconds for which each kind of round is timed, unless it has been often enough before."""
LOAD_SECONDS: Final = 3.0
"""The seconds of a loading that may have been imports: it is measured again."""
WARM_UP: Final = 2
"""Rounds that load rows and kernels, and encode targets."""


def measure_on_worker(sample: Sample, setup: SetUp, start: Array, kinds: Sequence[tuple[Cost, Broadcast]], n_threads: int) -> Worker:
    """Measure what a worker takes to load, to compute and to answer.

    Computing is measured there, and not in this process, because Dask's workers give memory back at once, and get it anew for each large
    sum; and in the processor's seconds, because a login node has other users. One process answers all MESSAGES messages of a round, where
    a cluster has one for each: further messages cost that at most.
    """
    with spared_interrupts():  # two workers, where these have something to say to each other
        connection = connect(n_workers=2 if setup.fit.served else 1, threads_per_worker=max(MESSAGES, n_threads))
    with connection:
        client = connection.client
        assert client is not None
        load = load_seconds(client, sample)
        answered = [answering(sample, setup.fit, start, cost, broadcast) for cost, broadcast in kinds]
        pid, *_ = client.run(os.getpid).values()
        n_bytes = psutil.Process(pid).memory_info().rss
        costs = []
        for cost, (_, broadcast) in zip(answered, kinds, strict=True):
            whole = sent_whole(broadcast, start)
            row = row_seconds(client, sample, whole, n_threads) * cost.n_steps / n_steps_of(whole)
            costs.append(replace(cost, row_seconds=row))
        return Worker(tuple(costs), load, n_bytes)


def answering(sample: Sample, fit: Fit, start: Array, cost: Cost, broadcast: Broadcast) -> Cost:
    """The cost of a kind of round with what it takes beside its rows."""
    one, many = (few_rows(sample, n) for n in (1, MESSAGES))
    coded = codec_seconds(fit) if broadcast.packet is not None else 0.0
    counted = cost.update_seconds + coded  # by themselves
    if cost.kind.by_turns:
        first, each = interval(many, fit, start), 0.0
        if under_way(fit.strategy) == 1:
            first = max(0.0, first - coded)
    elif isinstance(broadcast.local, Consensus) or broadcast.packet is not None:
        single, together = (interval(rows, fit, start) for rows in (one, many))
        first, each = max(0.0, single - counted), max(0.0, together - single) / (MESSAGES - 1)
    else:
        first, each = message_seconds(one, many, sent_whole(broadcast, start))
        if cost.kind.n_batches:
            first = max(0.0, interval(one, fit, start) - counted)
    return replace(cost, subtree_seconds=coded, delay_seconds=first, message_seconds=each)


def sent_whole(broadcast: Broadcast, parameters: Array) -> Broadcast:
    """The same round, sent whole, in which nothing is remembered, and all subtrees compute."""
    batch, local = broadcast.batch, broadcast.local
    if batch is not None:
        batch = batch._replace(sampling=batch.sampling._replace(n_turns=0), subtree=None)
    if isinstance(local, LocalSteps):
        local = local._replace(version=None)
    if broadcast.packet is not None:
        broadcast = broadcast._replace(parameters=parameters)
    return broadcast._replace(batch=batch, local=local, packet=None, coding=None, fit="")


def codec_seconds(fit: Fit) -> float:
    """Seconds of a worker thread in which a subtree opens what it gets, and makes small what it returns."""
    coding = fit.coding
    assert coding is not None
    vector, key = np.random.default_rng(0).standard_normal(coding.size).astype(coding.dtype), (coding.seed, "plan")
    down = None if coding.down is None else coding.down.encode(vector, coding.shapes, key, ())

    def once() -> None:
        if coding.down is not None and down is not None:
            coding.down.decode(down, coding.shapes, vector)
        up = coding.up.encode(vector, coding.shapes, key, ())
        if coding.feedback:
            coding.up.decode(up, coding.shapes, vector)

    with single_blas_thread():
        return median(repeated(once, MESSAGE_ROUNDS))


def load_seconds(client: Any, sample: Sample) -> float:
    """Seconds of loading of a worker thread for each row, 0 for rows that this process sends; measured once more, when that is short, after
    what loading imports is there."""
    if sample.dataset.source.in_client:
        return 0.0
    number = int(sample.group_rows()[list(sample.numbers)].argmax())
    load, values = plan_load(sample.dataset.source, sample.numbers[number])
    n_rows = sum(groups[number].n_rows for groups in sample.shard.subsets)

    worker, *_ = client.run(os.getpid)

    def once() -> float:
        return float(client.submit(timed_load, load, *values, pure=False, workers=[worker]).result())

    seconds = once()
    return (once() if seconds < LOAD_SECONDS else seconds) / max(n_rows, 1)


def few_rows(sample: Sample, n_partitions: int) -> Dataset:
    """A dataset of so many partitions of two sampled rows each."""
    group = max(sample.groups, key=lambda group: group.n_rows)
    rows = np.arange(2 * n_partitions) % group.n_rows
    X = on_host(group.X)[rows]
    return Dataset.from_arrays(X, None if group.y is None else group.y[rows], n_partitions=n_partitions, device=group.home)


def message_seconds(one: Dataset, many: Dataset, broadcast: Broadcast) -> tuple[float, float]:
    """Seconds of a round of one message that computes next to nothing, and of each further message."""
    if broadcast.batch is not None:  # level 0 gives as many messages as partitions, about all rows
        broadcast = broadcast._replace(batch=broadcast.batch._replace(sampling=broadcast.batch.sampling._replace(level=0)))
    if isinstance(broadcast.local, LocalSteps):
        broadcast = broadcast._replace(local=broadcast.local._replace(step_sizes=broadcast.local.step_sizes[:1]))
    first, n_first = median_round(one, broadcast)
    all_of_them, n_all = median_round(many, broadcast)
    return first, max(0.0, all_of_them - first) / max(1, n_all - n_first)


def interval(dataset: Dataset, fit: Fit, start: Array) -> float:
    """Seconds from one round to the next of a fit of next to no rows. Many such rounds follow each other: where workers run them by
    themselves, that takes a fraction of what a round from here does."""
    n_rounds = SHORT_ROUNDS if gradients_of(fit.strategy) is None else BATCHES
    fit = replace(fit, strategy=of_short_rounds(fit.strategy, dataset.source, n_rounds))
    rows = train(dataset.executor(), dataset, fit, fit.init(start)).history
    return float(np.median(np.diff([row["seconds"] for row in rows])))


def median_round(dataset: Dataset, broadcast: Broadcast) -> tuple[float, int]:
    """Seconds of a round on the current cluster, and its messages."""
    executor = dataset.executor()
    seconds = repeated(lambda: executor.map_reduce(dataset.rows, reduction_of(broadcast), broadcast), MESSAGE_ROUNDS)
    return median(seconds), executor.tasks_per_round


def row_seconds(client: Any, sample: Sample, broadcast: Broadcast, n_threads: int) -> float:
    """Seconds of a worker thread for each training row, while n_threads of them compute."""
    if kind_of(broadcast).n_batches:
        return row_seconds_of_batches(sample, broadcast, n_threads)
    n_groups = len(sample.groups)
    held = client.scatter(shards_of(sample, level_of(broadcast), n_threads), hash=False)
    packed = cloudpickle.dumps((reduction_of(broadcast), broadcast))
    seconds: list[float] = []
    repeated(
        lambda: seconds.append(sum(client.gather(client.map(timed_reduce, held, subset=0, n_groups=n_groups, packed=packed, pure=False)))),
        COMPUTED_ROUNDS,
    )
    return median(seconds[WARM_UP:]) / sample.n_train_rows


def row_seconds_of_batches(sample: Sample, broadcast: Broadcast, n_threads: int) -> float:
    """Seconds as `row_seconds`, for each training row, whether a batch has it or not. In this process: on workers batches follow each other
    without tasks, and receiving one takes longer than computing a batch; they take little memory."""
    reduction, shards = reduction_of(broadcast), shards_of(sample, level_of(broadcast), n_threads)

    def compute(number: int, shard: Shard) -> float:
        start = time.thread_time()
        reduce_shards([shard], 0, 0, len(sample.groups), reduction, later(broadcast, number))
        return time.thread_time() - start

    seconds: list[float] = []
    with single_blas_thread(), ThreadPoolExecutor(len(shards)) as threads:
        repeated(lambda: seconds.append(sum(threads.map(partial(compute, len(seconds)), shards))), BATCHES)
    return median(seconds[WARM_UP:]) / sample.n_train_rows


def shards_of(sample: Sample, level: int, n_threads: int) -> list[Shard]:
    """The sampled rows to train on, broadcast out over threads."""
    runs = runs_of_subtrees(len(sample.groups), level, n_threads)
    return [Shard(tuple(run), (tuple(sample.groups[i] for i in run),)) for run in runs]


def runs_of_subtrees(n_groups: int, level: int, n_threads: int) -> list[range]:
    """The numbers of the groups of each thread, whole subtrees of 2^level."""
    n_subtrees = -(-n_groups >> level)
    runs = np.array_split(np.arange(n_subtrees), min(n_threads, n_subtrees))
    return [range(int(run[0]) << level, min(int(run[-1]) + 1 << level, n_groups)) for run in runs]


def later(broadcast: Broadcast, further: int) -> Broadcast:
    """The round about another batch of its epoch: rows that no cache holds."""
    batch = broadcast.batch
    assert batch is not None
    return broadcast._replace(batch=batch._replace(number=further % batch.sampling.n_rounds))


def repeated(run: Callable[[], Any], most: int) -> list[float]:
    """Seconds of each call: `most` of them, or fewer that took ROUND_SECONDS together, not counting the first ones."""
    seconds: list[float] = []
    while len(seconds) <= WARM_UP or (len(seconds) < WARM_UP + most and sum(seconds[WARM_UP:]) < ROUND_SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]
