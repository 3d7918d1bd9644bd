"""What one round asks of the workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from tasks.objectives.base import Partial, add_partials
from tasks.objectives.penalties import Penalty
from tasks.objectives.scoring import ScoreInput, ScoreSums, add_scores, score_sums
from tasks.reductions.reduction import Prepare, Reduction
from tasks.reductions.stages.marks import marked
from tasks.rounds.local_models import local_hessian
from tasks.rows.batches import Batch, draw_ahead, select
from tasks.rows.draws import sample
from tasks.rows.partition import Group
from tasks.strategies.base import Power
from tasks.typing import Array


class RoundInput(NamedTuple):
    """Sent once a round: the objective and the parameters (k, n) of its k models; direction (k, n) for rounds that need a second vector;
    penalties (k) for what workers solve themselves. row_step: only every row_step-th row of each partition counts, in all sums; batch:
    only its rows do. marked: whether the sums of each lane are to have a mark."""

    objective: Any  # has the powers that its strategy asks for: checked once, when the fit starts
    power: Power
    parameters: Array
    direction: Array | None
    row_step: int
    penalties: tuple[Penalty, ...] = ()
    batch: Batch | None = None
    marked: bool = False


def compute_partial(groups: Sequence[Group], shared: RoundInput) -> Partial:
    """The sums of one lane."""
    shared = aligned(shared)
    objective, group = shared.objective, chosen_rows(groups, shared)
    if shared.power == "hessian":
        return objective.hessian(group, shared.parameters)
    if shared.power == "local_hessian":
        return local_hessian(objective, group, shared.parameters, shared.penalties)
    if shared.power == "hessian_vector":
        return objective.hessian_vector(group, shared.parameters, shared.direction)
    if shared.power == "gradient_difference":
        return gradient_difference(objective, group, shared)
    return require_sums(objective, objective.loss_and_gradient(group, shared.parameters), shared.parameters)


def require_sums(objective: Any, found: Any, parameters: Array) -> Partial:
    """What an objective returned, which may be the user's own. Raises TypeError or ValueError for what is no sums of k models."""
    name = type(objective).__name__
    if not isinstance(found, Partial):
        raise TypeError(f"{name}.loss_and_gradient must return tasks.objectives.base.Partial, got {type(found).__name__}")
    if np.shape(found.gradient_sum) != parameters.shape or np.shape(found.loss_sum) != parameters.shape[:1]:
        shapes = f"loss_sum {np.shape(found.loss_sum)} and gradient_sum {np.shape(found.gradient_sum)}"
        raise ValueError(
            f"{name}.loss_and_gradient must return loss_sum {parameters.shape[:1]} and gradient_sum {parameters.shape}, got {shapes}"
        )
    return found


def aligned(shared: RoundInput) -> RoundInput:
    """Parameters that came over a network can start at any address, and BLAS then gives other bits."""
    direction = None if shared.direction is None else np.require(shared.direction, requirements=["C", "A"])
    return shared._replace(parameters=np.require(shared.parameters, requirements=["C", "A"]), direction=direction)


def chosen_rows(groups: Sequence[Group], shared: RoundInput) -> Group:
    """The rows that a round is about."""
    if shared.batch is not None:
        return select(groups, shared.batch)
    (group,) = groups
    return sample(group, shared.row_step) if shared.row_step > 1 else group


def gradient_difference(objective: Any, group: Group, shared: RoundInput) -> Partial:
    """Losses and gradients at `parameters`, less the gradients at `direction`, in one pass over the rows."""
    assert shared.direction is not None
    both = objective.loss_and_gradient(group, np.concatenate([shared.parameters, shared.direction]))
    k = len(shared.parameters)
    return Partial(both.loss_sum[:k], both.weight_sum, both.gradient_sum[:k] - both.gradient_sum[k:])


def compute_scores(groups: Sequence[Group], shared: RoundInput) -> tuple[ScoreSums, ...]:
    """What a score of each model is made from."""
    group = chosen_rows(groups, shared)
    return tuple(score_sums(group, ScoreInput(shared.objective, parameters)) for parameters in shared.parameters)


def add_all_scores(left: Sequence[ScoreSums], right: Sequence[ScoreSums]) -> tuple[ScoreSums, ...]:
    """Of each model."""
    return tuple(map(add_scores, left, right))


def vector_floats(shared: RoundInput, n_columns: int) -> int:
    """Floats of a partial of vectors."""
    return shared.parameters.size


def matrix_floats(shared: RoundInput, n_columns: int) -> int:
    """Floats of a partial of matrices."""
    return shared.parameters.size * shared.parameters.shape[1]


def score_floats(shared: RoundInput, n_columns: int) -> int:
    """Floats of a score's sums: few."""
    return len(shared.parameters)


def next_batch(shared: RoundInput) -> Prepare | None:
    """How to draw the rows of the next round ahead."""
    return None if shared.batch is None else partial(draw_ahead, batch=shared.batch)


def lane_level(shared: RoundInput) -> int:
    """Of the subtrees of groups that draw rows together."""
    return 0 if shared.batch is None else shared.batch.level


REDUCTIONS: Final[dict[Power, Reduction]] = {
    "loss_and_gradient": Reduction("gradient", compute_partial, add_partials, vector_floats, lane_level, next_batch),
    "gradient_difference": Reduction("gradient-difference", compute_partial, add_partials, vector_floats, lane_level, next_batch),
    "hessian": Reduction("hessian", compute_partial, add_partials, matrix_floats, lane_level),
    "local_hessian": Reduction("local-hessian", compute_partial, add_partials, matrix_floats, lane_level),
    "hessian_vector": Reduction("hessian-vector", compute_partial, add_partials, vector_floats, lane_level),
    "score": Reduction("score", compute_scores, add_all_scores, score_floats, lane_level),
}


def reduction_of(shared: RoundInput) -> Reduction:
    """What computes the sums that a round asks for."""
    found = REDUCTIONS[shared.power]
    return marked(found) if shared.marked else found
