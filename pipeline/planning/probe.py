"""The measurements behind a plan: rounds of the job's own strategy on a sample here, and messages to a worker of this machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import cloudpickle
import numpy as np
import psutil

from pipeline.cluster.connect import connect
from pipeline.cluster.interrupts import spared_interrupts
from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import SetUp
from pipeline.estimators.solvers import Choice
from pipeline.execution.base import Pending
from pipeline.execution.threads import ThreadExecutor, default_threads
from pipeline.jobs.job import Job
from pipeline.planning.sample import Sample, plan_load, take_sample
from pipeline.sources.rows import Rows
from pipeline.training.history import Row
from pipeline.training.loop import CUT_OFF, train
from pipeline.training.observers import Calling
from tasks.machine.threads import single_blas_thread
from tasks.objectives.base import Sums
from tasks.reductions.reduction import Reduction, reduce_shards
from tasks.rounds.fitting import Fit, round_bytes
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.rows.partition import Shard
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous
from tasks.strategies.base import Strategy
from tasks.strategies.compressed import Compressed
from tasks.strategies.local_sgd import LocalSGD
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array
from tasks.workers.timing import timed_load, timed_reduce

FIT_SECONDS: Final = 3.0
"""The seconds after which all fits of the sample end: three fits, or one that is cut off."""
FITS: Final = 3
MESSAGES: Final = 8
MESSAGE_ROUNDS: Final = 20
COMPUTED_ROUNDS: Final = 5
BATCHES: Final = 400
ROUND_SECONDS: Final = 0.7
"""The seconds for which each kind of round is timed, unless it has been often enough before."""
LOAD_SECONDS: Final = 3.0
"""The seconds of a loading that may have been imports: it is measured again."""
WARM_UP: Final = 2
"""Rounds that load rows and kernels, and encode targets."""


class Kind(NamedTuple):
    """A kind of round: what it asks for, see `tasks.strategies.base.Request`."""

    oracle: str
    row_step: int
    n_batches: int = 0  # batches in an epoch, for a round about one of them

    def __str__(self) -> str:
        if self.n_batches:
            return f"{self.oracle} of a batch".replace("_", " ")
        return self.oracle.replace("_", " ") + (f" of every {self.row_step}th row" if self.row_step > 1 else "")


@dataclass(frozen=True)
class Cost:
    """The cost of one kind of round. count: how many of them a fit takes, by the sample's.

    row_seconds: of a worker thread's computing, for each training row; update_seconds: of the client's, between rounds; delay_seconds:
    until a round of one message is back, beside its rows; message_seconds: for each further message; sent_bytes, returned_bytes: numbers
    to and from one worker thread.
    """

    kind: Kind
    count: int
    update_seconds: float
    sent_bytes: int
    returned_bytes: int
    row_seconds: float = 0.0
    delay_seconds: float = 0.0
    message_seconds: float = 0.0


class Worker(NamedTuple):
    """The cost of a worker process of this machine. costs: of each kind of round; load_seconds: a thread's, to read and check a row of any
    part; n_bytes: of the process when it has read and fitted, but holds no rows."""

    costs: tuple[Cost, ...]
    load_seconds: float
    n_bytes: int


@dataclass(frozen=True, eq=False)
class Probe:
    """The measurements of a job. schema: of the whole dataset, as far as the sample tells; finished: whether the sample's fit came to its
    end; level: subtrees of 2^level groups are on one thread."""

    sample: Sample
    schema: Schema
    choice: Choice
    n_parameters: int
    worker: Worker
    finished: bool
    level: int = 0

    def subtree_rows(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The rows of each subtree of the whole dataset: what workers share."""
        group_rows = self.sample.group_rows()
        return np.add.reduceat(group_rows, np.arange(0, len(group_rows), 1 << self.level))


class Recorder(ThreadExecutor):
    """Threads in this process that write down each round of a fit. `on_round` ends the fit `limit` seconds from now.

    updates: of each round of a kind the client's seconds from its sums until its parameters had moved; last: input and sums.
    """

    def __init__(self, n_threads: int, limit: float) -> None:
        super().__init__(n_threads)
        self.updates: dict[Kind, list[float]] = {}
        self.last: dict[Kind, tuple[Broadcast, Sums]] = {}
        self._stop = time.perf_counter() + limit
        self._kind = Kind("loss_and_gradient", 1)
        self._returned = 0.0

    def submit(self, rows: Rows, reduction: Reduction, broadcast: Broadcast) -> Pending:
        return Recorded(super().submit(rows, reduction, broadcast), partial(self._note, broadcast))

    def _note(self, broadcast: Broadcast, sums: Any) -> None:
        self._kind = kind_of(broadcast)
        self.last[self._kind] = broadcast, sums
        self._returned = time.thread_time()

    def on_round(self, row: Row) -> bool:
        """After the client's update: note how long it took. True when time is up."""
        self.updates.setdefault(self._kind, []).append(time.thread_time() - self._returned)
        return time.perf_counter() > self._stop


