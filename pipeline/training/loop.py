"""The one fit loop: ask the strategy, reduce where the data lives, move the parameters once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import History, Rounds, Row
from pipeline.training.observers import Observer
from pipeline.training.sampling import require_own_subtrees
from tasks.lazy import Lazy
from tasks.machine.threads import single_blas_thread
from tasks.rounds.fitting import Fit
from tasks.strategies.base import Status
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.execution import pump, remembering
    from pipeline.execution.base import Executor
    from pipeline.sources.rows import Rows
else:  # rounds need Dask, estimators do not
    pump, remembering = Lazy("pipeline.execution.pump"), Lazy("pipeline.execution.remembering")

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
    fit: Fit,
    states: list[Any],
    observers: Sequence[Observer] = (),
    *,
    saved: Saved | None = None,
    keep_on_interrupt: bool = False,
) -> Result:
    """Minimise, for each of k models, mean loss plus its penalty, from the states that `fit.init` or an earlier fit made.

    observers: told of each round, in this order. saved: of a checkpoint, from which the fit goes on in place of `states`.
    keep_on_interrupt: Ctrl-C ends the fit where it is, as an observer would, instead of being raised. Raises ValueError, before the first
    round, for a strategy that goes by subtrees of other data.
    """
    start = states if saved is None else saved.states
    for number in fit.under_way(start)[:1]:
        this = fit.ask(start, number)
        assert this is not None
        require_own_subtrees(this.broadcast, dataset.source.group_starts[:-1])
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer.watching(states))
        course = Course(executor, dataset.rows, fit, saved or Saved(states, [], None, 0), observers)
        interrupted = False
        try:
            with single_blas_thread():
                course.run()
        except BaseException as error:
            course.end(complete=False, failed=isinstance(error, Exception), left=True)
            if not (keep_on_interrupt and isinstance(error, KeyboardInterrupt)):
                raise
            interrupted = True
        else:
            course.end(complete=not course.cut_off)
    return course.result(INTERRUPTED if interrupted else CUT_OFF)


class Course:
    """The course of one fit: where it stands, round after round. cut_off: whether an observer ended it."""

    def __init__(self, executor: Executor, rows: Rows, fit: Fit, start: Saved, observers: Sequence[Observer]) -> None:
        self.executor = executor
        self.pump = remembering.pump_for(executor, rows, fit, start.memories)
        self.failed = False
        self.states = start.states
        self.history = History(start.history)
        self.bytes_per_round = start.bytes_per_round
        self.observers = observers
        self.cut_off = False

    @property
    def saved(self) -> Saved:
        """Where the fit stands."""
        return Saved(self.states, self.history.rows, None, self.bytes_per_round, recall=self._recall)

    def _recall(self) -> Saved:
        """Where the fit stands, or stood not long ago, with what subtrees remember."""
        found = self.pump.recall(self.states, anew=not self.failed)
        if found is None:
            return self.saved._replace(recall=None)
        rows = self.history.rows[: len(self.history.rows) - found.n_since]
        return Saved(found.states, rows, None, self.bytes_per_round, found.memories)

    def run(self) -> None:
        """Do rounds until all models are done, or an observer has seen enough."""
        while not self.cut_off and any(state.status.kind == "running" for state in self.states):
            began = time.perf_counter()
            before, (after, reports) = self.states, self.pump.advance(self.states, NO_LIMIT)
            new = self.history.following(reports, began)
            for observer in self.observers:
                for row, report in zip(new, reports, strict=True):
                    observer.hear(row, report)
            self.bytes_per_round = max([self.bytes_per_round, *(report.n_bytes for report in reports)])
            self.states = after
            self.history.rows += new  # with the states at once: no signal is handled between two assignments
            self._tell(new, before)
            for observer in self.observers:
                observer.rest(self.saved)

    def _tell(self, new: Sequence[Row], before: list[Any]) -> None:
        """Tell the observers of rounds that count now. Where one ends the fit before the last of them, the later ones shall not have
        happened: those up to there are repeated from the states before."""
        for done, row in enumerate(new, 1):
            for observer in self.observers:  # all of them hear of it
                self.cut_off |= observer.after(row)
            if self.cut_off:
                if done < len(new):
                    self._go_back(before, list(new), done)
                return

    def _go_back(self, before: list[Any], new: list[Row], n_rounds: int) -> None:
        """Only the first so many of these new rounds shall have happened."""
        del self.history.rows[-len(new) :]
        self.states = before
        subtrees = [row["subtree"] for row in [*self.history.rows, *new[:n_rounds]] if row["subtree"] >= 0]
        self.pump = self.pump.repeating(subtrees)
        self.states = repeat(self.pump, before, n_rounds)
        self.history.rows += new[:n_rounds]

    def end(self, *, complete: bool, failed: bool = False, left: bool = False) -> None:
        """Give up what is under way, and tell the observers that there are no more rounds. failed: whether an error ended the fit; left: or
        an interrupt, too."""
        self.failed = failed
        try:
            self.pump.close()
        finally:
            for observer in self.observers:
                observer.end(self.saved, complete=complete)
        if not left:
            self.pump.forget()

    def result(self, reason: str) -> Result:
        """What the fit found. reason: why, of models that are not done."""
        states = self.states
        statuses = tuple(Status("out of rounds", reason) if state.status.kind == "running" else state.status for state in states)
        parameters = np.stack([state.iterate.parameters for state in states])
        iterations = tuple(state.iteration for state in states)
        return Result(parameters, statuses, iterations, self.history.rows, self.bytes_per_round, self.executor.tasks_per_round, states)


def repeat(moving: pump.Pump, states: list[Any], n_rounds: int) -> list[Any]:
    """The states after so many rounds from `states`."""
    while n_rounds:
        states, reports = moving.advance(states, n_rounds)
        n_rounds -= len(reports)
    return states
