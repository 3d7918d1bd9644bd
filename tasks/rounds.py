"""What one round asks of the workers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tasks.local_models import local_hessian
from tasks.objectives import Partial, add_partials
from tasks.partition import Group
from tasks.penalties import L2
from tasks.reductions import Reduction
from tasks.rows import sample
from tasks.strategies.base import Power
from tasks.typing import Float64


class RoundInput(NamedTuple):
    """Sent once a round: the objective and the parameters (k, n) of its k models; direction (k, n) for Hessian-vector rounds; penalties (k)
    for what workers solve themselves. row_step: only every row_step-th row of each partition counts, in all sums."""

    objective: Any  # has the powers that its strategy asks for: checked once, when the fit starts
    power: Power
    parameters: Float64
    direction: Float64 | None
    row_step: int
    penalties: tuple[L2, ...] = ()


def compute_partial(group: Group, shared: RoundInput) -> Partial:
    """The sums of one group."""
    objective = shared.objective
    if shared.row_step > 1:
        group = sample(group, shared.row_step)
    if shared.power == "hessian":
        return objective.hessian(group, shared.parameters)
    if shared.power == "local_hessian":
        return local_hessian(objective, group, shared.parameters, shared.penalties)
    if shared.power == "hessian_vector":
        return objective.hessian_vector(group, shared.parameters, shared.direction)
    return objective.loss_and_gradient(group, shared.parameters)


def vector_floats(shared: RoundInput, n_columns: int) -> int:
    """Floats of a partial of vectors."""
    return shared.parameters.size


def matrix_floats(shared: RoundInput, n_columns: int) -> int:
    """Floats of a partial of matrices."""
    return shared.parameters.size * shared.parameters.shape[1]


REDUCTIONS: Final[dict[Power, Reduction]] = {
    "loss_and_gradient": Reduction("gradient", compute_partial, add_partials, vector_floats),
    "hessian": Reduction("hessian", compute_partial, add_partials, matrix_floats),
    "local_hessian": Reduction("local-hessian", compute_partial, add_partials, matrix_floats),
    "hessian_vector": Reduction("hessian-vector", compute_partial, add_partials, vector_floats),
}
