"""What an executor does: one reduction in, the finished sums of the rows out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from pipeline.sources.rows import Rows
from tasks.loading.mapping import PartitionMap
from tasks.reductions.reduction import Reduction
from tasks.rounds.fitting import Fit, Report, Traffic


class Advance(NamedTuple):
    """The states after some rounds, and what there is to say of each."""

    states: list[Any]
    reports: list[Report]


class Pending(ABC):
    """A round under way."""

    @abstractmethod
    def result(self) -> Any:
        """The finished sums of all groups of the rows. Waits for them, and is asked once. What fails leaves nothing behind."""

    @property
    def traffic(self) -> Traffic:
        """What went between processes for it, once there is a result."""
        return Traffic()

    @abstractmethod
    def cancel(self) -> None:
        """Give the round up; nothing of it stays behind. Does nothing once there is a result."""


class Executor(ABC):
    """Runs rounds on rows that it makes resident first, once. The tree is the same whatever the executor, hence the bits are."""

    @abstractmethod
    def submit(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Pending:
        """Begin a round."""

    def map_reduce(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Any:
        """A round by itself: the reduction's finished sums over all groups of the rows."""
        with self.waiting():
            return self.submit(rows, reduction, broadcast).result()

    @abstractmethod
    def first_done(self, rows: Rows, pending: Sequence[Pending]) -> int:
        """The position of a round of these that is done, or whose result had best be asked for now. Waits for one."""

    @abstractmethod
    def map_partitions(self, rows: Rows, partition_map: PartitionMap) -> Iterator[tuple[int, Any]]:
        """The number of each partition and its result, in order, computed where the rows come from: on a cluster of rows that are resident
        there; others are made for it, and not kept. A few results are here at a time; on a cluster the others wait on its workers, and on
        threads what several partitions are made from is computed first, whole. Raises PartitionError for a partition that cannot be
        read."""

    def on_workers(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance | None:
        """Some rounds, at most `limit`, that run without this process; None where there is nobody to run them, or it went wrong: the pump
        then does the next one."""
        return None

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
