"""Checks of arguments, by themselves."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
import pytest

from tasks.arguments import as_number, check_counts, check_tolerances
from tasks.reductions.stages.codecs import EightBit, LowRank, TopK
from tasks.strategies.local_sgd import LocalUpdates


def test_what_is_a_number() -> None:
    assert [as_number(value) for value in (2, 0.5, np.float32(0.25), np.int8(3))] == [2.0, 0.5, 0.25, 3.0]
    assert all(isnan(as_number(value)) for value in ("2", None, True, 1j))


@pytest.mark.parametrize("value", [True, 0, -1, 1.0, "1", None])
def test_what_is_no_count(value: Any) -> None:
    check_counts(n=1, m=np.int64(7))
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got "):
        check_counts(n=value)


def test_what_is_no_tolerance() -> None:
    check_tolerances(tol=0.0)
    for value in (True, -1e-9, np.nan, "0"):
        with pytest.raises(ValueError, match="tol must be a number of at least 0"):
            check_tolerances(tol=value)


def test_a_truth_is_no_number() -> None:
    for make in (
        lambda: LocalUpdates(True),
        lambda: LocalUpdates(growth=True),
        lambda: LocalUpdates(outer_step=True),
        lambda: EightBit(True),
        lambda: LowRank(True),
        lambda: TopK(True),
    ):
        with pytest.raises(ValueError, match="got True"):
            make()
