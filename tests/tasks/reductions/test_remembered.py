"""What subtrees remember, by itself: versions, and rounds that come late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.reductions.remembered import FITS, FORGET, READ, RESTORE, ForgottenError, Memories, Memory, attempt, recall, remember
from tasks.rows.partition import Group

PART = "a part"


@pytest.fixture
def groups() -> list[Group]:
    return [Group(np.zeros((3, 2)), np.zeros(3), None, np.array([0, 3]), 7)]


def restore(groups: list[Group], *memories: Memory) -> None:
    RESTORE.map(groups, Memories("fit", 0, restored=memories))


def read(groups: list[Group], version: int | None = None) -> Any:
    (found,) = READ.map(groups, Memories("fit", 0, version=version))
    return found


def test_two_versions_are_kept_and_a_round_may_be_done_twice(groups: list[Group]) -> None:
    for version in (1, 2, 3, 3):
        remember(groups, "fit", PART, version, f"after {version}", 0)
    assert [memory.version for memory in read(groups)] == [3, 2]
    remember(groups, "fit", PART, 1, "late", 0)
    assert [recall(groups, "fit", PART, version) for version in (2, 3)] == ["after 2", "after 3"]
    with pytest.raises(ForgottenError, match="partition 7: nothing is remembered of round 1"):
        recall(groups, "fit", PART, 1)


def test_a_round_of_before_memory_was_put_back_changes_nothing(groups: list[Group]) -> None:
    late = attempt(groups, "fit")
    remember(groups, "fit", PART, 1, "first", late)
    copy = read(groups)
    restore(groups, *copy)
    now = attempt(groups, "fit")
    remember(groups, "fit", PART, 2, "of the attempt before", late)
    assert read(groups) == copy
    remember(groups, "fit", PART, 2, "of this attempt", now)
    remember(groups, "fit", PART, 2, "of the attempt before", late)
    assert recall(groups, "fit", PART, 2) == "of this attempt"
    restore(groups)  # to what a fit begins with
    remember(groups, "fit", PART, 1, "late once more", now)
    assert read(groups) == ()


def test_whoever_reads_meanwhile_misses_nothing(groups: list[Group]) -> None:
    """A round writes while rows are on the move, and while others ask."""
    restore(groups)
    remember(groups, "fit", PART, 1, "first", 1)
    held = groups[0].memory
    seen = {name: list(memories) for name, memories in held.items()}
    remember(groups, "fit", PART, 2, "second", 1)
    restore(groups, Memory(PART, 1, "again", 7))
    FORGET.map(groups, Memories("fit", 0))
    assert {name: list(memories) for name, memories in held.items()} == seen  # what was read before is whole
    assert groups[0].memory == {}


def test_only_what_is_of_a_fit_is_copied_and_forgotten(groups: list[Group]) -> None:
    restore(groups, Memory(PART, 1, "of here", 7), Memory(PART, 1, "of elsewhere", 8))
    now = attempt(groups, "fit")
    remember(groups, "fit", "another part", 1, "beside it", now)
    assert [memory.values for memory in read(groups, version=1)] == ["beside it", "of here"]
    assert read(groups, version=now + 1) == ()
    FORGET.map(groups, Memories("fit", 0))
    assert groups[0].memory == {}
    for number in range(FITS + 2):
        remember(groups, f"fit {number}", PART, 1, number, 0)
    assert len(groups[0].memory) == FITS
