"""Which worker thread gets which groups: equal shares, of what its worker holds already wherever it can be; in pieces that can move.

Pieces of resident rows are whole subtrees of the fixed tree, so that larger subtrees, too, can be put together from them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Final, NamedTuple

import numpy as np

# Rows stay on a worker that holds up to this much more than its share: moving them costs more than they hold up a round.
SLACK: Final = 1.1
SUBTREES: Final = 4  # for each thread
PIECES: Final = 24
"""At most, of a thread's groups, and no fewer than half of that where there are so many groups: enough to follow speeds."""


class Place(NamedTuple):
    """What a worker thread gets: numbers of what is placed, ascending, and the address of its worker."""

    numbers: tuple[int, ...]
    worker: str


def place(sizes: Sequence[float], threads: Sequence[str], held: Sequence[Mapping[str, float]]) -> list[Place]:
    """One for each worker thread, or fewer.

    sizes: of what is placed, on any scale; threads: the worker of each thread, workers in turn grouped together; held: the bytes of each
    that workers hold already. Neighbours go together where nobody holds them, so that they come back as few sums.
    """
    if any(held):
        return place_held(sizes, threads, held)
    runs = cut(range(len(sizes)), sizes, len(threads))
    return [Place(numbers, threads[i * len(threads) // len(runs)]) for i, numbers in enumerate(runs)]


def pieces(sizes: Sequence[float], threads: Sequence[str], held: Sequence[Mapping[str, float]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The numbers of the groups of every piece, and the number of the thread that it goes to. sizes, held: of groups, as in `place`."""
    width = 1
    while len(sizes) > width * PIECES * len(threads):
        width *= 2
    runs = [tuple(range(start, min(start + width, len(sizes)))) for start in range(0, len(sizes), width)]
    held_of_runs: list[Counter[str]] = [sum((Counter(held[number]) for number in run), Counter()) for run in runs]
    places = place([sum(sizes[number] for number in run) for run in runs], threads, held_of_runs)
    free: dict[str, list[int]] = defaultdict(list)
    for thread, worker in enumerate(threads):
        free[worker].insert(0, thread)
    thread_numbers = [free[worker].pop() for _, worker in places]
    chosen = [(runs[i], thread) for (numbers, _), thread in zip(places, thread_numbers, strict=True) for i in numbers]
    return [run for run, _ in chosen], [thread for _, thread in chosen]


def pieces_by_holder(held: Sequence[Mapping[str, float]], n_threads: int) -> list[tuple[int, ...]]:
    """The numbers of what each worker holds most of, in pieces, about `PIECES` for each of all threads: for what needs no neighbours. held:
    the bytes of each that workers hold."""
    homes: dict[str, list[int]] = defaultdict(list)
    for number, there in enumerate(held):
        homes[max(sorted(there), key=there.__getitem__, default="")].append(number)
    width = -(-len(held) // (PIECES * n_threads))
    return sorted(tuple(own[start : start + width]) for own in homes.values() for start in range(0, len(own), width))


def place_held(sizes: Sequence[float], threads: Sequence[str], held: Sequence[Mapping[str, float]]) -> list[Place]:
    """Whole subtrees to the worker that holds most of them.

    Subtrees of such a size that there are a few for each thread: rows move once, but the sum of each subtree moves every round.
    """
    width = 1
    while -(-len(sizes) // width) > SUBTREES * len(threads):
        width *= 2
    subtrees = [range(start, min(start + width, len(sizes))) for start in range(0, len(sizes), width)]
    weights = [sum(sizes[number] for number in subtree) for subtree in subtrees]
    n_threads = Counter(threads)
    homes: dict[str, list[int]] = defaultdict(list)
    for i, subtree in enumerate(subtrees):
        there: Counter[str] = Counter()
        for number in subtree:
            there.update({worker: n_bytes for worker, n_bytes in held[number].items() if worker in n_threads})
        homes[max(sorted(there), key=there.__getitem__) if there else threads[i * len(threads) // len(subtrees)]].append(i)
    level_out(homes, weights, n_threads)
    shards = [
        Place(tuple(chain.from_iterable(subtrees[i] for i in run)), worker)
        for worker, chosen in homes.items()
        if chosen
        for run in cut(sorted(chosen), [weights[i] for i in sorted(chosen)], n_threads[worker])
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
