"""Making a shard where it will live: partition after partition, so that the peak is the shard plus one group."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.loading.blocks import Split, assemble
from tasks.loading.checking import keep_summary
from tasks.loading.quarantine import text_of
from tasks.machine.threads import single_blas_thread
from tasks.rows.partition import Block, Shard, make_group


class LoadError(Exception):
    """An error for a partition that could not be made. Whoever knows where it comes from says so.

    text: what was raised, as a text; of_types: whether that was a TypeError; original: what the source itself raised.
    """

    def __init__(self, partition: int, text: str, of_types: bool, original: Exception) -> None:
        super().__init__(partition, text, of_types, original)  # all arguments, so that pickling keeps them
        self.partition = partition
        self.text = text
        self.of_types = of_types
        self.original = original


class Step(NamedTuple):
    """One node of a source's graph: `run(values)` gives the value of `key`; `drop` are the keys nobody needs after it."""

    key: Hashable
    run: Callable[[dict[Hashable, Any]], Any]
    drop: tuple[Hashable, ...]


class GroupPlan(NamedTuple):
    """A plan to make one group: the steps to run, then the keys of its partitions' blocks, in order."""

    first_partition: int
    steps: tuple[Step, ...]
    blocks: tuple[Hashable, ...]


def load_shard(
    numbers: tuple[int, ...],
    plans: Sequence[GroupPlan],
    split: Split | None,
    home: str | None,
    given: Sequence[tuple[Hashable, Any]],
) -> Shard:
    """Run the plans of the groups of those numbers one after the other.

    `given` are values made elsewhere (persisted blocks, a mean over all partitions); home: see `tasks.rows.partition.make_group`. Raises
    LoadError for the partition whose turn it is when a step does.
    """
    values = dict(given)
    groups = []
    for plan in plans:
        failed = run_steps(plan, values)
        if failed is not None:  # raised outside the handler: the error that it handled may be one that cannot be sent
            raise failed
        groups.append(group_subsets([values[key] for key in plan.blocks], plan.first_partition, split, home=home))
        for key in plan.blocks:
            values.pop(key, None)
    return shard_of(numbers, groups)


def run_steps(plan: GroupPlan, values: dict[Hashable, Any]) -> LoadError | None:
    """Add the values that the steps make, or say what the first one that failed was for."""
    for step in plan.steps:
        try:
            values[step.key] = step.run(values)
        except Exception as error:  # noqa: BLE001
            turn = next(i for i, key in enumerate(plan.blocks) if key not in values)
            return load_error(plan.first_partition + turn, error)
        for key in step.drop:
            values.pop(key, None)
    return None


def load_error(partition: int, error: Exception) -> LoadError:
    """The error to raise for a partition for which `error` was raised."""
    named = isinstance(error, ValueError | TypeError)  # mostly raised by this library, with the original as the cause
    original = error.__cause__ if named and isinstance(error.__cause__, Exception) else error
    text = text_of(error).removeprefix(f"partition {partition}: ")
    return LoadError(partition, text, isinstance(error, TypeError), portable(original))


def portable(error: Exception) -> Exception:
    """The error itself, if it can be sent elsewhere."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  whatever such a class does
        return RuntimeError(text_of(error))
    return error


def group_subsets(
    blocks: Sequence[Block], first_partition: int, split: Split | None, *, from_client: bool = False, home: str | None = None
) -> list[Any]:
    """One group for each subset; from_client, home: see `tasks.rows.partition.make_group`."""
    return [make_group(subset, first_partition, from_client=from_client, home=home) for subset in assemble(blocks, first_partition, split)]


def shard_of(numbers: Sequence[int], groups: Sequence[Sequence[Any]]) -> Shard:
    """The shard of groups that are given with their subsets: (subsets of the first group), (subsets of the second) ..."""
    return Shard(tuple(numbers), tuple(zip(*groups, strict=True)))


@dataclass(frozen=True, eq=False)
class ShardLoad:
    """A way to make one shard: call function(*arguments, given), `given` pairing `keys` with their values on the cluster. n_partitions: of
    the whole source."""

    function: Callable[..., Shard]
    arguments: tuple[Any, ...]
    n_partitions: int
    keys: tuple[Hashable, ...] = ()


def load_on_worker(load: ShardLoad, *values: Any) -> Shard:
    """Task: make a shard, and check it while it is fresh. The source's own graph may call BLAS."""
    with single_blas_thread():
        shard = load.function(*load.arguments, list(zip(load.keys, values, strict=True)))
        for group in shard.all_groups:
            keep_summary(group, load.n_partitions)
    return shard
