"""What an executor does: one reduction in, the finished sums of all rows out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from pipeline.sources.rows import Rows
from tasks.reductions.reduction import Reduction
from tasks.rounds.fitting import Fit, Report


class Advance(NamedTuple):
    """The states after some rounds, and what there is to say of each."""

    states: list[Any]
    reports: list[Report]


class Executor(ABC):
    """Runs rounds on rows that it makes resident first, once. The tree is the same whatever the executor, hence the bits are."""

    @abstractmethod
    def map_reduce(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Any:
        """One barrier round: the reduction's finished sums over all groups of the rows."""

    @abstractmethod
    def advance(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance:
        """The next round of a fit, or several, at most `limit`. There must be one to do."""

    @abstractmethod
    def span(self, name: str) -> Any:
        """A context in which the tasks of one fit belong together on the dashboard."""

    @abstractmethod
    def waiting(self) -> AbstractContextManager[None]:
        """A context in which this thread waits for rounds. Locks are taken inside, and so let go before it ends."""

    @abstractmethod
    def release(self, rows: Rows) -> None:
        """Forget what is resident of the rows' source."""

    @property
    @abstractmethod
    def tasks_per_round(self) -> int:
        """Tasks, or calls of workers, of the largest round so far."""


def one_round(executor: Executor, rows: Rows, fit: Fit, states: list[Any]) -> Advance:
    """The next round, moved on from here."""
    start = time.perf_counter()
    this = fit.ask(states)
    assert this is not None
    sums = executor.map_reduce(rows, this.reduction, this.broadcast)
    states = fit.update(states, this, sums)
    return Advance(states, [fit.report(this, sums, states, time.perf_counter() - start)])
