"""Several updates on each subtree by itself, between two rounds: local SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.objectives.base import Objective, Sums
from tasks.objectives.evaluation import evaluate, tracked
from tasks.objectives.penalties import Penalty
from tasks.rows.batches import Batch, drawn_rows
from tasks.rows.partition import Group
from tasks.strategies.base import LocalSteps
from tasks.strategies.optimizers import OptimizerState, proximal_update
from tasks.typing import Array


class LocalMemory(NamedTuple):
    """What a subtree goes on with in its next round. states: of its optimizer, one for each of k models, none where each round begins
    without any; controls (k, n): the mean gradients of its last round, each weighted by its step size, where those are asked for."""

    states: tuple[OptimizerState, ...] = ()
    controls: Array | None = None

    @property
    def arrays(self) -> tuple[Any, ...]:
        return tuple(state.slots for state in self.states), self.controls


def local_solve(
    groups: Sequence[Group],
    objective: Objective,
    parameters: Array,
    penalties: Sequence[Penalty],
    batch: Batch,
    steps: LocalSteps,
    controls: Array | None,
    own: LocalMemory,
) -> tuple[Sums, LocalMemory]:
    """The sums of one subtree: of the weight of the rows that it drew (k,), w; of w times the mean objective of its batches, each before
    its update (k,); and of w (x - x_here) (k, n), where x (k, n) are the parameters that all begin with. And what it goes on with.

    Step h draws the batch h visits after `batch`. A batch without weight moves nothing. controls (k, n): the mean of those of all subtrees,
    which makes the sums of gradients (2 k, n), of w times its own beside the moves; own: what it has kept, nothing in the first round.
    """
    here, k = parameters.copy(), len(parameters)
    states = list(own.states) or [steps.optimizer.init(each) for each in here]
    before = np.zeros_like(parameters) if own.controls is None else own.controls
    drift = None if controls is None else controls - before
    gradients, lengths = np.zeros_like(parameters), np.zeros(k)
    loss, weight = np.zeros(k), np.zeros(k)
    for h, step_size in enumerate(steps.step_sizes):
        sums = objective.loss_and_gradient(drawn_rows(groups, further(batch, h)), objective.layout.by_columns(here))
        for model in range(k):
            found = evaluate(sums, model, objective.layout, penalties[model], here[model])
            if not found.weight:
                continue
            loss[model] += found.weight * found.value
            weight[model] += found.weight
            gradient = found.gradient
            if drift is not None:
                gradients[model] += gradient * parameters.dtype.type(step_size)
                lengths[model] += step_size
                gradient = gradient + drift[model]
            if steps.proximal:
                gradient = gradient + (here[model] - parameters[model]) * parameters.dtype.type(steps.proximal)
            moved, states[model] = proximal_update(steps.optimizer, states[model], gradient, here[model], step_size, found)
            here[model] = tracked(moved, here[model], found)
    heavy, kept = weight[:, None].astype(parameters.dtype), LocalMemory(tuple(map(alone, states)) if steps.keep_slots else ())
    if drift is None:
        return Sums(loss, weight, heavy * (parameters - here)), kept
    moved = lengths[:, None] > 0
    means = np.where(moved, gradients / np.where(moved, lengths[:, None], 1).astype(parameters.dtype), before)
    return Sums(loss, weight, heavy * np.concatenate([parameters - here, means])), kept._replace(controls=means)


def alone(state: OptimizerState) -> OptimizerState:
    """The state in memory of its own: an update's shares one piece with the parameters."""
    return state._replace(slots=tuple(slot.copy() for slot in state.slots))


def further(batch: Batch, visits: int) -> Batch:
    """The batch of so many visits later."""
    epochs, number = divmod(batch.number + visits, batch.sampling.n_rounds)
    return batch._replace(epoch=batch.epoch + epochs, number=number)
