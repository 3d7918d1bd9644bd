"""What a batch of CSR rows touches of a linear model: the coefficients of its own columns, which are all that its gradient needs.

Numbers are added up in the order of the rows and of their entries, whatever the columns are called; so the gradient of rows whose columns
are numbered anew has, at these columns, the bits of the gradient of all, which is zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.machine.threads import single_blas_thread
from tasks.objectives.evaluation import Evaluation, quotient
from tasks.objectives.linear import LinearObjective
from tasks.objectives.penalties import in_order
from tasks.reductions.memory import mapped
from tasks.reductions.reduction import of_group
from tasks.rounds.fitting import Fit, Round, about
from tasks.rounds.oracles import Broadcast, divided, gradient
from tasks.rows.batches import Batch, drawn_rows
from tasks.rows.partition import Group
from tasks.strategies.base import Request
from tasks.typing import Int64
from tasks.workers.evaluating import Found


class Touched(NamedTuple):
    """A batch of a subtree. rows: with their columns numbered anew; objective: of these columns; positions (k,): of its parameters in the
    whole vector, ascending."""

    batch: Batch
    rows: Group
    objective: LinearObjective
    positions: Int64


def is_sparse(fit: Fit, rows: Sequence[Group]) -> bool:
    """Whether batches of these rows need but a few coefficients. Marks are of whole gradients."""
    objective = fit.objective
    return (
        type(objective) is LinearObjective
        and objective.standard is None
        and objective.compiled
        and not fit.marked
        and fit.coding is None
        and "gradient_difference" not in fit.strategy.oracles
        and all(isinstance(group.X, sp.csr_array) for group in rows)
    )


def draw(objective: LinearObjective, rows: Sequence[Group], batch: Batch) -> Touched:
    """The rows of a batch, and what they touch."""
    drawn = drawn_rows(rows, batch)
    before: Any = drawn.X
    columns, new = np.unique(before.indices, return_inverse=True)
    n, p, c = len(columns), objective.n_columns, objective.n_outputs
    X = sp.csr_array((before.data, new.astype(before.indices.dtype), before.indptr), shape=(drawn.n_rows, n))
    free = np.arange(c * p, objective.layout.size)
    positions = np.concatenate([*(output * p + columns.astype(np.int64) for output in range(c)), free])
    return Touched(batch, replace(drawn, X=X, _derived={}), replace(objective, n_columns=n), positions)


def evaluate_touched(touched: Touched, number: int, request: Request, penalties: Sequence[float]) -> Found:
    """The value of the objective, and as gradient that of the loss alone, by the parameters that are touched: request has theirs.
    penalties: the values of the penalty of all blocks of coefficients, in order."""
    with single_blas_thread():
        broadcast = Broadcast(touched.objective, request.oracle, request.parameters[None], None, 1, batch=touched.batch)
        found = mapped("gradient", of_group(gradient), [touched.rows], broadcast)
        sums = divided(request, found)
        weight = float(sums.weight_sum[0]) or nan
        value = float(sums.loss_sum[0] / weight) + in_order(penalties)
        by_touched = quotient(sums.gradient_sum[0], weight)
        evaluation = Evaluation(value, by_touched, None, 0, float(sums.weight_sum[0]))
        return Found(evaluation, about(Round({0: request}, broadcast, number), found))
