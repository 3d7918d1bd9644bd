"""What failed rounds mean: whose rows the workers had that died in them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from distributed import KilledWorker

from pipeline.execution.residency.resident import Resident
from pipeline.sources.sources import Source


class WorkersKilledError(ConnectionError):
    """Worker after worker dies in the same round; the message names it, and the partitions that they had, if it was of these."""


@dataclass
class Losses:
    """The losses of one round. n_deaths: workers that were gone after an attempt; pieces: those that all of them had, as far as there are
    any; times: attempts in a row after which workers with these were gone."""

    n_deaths: int = 0
    pieces: frozenset[int] = frozenset()
    times: int = 0

    def note(self, resident: Resident, workers: Set[str]) -> bool:
        """After an attempt. workers: those that are left. Whether any is gone."""
        had = [pieces for worker, pieces in zip(resident.workers, resident.assigned, strict=True) if pieces and worker not in workers]
        if had:
            self.n_deaths += len(set(resident.workers) - workers)
            found = frozenset(chain.from_iterable(had))
            self.times = self.times + 1 if self.pieces & found else 1
            self.pieces = self.pieces & found or found
        return bool(had)

    def error(self, name: str, source: Source, resident: Resident) -> WorkersKilledError:
        """What to raise after many of them."""
        what = f"the cluster lost the rows again and again in the round {name!r}, and {self.n_deaths} workers"
        return killed(what, partitions_of(source, resident, self.pieces), source)


@contextmanager
def killers_named(name: str, keys: Container[Any], source: Source, resident: Resident) -> Iterator[None]:
    """A KilledWorker in the block is raised as WorkersKilledError if it is of the round's own tasks: those with these keys. Those that
    carry its parameters or add up its sums are about no partitions."""
    try:
        yield
    except KilledWorker as error:
        key: Any = error.task
        if key not in keys:
            raise
        pieces: Iterable[int] = ()
        match key:
            case (str(), int() as thread) if thread < len(resident.assigned):
                pieces = resident.assigned[thread]
        what = f"a task of the round {name!r} was tried again and again, and {error.allowed_failures + 1} workers"
        raise killed(what, partitions_of(source, resident, pieces), source) from error


def partitions_of(source: Source, resident: Resident, pieces: Iterable[int]) -> list[int]:
    """The numbers of all partitions of these pieces, ascending."""
    return sorted(source.partitions_of(chain.from_iterable(resident.numbers[piece] for piece in pieces)))


def killed(what: str, partitions: Sequence[int], source: Source) -> WorkersKilledError:
    """The error for workers that were killed, with the partitions that they had, ascending, if any are known."""
    n_rows = source.partition_rows
    said = "The logs of the workers say of what: of memory, which their nannies limit, then they need more of it"
    if not partitions:
        return WorkersKilledError(f"{what} died. {said}, or a model with fewer parameters")
    size = "" if n_rows is None else f" ({sum(int(n_rows[i]) for i in partitions)} rows)"
    return WorkersKilledError(
        f"{what} died with partitions {ranges(partitions)}{size}. {said}, or smaller partitions (n_partitions=); or of compiled code that"
        " these rows make crash"
    )


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 0 to 3, 8, 10 to 11."""
    starts = [numbers[0], *(after for before, after in pairwise(numbers) if after != before + 1)]
    ends = [*(before for before, after in pairwise(numbers) if after != before + 1), numbers[-1]]
    return ", ".join(str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True))
