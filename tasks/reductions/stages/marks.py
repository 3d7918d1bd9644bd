"""Marks of rounds: a digest of each subtree's sums, by which two runs of one fit are compared round by round and group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tasks.reductions.reduction import Reduction
from tasks.rows.digests import bits_digest
from tasks.rows.partition import Group
from tasks.typing import Array, UInt64


class Marks(NamedTuple):
    """The marks of one round: values (subtrees,), in order, each of 2^level groups; first: the number of the first of them."""

    level: int
    values: UInt64
    first: int = 0


class Marked(NamedTuple):
    """Sums, and the marks of the subtrees that they are the sums of: of a few subtrees the values alone, at the root `Marks`."""

    sums: Any
    marks: Any


def marked(reduction: Reduction) -> Reduction:
    """The same reduction with marks, a stage. Subtrees are marked before anything is added to them, so it does not matter who adds."""
    return reduction._replace(
        map=partial(_map, reduction.map), combine=partial(_combine, reduction.combine), finish=partial(_finish, reduction), joint=None
    )


def _map(map_subtree: Callable[[Sequence[Group], Any], Any], groups: Sequence[Group], broadcast: Any) -> Marked:
    sums = map_subtree(groups, broadcast)
    return Marked(sums, np.array([bits_digest(arrays_in(sums))], np.uint64))


def _combine(combine: Callable[[Any, Any], Any], left: Marked, right: Marked) -> Marked:
    return Marked(combine(left.sums, right.sums), np.concatenate([left.marks, right.marks]))


def _finish(reduction: Reduction, found: Marked, broadcast: Any) -> Marked:
    return Marked(
        reduction.finish(found.sums, broadcast), Marks(reduction.level(broadcast), found.marks, reduction.subtree(broadcast) or 0)
    )


def arrays_in(sums: Any) -> Iterator[Array]:
    """The arrays and numbers of sums, which are tuples of them and of None."""
    if isinstance(sums, tuple):
        for each in sums:
            yield from arrays_in(each)
    elif sums is not None:
        yield np.atleast_1d(np.asarray(sums))