@dataclass(frozen=True, eq=False)
class Recorded(Pending):
    """A round whose sums are noted once they are there."""

    pending: Pending
    note: Callable[[Any], None]

    def result(self) -> Any:
        sums = self.pending.result()
        self.note(sums)
        return sums

    def cancel(self) -> None:
        self.pending.cancel()


def kind_of(broadcast: Broadcast) -> Kind:
    """The kind of a round; a full pass before epochs of batches is of another kind than they are."""
    batch = broadcast.batch
    return Kind(broadcast.oracle, broadcast.row_step, batch.sampling.n_rounds if batch is not None and batch.number >= 0 else 0)


def probe(job: Job, cores: int) -> Probe:
    """Measure a job on as many threads as a worker of `cores` has, as far as there are cores here. Raises what reading the job's data and
    setting its fit up do."""
    n_threads = min(cores, default_threads())
    train_part, _ = job.split.parts(job.data.dataset())
    sample = take_sample(train_part, n_threads)
    schema = sample.schema(ThreadExecutor(n_threads))
    setup, start = set_up(job, sample, schema)
    compile_kernels(sample, setup, start)
    fits = fit_repeatedly(sample, setup, start, n_threads)
    kinds = kinds_of(fits, setup.strategy)
    worker = measure_on_worker(sample, setup, start, kinds, n_threads)
    return Probe(
        sample=sample,
        schema=schema,
        choice=setup.choice,
        n_parameters=setup.objective.layout.size,
        worker=worker,
        finished=fits[0].finished or (isinstance(setup.strategy, StochasticGradient) and makes_all_epochs(setup.strategy)),
        level=max(level_of(broadcast) for _, broadcast in kinds),
    )


def set_up(job: Job, sample: Sample, schema: Schema) -> tuple[SetUp, Array]:
    """Set the fit up as `GradientModel.fit` does; also the parameters (1, n) to start from. Raises ValueError where it does, saying so when
    that may be the sample's fault, and for a strategy whose rounds do not follow each other."""
    model = job.estimator.build()
    try:
        model._survey(ThreadExecutor(), sample.dataset)
        setup = model._set_up(schema, sample.dataset.source.n_groups)
        start = model._start(setup.objective)[None]
    except ValueError as error:
        if sample.whole:
            raise
        n, total = sample.n_partitions, sample.dataset.n_partitions
        cure = "shuffle the rows, so that every partition is like the others, or train without a plan"
        raise ValueError(f"{n} of {total} partitions were read, and they cannot be fitted by themselves: {error}; {cure}") from error
    if isinstance(setup.strategy, Compressed):
        raise ValueError("a plan is of rounds that are sent whole; plan the job without compression, whose memory is about the same")
    if isinstance(setup.strategy, Asynchronous | LocalSGD):
        raise ValueError(
            f"a plan is of rounds that follow each other, and solver={setup.choice.name!r} has others; plan the job with synchronous"
            " mini-batches, whose memory is the same, or train without a plan"
        )
    if isinstance(setup.strategy, ADMM):
        raise ValueError(
            "a plan is of rounds in which all compute sums at one place, and solver='admm' has others; plan the job with solver='newton',"
            " which sums the same Hessians in fewer rounds, or train without a plan"
        )
    return setup, start


def compile_kernels(sample: Sample, setup: SetUp, start: Array) -> None:
    """Compile the kernels: on a machine's first run that takes longer than the whole probe."""
    dataset = few_rows(sample, 1)
    for oracle in (name for name in setup.strategy.oracles if ORACLES[name].compiled):
        broadcast = Broadcast(setup.objective, oracle, start, start, 1, (setup.penalty,))
        ThreadExecutor(1).map_reduce(dataset.rows, reduction_of(broadcast), broadcast)


class Fitted(NamedTuple):
    """One fit of the sample. finished: neither cut off nor at its end only because batches of few rows let it diverge."""

    rounds: Recorder
    finished: bool


def fit_repeatedly(sample: Sample, setup: SetUp, start: Array, n_threads: int) -> list[Fitted]:
    """Fit the sample, and again while there is time: the first fit says how many rounds there are, the others better what updates take."""
    fits: list[Fitted] = []
    began = time.perf_counter()
    while len(fits) < FITS and (left := FIT_SECONDS - (time.perf_counter() - began)) > 0:
        recorder = Recorder(n_threads, left)
        fit = setup.fit
        result = train(recorder, sample.dataset, fit, fit.init(start), [Calling(recorder.on_round)])
        (status,) = result.statuses
        fits.append(Fitted(recorder, status.reason != CUT_OFF and (sample.whole or status.kind != "diverged")))
    return fits


def kinds_of(fits: Sequence[Fitted], strategy: Strategy) -> list[tuple[Cost, Broadcast]]:
    """The cost of each kind of round as the fits tell it, and its last input: how long computing and messages take is not known yet."""
    found = []
    for kind, count in counts(fits[0], strategy).items():
        broadcast, sums = fits[0].rounds.last[kind]
        sent = broadcast.parameters.nbytes + (0 if broadcast.direction is None else broadcast.direction.nbytes)
        cost = Cost(
            kind=kind,
            count=count,
            update_seconds=median(update for fit in fits for update in fit.rounds.updates.get(kind, ())),
            sent_bytes=sent,
            returned_bytes=round_bytes(broadcast, sums) - sent,
        )
        found.append((cost, broadcast))
    return found


