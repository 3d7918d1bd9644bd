"""How mini-batches are drawn from a dataset: rounds of an epoch, rows of a round, subtrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from tasks.rounds.oracles import Broadcast
from tasks.rows.batches import MOST_SUBTREES, ROWS_A_SUBTREE, Sampling, held_out_stream, subtree_level
from tasks.rows.shares import INDEPENDENT, bar_for
from tasks.strategies.base import Consensus, Subtrees

if TYPE_CHECKING:
    from pipeline.data.schema import Schema


MOST_TURNS: Final = 64
MOST_PARTS: Final = 16
"""Subtrees that move by themselves, by default: with more of them, each knows less of the whole."""


class Batches(NamedTuple):
    """sampling: which rows a round draws; n_rows: that an epoch visits, without those held out; n_apart: subtrees that update parameters by
    themselves, each on its own batches."""

    sampling: Sampling
    n_rows: int
    n_apart: int = 1

    @property
    def batch_rows(self) -> float:
        """The rows of an update's batch, on average."""
        return self.n_rows / (self.sampling.rounds_an_epoch * self.n_apart)

    @property
    def apart(self) -> Batches:
        """The same batches, where all subtrees that take turns draw at once, each for itself."""
        return self._replace(sampling=self.sampling._replace(n_turns=0), n_apart=max(1, self.sampling.n_turns))


def batches_of(
    schema: Schema,
    n_groups: int,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    validation_fraction: float = 0.0,
    importance: Literal["uniform", "norm"] = "uniform",
    rows_a_subtree: int = ROWS_A_SUBTREE,
    take_turns: bool = False,
    most_subtrees: int = MOST_SUBTREES,
) -> Batches:
    """About batch_size rows a round, at least some rows_a_subtree in one call, so that an epoch visits every row once. take_turns: each
    round is about a single subtree. most_subtrees: draw rows, where that does not take more than `SUBTREE_BYTES` of data each. The other
    arguments: see `tasks.rows.batches.Sampling`."""
    n_rows = training_rows(schema.n_rows, validation_fraction)
    if take_turns:
        level = turns_level(n_groups, n_rows, batch_size, min(MOST_TURNS, most_subtrees))
        n_turns = -(-n_groups >> level)
        n_rounds = -(-n_rows // (batch_size * n_turns))
    else:
        level, n_turns = subtree_level(n_groups, schema.n_bytes, batch_size, rows_a_subtree, most_subtrees), 0
        n_rounds = -(-n_rows // batch_size)
    bar = bar_of(schema, n_groups, seed, validation_fraction) if validation_fraction else INDEPENDENT
    return Batches(Sampling(seed, n_rounds, level, shuffle, validation_fraction, importance, bar, n_turns), n_rows)


def turns_level(n_groups: int, n_rows: int, batch_size: int, most: int = MOST_TURNS) -> int:
    """The level of subtrees that take turns: as small as they may be, so that many can be under way, but at most so many of them, and
    each with the rows of a batch."""
    level = 0
    while 1 << level < n_groups and (-(-n_groups >> level) > most or n_rows < batch_size * (-(-n_groups >> level))):
        level += 1
    return level


def training_rows(n_rows: int, validation_fraction: float) -> int:
    """How many of so many rows are left to train on. The others, all of them together, are held out."""
    return max(1, round(n_rows * (1.0 - validation_fraction)))


def subtrees_of(group_starts: Sequence[int], most: int = MOST_PARTS) -> Subtrees:
    """At most so many subtrees of the groups that begin with these partitions."""
    level = 0
    while -(-len(group_starts) >> level) > most:
        level += 1
    return Subtrees(tuple(group_starts[:: 1 << level]), level)


def require_own_subtrees(broadcast: Broadcast, group_starts: Sequence[int]) -> None:
    """Raise ValueError where a round goes by subtrees that are not those of the groups that begin with these partitions: some rows would
    never be seen, or rounds be about none."""
    local, cure = broadcast.local, "make it from the dataset that is fitted, by pipeline."
    if isinstance(local, Consensus):
        given, own = local.subtrees.first_partitions, tuple(group_starts[:: 1 << local.subtrees.level])
        if given != own:
            raise ValueError(
                f"the {len(given)} subtrees are of other data: they begin with partitions {numbers(given)}, those of this dataset"
                f" with {numbers(own)}; {cure}subtrees"
            )
    if broadcast.batch is not None and (n_turns := broadcast.batch.sampling.n_turns):
        n_subtrees = -(-len(group_starts) >> broadcast.batch.sampling.level)
        if n_turns != n_subtrees:
            raise ValueError(
                f"the sampling is of other data: {n_turns} subtrees take turns, and this dataset has {n_subtrees}; {cure}mini_batches"
            )


def numbers(values: Sequence[int]) -> str:
    """The first few."""
    return ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")


def group_starts(n_partitions: int, n_groups: int) -> list[int]:
    """The first partition of each group, where that many partitions make that many groups of 2^level."""
    level = 0
    while -(-n_partitions >> level) > n_groups:
        level += 1
    return list(range(0, n_partitions, 1 << level))


def bar_of(schema: Schema, n_groups: int, seed: int, validation_fraction: float) -> float:
    """The `bar` of a sampling: see `tasks.rows.shares`. Follows from the rows of each group, and the seed, alone."""
    starts = group_starts(len(schema.partition_rows), n_groups)
    rows = np.add.reduceat(schema.partition_rows, starts).tolist()
    n_held_out = sum(rows) - training_rows(sum(rows), validation_fraction)
    draws = [held_out_stream(seed, start).random() for start in starts]
    return bar_for(n_held_out, [n * validation_fraction for n in rows], draws)
