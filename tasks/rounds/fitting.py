"""One fit as pure functions of its states: what the next round asks, and what its sums do to the states.

The loop itself runs wherever rounds are cheapest to watch from: in the client (`pipeline/training/loop.py`) or on a worker
(`tasks/workers/participants.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tasks.objectives.base import Objective, Scored
from tasks.objectives.evaluation import Evaluation, evaluate, evaluate_difference, evaluate_product
from tasks.objectives.penalties import Penalty
from tasks.objectives.scoring import accuracy, r2
from tasks.reductions.reduction import Reduction
from tasks.reductions.stages.marks import Marked, Marks
from tasks.rounds.oracles import RoundInput, reduction_of
from tasks.strategies.base import POWERS, Power, Round, Strategy
from tasks.typing import Array


class Asked(NamedTuple):
    """The next round: the requests that its pass serves, by number of the model; and what the workers get."""

    requests: dict[int, Round]
    shared: RoundInput

    @property
    def reduction(self) -> Reduction:
        return reduction_of(self.shared)


class Report(NamedTuple):
    """One round: see `pipeline.training.history.Row`. n_bytes: of numbers that one worker receives and returns; elapsed: seconds since
    whoever runs the rounds began; marks: of its sums, where the fit is marked."""

    power: Power
    row_step: int
    iteration: int
    objective: float
    gradient_norm: float
    n_bytes: int
    elapsed: float
    marks: Marks | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """k models, one penalty each. They run in lockstep and share each pass over the rows; a model that is done leaves. marked: whether
    reports have the marks of their rounds' sums."""

    objective: Objective
    penalties: tuple[Penalty, ...]
    strategy: Strategy
    marked: bool = False

    def __post_init__(self) -> None:
        missing = [power for power in self.strategy.powers if not isinstance(self.objective, POWERS[power])]
        if missing:
            raise TypeError(
                f"{type(self.objective).__name__} is not compatible with {type(self.strategy).__name__}:"
                f" it must implement {', '.join(missing)}"
            )

    def init(self, parameters: Array) -> list[Any]:
        """The states before the first round, from parameters (k, n)."""
        return [self.strategy.init(row) for row in parameters]

    def ask(self, states: Sequence[Any]) -> Asked | None:
        """The round that serves the first running model and all that ask for the same sums; None when all are done."""
        requests = {model: self.strategy.request(state) for model, state in enumerate(states) if state.status.kind == "running"}
        if not requests:
            return None
        kinds = {model: (request.power, request.row_step, request.batch) for model, request in requests.items()}
        first = next(iter(kinds.values()))
        requests = {model: request for model, request in requests.items() if kinds[model] == first}
        parameters = stacked([request.parameters for request in requests.values()])
        directions = [request.direction for request in requests.values() if request.direction is not None]
        power, row_step, batch = first
        penalties = tuple(self.penalties[model] for model in requests)
        along = stacked(directions) if directions else None
        return Asked(requests, RoundInput(self.objective, power, parameters, along, row_step, penalties, batch, self.marked))

    def update(self, states: Sequence[Any], asked: Asked, partial: Any) -> list[Any]:
        """The states after a round."""
        after = list(states)
        partial = partial.sums if isinstance(partial, Marked) else partial
        for position, (model, request) in enumerate(asked.requests.items()):
            after[model] = self.strategy.update(states[model], self._answer(request, partial, position, self.penalties[model]))
        return after

    def _answer(self, request: Round, partial: Any, position: int, penalty: Penalty) -> Evaluation:
        """What the strategy learns from the sums, of which `position` along the model axis is its own."""
        layout = self.objective.layout
        if request.power == "score":
            sums = partial[position]
            assert isinstance(self.objective, Scored)
            score = np.nan  # where none of the rows held out counts, or none are: groups round their shares
            if sums.weight:
                score = r2(sums) if self.objective.classes is None else accuracy(sums)
            return Evaluation(score, request.parameters, None, layout.size - layout.n_coef, sums.weight)
        if request.weight is not None:
            partial = partial._replace(weight_sum=request.weight)
        if request.power == "gradient_difference":
            assert request.direction is not None
            return evaluate_difference(partial, position, layout, penalty, request.parameters, request.direction)
        if request.direction is not None:
            return evaluate_product(partial, position, layout, penalty, request.direction)
        return evaluate(partial, position, layout, penalty, request.parameters)

    def report(self, asked: Asked, partial: Any, states: Sequence[Any], elapsed: float) -> Report:
        """What there is to say about a round, from the states after it."""
        accepted, batch = [state.accepted for state in states], asked.shared.batch
        sums, marks = partial, None
        if isinstance(partial, Marked):
            sums, marks = partial.sums, Marks(asked.reduction.level(asked.shared), partial.marks)
        gradients = [max(float(np.max(a.gradient, initial=0.0)), -float(np.min(a.gradient, initial=0.0))) for a in accepted]
        return Report(
            power=asked.shared.power,
            row_step=asked.shared.row_step if batch is None or batch.number < 0 else batch.sampling.n_rounds,
            iteration=max(state.iteration for state in states),
            objective=float(np.max([a.value for a in accepted])),  # unlike max, NaN wins
            gradient_norm=float(np.max(gradients)),
            n_bytes=round_bytes(asked.shared, sums),
            elapsed=elapsed,
            marks=marks,
        )


def stacked(vectors: Sequence[Array]) -> Array:
    """(k, n) from k vectors; one is not copied."""
    return np.stack(vectors) if len(vectors) > 1 else vectors[0][None]


def round_bytes(shared: RoundInput, partial: Any) -> int:
    """Bytes of numbers that one worker receives and returns in a round."""
    return sum(array.nbytes for array in (*shared, *partial) if isinstance(array, np.ndarray))
