"""Losses and their derivatives over one block of rows, eight rows at a time.

Blocks are output-major: raw[a * count + i] is output a of row i. Nothing overflows for finite input; a raw prediction that is not
finite makes the loss, the residual and the curvature of its row not finite (`0 * raw` carries it through).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tasks.kernels.codes import (
    EPSILON_INSENSITIVE,
    HINGE,
    HUBER,
    LOGISTIC,
    MODIFIED_HUBER,
    MULTINOMIAL,
    SQUARED,
    SQUARED_HINGE,
)
from tasks.kernels.compiling import compiled, compiled_pass
from tasks.kernels.lanes import (
    LANES,
    exponent,
    fma,
    load_part,
    shifted_power_of_two,
    splat,
    store_part,
    where_equal,
    where_less,
)
from tasks.typing import Float64

_SHIFT: Final = 1.5 * 2.0**52  # x + SHIFT has round(x) in its low mantissa bits
_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01  # the last 21 bits are zero: n * LN2_HIGH is exact
_LN2_LOW: Final = 1.90821492927058770002e-10


@compiled
def exp_nonpositive(x: Any) -> Any:
    """exp(x) for x <= 0 within 1 ulp; 0 below the smallest normal number (x < -708)."""
    shifted = fma(x, splat(_LOG2_E), splat(_SHIFT))
    n = shifted - splat(_SHIFT)
    r = fma(n, splat(-_LN2_LOW), fma(n, splat(-_LN2_HIGH), x))
    q = splat(1.0 / 6227020800.0)  # Taylor: |r| <= ln2 / 2, the first term left out is 4e-18
    q = fma(q, r, splat(1.0 / 479001600.0))
    q = fma(q, r, splat(1.0 / 39916800.0))
    q = fma(q, r, splat(1.0 / 3628800.0))
    q = fma(q, r, splat(1.0 / 362880.0))
    q = fma(q, r, splat(1.0 / 40320.0))
    q = fma(q, r, splat(1.0 / 5040.0))
    q = fma(q, r, splat(1.0 / 720.0))
    q = fma(q, r, splat(1.0 / 120.0))
    q = fma(q, r, splat(1.0 / 24.0))
    q = fma(q, r, splat(1.0 / 6.0))
    q = fma(q, r, splat(0.5))
    value = (splat(1.0) + fma(q, r * r, r)) * shifted_power_of_two(shifted)
    return where_less(x, splat(-708.0), splat(0.0), value)


@compiled
def log1p_nonnegative(x: Any) -> Any:
    """log(1 + x) for x >= 0 within 1 ulp (the reduction and polynomial of fdlibm)."""
    one = splat(1.0)
    u = one + x
    k = exponent(u)
    scaled = u * shifted_power_of_two(splat(_SHIFT) - k) - one
    f = where_equal(k, splat(0.0), x, scaled)
    s = f / (splat(2.0) + f)
    z = s * s
    q = splat(1.479819860511658591e-01)
    q = fma(q, z, splat(1.531383769920937332e-01))
    q = fma(q, z, splat(1.818357216161805012e-01))
    q = fma(q, z, splat(2.222219843214978396e-01))
    q = fma(q, z, splat(2.857142874366239149e-01))
    q = fma(q, z, splat(3.999999999940941908e-01))
    q = fma(q, z, splat(6.666666666666735130e-01))
    half_square = splat(0.5) * f * f
    low = fma(s, fma(q, z, half_square), k * splat(_LN2_LOW))
    return fma(k, splat(_LN2_HIGH), f - (half_square - low))


@compiled
def _put_loss(losses: Float64, add: bool, i: int, value: Any, count: int) -> None:
    """Put losses[i : i + count] = value, or += value, if losses are wanted."""
    if len(losses):
        store_part(losses, i, load_part(losses, i, count) + value if add else value, count)


@compiled
def _squared(
    raw: Float64, target: Float64, weight: Float64, at: int, residual: Float64, curvature: Float64, losses: Float64, add: bool
) -> None:
    """The squared loss of one output: weighted residual and curvature of rows 0 .. len(weight) - 1, and their weighted losses by
    `_put_loss`."""
    count = len(weight)
    for i in range(0, count, LANES):
        n = min(LANES, count - i)
        w = load_part(weight, i, n)
        d = load_part(raw, at + i, n) - load_part(target, i, n)
        r = w * d
        _put_loss(losses, add, i, splat(0.5) * r * d, n)
        store_part(residual, at + i, r, n)
        if len(curvature):
            store_part(curvature, at + i, w, n)


@compiled
def _logistic(
    raw: Float64, target: Float64, weight: Float64, at: int, residual: Float64, curvature: Float64, losses: Float64, add: bool
) -> None:
    count = len(weight)
    zero, one = splat(0.0), splat(1.0)
    for i in range(0, count, LANES):
        n = min(LANES, count - i)
        w = load_part(weight, i, n)
        y = load_part(target, i, n)
        z = load_part(raw, at + i, n)
        small = exp_nonpositive(where_less(z, zero, z, zero - z))
        reciprocal = one / (one + small)
        mean = fma(z, zero, where_less(z, zero, small, one) * reciprocal)
        value = (where_less(z, zero, zero, z) - y * z) + log1p_nonnegative(small)
        _put_loss(losses, add, i, w * value, n)
        store_part(residual, at + i, w * (mean - y), n)
        if len(curvature):
            store_part(curvature, at + i, w * fma(z, zero, small * reciprocal * reciprocal), n)


@compiled_pass
def is_margin_loss(loss: int) -> bool:
    """Whether a loss of two pieces depends on the margin (2 y - 1) raw, else on the error raw - y."""
    return loss in (HINGE, SQUARED_HINGE, MODIFIED_HUBER)


@compiled_pass
def pieces(loss: int, parameter: float) -> tuple[float, float, float, float]:
    """The offset, scale, cap and slope of the losses in two pieces: 0 for u < 0, scale u² up to u = cap, from there on a line of that
    slope.

    u is offset - margin or |error| - offset.
    """
    if loss == HINGE:
        return parameter, 0.0, 0.0, 1.0
    if loss == SQUARED_HINGE:
        return 1.0, 1.0, np.inf, 0.0
    if loss == MODIFIED_HUBER:
        return 1.0, 1.0, 2.0, 4.0
    if loss == HUBER:
        return 0.0, 0.5, parameter, parameter
    if loss == EPSILON_INSENSITIVE:
        return parameter, 0.0, 0.0, 1.0
    return parameter, 1.0, np.inf, 0.0


@compiled
def _piecewise(
    loss: int,
    parameter: float,
    raw: Float64,
    target: Float64,
    weight: Float64,
    at: int,
    residual: Float64,
    curvature: Float64,
    losses: Float64,
    add: bool,
) -> None:
    """The loss in `pieces` of one output. At u = 0 the hinge has its slope and the epsilon-insensitive loss none, as in scikit-learn."""
    count = len(weight)
    offset, scale, cap, slope = pieces(loss, parameter)
    margin = is_margin_loss(loss)
    start, end, square, line = splat(offset), splat(cap), splat(scale), splat(slope)
    second, at_end = splat(2.0 * scale), splat(slope if margin else 2.0 * scale * cap)
    zero, one = splat(0.0), splat(1.0)
    for i in range(0, count, LANES):
        n = min(LANES, count - i)
        w = load_part(weight, i, n)
        y = load_part(target, i, n)
        z = load_part(raw, at + i, n)
        if margin:
            sign = one - (y + y)  # du/draw
            u = fma(sign, z, start)
        else:
            sign = where_less(z, y, zero - one, one)
            u = sign * (z - y) - start
        check = z * zero
        positive = where_less(u, zero, zero, u)
        v = where_less(end, positive, end, positive)
        value = fma(square * v, v, line * (positive - v)) + check
        derivative = where_less(u, zero, zero, where_less(u, end, second * v, where_equal(u, end, at_end, line))) + check
        _put_loss(losses, add, i, w * value, n)
        store_part(residual, at + i, w * (sign * derivative), n)
        if len(curvature):
            inside = where_less(u, zero, zero, where_less(end, u, zero, second))
            store_part(curvature, at + i, w * (inside + check), n)


@compiled
def _multinomial(
    raw: Float64, target: Float64, weight: Float64, at: int, c: int, residual: Float64, probability: Float64, losses: Float64
) -> None:
    """The multinomial loss of all c outputs of one model; residual = weight (softmax - indicator), probability = softmax (not weighted)."""
    count = len(weight)
    zero = splat(0.0)
    for i in range(0, count, LANES):
        n = min(LANES, count - i)
        w = load_part(weight, i, n)
        y = load_part(target, i, n)
        top = load_part(raw, at + i, n)
        best, chosen, check = zero, zero, zero
        for a in range(c):
            z, code = load_part(raw, at + a * count + i, n), splat(float(a))
            best = where_less(top, z, code, best)
            top = where_less(top, z, z, top)
            chosen = where_equal(y, code, z, chosen)
            check = fma(z, zero, check)
        rest = check  # the sum of the exponentials without the largest, which is 1: a tiny loss keeps its digits
        for a in range(c):
            e = exp_nonpositive(load_part(raw, at + a * count + i, n) - top)
            rest = rest + where_equal(best, splat(float(a)), zero, e)
            store_part(residual, at + a * count + i, e, n)
        _put_loss(losses, False, i, w * ((top - chosen) + log1p_nonnegative(rest)), n)
        reciprocal = splat(1.0) / (splat(1.0) + rest)
        for a in range(c):
            mean = load_part(residual, at + a * count + i, n) * reciprocal
            if len(probability):
                store_part(probability, at + a * count + i, mean, n)
            indicator = where_equal(y, splat(float(a)), splat(1.0), zero)
            store_part(residual, at + a * count + i, w * (mean - indicator), n)


@compiled
def by_class(weight: Float64, target: Float64, positive: float) -> Float64:
    """Row weights, times `positive` where the target is 1."""
    weighted = weight.copy()
    for i in range(len(weight)):
        if target[i] == 1.0:
            weighted[i] *= positive
    return weighted


@compiled
def pointwise(
    loss: int,
    parameter: float,
    raw: Float64,
    target: Float64,
    weight: Float64,
    positive_weight: Float64,
    k: int,
    c: int,
    residual: Float64,
    curvature: Float64,
    losses: Float64,
) -> None:
    """Weighted losses of the rows of a block, (k, count) flat, and their derivatives with respect to raw, (k c, count) flat.

    losses     skipped if empty
    residual   weight * dloss/draw
    curvature  the class probabilities for multinomial, weight * d²loss/draw² for all others; skipped if empty
    """
    count = len(weight)
    for model in range(k):
        of_model = losses[model * count : (model + 1) * count]
        if loss == MULTINOMIAL:
            _multinomial(raw, target, weight, model * c * count, c, residual, curvature, of_model)
            continue
        for a in range(c):
            at, y = (model * c + a) * count, target[a * count : (a + 1) * count]
            w = by_class(weight, y, positive_weight[a]) if len(positive_weight) else weight
            if loss == LOGISTIC:
                _logistic(raw, y, w, at, residual, curvature, of_model, a > 0)
            elif loss == SQUARED:
                _squared(raw, y, w, at, residual, curvature, of_model, a > 0)
            else:
                _piecewise(loss, parameter, raw, y, w, at, residual, curvature, of_model, a > 0)


@compiled
def curvature_times(loss: int, curvature: Float64, weight: Float64, k: int, c: int, direction: Float64, product: Float64) -> None:
    """Compute product = (d²loss/draw²) @ direction for each row, weight included; both (k c, count) flat."""
    count = len(weight)
    if loss != MULTINOMIAL:
        for i in range(k * c * count):
            product[i] = curvature[i] * direction[i]
        return
    mean = np.empty(count)
    for model in range(k):
        at = model * c * count
        mean[:] = 0.0
        for a in range(c):
            for i in range(count):
                mean[i] += curvature[at + a * count + i] * direction[at + a * count + i]
        for a in range(c):
            for i in range(count):
                j = at + a * count + i
                product[j] = weight[i] * curvature[j] * (direction[j] - mean[i])


@compiled
def curvature_pair(loss: int, curvature: Float64, weight: Float64, at: int, a: int, b: int, pair: Float64) -> None:
    """Compute pair = weight * d²loss/draw_a draw_b for each row, of the model whose curvature starts at `at`."""
    count = len(weight)
    for i in range(count):
        p = curvature[at + a * count + i]
        if loss == MULTINOMIAL:
            q = curvature[at + b * count + i]
            pair[i] = weight[i] * (p - p * q if a == b else -p * q)
        else:
            pair[i] = p if a == b else 0.0


@compiled
def take_targets(loss: int, y: Float64, weight: Float64, start: int, count: int, target: Float64, row_weight: Float64) -> None:
    """Targets (t, count) flat and weights (count,) of rows start:start + count; class codes come as float64 bit patterns."""
    n_targets = y.shape[1]
    if loss == MULTINOMIAL:
        codes = y.view(np.int64)
        for i in range(count):
            target[i] = codes[start + i, 0]
    else:
        for i in range(count):
            for t in range(n_targets):
                target[t * count + i] = y[start + i, t]
    if len(weight):
        for i in range(count):
            row_weight[i] = weight[start + i]
    else:
        row_weight[:count] = 1.0
