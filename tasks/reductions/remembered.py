"""What is remembered beside the rows from round to round: the memory of each subtree of groups.

Memory belongs to a subtree, never to a worker: it lives on the subtree's first group, and moves with it. It has a version, the number of
rounds that it has seen, and a round asks for one: so a round that is sent twice gives the same bits twice, and changes memory once.
What two parts of a fit remember, compression and local updates, say, has the same versions.
When rows are made again, their memory is gone: a round that asks for it raises `ForgottenError`, and whoever runs the fit puts back a copy
and repeats the rounds since.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Final, NamedTuple

from tasks.reductions.reduction import Reduction
from tasks.rows.partition import Group

COMPRESSION: Final = "compression"
LOCAL_UPDATES: Final = "local updates"
"""The parts of a fit that remember something."""
PUT_BACK: Final = "put back"
"""What is noted, as its version, where memory was put back: how often."""
FITS: Final = 8
"""Fits at a time, of which groups remember something."""


_writing: Final = Lock()


class ForgottenError(Exception):
    """A subtree has no memory of the version that a round asks for."""


class Memory(NamedTuple):
    """part: who remembers it; version: rounds that a subtree has seen; values: what is remembered, a tuple of arrays, or a `Holder`;
    first_partition: of the subtree."""

    part: str
    version: int
    values: Any
    first_partition: int

    @property
    def arrays(self) -> tuple[Any, ...]:
        return (self.values,)


class Memories(NamedTuple):
    """A question about memories. fit: whose they are; level: subtrees are of 2^level groups; n_bytes: about, of a subtree's answer;
    version: of those that are wanted, None for all; restored: what subtrees are to remember."""

    fit: str
    level: int
    n_bytes: int = 0
    version: int | None = None
    restored: tuple[Memory, ...] = ()


def recall(groups: Sequence[Group], fit: str, part: str, version: int) -> Any:
    """What a part of that fit remembers of this subtree after so many rounds. Raises ForgottenError."""
    for memory in groups[0].memory.get(fit, ()):
        if (memory.part, memory.version) == (part, version):
            return memory.values
    raise ForgottenError(f"partition {groups[0].first_partition}: nothing is remembered of round {version}")


def attempt(groups: Sequence[Group], fit: str) -> int:
    """How often what this subtree remembers of the fit has been put back. A round that begins asks, and says it to `remember`."""
    return max((memory.version for memory in groups[0].memory.get(fit, ()) if memory.part == PUT_BACK), default=0)


def remember(groups: Sequence[Group], fit: str, part: str, version: int, values: Any, of_attempt: int) -> None:
    """Have this subtree remember values, besides those of the version before. A round that comes late, when memory has been put back since,
    or another attempt has long been followed by others, changes nothing. Fits that were cut off leave something behind: what the oldest
    of many have left goes."""
    group = groups[0]
    with _writing:
        held = group.memory.get(fit, ())
        if attempt(groups, fit) != of_attempt or any(memory.version > version for memory in held if memory.part == part):
            return
        others = [memory for memory in held if memory.part != part or memory.version == version - 1]
        _keep(group, fit, (Memory(part, version, values, group.first_partition), *others))


def _keep(group: Group, fit: str, held: tuple[Memory, ...]) -> None:
    """Have a group remember this of a fit, or forget the fit: nothing is changed that others may be reading, for they have no lock."""
    others = [(other, memories) for other, memories in group.memory.items() if other != fit]
    group.memory = dict([*others, (fit, held)][-FITS:] if held else others)


def _read(groups: Sequence[Group], question: Memories) -> tuple[tuple[Memory, ...], ...]:
    held = [memory for memory in groups[0].memory.get(question.fit, ()) if memory.part != PUT_BACK]
    return (tuple(memory for memory in held if question.version in (None, memory.version)),)


def _restore(groups: Sequence[Group], question: Memories) -> tuple[()]:
    first = groups[0].first_partition
    with _writing:
        noted = Memory(PUT_BACK, attempt(groups, question.fit) + 1, (), first)
        restored = tuple(memory for memory in question.restored if memory.first_partition == first)
        _keep(groups[0], question.fit, (noted, *restored))
    return ()


def _forget(groups: Sequence[Group], question: Memories) -> tuple[()]:
    with _writing:
        _keep(groups[0], question.fit, ())
    return ()


def _join(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return left + right


def _level(question: Memories) -> int:
    return question.level


def _bytes(question: Memories, n_columns: int) -> int:
    return question.n_bytes


READ = Reduction("remembered", _read, _join, _bytes, _level, stays=True, adds_up=False)
"""The memories of a fit, of each subtree in order those that it has."""
RESTORE = Reduction("remember", _restore, _join, _bytes, _level, stays=True, adds_up=False)
"""Each subtree remembers what it is given, and nothing else."""
FORGET = Reduction("forget", _forget, _join, _bytes, _level, stays=True, adds_up=False, mends=False)
"""A fit has ended. What was remembered of rows that are lost is lost with them."""
