"""Which worker thread gets which groups: equal shares, of what its worker holds already wherever it can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

# Rows stay on a worker that holds up to this much more than its share: moving them costs more than they hold up a round.
SLACK: Final = 1.1


class Place(NamedTuple):
    """A shard to be: the numbers of its groups, ascending, and the address of its worker."""

    numbers: tuple[int, ...]
    worker: str


def place(sizes: Sequence[float], threads: Sequence[str], held: Sequence[Mapping[str, float]]) -> list[Place]:
    """One shard a worker thread, or fewer.

    sizes: of the groups, on any scale; threads: the worker of each thread, workers in turn grouped together; held: for each group, the
    bytes of it that workers hold already. Neighbouring groups go together where nobody holds them, so that they come back as few sums.
    """
    runs = cut(range(len(sizes)), sizes, len(threads))
    first = [threads[i * len(threads) // len(runs)] for i in range(len(runs))]
    if not any(held):
        return [Place(numbers, worker) for numbers, worker in zip(runs, first, strict=True)]
    n_threads = {worker: threads.count(worker) for worker in threads}
    fallback = {number: worker for numbers, worker in zip(runs, first, strict=True) for number in numbers}
    homes: dict[str, list[int]] = defaultdict(list)
    for number, holders in enumerate(held):
        there = {worker: n_bytes for worker, n_bytes in holders.items() if worker in n_threads}
        homes[max(sorted(there), key=there.__getitem__) if there else fallback[number]].append(number)
    level_out(homes, sizes, n_threads)
    shards = [
        Place(run, worker)
        for worker, numbers in homes.items()
        if numbers
        for run in cut(sorted(numbers), [sizes[number] for number in sorted(numbers)], n_threads[worker])
    ]
    return sorted(shards)


def level_out(homes: dict[str, list[int]], sizes: Sequence[float], n_threads: Mapping[str, int]) -> None:
    """Move groups away from workers that hold much more than a thread's share for each of theirs."""
    load = {worker: sum(sizes[number] for number in homes[worker]) / n for worker, n in n_threads.items()}
    share = sum(sizes) / sum(n_threads.values())
    while True:
        fullest = max(sorted(load), key=load.__getitem__)
        emptiest = min(sorted(load), key=load.__getitem__)
        if load[fullest] <= SLACK * share:
            return
        number = homes[fullest][-1]
        if load[emptiest] + sizes[number] / n_threads[emptiest] >= load[fullest]:
            return
        homes[emptiest].append(homes[fullest].pop())
        load[fullest] -= sizes[number] / n_threads[fullest]
        load[emptiest] += sizes[number] / n_threads[emptiest]


def cut(numbers: Sequence[int], sizes: Sequence[float], n_shards: int) -> list[tuple[int, ...]]:
    """Cut groups, given by number and size, into at most n_shards runs of about equal size, at the borders of large subtrees where that
    costs little: a run that is a whole subtree comes back as one partial.
    """
    total = np.concatenate([[0], np.cumsum(sizes)]).astype(np.float64)
    n_shards = min(n_shards, len(sizes))
    share = total[-1] / n_shards
    bounds = [0]
    for i in range(1, n_shards):
        lowest, highest = bounds[-1] + 1, len(sizes) - (n_shards - i)
        near = [b for b in range(lowest, highest + 1) if abs(total[b] - i * share) <= 0.05 * share]
        best = int(np.clip(np.searchsorted(total, i * share), lowest, highest))
        bounds.append(max(near, key=lambda b: (numbers[b] & -numbers[b], -abs(total[b] - i * share)), default=best))
    bounds.append(len(sizes))
    return [tuple(numbers[start:stop]) for start, stop in pairwise(bounds)]
