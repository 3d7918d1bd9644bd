"""The plan of a job on a cluster of so many batch jobs; refused when it would not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.cluster.queue.queue_options import LEAST_MEMORY, parse_memory
from pipeline.jobs.job import Job
from pipeline.planning.costs import Cost
from pipeline.planning.probe import Probe, probe
from pipeline.planning.shares import (
    Memory,
    Shares,
    mean_over_rounds,
    mean_seconds,
    memory_of,
    seconds_of,
    share_out,
    train_share,
    tree_depth,
)
from pipeline.planning.strategies import under_way

LEAST_GAIN: Final = 0.2
MARGIN: Final = 1.02
"""A cure is named with this to spare, because the next probe measures a little more or less."""


class PlanError(ValueError):
    """A job that does not fit: the message says what would."""


@dataclass(frozen=True, kw_only=True)
class KindOfRound:
    """Rounds of one kind in a fit. seconds: of one."""

    what: str
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a job: what `jobs` workers of `cores` threads and `limit` bytes each would take for it.

    n_rows: known, or, when rows_known is false, estimated from the probed partitions; n_train_rows: estimated, unless all was probed.
    memory: of the worker that needs most. sent_bytes, returned_bytes: numbers to and from one worker thread in a round of the kind of
    which there are most, cluster_bytes: to and from all. round_seconds: mean over the rounds of a fit. n_rounds: those of a fit of the
    probed rows, which is an estimate, and too low where rounds_known is false, for that fit was cut off. n_subtrees: of groups that one
    thread has together; elsewhere, groups. total_seconds: loading, checking and fitting; core_hours: of all jobs meanwhile.
    scales_to: from that many jobs on, twice as many make a round less than a fifth shorter; scaling_limit: why.
    """

    name: str
    estimator: str
    solver: str
    jobs: int
    cores: int
    limit: int
    n_rows: int
    rows_known: bool
    n_train_rows: int
    n_columns: int
    n_parameters: int
    n_partitions: int
    n_groups: int
    n_subtrees: int
    probed_partitions: int
    tree_depth: int
    memory: Memory
    sent_bytes: int
    returned_bytes: int
    cluster_bytes: int
    round_seconds: float
    kinds: tuple[KindOfRound, ...]
    n_rounds: int
    rounds_known: bool
    load_seconds: float
    total_seconds: float
    core_hours: float
    scales_to: int
    scaling_limit: str


