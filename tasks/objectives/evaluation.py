"""From sums to what a strategy learns: the one division, the penalty, and the columns' units."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tasks.machine import buffers
from tasks.objectives.base import Layout, Sums
from tasks.objectives.penalties import L2, Penalty
from tasks.typing import Array, Float64


class Evaluation(NamedTuple):
    """The objective of one model at the parameters asked for, after the one division: mean loss plus penalty.

    value, gradient (n,), hessian (n, n), or as `GramSums` or `HessianBlockSums` say, or None, n_free: that many trailing parameters (the
    intercepts) are not penalised; weight: of the rows together, 0 when there was none; noise: how far rounding in the raw predictions can
    move the value; units (n - n_free,): factors by which the penalised parameters are multiplied to have the user's units, None where
    they have them; penalty: of the first parameters, all but n_free, whose prox is for strategies that take kinks. places: where each of
    t subtrees would have the parameters (t, n), and what its rows weigh (t,), where that was asked for; control (n,): the mean of the
    subtrees' control variates. statistics: where the last parameters are running statistics, which have no gradient, those of the rows,
    and the share of the way that each goes there.
    """

    value: float
    gradient: Array
    hessian: Float64 | None
    n_free: int
    weight: float = np.nan
    noise: float = 0.0
    units: Float64 | None = None
    penalty: Penalty = L2()
    places: tuple[Float64, Float64] | None = None
    control: Array | None = None
    statistics: tuple[Array, Array] | None = None


def evaluate(
    sums: Sums, model: int, layout: Layout, penalty: Penalty, parameters: Array, *, gram: bool = False, weight: float | None = None
) -> Evaluation:
    """(1 / Σ s_i) Σ s_i loss_i + penalty(coef), for model number `model` of the sums, at parameters (n,).

    gram: the Hessian is that of `GramSums`, (q, q) or (q, q + c), or of `HessianBlockSums`, (c, q, q), of the mean loss alone, without the
    penalty. weight: what to divide by in place of the rows' own, but for running statistics: a mean over other rows is none of these.
    Rows of no weight at all (they can make up a sample) give NaN, never an exception.
    """
    own = float(sums.weight_sum[model])
    by = (own if weight is None else weight) or np.nan
    coef = parameters[: layout.n_coef]
    gradient, statistics = quotient(sums.gradient_sum[model], by), None
    hessian = None
    if sums.hessian_sum is not None:
        hessian = sums.hessian_sum[model if len(sums.hessian_sum) > 1 else 0] / by
        if not gram:
            diagonal = np.arange(layout.n_coef)
            hessian[diagonal, diagonal] += penalty.curvature(coef)
    elif layout.standard is not None:
        standardise(gradient, layout)
    gradient[: layout.n_coef] += penalty.gradient(coef)
    if layout.rates is not None:
        n_tracked = len(layout.rates)
        gradient[-n_tracked:] = 0
        statistics = (sums.gradient_sum[model, -n_tracked:] / own, layout.rates) if own else None
    loss = float(sums.loss_sum[model] / by)
    noise = noise_of(loss, layout, parameters, standardised=hessian is not None)
    return Evaluation(
        loss + penalty.value(coef),
        gradient,
        hessian,
        layout.size - layout.n_coef,
        own if weight is None else weight,
        noise,
        units_of(layout),
        penalty,
        statistics=statistics,
    )


def tracked(moved: Array, parameters: Array, evaluation: Evaluation) -> Array:
    """`moved` (n,), with the running statistics of `parameters` (n,), which have gone their share of the way to those of the rows."""
    if evaluation.statistics is None:
        return moved
    statistics, rates = evaluation.statistics
    before = parameters[-len(rates) :]
    return np.concatenate([moved[: -len(rates)], before + rates * (statistics - before)])


def standardise(gradient: Float64, layout: Layout) -> None:
    """Turn a gradient (n,) by the coefficients of the user's columns into one by the parameters, in place."""
    arrays = layout.split(gradient)
    coef = arrays["coef"]
    assert layout.standard is not None
    coef[:] = layout.standard.gradient(coef, arrays.get("intercept", np.zeros(len(coef))))


def noise_of(loss: float, layout: Layout, parameters: Float64, *, standardised: bool) -> float:
    """How far rounding in the raw predictions can move the mean loss of a linear model.

    About their error times the mean |derivative| of the loss, which is at most twice the loss for logistic losses, and the root of the loss
    times twice the number of outputs for squared ones. standardised: whether the rows were, when they met the parameters.
    """
    if layout.standard is None:
        return 0.0
    arrays = layout.split(parameters)
    coef, intercept = arrays["coef"], arrays.get("intercept", np.zeros(len(arrays["coef"])))
    if standardised:
        coef = np.zeros_like(coef)
    else:
        coef, intercept = layout.standard.in_units(coef, intercept)
    return layout.standard.rounding(coef, intercept) * max(2 * loss, math.sqrt(2 * len(coef) * max(loss, 0.0)))


def units_of(layout: Layout) -> Float64 | None:
    """See `Evaluation`; 1 for coefficients of constant columns, which are zero."""
    if layout.standard is None:
        return None
    factor = layout.standard.factor
    return np.tile(np.where(factor > 0, factor, 1.0), layout.coef["coef"][0])


def quotient(total: Array, weight: float) -> Array:
    """total / weight in the dtype of total, in memory that is warm."""
    return np.divide(total, weight, out=buffers.empty(total.shape, total.dtype))


def evaluate_difference(sums: Sums, model: int, layout: Layout, penalty: Penalty, parameters: Array, reference: Array) -> Evaluation:
    """An evaluation as `evaluate` makes it, with the gradient less that at `reference` (n,): the sums have the difference of both."""
    found = evaluate(sums, model, layout, penalty, parameters)
    found.gradient[: layout.n_coef] -= penalty.gradient(reference[: layout.n_coef])
    return found


def evaluate_product(sums: Sums, model: int, layout: Layout, penalty: Penalty, direction: Float64) -> Evaluation:
    """The Hessian of the objective times direction (n,), in `gradient`; the value is NaN."""
    product = sums.gradient_sum[model] / (float(sums.weight_sum[model]) or np.nan)
    if layout.standard is not None:
        standardise(product, layout)
    coef = direction[: layout.n_coef]
    product[: layout.n_coef] += penalty.curvature(coef) * coef
    return Evaluation(np.nan, product, None, layout.size - layout.n_coef)
