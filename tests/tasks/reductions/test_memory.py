"""A round that runs out of memory says at which partitions, and what would fit."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Sequence
from typing import Any

import array_api_strict
import dask
import numpy as np
import psutil
import pytest

from pipeline import Dataset
from pipeline.execution.threads import ThreadExecutor
from tasks.reductions.memory import OutOfMemoryError, mapped, merged
from tasks.reductions.reduction import Reduction
from tasks.rows.partition import Group

GROUP = Group(np.ones((30, 4)), None, None, np.array([0, 20, 30]), 7)


def reduction(error: type[Exception] | None = None) -> Reduction:
    def ask(subtree: Sequence[Group], broadcast: Any) -> Any:
        if error is not None:
            raise error("no more")
        return np.empty(1 << 56, dtype=np.uint8)

    return Reduction("square", ask, operator.add, lambda broadcast, n_columns: 0)


def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1 << 53  # an eighth of what is asked for, and partitions have 20 rows at most
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": free}))
    with pytest.raises(OutOfMemoryError, match=r"round 'square' ran out of memory at partitions 7 to 8 \(30 rows, ") as raised:
        mapped(*reduction()[:2], (GROUP,), None)
    text = str(raised.value)
    assert "at most 20 rows a partition" in text and "Unable to allocate" in text
    assert "partitions of at most 2 rows would fit (n_partitions=, or smaller chunks)" in text
    assert isinstance(raised.value.__cause__, MemoryError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == text


def test_an_error_without_a_size() -> None:
    with pytest.raises(OutOfMemoryError, match="no more; smaller ones need less"):
        mapped(*reduction(MemoryError)[:2], (GROUP,), None)


def test_on_a_device() -> None:
    """Whose errors need not be MemoryErrors, and whose free memory is not this machine's."""
    there = Group(array_api_strict.asarray(GROUP.X), None, None, GROUP.offsets, 7)
    kind = type("OutOfMemoryError", (RuntimeError,), {})
    with pytest.raises(OutOfMemoryError, match=r"at partitions 7 to 8 \(30 rows, .* on a device: no more; smaller ones need less"):
        mapped(*reduction(kind)[:2], (there,), None)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError, match="no more"):
        mapped(*reduction(ZeroDivisionError)[:2], (GROUP,), None)


def test_in_threads_of_this_process() -> None:
    with dask.config.set(scheduler="threads"), pytest.raises(OutOfMemoryError, match=r"at partition \d+ \(10 rows"):
        ThreadExecutor(2).map_reduce(Dataset.from_arrays(np.ones((40, 2)), n_partitions=4).rows, reduction(), None)


def test_sums_that_are_too_large() -> None:
    def add(parts: Sequence[int]) -> int:
        return np.empty(1 << 56, dtype=np.uint8).size + sum(parts)

    said = r"^the round 'hessian' ran out of memory where the sums of 3 tasks were added up, .* MB free: Unable to allocate .*: more memory"
    with pytest.raises(OutOfMemoryError, match=said):
        merged("hessian", add, [1, 2, 3])
    assert merged("hessian", sum, [1, 2, 3]) == 6
