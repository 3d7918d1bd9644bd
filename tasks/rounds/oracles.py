"""The table of oracles: the quantities that strategies ask for, how their sums are computed, and what a strategy learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from tasks.loading.residence import at_home
from tasks.objectives.base import (
    GramSums,
    HessianBlockSums,
    HessianSums,
    HessianVectorSums,
    Objective,
    Scored,
    Sums,
    WeighsRows,
    add_sums,
)
from tasks.objectives.evaluation import Evaluation, evaluate, evaluate_difference, evaluate_product
from tasks.objectives.linear import LinearObjective
from tasks.objectives.penalties import Penalty
from tasks.objectives.scoring import ScoreInput, ScoreSums, accuracy, add_scores, r2, score_sums
from tasks.reductions.reduction import Prepare, Reduction
from tasks.reductions.remembered import LOCAL_UPDATES, attempt, recall, remember
from tasks.reductions.stages.compression import Coding, Packet, compressed
from tasks.reductions.stages.marks import marked
from tasks.rounds.consensus import Parts, consensus_step, join
from tasks.rounds.local_models import local_hessian
from tasks.rounds.local_solves import LocalMemory, local_solve
from tasks.rows.batches import Batch, draw_ahead, select
from tasks.rows.draws import sample
from tasks.rows.partition import Group
from tasks.strategies.base import Consensus, LocalSteps, Request
from tasks.typing import Array

TOGETHER_BYTES: Final = 2 << 20
SUMS_TOGETHER: Final = 2
"""Rows that make one pass have the bytes of so many of its sums at least, if there are so many."""


class Broadcast(NamedTuple):
    """What workers get in a round: the objective and the parameters (k, n) of its k models, as `OracleSpec.by_columns` says; direction
    (k, n) for rounds that need a second vector, or (k, p, p) for a basis of the columns; penalties (k) for oracles that need them on the
    workers. row_step: only every row_step-th row of each partition counts, in all sums; batch: only its rows do; local: what
    subtrees do by themselves. marked: whether the sums of each subtree are to have a mark. packet, coding: what subtrees
    get in place of parameters, of which there are none then, and how it is coded. fit: the name of the fit of which they remember
    something, or none."""

    objective: Any  # has what its strategy's oracles need: checked once, when the fit starts
    oracle: str
    parameters: Array
    direction: Array | None
    row_step: int
    penalties: tuple[Penalty, ...] = ()
    batch: Batch | None = None
    marked: bool = False
    local: LocalSteps | Consensus | None = None
    packet: Packet | None = None
    coding: Coding | None = None
    fit: str = ""


class OracleSpec(NamedTuple):
    """One row of the table.

    needs      the protocol that an objective must have
    reduction  what is computed on each subtree of groups, and how it adds up
    evaluate   (request, sums, model, objective, penalty) -> what the strategy learns, the model's sums being at that position of their
               model axis
    subset     which rows it is about: those that are trained on, or those that a batch's sampling holds out
    penalised  whether workers need the penalties
    compiled   whether what it asks of linear models is compiled on first use
    by_columns whether workers get parameters and direction as coefficients of the user's columns (`Layout.by_columns`)
    without    objectives that need no parameters for it
    """

    needs: type
    reduction: Reduction
    evaluate: Callable[[Request, Any, int, Objective, Penalty], Evaluation]
    subset: Literal["training", "held out"] = "training"
    penalised: bool = False
    compiled: bool = True
    by_columns: bool = False
    without: type | None = None


# -- on the workers ------------------------------------------------------------------------------------------------------------------


def gradient(group: Group, broadcast: Broadcast) -> Sums:
    """Losses and gradients."""
    return require_sums(broadcast.objective, broadcast.objective.loss_and_gradient(group, broadcast.parameters), broadcast.parameters)


def gradients(groups: Sequence[Group], broadcast: Broadcast) -> Sums:
    """`gradient` on the rows that a round is about, of subtrees that make one pass: see `passed_together`."""
    if len(groups) == 1 or drawn(broadcast.batch):
        return on_rows(gradient, groups, broadcast)
    rows, here = [chosen_rows([group], broadcast) for group in groups], aligned(broadcast)
    found: Sums = here.objective.loss_and_gradient_of(rows, here.parameters)
    return found


def weight(group: Group, broadcast: Broadcast) -> Sums:
    """The weight of the rows, and no losses; of objectives that do not say it by itself, by a pass."""
    objective, k = broadcast.objective, len(broadcast.parameters)
    found = np.full(k, objective.weight_sum(group)) if isinstance(objective, WeighsRows) else gradient(group, broadcast).weight_sum
    return Sums(np.zeros(k), found, np.zeros((k, 0)))


def gradient_difference(group: Group, broadcast: Broadcast) -> Sums:
    """Losses and gradients at `parameters`, less the gradients at `direction`, in one pass over the rows."""
    assert broadcast.direction is not None
    both = broadcast.objective.loss_and_gradient(group, np.concatenate([broadcast.parameters, broadcast.direction]))
    k = len(broadcast.parameters)
    return Sums(both.loss_sum[:k], both.weight_sum[:k], both.gradient_sum[:k] - both.gradient_sum[k:])


def hessian(group: Group, broadcast: Broadcast) -> Sums:
    """Losses, gradients and Hessians."""
    found: Sums = broadcast.objective.hessian(group, broadcast.parameters)
    return found


def hessian_blocks(group: Group, broadcast: Broadcast) -> Sums:
    """Losses, gradients and each output's own block of the Hessian."""
    found: Sums = broadcast.objective.hessian_blocks(group, broadcast.parameters)
    return found


