"""What failed rounds mean: whose rows the workers had that died in them."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from distributed import KilledWorker

from pipeline.data.sources import Source
from pipeline.execution.resident import Resident


class WorkersKilledError(ConnectionError):
    """Worker after worker dies in the same round; the message names the partitions that they had."""


@dataclass
class Losses:
    """Of one round. n_deaths: workers that were gone after an attempt; pieces: those that all of them had, as far as there are any; times:
    attempts in a row after which workers with these were gone."""

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
        return killed(what, source, resident, self.pieces)


def raise_if_killed(error: BaseException, name: str, source: Source, resident: Resident) -> None:
    """Raise WorkersKilledError for a KilledWorker of this round's own tasks."""
    key: Any = error.task if isinstance(error, KilledWorker) else None
    if isinstance(error, KilledWorker) and isinstance(key, tuple) and key[0].rpartition("-")[0] == name:
        what = f"a task of the round {name!r} was tried again and again, and {error.allowed_failures + 1} workers"
        pieces = resident.assigned[key[1]] if key[1] < len(resident.assigned) else ()
        raise killed(what, source, resident, pieces) from error


def killed(what: str, source: Source, resident: Resident, pieces: Iterable[int]) -> WorkersKilledError:
    """With the partitions of these pieces."""
    groups = sorted(chain.from_iterable(resident.numbers[piece] for piece in pieces))
    n_rows = source.partition_rows
    partitions = sorted(chain.from_iterable(range(*source.group_starts[group : group + 2]) for group in groups))
    where = "" if not partitions else f" with partitions {ranges(partitions)}"
    size = "" if n_rows is None or not partitions else f" ({sum(int(n_rows[i]) for i in partitions)} rows)"
    return WorkersKilledError(
        f"{what} died{where}{size}. The logs of the workers say of what: of memory, which their nannies limit, then they need more of it,"
        " or smaller partitions (n_partitions=); or of compiled code that these rows make crash"
    )


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as text: 0 to 3, 8, 10 to 11."""
    starts = [numbers[0], *(after for before, after in pairwise(numbers) if after != before + 1)]
    ends = [*(before for before, after in pairwise(numbers) if after != before + 1), numbers[-1]]
    return ", ".join(str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True))
