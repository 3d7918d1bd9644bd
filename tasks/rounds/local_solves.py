"""Several updates on each subtree by itself, between two rounds: local SGD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.objectives.base import Objective, Sums
from tasks.objectives.evaluation import evaluate
from tasks.objectives.penalties import Penalty
from tasks.rows.batches import Batch, drawn_rows
from tasks.rows.partition import Group
from tasks.strategies.base import LocalSteps
from tasks.strategies.optimizers import proximal_update
from tasks.typing import Array


def local_solve(
    groups: Sequence[Group], objective: Objective, parameters: Array, penalties: Sequence[Penalty], batch: Batch, steps: LocalSteps
) -> Sums:
    """The sums of one subtree: of the weight of the rows that it drew (k,), w; of w times the mean objective of its batches, each before
    its update (k,); and of w (x - x_here) (k, n), where x (k, n) are the parameters that all begin with.

    Step h draws the batch h visits after `batch`. A batch without weight moves nothing.
    """
    here, k = parameters.copy(), len(parameters)
    states = [steps.optimizer.init(each) for each in here]
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
            if steps.proximal:
                gradient = gradient + (here[model] - parameters[model]) * parameters.dtype.type(steps.proximal)
            here[model], states[model] = proximal_update(steps.optimizer, states[model], gradient, here[model], step_size, found)
    return Sums(loss, weight, weight[:, None].astype(parameters.dtype) * (parameters - here))


def further(batch: Batch, visits: int) -> Batch:
    """The batch of so many visits later."""
    epochs, number = divmod(batch.number + visits, batch.sampling.n_rounds)
    return batch._replace(epoch=batch.epoch + epochs, number=number)
