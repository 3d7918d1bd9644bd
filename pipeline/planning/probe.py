"""The measurements behind a plan: rounds of the job's own strategy on a sample here, and on a worker of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.data.schema import Schema
from pipeline.estimators.base import SetUp
from pipeline.estimators.solvers import Choice
from pipeline.execution.base import Pending
from pipeline.execution.threads import ThreadExecutor, default_threads
from pipeline.jobs.job import Job
from pipeline.planning.costs import Cost, Kind, Worker, kind_of, level_of, n_steps_of
from pipeline.planning.on_worker import few_rows, measure_on_worker
from pipeline.planning.sample import Sample, take_sample
from pipeline.planning.strategies import gradients_of, n_turns, on_groups
from pipeline.sources.rows import Rows
from pipeline.training.history import Row
from pipeline.training.loop import CUT_OFF, train
from pipeline.training.observers import Calling
from tasks.objectives.base import Sums
from tasks.reductions.reduction import Reduction, array_bytes
from tasks.rounds.fitting import round_bytes
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.strategies.admm import ADMM
from tasks.strategies.base import Consensus, Strategy
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

FIT_SECONDS: Final = 3.0
"""The seconds after which all fits of the sample end: three fits, or one that is cut off."""
FITS: Final = 3
COMPILED_LIKE: Final = {"local_steps": "loss_and_gradient", "consensus": "hessian"}
"""Oracles that are made of another one."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The measurements of a job. schema: of the whole dataset, as far as the sample tells; strategy: of a fit of all rows; finished:
    whether the sample's fit came to its end; level: subtrees of 2^level groups are on one thread; remembered_bytes: that each of them
    keeps beside its rows, of one version."""

    sample: Sample
    schema: Schema
    choice: Choice
    strategy: Strategy
    n_parameters: int
    worker: Worker
    finished: bool
    level: int = 0
    remembered_bytes: int = 0

    def subtree_rows(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The rows of each subtree of the whole dataset: what workers share."""
        group_rows = self.sample.group_rows()
        return np.add.reduceat(group_rows, np.arange(0, len(group_rows), 1 << self.level))


