"""Shares of the groups of a dataset for so many jobs, the memory that each needs, and how long its rounds take."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import dask

from pipeline.execution.residency.placement import place
from pipeline.planning.costs import Cost
from pipeline.planning.probe import Probe
from pipeline.planning.strategies import under_way
from tasks.reductions.tree import n_nodes

VERSIONS: Final = 2
"""Of what a subtree remembers: see `tasks.reductions.remembered.remember`."""


class Shares(NamedTuple):
    """The shares of rows on workers. slowest_rows: of the worker thread that has most; most_rows: of the worker that has most;
    n_messages: to worker threads and back; n_sums: sums that come back."""

    slowest_rows: float
    most_rows: float
    n_messages: int
    n_sums: int


def share_out(group_rows: Sequence[float], jobs: int, cores: int) -> Shares:
    """Share the groups out as the cluster does when nobody holds any rows yet. More jobs than groups, or threads of a job, have nothing to
    do."""
    jobs, cores = (min(n, len(group_rows)) for n in (jobs, cores))
    threads = [f"job-{job:07}" for job in range(jobs) for _ in range(cores)]
    places = place(group_rows, threads, [{}] * len(group_rows))
    shards: dict[str, list[float]] = defaultdict(list)
    for numbers, worker in places:
        shards[worker].append(sum(group_rows[number] for number in numbers))
    return Shares(
        slowest_rows=max(makespan(rows, cores) for rows in shards.values()),
        most_rows=max(map(sum, shards.values())),
        n_messages=len(places),
        n_sums=sum(n_nodes(numbers, len(group_rows)) for numbers, _ in places),
    )


def makespan(sizes: Sequence[float], n_threads: int) -> float:
    """The work of the thread that has most when each takes the next piece as soon as it is free."""
    busy = [0.0] * n_threads
    for size in sizes:
        heapq.heapreplace(busy, busy[0] + size)
    return max(busy)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the worker that needs most.

    process: of a worker that has read and fitted but holds no rows, as measured here; rows: X, y and weights, of all parts; derived: what
    the fit makes of them and keeps (encoded targets, copies of samples, what subtrees remember); scratch: partial sums under way; loading:
    the group that each thread is reading, beside the rows. peak: the most at once; needed: the limit from which on Dask leaves rows in
    memory (`distributed.worker.memory.target` and `.spill`).
    """

    process: int
    rows: int
    derived: int
    scratch: int
    loading: int
    peak: int
    needed: int


def memory_of(probe: Probe, shares: Shares, cores: int) -> Memory:
    """The memory that the fullest worker takes."""
    sample = probe.sample
    group_rows = sample.group_rows()
    n_partitions = sample.dataset.n_partitions
    rows = shares.most_rows * sample.row_bytes
    derived = shares.most_rows * sum(group.derived_nbytes for group in sample.groups) / sample.n_rows
    derived += math.ceil(shares.most_rows / probe.subtree_rows().mean()) * VERSIONS * probe.remembered_bytes
    levels = tree_depth(n_partitions) + 3  # open sums in a group and above it, the sum that is being added, and the answer
    scratch = cores * levels * max(cost.summed_bytes for cost in probe.worker.costs)
    loading = cores * group_rows.max() * sample.row_bytes
    peak = probe.worker.n_bytes + rows + max(loading, derived + scratch)
    memory = dask.config.get("distributed.worker.memory")  # False switches a limit off
    needed = max(peak / (memory["spill"] or 1.0), rows / (memory["target"] or 1.0))
    parts = (probe.worker.n_bytes, rows, derived, scratch, loading, peak, needed)
    return Memory(**{name: math.ceil(part) for name, part in zip(Memory.__dataclass_fields__, parts, strict=True)})


def tree_depth(n_partitions: int) -> int:
    """Levels of the fixed tree above its leaves."""
    return (n_partitions - 1).bit_length()


def seconds_of(probe: Probe, cost: Cost, shares: Shares) -> float:
    """Seconds of one round of that kind."""
    if cost.kind.by_turns:
        return seconds_of_turn(probe, cost, shares)
    train_rows = shares.slowest_rows * train_share(probe)
    subtrees = math.ceil(len(probe.subtree_rows()) / shares.n_messages)
    messages = cost.delay_seconds + (shares.n_messages - 1) * cost.message_seconds
    return train_rows * cost.row_seconds + subtrees * cost.subtree_seconds + messages + cost.update_seconds


def seconds_of_turn(probe: Probe, cost: Cost, shares: Shares) -> float:
    """Seconds from one round about a subtree to the next, as many being under way as may be and there are threads for."""
    computing = probe.subtree_rows().mean() * train_share(probe) * cost.row_seconds + cost.subtree_seconds
    at_once = under_way(probe.strategy)
    if at_once == 1:
        return float(computing + cost.delay_seconds)
    return float(max(computing / min(at_once, shares.n_messages), cost.delay_seconds))


def mean_seconds(probe: Probe, shares: Shares) -> float:
    """Mean seconds of a round, over all rounds of a fit."""
    return mean_over_rounds(probe, [seconds_of(probe, cost, shares) for cost in probe.worker.costs])


def mean_over_rounds(probe: Probe, values: Sequence[float]) -> float:
    """The mean of values that belong to the kinds of rounds."""
    counts = [cost.count for cost in probe.worker.costs]
    return sum(count * value for count, value in zip(counts, values, strict=True)) / sum(counts)


def train_share(probe: Probe) -> float:
    """The share of the training rows among all rows."""
    return probe.sample.n_train_rows / probe.sample.n_rows
