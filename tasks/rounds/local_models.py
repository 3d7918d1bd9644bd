"""The loss of each partition as a quadratic about that partition's own optimum: one round does the work of several Newton steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from tasks.objectives.base import HessianSums, Layout, Sums, add_sums
from tasks.objectives.evaluation import evaluate
from tasks.objectives.penalties import Penalty
from tasks.reductions.tree import Tree
from tasks.rows.partition import Group
from tasks.strategies.newton import Newton
from tasks.typing import Float64

# With fewer rows a parameter, a partition's own optimum says little about that of all rows; and many small ones cost more than they save.
ROWS_PER_PARAMETER: Final = 20
FEWEST_ROWS: Final = 2000
# Newton's steps are there by then, unless the classes of a partition can be separated: with one class alone, say, the expected decrease
# only halves with each step.
MAX_STEPS: Final = 3
NEAR: Final = 0.005


class Expandable(HessianSums, Protocol):
    """What is asked of an objective here."""

    @property
    def layout(self) -> Layout: ...


def local_hessian(objective: Expandable, group: Group, parameters: Float64, penalties: Sequence[Penalty]) -> Sums:
    """Sums of the loss at parameters (k, n), of the gradients there and of the Hessians of each partition's quadratic model.

    A partition's model is the Taylor expansion of its loss about the optimum of that loss
    plus the penalty; or about `parameters`, where it has few rows or comes near no optimum (all rows of one class, say). The minimum of the
    summed models is the average of the optima weighted by their Hessians: Y. Zhang, J. Duchi and M. Wainwright, J. Mach. Learn. Res. 14
    (2013), section 3, has the plain average.
    """
    rows = np.diff(group.offsets)
    enough = rows >= max(FEWEST_ROWS, ROWS_PER_PARAMETER * parameters.shape[1])
    if not np.any(enough):
        return objective.hessian(group, parameters)
    tree = Tree(len(rows), add_sums)
    for j, partition in enumerate(group.partitions()):
        sums = objective.hessian(partition, parameters)
        for model in range(len(parameters) if enough[j] else 0):
            move_to_optimum(objective, partition, parameters, penalties[model], sums, model)
        tree.add((0, j), sums)
    total: Sums = tree.result()
    return total


def move_to_optimum(objective: Expandable, partition: Group, parameters: Float64, penalty: Penalty, sums: Sums, model: int) -> None:
    """Put into `sums`, which holds the expansions about parameters (k, n), that of one model about its optimum on the partition; leave
    it as it is where none is near."""
    start = parameters[model]
    newton = Newton(tol=0.0, decrement_tol=min(NEAR, 0.5 * len(start) / partition.n_rows))
    state = newton.update(newton.init(start), evaluate(sums, model, objective.layout, penalty, start))
    if state.status.kind != "running":
        return
    for _ in range(MAX_STEPS):
        at = newton.request(state).parameters
        here = objective.hessian(partition, at[None])
        state = newton.update(state, evaluate(here, 0, objective.layout, penalty, at))
        if state.status.kind != "running":
            break
    if state.status.kind != "converged" or not np.array_equal(at, state.iterate.parameters):
        return
    assert sums.hessian_sum is not None
    assert here.hessian_sum is not None
    sums.gradient_sum[model] = here.gradient_sum[0] + here.hessian_sum[0] @ (start - at)
    sums.hessian_sum[model] = here.hessian_sum[0]