class Recorder(ThreadExecutor):
    """Threads in this process that write down each round of a fit. `on_round` ends the fit `limit` seconds from now.

    updates: of each round of a kind the client's seconds from its sums until its parameters had moved; steps: the updates of all rounds
    of a kind, as `n_steps_of` counts them; last: input and sums.
    """

    def __init__(self, n_threads: int, limit: float) -> None:
        super().__init__(n_threads)
        self.updates: dict[Kind, list[float]] = {}
        self.steps: dict[Kind, int] = {}
        self.last: dict[Kind, tuple[Broadcast, Sums]] = {}
        self._stop = time.perf_counter() + limit
        self._kind, self._n_steps = Kind("loss_and_gradient", 1), 1
        self._returned = 0.0

    def submit(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Pending:
        pending = super().submit(rows, reduction, broadcast)
        return Recorded(pending, partial(self._note, broadcast)) if isinstance(broadcast, Broadcast) else pending

    def _note(self, broadcast: Broadcast, sums: Any) -> None:
        self._kind, self._n_steps = kind_of(broadcast), n_steps_of(broadcast)
        self.last[self._kind] = broadcast, sums
        self._returned = time.thread_time()

    def on_round(self, row: Row) -> bool:
        """After the client's update: note how long it took. True when time is up."""
        self.updates.setdefault(self._kind, []).append(time.thread_time() - self._returned)
        self.steps[self._kind] = self.steps.get(self._kind, 0) + self._n_steps
        return time.perf_counter() > self._stop


@dataclass(frozen=True, eq=False)
class Recorded(Pending):
    """A round whose sums are noted once they are there. Nobody asks whether it is done: of those under way the oldest is taken."""

    pending: Pending
    note: Callable[[Any], None]

    def result(self) -> Any:
        sums = self.pending.result()
        self.note(sums)
        return sums

    def cancel(self) -> None:
        self.pending.cancel()


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
    kinds = kinds_of(fits, setup.strategy, len(sample.groups))
    worker = measure_on_worker(sample, setup, start, kinds, n_threads)
    gradients, remembering, layout = gradients_of(setup.strategy), setup.fit.remembering, setup.objective.layout
    return Probe(
        sample=sample,
        schema=schema,
        choice=setup.choice,
        strategy=setup.strategy,
        n_parameters=layout.size,
        worker=worker,
        finished=fits[0].finished or (gradients is not None and makes_all_epochs(gradients)),
        level=max(level_of(broadcast) for _, broadcast in kinds),
        remembered_bytes=0 if remembering is None else remembering.n_remembered * layout.size * np.dtype(layout.dtype).itemsize,
    )


def set_up(job: Job, sample: Sample, schema: Schema) -> tuple[SetUp, Array]:
    """Set the fit up as `GradientModel.fit` does; also the parameters (1, n) to start from. Raises ValueError where it does, saying so when
    that may be the sample's fault."""
    model = job.estimator.build()
    try:
        model._survey(ThreadExecutor(), sample.sampled)
        setup = model._set_up(schema, sample.dataset.source.n_groups)
        start = model._start(setup.objective)[None]
    except ValueError as error:
        if sample.whole:
            raise
        n, total = sample.n_partitions, sample.dataset.n_partitions
        cure = "shuffle the rows, so that every partition is like the others, or train without a plan"
        raise ValueError(f"{n} of {total} partitions were read, and they cannot be fitted by themselves: {error}; {cure}") from error
    return setup, start


def compile_kernels(sample: Sample, setup: SetUp, start: Array) -> None:
    """Compile the kernels: on a machine's first run that takes longer than the whole probe."""
    dataset = few_rows(sample, 1)
    for oracle in (COMPILED_LIKE.get(name, name) for name in setup.strategy.oracles if ORACLES[name].compiled):
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
        fit = replace(setup.fit, strategy=on_groups(setup.strategy, sample.sampled.source))
        result = train(recorder, sample.sampled, fit, fit.init(start), [Calling(recorder.on_round)])
        (status,) = result.statuses
        fits.append(Fitted(recorder, status.reason != CUT_OFF and (sample.whole or status.kind != "diverged")))
    return fits


def kinds_of(fits: Sequence[Fitted], strategy: Strategy, n_groups: int) -> list[tuple[Cost, Broadcast]]:
    """The cost of each kind of round as the fits of so many groups tell it, and its last input: how long computing and messages take is not
    known yet."""
    found = []
    for kind, count in counts(fits[0], strategy).items():
        rounds = fits[0].rounds
        broadcast, sums = rounds.last[kind]
        sent, returned = bytes_of(broadcast, sums, strategy)
        cost = Cost(
            kind=kind,
            count=round(count * n_turns(strategy) / -(-n_groups >> level_of(broadcast))) if kind.by_turns else count,
            update_seconds=median(update for fit in fits for update in fit.rounds.updates.get(kind, ())),
            sent_bytes=sent,
            returned_bytes=returned,
            n_steps=rounds.steps[kind] / len(rounds.updates[kind]),
            adds_up=reduction_of(broadcast).adds_up,
            summed_bytes=summed_bytes(broadcast, returned),
        )
        found.append((cost, broadcast))
    return found


def bytes_of(broadcast: Broadcast, sums: Any, strategy: Strategy) -> tuple[int, int]:
    """The bytes of numbers to one worker thread, and back, in a round of a fit of all rows; where each subtree returns its own, back from
    one."""
    sent = array_bytes(tuple(broadcast))
    returned = round_bytes(broadcast, sums) - sent
    if isinstance(strategy, ADMM) and isinstance(broadcast.local, Consensus):  # a dual, and a place, of each subtree
        vector, n_sampled = broadcast.parameters.nbytes, len(broadcast.local.subtrees.first_partitions)
        return vector * (1 + len(strategy.subtrees.first_partitions)), returned // n_sampled
    return sent, returned


def summed_bytes(broadcast: Broadcast, returned: int) -> int:
    """The bytes of a subtree's sums before they are made small, or that its own solution takes."""
    if (coding := broadcast.coding) is not None:
        return max(returned, coding.size * np.dtype(coding.dtype).itemsize)
    n = broadcast.parameters.shape[-1]
    return max(returned, broadcast.parameters.nbytes * (1 + n)) if isinstance(broadcast.local, Consensus) else returned


def counts(fit: Fitted, strategy: Strategy) -> dict[Kind, int]:
    """The number of rounds of each kind: of batches that were cut off, those of whole epochs, and of all epochs where none may be
    left out."""
    found, gradients = {kind: len(updates) for kind, updates in fit.rounds.updates.items()}, gradients_of(strategy)
    if fit.finished or gradients is None:
        return found
    epochs = sum(n_steps / kind.n_batches for kind, n_steps in fit.rounds.steps.items() if kind.n_batches)
    if not epochs:
        return found
    factor = (gradients.max_epochs if makes_all_epochs(gradients) else math.ceil(epochs)) / epochs
    return {kind: round(count * factor) for kind, count in found.items()}


def makes_all_epochs(strategy: StochasticGradient) -> bool:
    """Whether nothing ends a fit early."""
    return strategy.tol == -math.inf
