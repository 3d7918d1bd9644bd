"""The loss of each partition as a quadratic about that partition's own optimum: one round does the work of several Newton steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tasks.objectives import Partial, add_partials, evaluate
from tasks.partition import Group
from tasks.penalties import L2
from tasks.reductions import tree_sum
from tasks.strategies.newton import Newton
from tasks.typing import Float64

# With fewer rows a parameter, a partition's own optimum says little about that of all rows.
ROWS_PER_PARAMETER: Final = 20
# and solving for many small ones costs more than it saves
FEWEST_ROWS: Final = 2000
# Newton's steps are there by then, unless the classes of a partition can be separated: with one class alone, say, the expected decrease
# only halves with each step.
MAX_EVALUATIONS: Final = 4
NEAR: Final = 0.005


def local_hessian(objective: Any, group: Group, parameters: Float64, penalties: Sequence[L2]) -> Partial:
    """Sums of the loss at parameters (k, n), of the gradients there and of the Hessians of each partition's quadratic model.

    objective: an Objective with HessianSums. A partition's model is the Taylor expansion of its loss about the optimum of that loss
    plus the penalty; or about `parameters`, where it has few rows or comes near no optimum (all rows of one class, say). The minimum of the
    summed models is the average of the optima weighted by their Hessians: Y. Zhang, J. Duchi and M. Wainwright, J. Mach. Learn. Res. 14
    (2013), section 3, has the plain average.
    """
    rows = np.diff(group.offsets)
    enough = rows >= max(FEWEST_ROWS, ROWS_PER_PARAMETER * parameters.shape[1])
    if not np.any(enough):
        return expansion(objective, group, parameters)
    partials = []
    for j, (start, stop) in enumerate(pairwise(group.offsets)):
        partition = group.partition(j, int(start), int(stop))
        partial = expansion(objective, partition, parameters)
        for model in range(len(parameters) if enough[j] else 0):
            move_to_optimum(objective, partition, parameters, penalties, partial, model)
        partials.append(partial)
    total: Partial = tree_sum(partials, add_partials)
    return total


def expansion(objective: Any, rows: Group, parameters: Float64) -> Partial:
    """The Taylor expansion about parameters (k, n)."""
    partial: Partial = objective.hessian(rows, parameters)
    return partial


def move_to_optimum(objective: Any, partition: Group, parameters: Float64, penalties: Sequence[L2], partial: Partial, model: int) -> None:
    """Put into `partial`, which holds the expansions about parameters (k, n), that of one model about its optimum on the partition; leave
    it as it is where none is near."""
    start = parameters[model]
    newton = Newton(tol=0.0, decrement_tol=min(NEAR, 0.5 * len(start) / (partial.weight_sum or np.nan)))
    state, at, here, position = newton.init(start), start, partial, model
    for _ in range(MAX_EVALUATIONS):
        state = newton.update(state, evaluate(here, position, objective.layout, penalties[model], at))
        if state.status.kind != "running":
            break
        at = newton.request(state).parameters
        here, position = expansion(objective, partition, at[None]), 0
    if state.status.kind != "converged" or not np.array_equal(at, state.accepted.parameters):
        return
    assert partial.hessian_sum is not None
    assert here.hessian_sum is not None
    gradient, hessian = here.gradient_sum[position], here.hessian_sum[position]
    partial.gradient_sum[model] = gradient + hessian @ (start - at)
    partial.hessian_sum[model] = hessian
