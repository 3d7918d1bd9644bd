"""A callback for tests that must act in the middle of a fit, and a strategy whose fits are as long as need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tasks.objectives import Evaluation
from tasks.strategies.base import RUNNING, Accepted, Power, Round, Status, starting_point


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


class Walked(NamedTuple):
    """State of `Steps`."""

    accepted: Accepted
    iteration: int
    status: Status


@dataclass(frozen=True)
class Steps:
    """A strategy: so many plain gradient steps, whatever comes of them."""

    n_rounds: int
    step_size: float = 0.1
    powers: ClassVar[tuple[Power, ...]] = ("loss_and_gradient",)

    def init(self, parameters: Any) -> Walked:
        return Walked(starting_point(parameters), 0, RUNNING)

    def request(self, state: Walked) -> Round:
        return Round("loss_and_gradient", state.accepted.parameters)

    def update(self, state: Walked, evaluation: Evaluation) -> Walked:
        parameters = state.accepted.parameters - self.step_size * evaluation.gradient
        done = state.iteration + 1
        status = RUNNING if done < self.n_rounds else Status("out of rounds", "enough")
        return Walked(Accepted(parameters, evaluation.value, evaluation.gradient), done, status)
