"""The one fit loop: ask the strategy, reduce where the data lives, move the parameters once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.execution.executors import Executor
from pipeline.history import History, Row
from tasks.fitting import Fit
from tasks.objectives import Objective
from tasks.penalties import Penalty
from tasks.strategies.base import Status, Strategy
from tasks.threads import single_blas_thread
from tasks.typing import Array

OnRound = Callable[[Row], bool]
CUT_OFF: Final = "a callback ended the fit"
INTERRUPTED: Final = "interrupted by the user"
NO_LIMIT: Final = 1 << 30


@dataclass(frozen=True, eq=False)
class Result:
    """parameters (k, n) at the last accepted point of each of the k models, how each ended, the rounds, and the strategy's last states."""

    parameters: Array
    statuses: tuple[Status, ...]
    iterations: tuple[int, ...]
    history: list[Row]
    bytes_per_round: int
    tasks_per_round: int
    states: list[Any]


def train(
    executor: Executor,
    dataset: Dataset,
    objective: Objective,
    penalties: Sequence[Penalty],
    strategy: Strategy,
    parameters: Array,
    on_round: OnRound | None = None,
    *,
    keep_on_interrupt: bool = False,
) -> Result:
    """Minimise, for each of k models, mean loss plus its penalty, from parameters (k, n).

    on_round is called after every round and ends the fit by returning True. keep_on_interrupt: Ctrl-C ends the fit where it is, as
    on_round would, instead of being raised. Raises TypeError when the objective lacks a power that the strategy asks for.
    """
    fit = Fit(objective, tuple(penalties), strategy)
    return run(executor, dataset, fit, fit.init(parameters), on_round, keep_on_interrupt=keep_on_interrupt)


def run(
    executor: Executor, dataset: Dataset, fit: Fit, states: list[Any], on_round: OnRound | None, *, keep_on_interrupt: bool = False
) -> Result:
    """`train`, from states that an earlier fit may have left."""
    history = History()
    dataset = dataset.as_checked()
    sent = 0
    ended = ""
    try:
        with single_blas_thread():
            while not ended and any(state.status.kind == "running" for state in states):
                began = time.perf_counter()
                before, (states, reports) = states, executor.advance(dataset, fit, states, NO_LIMIT)
                sent = max([sent, *(report.n_bytes for report in reports)])
                rows = [history.add(report, began) for report in reports]
                for done, row in enumerate(rows, 1):
                    if on_round is not None and on_round(row):
                        ended = CUT_OFF
                        if done < len(rows):
                            states = repeat(executor, dataset, fit, before, done)
                            del history.rows[done - len(rows) :]
                        break
    except KeyboardInterrupt:
        if not keep_on_interrupt:
            raise
        ended = INTERRUPTED
    statuses = tuple(Status("out of rounds", ended) if state.status.kind == "running" else state.status for state in states)
    accepted = np.stack([state.accepted.parameters for state in states])
    iterations = tuple(state.iteration for state in states)
    return Result(accepted, statuses, iterations, history.rows, sent, executor.tasks_per_round, states)


def repeat(executor: Executor, dataset: Dataset, fit: Fit, states: list[Any], n_rounds: int) -> list[Any]:
    """So many rounds again: what came after them shall not have happened."""
    while n_rounds:
        states, reports = executor.advance(dataset, fit, states, n_rounds)
        n_rounds -= len(reports)
    return states
