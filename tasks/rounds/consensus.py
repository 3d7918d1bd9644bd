"""The part of each subtree in consensus ADMM: a step towards the minimum of its own loss, held near where all are to meet."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.objectives.base import Sums, add_sums
from tasks.objectives.evaluation import evaluate
from tasks.objectives.penalties import L2
from tasks.reductions.tree import Tree
from tasks.rounds.local_models import Expandable
from tasks.rows.partition import Group
from tasks.strategies.base import Consensus
from tasks.strategies.newton import solve_newton
from tasks.typing import Float64

NONE = L2(0.0)
MAX_STEPS = 8
NEAR = 0.1
"""An expected decrease of a subtree's objective above this is looked after: the next evaluation says whether the step was good."""


class Parts(NamedTuple):
    """sums: of loss, weight and gradient, at z; weights (m, k): of the rows of each subtree; places (m, k, n): where each has come to."""

    sums: Sums
    weights: Float64
    places: Float64


def join(left: Parts, right: Parts) -> Parts:
    """The sums added, the places one after the other."""
    weights, places = np.concatenate([left.weights, right.weights]), np.concatenate([left.places, right.places])
    return Parts(add_sums(left.sums, right.sums), weights, places)


def consensus_step(groups: Sequence[Group], objective: Expandable, z: Float64, duals: Float64, consensus: Consensus) -> Parts:
    """A subtree's part for each of k models, from z (k, n) and its own dual u of duals (k, t, n): sums of loss and gradient at z, and x
    near the minimum of f(x) / w + ½ rho |x - z + u|², where f is the loss of the subtree's rows, which weigh w. Rows of no weight stay at
    z - u."""
    number = bisect_right(consensus.subtrees.first_partitions, groups[0].first_partition) - 1
    at_z = hessian(groups, objective, z)
    assert at_z.hessian_sum is not None
    places = z - duals[:, number]
    for model in range(len(z)):
        if at_z.weight_sum[model]:
            places[model] = near_minimum(groups, objective, at_z, model, z[model], places[model].copy(), consensus.rho)
    return Parts(at_z._replace(hessian_sum=None), at_z.weight_sum[None].copy(), places[None])


def hessian(groups: Sequence[Group], objective: Expandable, z: Float64) -> Sums:
    """Sums of loss, gradient and Hessian over the groups, along the fixed tree."""
    tree = Tree(len(groups), add_sums)
    for index, group in enumerate(groups):
        tree.add((0, index), objective.hessian(group, z))
    found: Sums = tree.result()
    return found


def near_minimum(
    groups: Sequence[Group], objective: Expandable, at_z: Sums, model: int, z: Float64, target: Float64, rho: float
) -> Float64:
    """One Newton step from z; more, and shorter ones, while a step is so long that the quadratic model may be wrong."""
    at, before, sums, position = z, z, at_z, model
    value = np.inf
    for _ in range(MAX_STEPS):
        found = evaluate(sums, position, objective.layout, NONE, at)
        assert found.hessian is not None
        here = found.value + 0.5 * rho * float(np.sum((at - target) ** 2))
        if here > value:  # too far: half the way back
            at = 0.5 * (at + before)
        else:
            value, before = here, at
            gradient = found.gradient + rho * (at - target)
            matrix = found.hessian + rho * np.eye(len(at))
            step = -solve_newton(matrix, gradient, 0)
            at = at + step
            if -0.5 * float(step @ gradient) <= NEAR:
                return at
        sums, position = hessian(groups, objective, at[None]), 0
    return before