def local_models(group: Group, broadcast: Broadcast) -> Sums:
    """The quadratic models of each partition: see `tasks.rounds.local_models`."""
    return local_hessian(broadcast.objective, group, broadcast.parameters, broadcast.penalties)


def gram(group: Group, broadcast: Broadcast) -> Sums:
    """Losses, gradients and the Hessian of one output, which all outputs share."""
    found: Sums = broadcast.objective.gram(group, broadcast.parameters)
    return found


def gram_in_basis(group: Group, broadcast: Broadcast) -> Sums:
    """The same in the coordinates that `direction` (k, p, p) makes of the columns."""
    found: Sums = broadcast.objective.gram_in_basis(group, broadcast.parameters, broadcast.direction)
    return found


def local_steps(groups: Sequence[Group], broadcast: Broadcast) -> Sums:
    """How far each subtree's own updates move the parameters: see `tasks.rounds.local_solves`."""
    assert broadcast.batch is not None
    assert isinstance(broadcast.local, LocalSteps)
    at_home(groups)
    here, version = aligned(broadcast), broadcast.local.version
    of_attempt = attempt(groups, broadcast.fit)
    own = recall(groups, broadcast.fit, LOCAL_UPDATES, version) if version else LocalMemory()
    sums, own = local_solve(groups, here.objective, here.parameters, here.penalties, broadcast.batch, broadcast.local, here.direction, own)
    if version is not None:
        remember(groups, broadcast.fit, LOCAL_UPDATES, version + 1, own, of_attempt)
    return sums


def consensus(groups: Sequence[Group], broadcast: Broadcast) -> Parts:
    """Losses and gradients, and where each subtree would have the parameters: see `tasks.rounds.consensus`."""
    assert isinstance(broadcast.local, Consensus)
    at_home(groups)
    here = aligned(broadcast)
    assert here.direction is not None
    return consensus_step(groups, here.objective, here.parameters, here.direction, broadcast.local)


def consensus_level(broadcast: Broadcast) -> int:
    """The level of the subtrees that go their own ways."""
    assert isinstance(broadcast.local, Consensus)
    return broadcast.local.subtrees.level


def consensus_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums with a place for some subtrees."""
    return 2 * broadcast.parameters.nbytes


def hessian_vector(group: Group, broadcast: Broadcast) -> Sums:
    """Products of the Hessians with directions."""
    found: Sums = broadcast.objective.hessian_vector(group, broadcast.parameters, broadcast.direction)
    return found


def scores(group: Group, broadcast: Broadcast) -> tuple[ScoreSums, ...]:
    """What a score of each model is made from."""
    return tuple(score_sums(group, ScoreInput(broadcast.objective, parameters)) for parameters in broadcast.parameters)


def add_all_scores(left: Sequence[ScoreSums], right: Sequence[ScoreSums]) -> tuple[ScoreSums, ...]:
    """The scores' sums of each model over neighbouring rows."""
    return tuple(map(add_scores, left, right))


def drawn(batch: Batch | None) -> bool:
    """Whether a batch's rows are gathered from whole subtrees."""
    return batch is not None and batch.number >= 0


def on_rows(compute: Callable[[Group, Broadcast], Any], groups: Sequence[Group], broadcast: Broadcast) -> Any:
    """`compute` on the rows of one subtree that a round is about."""
    return compute(chosen_rows(groups, broadcast), aligned(broadcast))


def require_sums(objective: Any, found: Any, parameters: Array) -> Sums:
    """What an objective returned, which may be the user's own. Raises TypeError or ValueError for what is no sums of k models."""
    name = type(objective).__name__
    if not isinstance(found, Sums):
        raise TypeError(f"{name}.loss_and_gradient must return tasks.objectives.base.Sums, got {type(found).__name__}")
    models = parameters.shape[:1]
    needed = {"loss_sum": models, "weight_sum": models, "gradient_sum": parameters.shape}
    shapes = {part: np.shape(getattr(found, part)) for part in needed}
    if shapes != needed:
        wanted, got = (", ".join(f"{part} {shape}" for part, shape in some.items()) for some in (needed, shapes))
        raise ValueError(f"{name}.loss_and_gradient must return {wanted}, got {got}")
    return found


