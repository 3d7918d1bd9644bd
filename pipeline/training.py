"""The one fit loop: ask the strategy, reduce where the data lives, move the parameters once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.execution.executors import Executor
from pipeline.history import History, Row
from tasks.objectives import Evaluation, Layout, Objective, Partial, evaluate, evaluate_product
from tasks.penalties import L2
from tasks.rounds import REDUCTIONS, RoundInput
from tasks.strategies.base import POWERS, Round, Status, Strategy
from tasks.threads import single_blas_thread
from tasks.typing import Float64

OnRound = Callable[[Row], bool]
CUT_OFF: Final = "a callback ended the fit"


@dataclass(frozen=True, eq=False)
class Result:
    """parameters (k, n) at the last accepted point of each of the k models, how each ended, and the rounds."""

    parameters: Float64
    statuses: tuple[Status, ...]
    iterations: tuple[int, ...]
    history: list[Row]
    bytes_per_round: int
    tasks_per_round: int


def train(
    executor: Executor,
    dataset: Dataset,
    objective: Objective,
    penalties: Sequence[L2],
    strategy: Strategy,
    parameters: Float64,
    on_round: OnRound | None = None,
) -> Result:
    """Minimise, for each of k models, mean loss plus its penalty, from parameters (k, n).

    The models run in lockstep and share each pass over the rows; a model that is done leaves. on_round is called after every round and
    ends the fit by returning True. Raises TypeError when the objective lacks a power that the strategy asks for.
    """
    check_powers(objective, strategy)
    states = [strategy.init(row) for row in parameters]
    history = History()
    sent = 0
    stopped = False
    with single_blas_thread():
        while not stopped and (requests := shared_requests(strategy, states)):
            shared = round_input(objective, list(requests.values()), [penalties[model] for model in requests])
            partial = executor.map_reduce(dataset, REDUCTIONS[shared.power], shared)
            for position, (model, request) in enumerate(requests.items()):
                evaluation = answer(request, partial, position, objective.layout, penalties[model])
                states[model] = strategy.update(states[model], evaluation)
            sent = max(sent, round_bytes(shared, partial))
            row = history.add(shared.power, shared.row_step, states)
            stopped = on_round is not None and on_round(row)
    statuses = tuple(stopped_status(state.status) for state in states)
    accepted = np.stack([state.accepted.parameters for state in states])
    iterations = tuple(state.iteration for state in states)
    return Result(accepted, statuses, iterations, history.rows, sent, executor.tasks_per_round)


def check_powers(objective: Objective, strategy: Strategy) -> None:
    """Whether the strategy can be fed, before any cluster time is spent."""
    missing = [power for power in strategy.powers if not isinstance(objective, POWERS[power])]
    if missing:
        raise TypeError(
            f"{type(objective).__name__} is not compatible with {type(strategy).__name__}: it must implement {', '.join(missing)}"
        )


def shared_requests(strategy: Strategy, states: Sequence[Any]) -> dict[int, Round]:
    """By model, the requests that one pass can serve: those that ask for the same sums as the first running model; {} when all are done."""
    requests = {model: strategy.request(state) for model, state in enumerate(states) if state.status.kind == "running"}
    kinds = {model: (request.power, request.row_step) for model, request in requests.items()}
    first = next(iter(kinds.values()), None)
    return {model: request for model, request in requests.items() if kinds[model] == first}


def round_input(objective: Objective, requests: Sequence[Round], penalties: Sequence[L2]) -> RoundInput:
    """The models' requests stacked along the model axis."""
    parameters = np.stack([request.parameters for request in requests])
    directions = [request.direction for request in requests if request.direction is not None]
    along = np.stack(directions) if directions else None
    return RoundInput(objective, requests[0].power, parameters, along, requests[0].row_step, tuple(penalties))


def answer(request: Round, partial: Partial, position: int, layout: Layout, penalty: L2) -> Evaluation:
    """What the strategy learns from the sums, of which `position` along the model axis is its own."""
    if request.direction is not None:
        return evaluate_product(partial, position, layout, penalty, request.direction)
    return evaluate(partial, position, layout, penalty, request.parameters)


def round_bytes(shared: RoundInput, partial: Partial) -> int:
    """Bytes of numbers that one worker receives and returns in a round."""
    arrays = [shared.parameters, shared.direction, partial.loss_sum, partial.gradient_sum, partial.hessian_sum]
    return sum(array.nbytes for array in arrays if array is not None)


def stopped_status(status: Status) -> Status:
    """A fit that a callback ended is out of rounds."""
    return Status("out of rounds", CUT_OFF) if status.kind == "running" else status
