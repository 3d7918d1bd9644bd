"""Who has too much to do: pieces of the rows go from slow worker threads to fast ones, by what rounds took there."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Final, NamedTuple

import numpy as np

ROUNDS: Final = 5
"""Speeds are medians over this many rounds, and not known before FEWEST."""
FEWEST: Final = 3
GAIN: Final = 1.1
"""The round must get this much shorter; less is noise."""
LEAST: Final = 0.005
"""Seconds of a round that says something."""
SIMILAR: Final = 1.03
"""A round may take this much longer for fewer sums."""
SLOWEST: Final = 1e-3
"""Of the mean speed: what nearly stands still gets nothing, and divides nothing by zero."""


class Speeds:
    """Relative speed of each worker's threads, and the seconds of rounds lost since the pieces last moved because they did not end at
    once."""

    def __init__(self) -> None:
        self.lost = 0.0
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=ROUNDS))
        self._before: dict[str, float] = {}

    def add(self, workers: Sequence[str], sizes: Sequence[float], seconds: Sequence[float]) -> None:
        """A round: of each thread that took part its worker, how much it had to do, and how long that took."""
        if max(seconds, default=0.0) < LEAST or min(seconds) <= 0 or min(sizes) <= 0:
            return
        mean = sum(sizes) / sum(seconds)
        done: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for worker, size, time in zip(workers, sizes, seconds, strict=True):
            done[worker][0] += size
            done[worker][1] += time
        for worker, (size, time) in done.items():  # of all threads of a worker together: a round is one observation
            self._recent[worker].append(size / time / mean)
        self.lost += max(seconds) - sum(sizes) / sum(size / time for size, time in zip(sizes, seconds, strict=True))

    def known(self, workers: Sequence[str]) -> bool:
        """Whether there is something to go by."""
        return all(len(self._recent[worker]) >= FEWEST or worker in self._before for worker in workers)

    def of(self, worker: str) -> float:
        """The worker's speed, or what can be said of one that has not worked yet: the others'."""
        if len(self._recent[worker]) >= FEWEST:
            return max(median(self._recent[worker]), SLOWEST)
        return self._before.get(worker, median(self._before.values()) if self._before else 1.0)

    def moved(self, workers: Sequence[str]) -> None:
        """From here on other pieces are with other threads; what was measured before counts until there is better."""
        self._before = {worker: self.of(worker) for worker in workers if self._recent[worker]}
        self._recent.clear()
        self.lost = 0.0


class Room(NamedTuple):
    """workers: of each thread; n_bytes: of each piece; limits: bytes of pieces that a worker should hold at most."""

    workers: Sequence[str]
    n_bytes: Sequence[float]
    limits: Mapping[str, float]

    def left(self, assigned: Sequence[Sequence[int]]) -> dict[str, float]:
        """Bytes that each worker could take besides what it has."""
        left = {worker: self.limits.get(worker, np.inf) for worker in self.workers}
        for worker, pieces in zip(self.workers, assigned, strict=True):
            left[worker] -= sum(self.n_bytes[piece] for piece in pieces)
        return left

    def fits(self, piece: int, source: int, target: int, left: Mapping[str, float]) -> bool:
        """Whether a piece can go from one thread to another."""
        same = self.workers[source] == self.workers[target]
        return same or self.n_bytes[piece] <= left[self.workers[target]]


def ends_of(assigned: Sequence[Sequence[int]], sizes: Sequence[float], speeds: Sequence[float]) -> list[float]:
    """When each thread has done its pieces."""
    return [sum(sizes[p] for p in pieces) / speed for pieces, speed in zip(assigned, speeds, strict=True)]


def balanced(assigned: Sequence[Sequence[int]], sizes: Sequence[float], speeds: Sequence[float], room: Room) -> list[list[int]]:
    """Pieces for each thread, moved one by one away from the thread that ends last, as long as the round gets shorter.

    assigned: the pieces of each thread now; sizes: of the pieces; speeds: of the threads, in size per time, on any scale; room: what the
    workers' memory can take.
    Returns the same pieces unless the round gets `GAIN` times shorter.
    """
    found = [list(pieces) for pieces in assigned]
    ends = ends_of(found, sizes, speeds)
    longest = max(ends)
    left = room.left(assigned)
    while True:
        last = max(range(len(found)), key=ends.__getitem__)
        best = ends[last]
        move = None
        for piece in {sizes[p]: p for p in found[last]}.values():  # of one size, one is as good as another
            able = [i for i in range(len(found)) if i != last and room.fits(piece, last, i, left)]
            to = min(able, key=lambda i: ends[i] + sizes[piece] / speeds[i], default=last)
            end = max(ends[to] + sizes[piece] / speeds[to], ends[last] - sizes[piece] / speeds[last])
            if to != last and end < best * (1 - 1e-9):
                best, move = end, (piece, to)
        if move is None:
            break
        piece, to = move
        found[last].remove(piece)
        found[to].append(piece)
        left[room.workers[to]] -= room.n_bytes[piece]
        left[room.workers[last]] += room.n_bytes[piece]
        ends[last] -= sizes[piece] / speeds[last]
        ends[to] += sizes[piece] / speeds[to]
    if longest < GAIN * max(ends):
        return [list(pieces) for pieces in assigned]
    neighbours = in_runs(assigned, found)
    fits = min(room.left(neighbours).values()) >= min(0.0, *room.left(found).values())
    return neighbours if fits and max(ends_of(neighbours, sizes, speeds)) <= SIMILAR * max(ends) else [sorted(pieces) for pieces in found]


def in_runs(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> list[list[int]]:
    """Pieces by thread, as many for each as given; those that move do so as runs of neighbours, which come back as few sums."""
    kept = [sorted(set(now) & set(then)) for now, then in zip(after, before, strict=True)]
    moved = iter(sorted(set().union(*after) - set().union(*kept)))
    return [sorted([*own, *islice(moved, len(now) - len(own))]) for own, now in zip(kept, after, strict=True)]


def settled(
    assigned: Sequence[Sequence[int]], workers: Sequence[str], holders: Sequence[Sequence[str]], sizes: Sequence[float]
) -> tuple[list[list[int]], bool]:
    """Pieces for each thread so that each is with a worker that holds it; and whether all are.

    assigned: the pieces of each thread as meant; workers: of each thread; holders: of each piece. What nobody holds stays as meant: its
    worker, or another, is making it.
    """
    found: list[list[int]] = [[] for _ in workers]
    load = [0.0] * len(workers)
    misplaced = []
    for i, pieces in enumerate(assigned):
        for piece in pieces:
            if workers[i] in holders[piece] or not holders[piece]:
                found[i].append(piece)
                load[i] += sizes[piece]
            else:
                misplaced.append(piece)
    everywhere = all(holders)
    for piece in misplaced:
        places = [i for i, worker in enumerate(workers) if worker in holders[piece]]
        everywhere &= bool(places)
        to = min(places or range(len(workers)), key=load.__getitem__)
        found[to].append(piece)
        load[to] += sizes[piece]
    return [sorted(pieces) for pieces in found], everywhere