def make_plan(job: Job, jobs: int, memory: int, cores: int = 1) -> Plan:
    """Probe a job for some seconds, in this process and on one worker process that is started for it, and say what it would take on
    `jobs` workers of `cores` threads and `memory` bytes each.

    Starts a process: a script needs `if __name__ == "__main__":` around it. Raises PlanError, which is a ValueError, for what cannot fit,
    naming what would; ValueError, TypeError or OSError for data that cannot be read or fitted.
    """
    for name, value in (("jobs", jobs), ("memory", memory), ("cores", cores)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if memory < parse_memory(LEAST_MEMORY):
        raise ValueError(f"memory, of each job, must be at least {LEAST_MEMORY}, got {size(memory)}")
    found = probe(job, cores)
    shares = share_rows(found, jobs, cores)
    needed = memory_of(found, shares, cores)
    if needed.needed > memory:
        raise PlanError(refusal(found, job.name, Asked(jobs, cores, memory), needed))
    return assemble(found, job, Asked(jobs, cores, memory), shares, needed)


class Asked(NamedTuple):
    """The means of the user: so many jobs of so many cores and bytes each."""

    jobs: int
    cores: int
    limit: int

    def __str__(self) -> str:
        return f"{self.jobs} job{'s' * (self.jobs > 1)} of {size(self.limit)}"


def assemble(found: Probe, job: Job, asked: Asked, shares: Shares, memory: Memory) -> Plan:
    """The plan, from what was measured."""
    sample = found.sample
    usual = max(found.worker.costs, key=lambda cost: (cost.count, cost.sent_bytes + cost.returned_bytes))
    kinds = tuple(KindOfRound(what=str(c.kind), count=c.count, seconds=seconds_of(found, c, shares)) for c in found.worker.costs)
    n_rounds = sum(kind.count for kind in kinds)
    load = shares.slowest_rows * found.worker.load_seconds
    total = load + sum(kind.count * kind.seconds for kind in kinds)
    scales_to, scaling_limit = scaling(found, asked.cores)
    return Plan(
        name=job.name,
        estimator=job.estimator.name,
        solver=str(found.choice),
        jobs=asked.jobs,
        cores=asked.cores,
        limit=asked.limit,
        n_rows=round(sample.group_rows().sum()),
        rows_known=sample.whole or sample.dataset.source.partition_rows is not None,
        n_train_rows=found.schema.n_rows,
        n_columns=sample.dataset.n_columns,
        n_parameters=found.n_parameters,
        n_partitions=sample.dataset.n_partitions,
        n_groups=sample.dataset.source.n_groups,
        n_subtrees=len(found.subtree_rows()),
        probed_partitions=sample.n_partitions,
        tree_depth=tree_depth(sample.dataset.n_partitions),
        memory=memory,
        sent_bytes=usual.sent_bytes,
        returned_bytes=usual.returned_bytes,
        cluster_bytes=cluster_bytes(found, usual, shares),
        round_seconds=mean_seconds(found, shares),
        kinds=kinds,
        n_rounds=n_rounds,
        rounds_known=found.finished,
        load_seconds=load,
        total_seconds=total,
        core_hours=total * asked.jobs * asked.cores / 3600,
        scales_to=scales_to,
        scaling_limit=scaling_limit,
    )


def cluster_bytes(found: Probe, cost: Cost, shares: Shares) -> int:
    """The bytes of a round to and from all threads."""
    if cost.kind.by_turns:
        return cost.sent_bytes + cost.returned_bytes
    n_sums = shares.n_sums if cost.adds_up else len(found.subtree_rows())
    return shares.n_messages * cost.sent_bytes + n_sums * cost.returned_bytes


def share_rows(found: Probe, jobs: int, cores: int) -> Shares:
    """The shares of the whole dataset's rows on so many workers."""
    return share_out(found.subtree_rows().tolist(), jobs, cores)


# -- what does not fit -----------------------------------------------------------------------------------------------------------------


def refusal(found: Probe, name: str, asked: Asked, memory: Memory) -> str:
    """The message why a job does not fit, and what would."""
    problem = (
        f"{name} does not fit {asked}: each needs {size(memory.needed)} for Dask to leave its rows in memory"
        f" ({size(memory.peak)} at peak: {parts_of(memory)})"
    )
    enough = f"--memory {size(round_up(memory.needed))}"
    jobs = least_jobs(found, asked)
    if jobs is not None:
        return f"{problem}; use --jobs {jobs}, or {enough}"
    if memory.process >= asked.limit:
        return f"{problem}; the process alone is larger, so use {enough}"
    subtree_rows, starts = found.subtree_rows(), found.sample.dataset.source.group_starts
    number = int(subtree_rows.argmax())
    n_partitions = starts[min(number + 1 << found.level, len(starts) - 1)] - starts[number << found.level]
    rows = size(math.ceil(subtree_rows[number] * found.sample.row_bytes))
    unit = f"a single partition holds {rows}" if n_partitions == 1 else f"the smallest share, {n_partitions} partitions, holds {rows}"
    cures = [enough] + ["smaller partitions"] * (n_partitions == 1) + ["fewer cores a job"] * (asked.cores > 1)
    return f"{problem}; more jobs do not help, for {unit}; use {', or '.join(cures)}"


def least_jobs(found: Probe, asked: Asked) -> int | None:
    """The fewest jobs of that memory that the rows fit, with a margin; None when no number does."""

    def fits(jobs: int) -> bool:
        return MARGIN * memory_of(found, share_rows(found, jobs, asked.cores), asked.cores).needed <= asked.limit

    low, high = asked.jobs, -(-len(found.subtree_rows()) // asked.cores)
    if high <= low or not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def round_up(n_bytes: int) -> int:
    """The bytes with the margin, rounded up to two digits."""
    unit = 10 ** max(0, len(str(n_bytes)) - 2)
    return math.ceil(MARGIN * n_bytes / unit) * unit


def size(n_bytes: float) -> str:
    """Bytes as `--memory` takes them, 3 digits."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{float(f'{n_bytes / unit:.3g}'):g}{name}"
    return f"{n_bytes:.0f}B"


def parts_of(memory: Memory) -> str:
    """The parts of a peak of memory, in words."""
    parts = f"process {size(memory.process)}, rows {size(memory.rows)}"
    if memory.loading > memory.derived + memory.scratch:
        return f"{parts}, a group being read by each thread {size(memory.loading)}"
    return f"{parts}, made from them {size(memory.derived)}, partial sums {size(memory.scratch)}"


# -- where it stops scaling ------------------------------------------------------------------------------------------------------------


def scaling(found: Probe, cores: int) -> tuple[int, str]:
    """The number of jobs, a power of two, from which on doubling them gains less than LEAST_GAIN of a round's time, and why."""
    n_subtrees = len(found.subtree_rows())
    counts = [1 << i for i in range(n_subtrees.bit_length() + 2)]  # at the last two, every share has a thread of its own: no gain
    shares = [share_rows(found, jobs, cores) for jobs in counts]
    seconds = [mean_seconds(found, share) for share in shares]
    useful = [i for i in range(len(counts) - 1) if seconds[i + 1] <= (1 - LEAST_GAIN) * seconds[i]]
    last = useful[-1] + 1 if useful else 0
    return counts[last], reason(found, shares[last], shares[last + 1])


def reason(found: Probe, now: Shares, doubled: Shares) -> str:
    """The reason that keeps a round from taking half as long on twice as many jobs: the largest part of it that stays."""
    largest = max(found.worker.costs, key=lambda cost: cost.count * seconds_of(found, cost, doubled))
    if largest.kind.by_turns:
        return reason_of_turns(found, largest, doubled)
    subtree_rows, what = found.subtree_rows(), "subtree" if found.level else "group"
    row_seconds = train_share(found) * mean_over_rounds(found, [cost.row_seconds for cost in found.worker.costs])
    update = mean_over_rounds(found, [cost.update_seconds for cost in found.worker.costs])
    delay = mean_over_rounds(found, [cost.delay_seconds for cost in found.worker.costs])
    messages = (doubled.n_messages - 1) * mean_over_rounds(found, [cost.message_seconds for cost in found.worker.costs])
    kept = row_seconds * (doubled.slowest_rows - now.slowest_rows / 2)
    groups = f"its {len(subtree_rows)} {what}{'s' * (len(subtree_rows) > 1)} of partitions cannot be cut further"
    if subtree_rows.max() > 1.5 * subtree_rows.mean():
        groups = f"the largest {what} has {subtree_rows.max():,.0f} rows, others {subtree_rows.mean():,.0f} on average"
    coded = math.ceil(len(subtree_rows) / doubled.n_messages) * mean_over_rounds(found, [c.subtree_seconds for c in found.worker.costs])
    reasons = {
        groups: kept,
        f"making small what a subtree returns takes {duration(coded)} a round": coded,
        f"the client's own update takes {duration(update)} a round": update,
        f"a message to a worker and back takes {duration(delay)}": delay,
        f"{doubled.n_messages} messages a round take {duration(messages)}": messages,
    }
    return max(reasons, key=reasons.__getitem__)


def reason_of_turns(found: Probe, cost: Cost, shares: Shares) -> str:
    """The same of rounds about a subtree each."""
    at_once = under_way(found.strategy)
    if seconds_of(found, cost, shares) == cost.delay_seconds:
        return f"updates follow each other by {duration(cost.delay_seconds)} at best"
    if at_once <= shares.n_messages:
        return f"at most {at_once} round{'s are' if at_once > 1 else ' is'} under way, each about one subtree of partitions"
    return f"its {len(found.subtree_rows())} subtrees of partitions cannot be cut further"


def duration(seconds: float) -> str:
    """The time in words, to three digits."""
    for unit, name in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{1e3 * seconds:.3g} ms"
