"""The one fit loop: ask the strategy, reduce where the data lives, move the parameters once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.execution.base import Executor
from pipeline.sources.rows import Rows
from pipeline.training.checkpoints.files import Saved
from pipeline.training.checkpoints.keeper import Keeper
from pipeline.training.checkpoints.termination import terminations
from pipeline.training.history import History, Rounds, Row
from tasks.machine.threads import single_blas_thread
from tasks.objectives.base import Objective
from tasks.objectives.penalties import Penalty
from tasks.reductions.stages.marks import Marks
from tasks.rounds.fitting import Fit
from tasks.strategies.base import Status, Strategy
from tasks.typing import Array

OnRound = Callable[[Row], bool]
OnMarks = Callable[[int, Marks], None]
CUT_OFF: Final = "a callback ended the fit"
INTERRUPTED: Final = "interrupted by the user"
NO_LIMIT: Final = 1 << 30


@dataclass(frozen=True, eq=False)
class Result:
    """parameters (k, n) at the last accepted point of each of the k models, how each ended, the rounds, and the strategy's last states."""

    parameters: Array
    statuses: tuple[Status, ...]
    iterations: tuple[int, ...]
    history: Rounds
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
    keeper: Keeper | None = None,
) -> Result:
    """Minimise, for each of k models, mean loss plus its penalty, from parameters (k, n).

    on_round is called after every round and ends the fit by returning True. keep_on_interrupt: Ctrl-C ends the fit where it is, as
    on_round would, instead of being raised. keeper: of the fit's checkpoints; with a saved one the fit goes on from there. Raises
    TypeError when the objective lacks a power that the strategy asks for, or when checkpoints cannot hold the strategy's states.
    """
    fit = Fit(objective, tuple(penalties), strategy)
    return run(executor, dataset, fit, fit.init(parameters), on_round, keep_on_interrupt=keep_on_interrupt, keeper=keeper)


def run(
    executor: Executor,
    dataset: Dataset,
    fit: Fit,
    states: list[Any],
    on_round: OnRound | None,
    *,
    keep_on_interrupt: bool = False,
    keeper: Keeper | None = None,
    on_marks: OnMarks | None = None,
) -> Result:
    """`train`, from states that an earlier fit may have left. on_marks: called with the number and the marks of each round of a marked
    fit."""
    start = Saved(states, [], None, 0)
    if keeper is None:
        return _run(executor, dataset, fit, start, on_round, keep_on_interrupt, None, on_marks)
    keeper.check(states)
    with terminations():
        return _run(executor, dataset, fit, keeper.saved or start, on_round, keep_on_interrupt, keeper, on_marks)


def _run(
    executor: Executor,
    dataset: Dataset,
    fit: Fit,
    start: Saved,
    on_round: OnRound | None,
    keep_on_interrupt: bool,
    keeper: Keeper | None,
    on_marks: OnMarks | None,
) -> Result:
    rows = dataset.rows
    states, history, sent, ended = start.states, History(start.history), start.bytes_per_round, ""
    try:
        with single_blas_thread():
            while not ended and any(state.status.kind == "running" for state in states):
                began = time.perf_counter()
                before, (after, reports) = states, executor.advance(rows, fit, states, NO_LIMIT)
                new = history.following(reports, began)
                if on_marks is not None:  # before these rounds can be in a checkpoint, whose rounds shall all be in the record
                    for row, report in zip(new, reports, strict=True):
                        if report.marks is not None:
                            on_marks(row["round"], report.marks)
                sent = max([sent, *(report.n_bytes for report in reports)])
                states = after
                history.rows += new  # with the states at once: no signal is handled between two assignments
                for done, row in enumerate(new, 1):
                    if on_round is not None and on_round(row):
                        ended = CUT_OFF
                        if done < len(new):
                            states = repeat(executor, rows, fit, before, done)
                            del history.rows[done - len(new) :]
                        break
                if keeper is not None:
                    keeper.offer(states, history.rows, sent)
    except BaseException as error:
        if keeper is not None:
            keeper.save(states, history.rows, sent)
        if not (keep_on_interrupt and isinstance(error, KeyboardInterrupt)):
            raise
        ended = INTERRUPTED
    if keeper is not None:
        if ended or not keeper.options.remove:
            keeper.save(states, history.rows, sent)
        else:
            keeper.done()
    statuses = tuple(Status("out of rounds", ended) if state.status.kind == "running" else state.status for state in states)
    accepted = np.stack([state.accepted.parameters for state in states])
    iterations = tuple(state.iteration for state in states)
    return Result(accepted, statuses, iterations, history.rows, sent, executor.tasks_per_round, states)


def repeat(executor: Executor, rows: Rows, fit: Fit, states: list[Any], n_rounds: int) -> list[Any]:
    """So many rounds again: what came after them shall not have happened."""
    while n_rounds:
        states, reports = executor.advance(rows, fit, states, n_rounds)
        n_rounds -= len(reports)
    return states