def aligned(broadcast: Broadcast) -> Broadcast:
    """The same with aligned parameters: those that came over a network can start at any address, and BLAS then gives other bits."""
    vectors = [each for each in (broadcast.parameters, broadcast.direction) if each is not None]
    if all(each.flags.c_contiguous and each.flags.aligned for each in vectors):
        return broadcast
    direction = None if broadcast.direction is None else np.require(broadcast.direction, requirements=["C", "A"])
    return broadcast._replace(parameters=np.require(broadcast.parameters, requirements=["C", "A"]), direction=direction)


def chosen_rows(groups: Sequence[Group], broadcast: Broadcast) -> Group:
    """The rows that a round is about, at home."""
    at_home(groups)
    if broadcast.batch is not None:
        return select(groups, broadcast.batch)
    (group,) = groups
    return sample(group, broadcast.row_step) if broadcast.row_step > 1 else group


# -- what strategies learn -----------------------------------------------------------------------------------------------------------


def at_parameters(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """Value, gradient and perhaps Hessian at the parameters asked for."""
    return evaluate(sums, model, objective.layout, penalty, request.parameters, weight=request.weight)


def gram_at_parameters(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """Value and gradient at the parameters asked for, and the Hessian of one output's mean loss, or of each output's by itself."""
    return evaluate(divided(request, sums), model, objective.layout, penalty, request.parameters, gram=True)


def difference(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """The value, and the gradient less that at the direction asked for."""
    assert request.direction is not None
    return evaluate_difference(divided(request, sums), model, objective.layout, penalty, request.parameters, request.direction)


def product(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """The Hessian times the direction asked for, as the gradient."""
    assert request.direction is not None
    return evaluate_product(divided(request, sums), model, objective.layout, penalty, request.direction)


def moved(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """The mean objective of the batches of local updates, and as gradient how far these have moved the parameters on average."""
    layout, weight = objective.layout, float(sums.weight_sum[model])
    by = weight or np.nan
    n_free, k = layout.size - layout.n_coef, len(sums.weight_sum)
    control = None if request.direction is None else sums.gradient_sum[k + model] / by
    value, gradient, statistics = float(sums.loss_sum[model] / by), sums.gradient_sum[model] / by, None
    if layout.rates is not None:  # subtrees have moved these themselves
        n_tracked = len(layout.rates)
        statistics = (request.parameters[-n_tracked:] - gradient[-n_tracked:], np.ones_like(layout.rates))
        gradient[-n_tracked:] = 0
    return Evaluation(value, gradient, None, n_free, weight, penalty=penalty, control=control, statistics=statistics)


def places(request: Request, parts: Parts, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """Value and gradient at the parameters asked for, and where each subtree has come to."""
    layout = replace(objective.layout, standard=None)  # sums of Hessians' rounds are by the parameters already
    found = evaluate(parts.sums, model, layout, penalty, request.parameters)
    return found._replace(places=(parts.places[:, model], parts.weights[:, model]))


def weighed(request: Request, sums: Sums, model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """The weight alone; nothing is said of the value."""
    layout = objective.layout
    return Evaluation(0.0, np.zeros_like(request.parameters), None, layout.size - layout.n_coef, float(sums.weight_sum[model]))


def divided(request: Request, sums: Sums) -> Sums:
    """The sums with the weight that they are divided by."""
    return sums if request.weight is None else sums._replace(weight_sum=np.full_like(sums.weight_sum, request.weight))


def score(request: Request, sums: Sequence[ScoreSums], model: int, objective: Objective, penalty: Penalty) -> Evaluation:
    """Accuracy or R² as the value. Raises ValueError where no row held out counts: there is nothing to go by."""
    found, layout = sums[model], objective.layout
    assert isinstance(objective, Scored)
    if not found.weight:
        raise ValueError(
            "the rows that are held out for early stopping have no weight together, so there is no score; raise validation_fraction, or"
            " give more rows a sample_weight above zero"
        )
    value = r2(found) if objective.classes is None else accuracy(found)
    return Evaluation(value, request.parameters, None, layout.size - layout.n_coef, found.weight)


# -- the table -----------------------------------------------------------------------------------------------------------------------


def vector_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums that are vectors like the parameters."""
    return broadcast.parameters.nbytes


def local_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums of local updates: with control variates two vectors."""
    return broadcast.parameters.nbytes * (1 if broadcast.direction is None else 2)


def matrix_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums that are matrices of the parameters by themselves."""
    return broadcast.parameters.nbytes * broadcast.parameters.shape[1]


def gram_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums that are a matrix of the columns by themselves."""
    return 8 * (n_columns + 1) ** 2


def block_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of sums that are a matrix of the columns for each output."""
    return broadcast.parameters.nbytes * (n_columns + 1)


def score_bytes(broadcast: Broadcast, n_columns: int) -> int:
    """Bytes of the sums of scores: few."""
    return 8 * len(broadcast.parameters)


def next_batch(broadcast: Broadcast) -> Prepare | None:
    """How to draw the rows of the next round ahead."""
    batch = broadcast.batch
    return None if batch is None or batch.subtree is not None else partial(draw_ahead, batch=batch)


def only_subtree(broadcast: Broadcast) -> int | None:
    """The number of the only subtree of groups that a round is about, or None."""
    return None if broadcast.batch is None else broadcast.batch.subtree


def subtree_level(broadcast: Broadcast) -> int:
    """The level of the subtrees of groups that draw rows together."""
    return 0 if broadcast.batch is None else broadcast.batch.level


def passed_together(broadcast: Broadcast, n_bytes: float) -> int:
    """The level of the groups that make one pass. Their batches: few calls, and rows that are still in the cache when they are passed over.
    Whole groups: where sums have more bytes than their rows, forming and adding them would take longer than the rows. Not for objectives
    that draw numbers of their own for each subtree, or are the user's and add up as they like."""
    level, batch = subtree_level(broadcast), broadcast.batch
    if type(broadcast.objective) is not LinearObjective:
        return level
    if batch is not None and drawn(batch):
        while n_bytes * (2 << level) <= TOGETHER_BYTES * batch.sampling.n_rounds:
            level += 1
        return level
    n_bytes = max(n_bytes, 1.0) / broadcast.row_step
    while n_bytes * (1 << level) < SUMS_TOGETHER * broadcast.parameters.nbytes:
        level += 1
    return level


def reduction(name: str, compute: Callable[[Group, Broadcast], Any], **options: Any) -> Reduction:
    """A reduction over the rows that a round is about; options: what differs from sums that are vectors."""
    return Reduction(
        name,
        partial(on_rows, compute),
        **({"combine": add_sums, "n_bytes": vector_bytes, "level": subtree_level, "subtree": only_subtree} | options),
    )


ORACLES: Final[dict[str, OracleSpec]] = {
    "loss_and_gradient": OracleSpec(
        Objective,
        Reduction("gradient", gradients, add_sums, vector_bytes, subtree_level, only_subtree, next_batch, passed_together),
        at_parameters,
        by_columns=True,
    ),
    "gradient_difference": OracleSpec(
        Objective, reduction("gradient-difference", gradient_difference, ahead=next_batch), difference, by_columns=True
    ),
    "weight": OracleSpec(
        Objective,
        reduction("weight", weight, n_bytes=score_bytes, reads=False),
        weighed,
        compiled=False,
        by_columns=True,
        without=WeighsRows,
    ),
    "hessian": OracleSpec(HessianSums, reduction("hessian", hessian, n_bytes=matrix_bytes), at_parameters),
    "hessian_blocks": OracleSpec(HessianBlockSums, reduction("hessian-blocks", hessian_blocks, n_bytes=block_bytes), gram_at_parameters),
    "local_hessian": OracleSpec(HessianSums, reduction("local-hessian", local_models, n_bytes=matrix_bytes), at_parameters, penalised=True),
    "gram": OracleSpec(GramSums, reduction("gram", gram, n_bytes=gram_bytes), gram_at_parameters),
    "gram_in_basis": OracleSpec(
        GramSums, reduction("gram-in-basis", gram_in_basis, n_bytes=gram_bytes), gram_at_parameters, compiled=False
    ),
    "hessian_vector": OracleSpec(HessianVectorSums, reduction("hessian-vector", hessian_vector), product, by_columns=True),
    "local_steps": OracleSpec(
        Objective, Reduction("local-steps", local_steps, add_sums, local_bytes, subtree_level, only_subtree), moved, penalised=True
    ),
    "consensus": OracleSpec(HessianSums, Reduction("consensus", consensus, join, consensus_bytes, consensus_level, adds_up=False), places),
    "score": OracleSpec(Scored, reduction("score", scores, combine=add_all_scores, n_bytes=score_bytes), score, subset="held out"),
}


def reduction_of(broadcast: Broadcast) -> Reduction:
    """What computes the sums that a round asks for."""
    found = ORACLES[broadcast.oracle].reduction
    if broadcast.coding is not None:
        found = compressed(broadcast.coding, found)
    if broadcast.fit:
        found = found._replace(stays=True)
    return marked(found) if broadcast.marked else found
