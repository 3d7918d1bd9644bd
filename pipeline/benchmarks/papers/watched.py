"""Fits in this process, looked at after each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import Row
from pipeline.training.loop import train
from pipeline.training.observers import Observer
from tasks.objectives.base import Objective
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.base import Strategy
from tasks.typing import Array

Value = Callable[[Array], float]


class Watched(Observer):
    """Remembers what `value` makes of the parameters after each round, and ends the fit by the round after one with at most `enough`."""

    def __init__(self, value: Value, enough: float) -> None:
        self.value, self.enough = value, enough
        self.values: list[float] = []

    def rest(self, saved: Saved) -> None:
        self.values.append(self.value(saved.states[0].iterate.parameters))

    def after(self, row: Row) -> bool:
        return bool(self.values) and self.values[-1] <= self.enough


def values_by_round(
    data: Dataset, objective: Objective, penalty: L2, strategy: Strategy, start: Array, value: Value, enough: float = -np.inf
) -> list[float]:
    """value(parameters) after each round of a fit in this process, which ends soon after one with at most `enough`."""
    fit, watched = Fit(objective, (penalty,), strategy), Watched(value, enough)
    train(ThreadExecutor(), data, fit, fit.init(start[None]), [watched])
    return watched.values


def rounds_to(values: Sequence[float], enough: float) -> int | None:
    """The number of the first round, from 1, with a value of at most `enough`."""
    return next((number for number, value in enumerate(values, 1) if value <= enough), None)
