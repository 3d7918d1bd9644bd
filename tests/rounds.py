"""A callback for tests that must act in the middle of a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class AfterRounds:
    """A scikit-learn callback: calls action() after each of the given rounds, and ends the fit when that is true."""

    def __init__(self, rounds: tuple[int, ...], action: Callable[[], Any]) -> None:
        self.rounds = rounds
        self.action = action
        self.count = 0

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    def teardown(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        self.count += 1
        return self.count in self.rounds and self.action() is True
