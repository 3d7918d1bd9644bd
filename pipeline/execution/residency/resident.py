"""The rows of one source on one cluster: pieces that can move, and the worker thread that adds up each of them in every round."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from distributed import Future

from pipeline.execution.residency.balance import Room, Speeds, balanced, settled
from tasks.reductions.tree import n_nodes
from tasks.rows.partition import Shard


class Work(NamedTuple):
    """What one worker thread does in a round: the pieces with these keys. thread: the number of the thread."""

    thread: int
    worker: str
    keys: tuple[Any, ...]


class Share(NamedTuple):
    """What a round has to do: the work of the threads that take part; how many sums come back; the groups of its pieces, None for all."""

    work: list[Work]
    n_sums: int
    groups: list[int] | None


@dataclass(eq=False)
class Resident:
    """numbers: of each piece, its groups; sizes: of each, on any scale; futures: they hold the pieces as Shards, each of which Dask, or
    the client, makes again when its worker dies. workers: of each thread; assigned: the pieces of each thread.

    level: subtrees of 2^level groups are one thread's, whatever pieces they consist of: the largest of `levels`, which are those that
    running fits need. located: whether every piece is known to be where it is assigned, so that workers can be called; uneven: whether
    some threads have more than others for no reason: subtrees that nobody needs any more, or pieces that Dask took along to the worker of a
    task, which leave a thread with nothing, and so without a speed; last_round: its seconds; last_whole: whether it was
    about all rows; follow_at: when to look up the threads that there are; moving: whether some fit moves pieces just now. lock: for
    whoever changes what is assigned, while others' rounds go on.
    """

    n_groups: int
    numbers: list[tuple[int, ...]]
    sizes: list[float]
    futures: list[Future[Shard]]
    workers: list[str]
    assigned: list[list[int]]
    work: list[Work] = field(init=False)
    n_sums: int = field(init=False)
    level: int = 0
    levels: list[int] = field(default_factory=list)
    uneven: bool = False
    located: bool = False
    last_round: float = np.inf
    last_whole: bool = True
    follow_at: float = -np.inf
    moving: bool = False
    speeds: Speeds = field(default_factory=Speeds)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        """Where the rows are, in words, as far as this process knows: nobody is asked."""
        statuses = {future.status for future in self.futures}
        threads = f"{len({each.worker for each in self.work})} workers, {len(self.work)} threads"
        if statuses <= {"finished"}:
            return f"on {threads}"
        return f"being read by {threads}" if statuses <= {"finished", "pending"} else "gone from a cluster; the next use reads them again"

    def release(self) -> None:
        """Let the cluster forget the rows."""
        for future in self.futures:
            future.release()

    def __post_init__(self) -> None:
        self.assign(self.assigned)

    def assign(self, assigned: list[list[int]]) -> None:
        """Give each thread these pieces from the next round on; a whole subtree to the thread that has most of it."""
        subtrees = self._subtrees
        weights: list[dict[int, float]] = [defaultdict(float) for _ in subtrees]
        number_of = {piece: number for number, subtree in enumerate(subtrees) for piece in subtree}
        for thread, pieces in enumerate(assigned):
            for piece in pieces:
                weights[number_of[piece]][thread] += self.sizes[piece] or 1e-9
        owners = [max(sorted(weight), key=weight.__getitem__) for weight in weights]
        self.assigned = assigned = [
            sorted(chain.from_iterable(subtree for subtree, owner in zip(subtrees, owners, strict=True) if owner == thread))
            for thread in range(len(assigned))
        ]
        self.work = [
            Work(thread, worker, tuple(self.futures[piece].key for piece in pieces))
            for thread, (worker, pieces) in enumerate(zip(self.workers, assigned, strict=True))
            if pieces
        ]
        self.n_sums = sum(n_nodes(chain.from_iterable(self.numbers[p] for p in pieces), self.n_groups) for pieces in assigned)

    def share(self, numbers: range) -> Share:
        """What there is to do in a round that is about the groups of these numbers alone."""
        if len(numbers) == self.n_groups:
            return Share(self.work, self.n_sums, None)
        found, groups = [], list[int]()
        for each, pieces in zip(self.work, filter(None, self.assigned), strict=True):
            chosen = [piece for piece in pieces if any(number in numbers for number in self.numbers[piece])]
            if chosen:
                found.append(each._replace(keys=tuple(self.futures[piece].key for piece in chosen)))
                groups += chain.from_iterable(self.numbers[piece] for piece in chosen)
        return Share(found, len(found), groups)

    @property
    def _subtrees(self) -> list[list[int]]:
        """The pieces that are one thread's together."""
        subtrees: dict[int, list[int]] = defaultdict(list)
        for piece, numbers in enumerate(self.numbers):
            subtrees[numbers[0] >> self.level].append(piece)
        return list(subtrees.values())

    def _by_subtree(self) -> list[list[int]]:
        """The numbers of each thread's subtrees."""
        number_of = {piece: number for number, subtree in enumerate(self._subtrees) for piece in subtree}
        return [sorted({number_of[piece] for piece in pieces}) for pieces in self.assigned]

    def keep_together(self, level: int, before: int) -> None:
        """A fit needs subtrees of this level to be one thread's from now on; before: the level that it needed so far, 0 for none."""
        if before:
            self.levels.remove(before)
        self.levels.append(level)
        if level <= self.level:
            return
        self.level, assigned = level, self.assigned
        self.assign(assigned)
        self.located &= self.assigned == assigned

    def release_level(self, level: int) -> None:
        """A fit needs these subtrees no more."""
        self.levels.remove(level)
        if (left := max(self.levels, default=0)) < self.level:
            self.uneven, self.level, self.follow_at = True, left, -np.inf

    def set_threads(self, threads: Sequence[str]) -> bool:
        """Take over the threads that there are now; pieces of those that are gone go to whoever has least. Whether anything changed."""
        assert threads, "rows are on some worker"
        if sorted(threads) == sorted(self.workers):
            return False
        waiting: dict[str, list[list[int]]] = defaultdict(list)
        for worker, pieces in zip(self.workers, self.assigned, strict=True):
            waiting[worker].append(pieces)
        self.speeds.moved(self.workers)
        self.workers = list(threads)
        assigned = [list(waiting[worker].pop()) if waiting[worker] else [] for worker in threads]
        for piece in chain.from_iterable(chain.from_iterable(waiting.values())):
            min(assigned, key=lambda pieces: sum(self.sizes[p] for p in pieces)).append(piece)
        self.assign(assigned)
        self.located = False
        return True

    def adopt_holders(self, holders: Mapping[Any, Sequence[str]]) -> None:
        """Leave pieces where they are. holders: by key, the workers that hold it."""
        subtrees = self._subtrees
        of_subtrees = [sorted(set.intersection(*(set(holders.get(self.futures[p].key, ())) for p in subtree))) for subtree in subtrees]
        found, self.located = settled(
            self._by_subtree(), self.workers, of_subtrees, [sum(self.sizes[p] for p in subtree) for subtree in subtrees]
        )
        assigned = expanded(found, subtrees)
        if assigned != self.assigned:
            self.assign(assigned)
            self.speeds.moved(self.workers)

    def misplaced(self, holders: Mapping[Any, Sequence[str]]) -> list[tuple[int, str, str]]:
        """(piece, from, to) for every piece that is not with the worker of its thread, but with another."""
        return [
            (piece, there[0], worker)
            for worker, pieces in zip(self.workers, self.assigned, strict=True)
            for piece in pieces
            if (there := holders.get(self.futures[piece].key, ())) and worker not in there
        ]

    def measure(self, work: list[Work], seconds: Mapping[int, float]) -> None:
        """Learn from a round; from none in which others were assigned meanwhile. seconds: by thread."""
        if work is not self.work:
            return
        sizes = [sum(self.sizes[p] for p in self.assigned[each.thread]) for each in work]
        self.speeds.add([each.worker for each in work], sizes, [seconds.get(each.thread, 0.0) for each in work])

    def better(self, n_bytes: Sequence[float], limits: Mapping[str, float]) -> list[list[int]]:
        """What should be assigned, by the speeds that are known. n_bytes: of each piece; limits: of the workers, bytes of rows."""
        subtrees = self._subtrees
        sizes, of_subtrees = ([sum(values[p] for p in subtree) for subtree in subtrees] for values in (self.sizes, n_bytes))
        speeds = [self.speeds.of(worker) for worker in self.workers]
        return expanded(balanced(self._by_subtree(), sizes, speeds, Room(self.workers, of_subtrees, limits)), subtrees)

    def moves(self, assigned: Sequence[Sequence[int]]) -> list[tuple[int, str, str]]:
        """(piece, from, to) for every piece that this would take to another worker."""
        before = {piece: worker for worker, pieces in zip(self.workers, self.assigned, strict=True) for piece in pieces}
        after = {piece: worker for worker, pieces in zip(self.workers, assigned, strict=True) for piece in pieces}
        return [(piece, before[piece], after[piece]) for piece in sorted(before) if before[piece] != after[piece]]


def expanded(assigned: Sequence[Sequence[int]], subtrees: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pieces of subtrees."""
    return [sorted(chain.from_iterable(subtrees[number] for number in numbers)) for numbers in assigned]
