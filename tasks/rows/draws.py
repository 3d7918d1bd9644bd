"""Counter-based draws of rows, which are the same wherever and however often a task runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tasks.machine.namespaces import take_rows
from tasks.rows.partition import Block, Group
from tasks.typing import Int64


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The random stream of (seed, purpose, counters): Philox keyed by their BLAKE2 digest."""
    text = ":".join([str(seed), purpose, *map(str, counters)])
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def split_rows(n_rows: int, test_size: float, seed: int, partition: int) -> tuple[Int64, Int64]:
    """Rows of one partition for training and for testing, each in ascending order.

    The test subset is n_rows test_size, rounded up or down at random so that small partitions are not favoured.
    """
    draw = generator(seed, "split", partition)
    n_test = int(np.floor(n_rows * test_size + draw.random()))
    order = draw.permutation(n_rows)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def spread(n: int) -> Iterator[int]:
    """The numbers 0 to n - 1, each once, those that follow each other far apart: the numbers with their bits reversed. Of any run of them
    about as many lie in each of several equal parts of the whole."""
    width = (n - 1).bit_length()
    return filter(n.__gt__, (int(f"{number:0{width}b}"[::-1], 2) if width else 0 for number in range(1 << width)))


def take(block: Block, rows: Int64) -> Block:
    """The given rows of a block."""
    return Block(
        take_rows(block.X, rows),
        None if block.y is None else block.y[rows],
        None if block.sample_weight is None else block.sample_weight[rows],
        block.quarantined,
        block.home,
    )


def sample(group: Group, row_step: int) -> Group:
    """Every row_step-th row of each partition of a group. Copied together once: rows far apart cost many times their arithmetic."""
    found: Group = group.derived(("sample", row_step), lambda whole: take_sample(whole, row_step))
    return found


def take_sample(group: Group, row_step: int) -> Group:
    """The sample of a group, made anew."""
    pieces = [np.arange(start, stop, row_step) for start, stop in pairwise(group.offsets)]
    rows = np.concatenate(pieces)
    taken = take(Block(group.X, group.y, group.sample_weight), rows)
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return Group(taken.X, taken.y, taken.sample_weight, offsets, group.first_partition)
