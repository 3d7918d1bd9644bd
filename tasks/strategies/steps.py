"""Plain gradient steps: for measurements and tests, whose fits shall last as long as they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tasks.objectives.evaluation import Evaluation
from tasks.strategies.base import RUNNING, Iterate, Request, Status, starting_point
from tasks.typing import Array


class Walked(NamedTuple):
    """State of `Steps`."""

    iterate: Iterate
    iteration: int
    status: Status


@dataclass(frozen=True)
class Steps:
    """parameters - step_size gradient, n_rounds times, whatever comes of it."""

    n_rounds: int
    step_size: float = 0.1
    oracles: ClassVar[tuple[str, ...]] = ("loss_and_gradient",)
    takes_kinks: ClassVar[bool] = False

    def init(self, parameters: Array) -> Walked:
        return Walked(starting_point(parameters), 0, RUNNING)

    def request(self, state: Walked) -> Request:
        return Request("loss_and_gradient", state.iterate.parameters)

    def update(self, state: Walked, evaluation: Evaluation) -> Walked:
        parameters = state.iterate.parameters - self.step_size * evaluation.gradient
        done = state.iteration + 1
        status = RUNNING if done < self.n_rounds else Status("out of rounds", "enough")
        return Walked(Iterate(parameters, evaluation.value, evaluation.gradient), done, status)
