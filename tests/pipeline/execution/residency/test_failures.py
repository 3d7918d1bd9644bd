"""Errors of rounds that kill workers name the partitions that these had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distributed import KilledWorker

from pipeline.execution.residency.failures import Losses, WorkersKilledError, killers_named, ranges
from pipeline.execution.residency.resident import Resident
from pipeline.sources.sources import ArraySource


class Held:
    """Stands for a future."""

    def __init__(self, key: str) -> None:
        self.key = key


def resident() -> Resident:
    """Four pieces of a group each on three threads."""
    futures: Any = [Held(str(i)) for i in range(4)]
    return Resident(4, [(i,) for i in range(4)], [1.0] * 4, futures, ["a", "b", "c"], [[0, 1], [2], [3]])


SOURCE = ArraySource(4, X=np.ones((10, 1)), rows=np.array([0, 1, 3, 6, 10]))


def test_pieces_that_all_the_dead_had() -> None:
    losses, found = Losses(), resident()
    assert losses.note(found, {"b", "c"})
    assert not losses.note(found, {"a", "b", "c"})
    found.assign([[0], [2, 1], [3]])
    assert losses.note(found, {"a", "c"})
    assert losses.times == 2
    error = losses.error("gradient", SOURCE, found)
    assert isinstance(error, ConnectionError)
    assert "in the round 'gradient', and 2 workers died with partitions 1 (2 rows). The logs of the workers" in str(error)
    losses.note(found, {"a", "b"})  # of something else, it seems
    assert losses.pieces == {3} and losses.times == 1


def killed(key: Any) -> KilledWorker:
    return KilledWorker(key, None, 3)  # type: ignore[arg-type]


def named(error: Exception) -> None:
    """As of a round with tasks for rows, for parameters, and for large sums."""
    keys: list[Any] = [("local-gradient-0123", 0), ("local-gradient-0123", 1), "parameters-0123", ("tree-reduce-0123", 0, 0)]
    with killers_named("local-gradient", keys, SOURCE, resident()):
        raise error


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("local-gradient-0123", 0), r" with partitions 0 to 1 \(3 rows\)\. The logs .*smaller partitions \(n_partitions=\)"),
        (("tree-reduce-0123", 0, 0), r"\. The logs .*they need more of it, or a model with fewer parameters$"),
        ("parameters-0123", r"\. The logs .*they need more of it, or a model with fewer parameters$"),
    ],
)
def test_a_task_of_the_round(key: Any, said: str) -> None:
    error = killed(key)
    with pytest.raises(WorkersKilledError, match=f"^a task of the round 'local-gradient' .*, and 4 workers died{said}") as raised:
        named(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [killed(("load-0123", 0)), killed("mean-0123"), ValueError("")])
def test_other_errors(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        named(error)
    assert raised.value is error


def test_ranges() -> None:
    assert ranges([3]) == "3"
    assert ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
