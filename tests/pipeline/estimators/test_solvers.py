"""What solver="auto" picks."""

from __future__ import annotations

import pytest

from pipeline.estimators.solvers import Problem, automatic
from tasks.objectives.losses import LOSSES
from tasks.strategies.base import Subtrees


@pytest.mark.parametrize(
    ("n_outputs", "of_an_output", "n_rows", "expected"),
    [
        (1, 30, 100_000, "sampled-newton"),
        (3, 30, 100_000, "sampled-newton"),
        (3, 30, 10_000, "newton"),
        (4, 30, 100_000, "sampled-lbfgs"),
        (10, 1000, 200_000, "sampled-lbfgs"),
        (10, 1001, 300_000, "lbfgs"),
        (10, 1000, 199_999, "lbfgs"),
        (100, 350, 100_000, "sampled-lbfgs"),
        (101, 350, 100_000, "lbfgs"),  # the Hessians of all outputs would be larger than most data
        (1, 2000, 1_000_000, "lbfgs"),
    ],
)
def test_the_choice_follows_from_the_problem(n_outputs: int, of_an_output: int, n_rows: int, expected: str) -> None:
    loss = LOSSES["logistic" if n_outputs == 1 else "multinomial"]
    name, reason = automatic(Problem(loss, n_outputs * of_an_output, n_outputs, n_rows, Subtrees((0,))))
    assert name == expected
    assert str(n_rows) in reason
