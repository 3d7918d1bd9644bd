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
    """What one worker thread does in a round: the pieces with these keys. slot: the number of the thread."""

    slot: int
    worker: str
    keys: tuple[Any, ...]


@dataclass(eq=False)
class Resident:
    """numbers: of each piece, its groups; sizes: of each, on any scale; futures: they hold the pieces as Shards, each of which Dask, or
    the client, makes again when its worker dies. workers: of each thread; assigned: the pieces of each thread.

    level: lanes, subtrees of 2^level groups, are one thread's, whatever pieces they consist of: the largest of `levels`, which are those
    that running fits need. located: whether every piece is known to
    be where it is assigned, so that workers can be called; uneven: whether lanes that nobody needs any more have left some threads with
    more than others; last_round: its seconds; follow_at:
    when to look up the threads that there are; moving: whether some fit moves pieces just now. lock: for whoever changes what is
    assigned, while others' rounds go on.
    """

    n_groups: int
    numbers: list[tuple[int, ...]]
    sizes: list[float]
    futures: list[Future[Shard]]
    workers: list[str]
    assigned: list[list[int]]
    work: list[Work] = field(init=False)
    n_partials: int = field(init=False)
    level: int = 0
    levels: list[int] = field(default_factory=list)
    uneven: bool = False
    located: bool = False
    last_round: float = np.inf
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
        """Give each thread these pieces from the next round on; a whole lane to the thread that has most of it."""
        lanes = self._lanes
        weights: list[dict[int, float]] = [defaultdict(float) for _ in lanes]
        number_of = {piece: number for number, lane in enumerate(lanes) for piece in lane}
        for slot, pieces in enumerate(assigned):
            for piece in pieces:
                weights[number_of[piece]][slot] += self.sizes[piece] or 1e-9
        owners = [max(sorted(weight), key=weight.__getitem__) for weight in weights]
        self.assigned = assigned = [
            sorted(chain.from_iterable(lane for lane, owner in zip(lanes, owners, strict=True) if owner == slot))
            for slot in range(len(assigned))
        ]
        self.work = [
            Work(slot, worker, tuple(self.futures[piece].key for piece in pieces))
            for slot, (worker, pieces) in enumerate(zip(self.workers, assigned, strict=True))
            if pieces
        ]
        self.n_partials = sum(n_nodes(chain.from_iterable(self.numbers[p] for p in pieces), self.n_groups) for pieces in assigned)

    @property
    def _lanes(self) -> list[list[int]]:
        """The pieces that are one thread's together."""
        lanes: dict[int, list[int]] = defaultdict(list)
        for piece, numbers in enumerate(self.numbers):
            lanes[numbers[0] >> self.level].append(piece)
        return list(lanes.values())

    def _by_lane(self) -> list[list[int]]:
        """The numbers of each thread's lanes."""
        number_of = {piece: number for number, lane in enumerate(self._lanes) for piece in lane}
        return [sorted({number_of[piece] for piece in pieces}) for pieces in self.assigned]

    def keep_together(self, level: int, before: int) -> None:
        """A fit needs lanes of this level to be one thread's from now on; before: the level that it needed so far, 0 for none."""
        if before:
            self.levels.remove(before)
        self.levels.append(level)
        if level <= self.level:
            return
        self.level, assigned = level, self.assigned
        self.assign(assigned)
        self.located &= self.assigned == assigned

    def let_apart(self, level: int) -> None:
        """A fit needs these lanes no more."""
        self.levels.remove(level)
        if (left := max(self.levels, default=0)) < self.level:
            self.uneven, self.level, self.follow_at = True, left, -np.inf

    def seat(self, threads: Sequence[str]) -> bool:
        """Take over the threads that there are now; pieces of those that are gone go to whoever has least. Whether anything changed."""
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

    def settle(self, holders: Mapping[Any, Sequence[str]]) -> None:
        """Leave pieces where they are. holders: by key, the workers that hold it."""
        lanes = self._lanes
        of_lanes = [sorted(set.intersection(*(set(holders.get(self.futures[p].key, ())) for p in lane))) for lane in lanes]
        found, self.located = settled(self._by_lane(), self.workers, of_lanes, [sum(self.sizes[p] for p in lane) for lane in lanes])
        assigned = expanded(found, lanes)
        if assigned != self.assigned:
            self.assign(assigned)
            self.speeds.moved(self.workers)

    def astray(self, holders: Mapping[Any, Sequence[str]]) -> list[tuple[int, str, str]]:
        """(piece, from, to) for every piece that is not with the worker of its thread, but with another."""
        return [
            (piece, there[0], worker)
            for worker, pieces in zip(self.workers, self.assigned, strict=True)
            for piece in pieces
            if (there := holders.get(self.futures[piece].key, ())) and worker not in there
        ]

    def measure(self, work: list[Work], seconds: Mapping[int, float]) -> None:
        """Learn from a round; from none in which others were assigned meanwhile. seconds: by slot."""
        if work is not self.work:
            return
        sizes = [sum(self.sizes[p] for p in self.assigned[each.slot]) for each in work]
        self.speeds.add([each.worker for each in work], sizes, [seconds.get(each.slot, 0.0) for each in work])

    def better(self, n_bytes: Sequence[float], limits: Mapping[str, float]) -> list[list[int]]:
        """What should be assigned, by the speeds that are known. n_bytes: of each piece; limits: of the workers, bytes of rows."""
        lanes = self._lanes
        sizes, of_lanes = ([sum(values[p] for p in lane) for lane in lanes] for values in (self.sizes, n_bytes))
        speeds = [self.speeds.of(worker) for worker in self.workers]
        return expanded(balanced(self._by_lane(), sizes, speeds, Room(self.workers, of_lanes, limits)), lanes)

    def moves(self, assigned: Sequence[Sequence[int]]) -> list[tuple[int, str, str]]:
        """(piece, from, to) for every piece that this would take to another worker."""
        before = {piece: worker for worker, pieces in zip(self.workers, self.assigned, strict=True) for piece in pieces}
        after = {piece: worker for worker, pieces in zip(self.workers, assigned, strict=True) for piece in pieces}
        return [(piece, before[piece], after[piece]) for piece in sorted(before) if before[piece] != after[piece]]


def expanded(assigned: Sequence[Sequence[int]], lanes: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pieces of lanes."""
    return [sorted(chain.from_iterable(lanes[number] for number in numbers)) for numbers in assigned]
