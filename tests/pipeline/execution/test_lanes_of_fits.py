"""Subtrees that several fits on the same rows need at the same time."""

from __future__ import annotations

from typing import Any, cast

from pipeline.execution.residency.resident import Resident


class Held:
    """What a future is here: a key."""

    def __init__(self, key: int) -> None:
        self.key = key


def rows(n_groups: int) -> Resident:
    numbers = [(number,) for number in range(n_groups)]
    futures = cast("list[Any]", [Held(number) for number in range(n_groups)])
    return Resident(n_groups, numbers, [1.0] * n_groups, futures, ["a", "b"], [[0, 1, 2], [3, 4, 5]], located=True)


def test_one_fit_that_ends_leaves_the_lanes_of_another() -> None:
    resident = rows(6)
    resident.keep_together(1, 0)
    resident.keep_together(1, 0)
    assert resident.assigned == [[0, 1, 2, 3], [4, 5]]
    resident.release_level(1)
    assert resident.level == 1
    assert not resident.uneven
    resident.release_level(1)
    assert resident.level == 0
    assert resident.uneven


def test_a_fit_that_needs_larger_lanes_needs_the_small_ones_no_more() -> None:
    resident = rows(6)
    resident.keep_together(1, 0)
    resident.keep_together(2, 1)
    assert resident.assigned == [[0, 1, 2, 3], [4, 5]]
    resident.keep_together(1, 0)
    resident.release_level(2)
    assert resident.level == 1
    resident.release_level(1)
    assert resident.level == 0