def counts(fit: Fitted, strategy: Strategy) -> dict[Kind, int]:
    """The number of rounds of each kind: of batches that were cut off, those of whole epochs, and of all epochs where none may be
    left out."""
    found = {kind: len(updates) for kind, updates in fit.rounds.updates.items()}
    if fit.finished or not isinstance(strategy, StochasticGradient):
        return found
    epochs = sum(count / kind.n_batches for kind, count in found.items() if kind.n_batches)
    if not epochs:
        return found
    factor = (strategy.max_epochs if makes_all_epochs(strategy) else math.ceil(epochs)) / epochs
    return {kind: round(count * factor) for kind, count in found.items()}


def makes_all_epochs(strategy: StochasticGradient) -> bool:
    """Whether nothing ends a fit early."""
    return strategy.tol == -math.inf


def level_of(broadcast: Broadcast) -> int:
    """The level of a round: subtrees of 2^level groups compute it together."""
    return reduction_of(broadcast).level(broadcast)


# -- on a worker -----------------------------------------------------------------------------------------------------------------------


def measure_on_worker(sample: Sample, setup: SetUp, start: Array, kinds: Sequence[tuple[Cost, Broadcast]], n_threads: int) -> Worker:
    """Measure what a worker takes to load, to compute and to answer.

    Computing is measured there, and not in this process, because Dask's workers give memory back at once, and get it anew for each large
    sum; and in the processor's seconds, because a login node has other users. One process answers all MESSAGES messages of a round, where
    a cluster has one for each: further messages cost that at most.
    """
    with spared_interrupts():
        connection = connect(n_workers=1, threads_per_worker=max(MESSAGES, n_threads))
    with connection:
        client = connection.client
        assert client is not None
        load = load_seconds(client, sample)
        one, many = (few_rows(sample, n) for n in (1, MESSAGES))
        delays = [message_seconds(one, many, broadcast) for _, broadcast in kinds]
        if isinstance(setup.strategy, StochasticGradient):
            delay = batch_seconds(one, setup.fit, setup.strategy, start)
            delays = [
                (delay, each) if cost.kind.n_batches else (first, each) for (cost, _), (first, each) in zip(kinds, delays, strict=True)
            ]
        (pid,) = client.run(os.getpid).values()
        n_bytes = psutil.Process(pid).memory_info().rss
        rows = [row_seconds(client, sample, broadcast, n_threads) for _, broadcast in kinds]
    found = zip(kinds, rows, delays, strict=True)
    costs = tuple(replace(cost, row_seconds=row, delay_seconds=delay, message_seconds=each) for (cost, _), row, (delay, each) in found)
    return Worker(costs, load, n_bytes)


def load_seconds(client: Any, sample: Sample) -> float:
    """Seconds of loading of a worker thread for each row, 0 for rows that this process sends; measured once more, when that is short, after
    what loading imports is there."""
    if sample.dataset.source.in_client:
        return 0.0
    number = int(sample.group_rows()[list(sample.numbers)].argmax())
    load, values = plan_load(sample.dataset.source, sample.numbers[number])
    n_rows = sum(groups[number].n_rows for groups in sample.shard.subsets)

    def timed() -> float:
        return float(client.submit(timed_load, load, *values, pure=False).result())

    seconds = timed()
    return (timed() if seconds < LOAD_SECONDS else seconds) / max(n_rows, 1)


def few_rows(sample: Sample, n_partitions: int) -> Dataset:
    """A dataset of so many partitions of two sampled rows each."""
    group = max(sample.groups, key=lambda group: group.n_rows)
    rows = np.arange(2 * n_partitions) % group.n_rows
    return Dataset.from_arrays(group.X[rows], None if group.y is None else group.y[rows], n_partitions=n_partitions)


def message_seconds(one: Dataset, many: Dataset, broadcast: Broadcast) -> tuple[float, float]:
    """Seconds of a round of one message that computes next to nothing, and of each further message."""
    if broadcast.batch is not None:  # level 0 gives as many messages as partitions, about all rows
        broadcast = broadcast._replace(batch=broadcast.batch._replace(sampling=broadcast.batch.sampling._replace(level=0)))
    first, n_first = median_round(one, broadcast)
    all_of_them, n_all = median_round(many, broadcast)
    return first, max(0.0, all_of_them - first) / max(1, n_all - n_first)


def batch_seconds(one: Dataset, fit: Fit, strategy: StochasticGradient, start: Array) -> float:
    """Seconds of a round about a batch that has next to no rows, in one message. Many such rounds follow each other: workers run them by
    themselves, which takes a fraction of what a round from here does."""
    sampling = strategy.sampling._replace(n_rounds=BATCHES, level=0)
    epoch = replace(strategy, sampling=sampling, max_epochs=1, tol=-math.inf, early_stopping=False)
    fit = replace(fit, strategy=epoch)
    rows = train(one.executor(), one, fit, fit.init(start)).history
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
    held = client.scatter(shards_of(sample, 0, n_threads), hash=False)
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
