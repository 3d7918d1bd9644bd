"""One pass over a group: every kernel reads each row once and adds up along the fixed tree of tasks.kernels.tree.

The sums of a pass are one flat float64 vector
    [loss (k), weight (1), coef gradient (m p), intercept gradient (m), Hessian (k N N)]
cut off after what the pass computes; `stack` holds one such vector for every open subtree. X is an array or a CSR triple: see
`tasks.kernels.blocks`. Blocks are cut from the start of each partition; a block of several small ones is computed
at once where each row is computed by itself, but summed partition by partition. So bits do not depend on neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.kernels.blocks import (
    add_and_predict,
    add_block,
    block_rows,
    gradient_block_rows,
    mark_block,
    predict_block,
    scratch_size,
    take_block,
)
from tasks.kernels.compiling import ZERO, compiled_leaf, compiled_pass
from tasks.kernels.dense import add_rows, dense_add, dense_predict, sum_of
from tasks.kernels.gram import GRAM_ROWS, add_gram, mirror, new_block, scale_rows
from tasks.kernels.lanes import read_only
from tasks.kernels.pointwise import curvature_pair, curvature_times, pointwise, take_targets
from tasks.kernels.tree import clear, collapse, new_stack, no_marks, push, total_of
from tasks.typing import Float64, Int64, UInt64


@compiled_pass
def gradient_pass(
    loss: int,
    coupled: bool,
    parameters: Float64,
    X: Any,
    y: Float64,
    weight: Float64,
    positive_weight: Float64,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    k: int,
    stack: Float64,
    marks: UInt64,
    top: int,
    leaf: int,
) -> int:
    """Push the sums of loss, weight and gradient of partitions number `leaf` and on, where the push before returned `top`; returns what the
    last of these did. The raw predictions of a block are computed while the block before it is added up."""
    m, p = coef.shape
    rows = gradient_block_rows(X, m)
    raw, residuals, losses = np.empty(m * rows), np.empty(m * rows), np.empty(k * rows)
    target, weights, no_curvature = np.empty(y.shape[1] * rows), np.empty(rows), np.empty(0)
    scratch = np.empty(scratch_size(X))
    start, stop, weighted = offsets[0], offsets[0], len(weight) > 0
    following = block_end(offsets, ZERO, stop, rows, m)
    predict_block(X, stop, following - stop, coef, intercept, raw, scratch)
    for j in range(len(offsets) - 1):
        clear(stack, marks, top)
        mark_block(X, offsets[j], offsets[j + 1], k, m, p, marks[top])
        at = offsets[j]
        while at < offsets[j + 1]:
            n_read = 0
            if at >= stop:
                start, stop = stop, following
                count = stop - start
                take_targets(coupled, y, weight, start, count, target, weights)
                pointwise(loss, parameters, raw, target, weights, positive_weight, count, k, m // k, residuals, no_curvature, losses)
                following = block_end(offsets, j, stop, rows, m)
                n_read = following - stop
            end = min(stop, offsets[j + 1])
            add_gradient(
                X, start, at, end, losses, k, weights, weighted, residuals, stack, top, stop, n_read, coef, intercept, raw, scratch
            )
            at = end
        top = push(stack, marks, top, leaf + j)
    return top


@compiled_pass
def collapse_pass(stack: Float64, marks: UInt64, top: int) -> None:
    """Make stack[0] the sum of all partitions."""
    collapse(stack, marks, top)


@compiled_leaf
def add_gradient(
    X: Any,
    start: int,
    at: int,
    end: int,
    losses: Float64,
    k: int,
    weights: Float64,
    weighted: bool,
    residuals: Float64,
    stack: Float64,
    top: int,
    stop: int,
    n_read: int,
    coef: Float64,
    intercept: Float64,
    raw: Float64,
    scratch: Float64,
) -> None:
    """Add to stack[top] the sums over the rows at .. end - 1 of a block that begins at `start`; each counts 1 unless weighted. Meanwhile
    compute the raw predictions of the n_read rows from `stop` on."""
    low, high, sums, m = at - start, end - start, stack[top], len(coef)
    add_outputs(losses[k * low : k * high], k, sums[:k])
    sums[k] += sum_of(weights[low:high]) if weighted else high - low
    factor, n = residuals[m * low : m * high], len(sums) - m
    add_and_predict(X, at, end - at, factor, sums[k + 1 : n], stop, n_read, coef, intercept, raw, scratch)
    add_outputs(factor, m, sums[n:])


@compiled_leaf
def add_products(X: Any, start: int, at: int, end: int, factors: Float64, m: int, sums: Float64, scratch: Float64) -> None:
    """Add up sums += [factors (m, rows) @ X, sums of factors (m)] over the rows at .. end - 1 of a block that begins at `start`."""
    factor = factors[m * (at - start) : m * (end - start)]
    n = len(sums) - m
    add_block(X, at, end - at, factor, sums[:n], scratch)
    add_outputs(factor, m, sums[n:])


@compiled_leaf
def block_end(offsets: Int64, j: int, start: int, rows: int, m: int) -> int:
    """The end of a block that starts in partition j or later: at most `rows` rows of it and, if the rest of it is less than that, of whole
    partitions after it. Not with several outputs: residuals (m, count) of a part of the rows lie apart. `start` where no row is left.
    """
    if start >= offsets[-1]:
        return start
    while offsets[j + 1] <= start:
        j += 1
    if m > 1 or offsets[j + 1] - start >= rows:
        return min(start + rows, offsets[j + 1])
    while j + 2 < len(offsets) and offsets[j + 2] - start <= rows:
        j += 1
    return offsets[j + 1]


@compiled_leaf
def add_outputs(values: Float64, m: int, sums: Float64) -> None:
    """Add up sums[a] += Σ_i values[a, i], values (m, count) flat."""
    count = len(values) // m
    for a in range(m):
        sums[a] += sum_of(values[a * count : (a + 1) * count])


@compiled_pass
def product_pass(
    loss: int,
    coupled: bool,
    parameters: Float64,
    X: Any,
    y: Float64,
    weight: Float64,
    positive_weight: Float64,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    k: int,
    coef_direction: Float64,
    intercept_direction: Float64,
) -> Float64:
    """Sums of Hessian-vector products: [coef (m p), intercept (m)]."""
    m, p = coef.shape
    rows = block_rows(X)
    raw, products, curvature, direction = np.empty(m * rows), np.empty(m * rows), np.empty(m * rows), np.empty(m * rows)
    target, weights, no_losses = np.empty(y.shape[1] * rows), np.empty(rows), np.empty(0)
    scratch = np.empty(scratch_size(X))
    stack = new_stack(len(offsets) - 1, m * p + m)
    marks = no_marks(stack)
    top, start, stop = ZERO, ZERO, ZERO
    for j in range(len(offsets) - 1):
        clear(stack, marks, top)
        at = offsets[j]
        while at < offsets[j + 1]:
            if at >= stop:
                start, stop = at, block_end(offsets, j, at, rows, m)
                count = stop - start
                w, h = weights[:count], curvature[: m * count]
                take_targets(coupled, y, weight, start, count, target, w)
                predict_block(X, start, count, coef, intercept, raw, scratch)
                predict_block(X, start, count, coef_direction, intercept_direction, direction, scratch)
                pointwise(loss, parameters, raw, target, weights, positive_weight, count, k, m // k, products, curvature, no_losses)
                curvature_times(coupled, h, w, k, m // k, direction, products)
            end = min(stop, offsets[j + 1])
            add_products(X, start, at, end, products, m, stack[top], scratch)
            at = end
        top = push(stack, marks, top, j)
    collapse(stack, marks, top)
    return total_of(stack)


@compiled_pass
def hessian_pass(
    loss: int,
    coupled: bool,
    parameters: Float64,
    X: Any,
    y: Float64,
    weight: Float64,
    positive_weight: Float64,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    k: int,
    constant: bool,
    shared: bool,
    apart: bool,
    fit_intercept: bool,
    shift: Float64,
    factor: Float64,
) -> Float64:
    """Sums of loss, weight, gradient and Hessian, of rows factor (x - shift); shared: of one output of one model, which all others have;
    apart: of each output by itself."""
    m, p = coef.shape
    c = m // k
    blocks, outputs = (1, 1) if shared else (m, 1) if apart else (k, c)
    size = outputs * p + (outputs if fit_intercept else 0)
    rows = GRAM_ROWS
    raw, residual, curvature = np.empty(m * rows), np.empty(m * rows), np.empty(m * rows)
    target, row_weight, losses = np.empty(y.shape[1] * rows), np.empty(rows), np.empty(k * rows)
    buffer, none, pair = new_block(p), np.empty(0), np.empty(rows)
    unit = constant and len(weight) == 0
    scaled = buffer if unit else new_block(p)
    first = k + 1 + m * p + m
    stack = new_stack(len(offsets) - 1, first + blocks * size * size)
    marks = no_marks(stack)
    top = ZERO
    for j in range(len(offsets) - 1):
        sums = stack[top]
        sums[:] = 0.0
        for start in range(offsets[j], offsets[j + 1], rows):
            count = min(rows, offsets[j + 1] - start)
            w, r, h, block = row_weight[:count], residual[: m * count], curvature[: m * count], buffer[:count]
            take_targets(coupled, y, weight, start, count, target, w)
            take_block(X, start, count, block)
            standardise(block, shift, factor)
            block = read_only(block)
            dense_predict(block, ZERO, count, coef, intercept, raw, none)
            pointwise(loss, parameters, raw, target, row_weight, positive_weight, count, k, c, residual, curvature, losses)
            add_outputs(losses[: k * count], k, sums[:k])
            sums[k] += sum_of(w)
            dense_add(block, ZERO, count, r, sums[k + 1 : k + 1 + m * p], none)
            add_outputs(r, m, sums[k + 1 + m * p : first])
            for model in range(1 if constant else blocks):
                H = sums[first + model * size * size : first + (model + 1) * size * size].reshape(size, size)
                at = model * outputs * count
                add_hessian(coupled, constant, unit, block, h, w, at, outputs, fit_intercept, H, scaled[:count], pair[:count])
        top = push(stack, marks, top, j)
    collapse(stack, marks, top)
    sums = total_of(stack)
    hessians = sums[first:].reshape(blocks, size, size)
    if constant and not shared:
        repeat_first_output(hessians, p, outputs)
    for model in range(blocks):
        mirror(hessians[model], p, outputs)
    return sums


@compiled_leaf
def standardise(block: Float64, shift: Float64, factor: Float64) -> None:
    """Standardise the columns (p,) that shift has: block (count, at least p) = factor (block - shift)."""
    for i in range(len(block)):
        for j in range(len(shift)):
            block[i, j] = (block[i, j] - shift[j]) * factor[j]


@compiled_leaf
def add_hessian(
    coupled: bool,
    constant: bool,
    unit: bool,
    block: Float64,
    curvature: Float64,
    weight: Float64,
    at: int,
    c: int,
    fit_intercept: bool,
    H: Float64,
    scaled: Float64,
    pair: Float64,
) -> None:
    """Add one model's block to H: lower triangles of the coef blocks on and below the diagonal, and the intercept rows.

    Where the curvature is constant only output 0, because all outputs have the same one and no output meets another; unit: where it is 1
    in all rows, which have no weights besides. scaled and pair are scratch memory for a block and its rows.
    """
    count = len(block)
    p = (len(H) - (c if fit_intercept else 0)) // c
    for a in range(1 if constant else c):
        for b in range(a + 1):
            if a != b and not coupled:
                continue
            curvature_pair(coupled, curvature, weight, at, a, b, pair)
            if not unit:
                scale_rows(block, pair, scaled)
            add_gram(scaled, block, H[a * p : (a + 1) * p, b * p : (b + 1) * p])
            if fit_intercept:
                add_rows(block, ZERO, count, pair, H[c * p + a, b * p : (b + 1) * p])
                if a != b:
                    add_rows(block, ZERO, count, pair, H[c * p + b, a * p : (a + 1) * p])
                H[c * p + a, c * p + b] += sum_of(pair)


@compiled_leaf
def repeat_first_output(hessians: Float64, p: int, c: int) -> None:
    """Copy the Hessian of output 0 of model 0 to all other outputs and models, for a loss of constant curvature."""
    k, size, _ = hessians.shape
    n_coef = c * p
    for output in range(1, k * c):  # output 0 of model 0 is the source
        model, a = output // c, output % c
        for i in range(p):
            for j in range(i + 1):
                hessians[model, a * p + i, a * p + j] = hessians[0, i, j]
        if size > n_coef:
            for j in range(p):
                hessians[model, n_coef + a, a * p + j] = hessians[0, n_coef, j]
            hessians[model, n_coef + a, n_coef + a] = hessians[0, n_coef, n_coef]


@compiled_pass
def predict_pass(X: Any, n: int, coef: Float64, intercept: Float64) -> Float64:
    """Raw predictions (n, m)."""
    m = len(coef)
    rows = block_rows(X)
    raw, scratch = np.empty(m * rows), np.empty(scratch_size(X))
    out = np.empty((n, m))
    for start in range(0, n, rows):
        count = min(rows, n - start)
        predict_block(X, start, count, coef, intercept, raw, scratch)
        for i in range(count):
            for a in range(m):
                out[start + i, a] = raw[a * count + i]
    return out
