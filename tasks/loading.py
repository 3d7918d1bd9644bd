"""Making a shard where it will live: partition after partition, so that the peak is the shard plus one group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from tasks.blocks import Split, assemble
from tasks.checking import summary
from tasks.partition import Block, Shard, make_group
from tasks.threads import single_blas_thread


class Step(NamedTuple):
    """One node of a source's graph: `run(values)` gives the value of `key`; `drop` are the keys nobody needs after it."""

    key: Hashable
    run: Callable[[dict[Hashable, Any]], Any]
    drop: tuple[Hashable, ...]


class GroupPlan(NamedTuple):
    """How one group comes about: the steps to run, then the keys of its partitions' blocks, in order."""

    first_partition: int
    steps: tuple[Step, ...]
    blocks: tuple[Hashable, ...]


def load_shard(numbers: tuple[int, ...], plans: Sequence[GroupPlan], split: Split | None, given: Sequence[tuple[Hashable, Any]]) -> Shard:
    """Run the plans of the groups of those numbers one after the other.

    `given` are values made elsewhere (persisted blocks, a mean over all partitions).
    """
    values = dict(given)
    groups = []
    for plan in plans:
        for step in plan.steps:
            values[step.key] = step.run(values)
            for key in step.drop:
                values.pop(key, None)
        groups.append(group_parts([values[key] for key in plan.blocks], plan.first_partition, split))
        for key in plan.blocks:
            values.pop(key, None)
    return shard_of(numbers, groups)


def group_parts(blocks: Sequence[Block], first_partition: int, split: Split | None) -> list[Any]:
    """One group for each part."""
    return [make_group(part, first_partition) for part in assemble(blocks, first_partition, split)]


def shard_of(numbers: Sequence[int], groups: Sequence[Sequence[Any]]) -> Shard:
    """Groups with their parts -> a shard's parts with their groups."""
    return Shard(tuple(numbers), tuple(zip(*groups, strict=True)))


@dataclass(frozen=True, eq=False)
class ShardLoad:
    """How to make one shard: call function(*arguments, given), `given` pairing `keys` with their values on the cluster."""

    function: Callable[..., Shard]
    arguments: tuple[Any, ...]
    keys: tuple[Hashable, ...] = ()


def load_on_worker(load: ShardLoad, *values: Any) -> Shard:
    """Task: make a shard, and check it while it is fresh. The source's own graph may call BLAS."""
    with single_blas_thread():
        shard = load.function(*load.arguments, list(zip(load.keys, values, strict=True)))
    for group in chain(*shard.parts):
        summary(group)
    return shard
