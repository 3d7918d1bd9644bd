"""What the losses' kernels compute with, eight numbers at a time: they get this module as their first argument."""

from __future__ import annotations

from typing import Any, Final

from tasks.kernels.compiling import compiled_leaf
from tasks.kernels.edges import load_some, store_some
from tasks.kernels.lanes import (
    LANES,
    exponent,
    fma,
    shifted_power_of_two,
    splat,
    where_equal,
    where_less,
)
from tasks.typing import Float64

__all__ = [
    "LANES",
    "exp_nonpositive",
    "fma",
    "load_some",
    "log1p_nonnegative",
    "put_loss",
    "splat",
    "store_some",
    "two_pieces",
    "where_equal",
    "where_less",
]

_SHIFT: Final = 1.5 * 2.0**52  # x + SHIFT has round(x) in its low mantissa bits
_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01  # the last 21 bits are zero: n * LN2_HIGH is exact
_LN2_LOW: Final = 1.90821492927058770002e-10


@compiled_leaf
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


@compiled_leaf
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


@compiled_leaf
def put_loss(losses: Float64, add: bool, i: int, value: Any, count: int) -> None:
    """Put losses[i : i + count] = value, or += value, if losses are wanted."""
    if len(losses):
        store_some(losses, i, load_some(losses, i, count) + value if add else value, count)


@compiled_leaf
def two_pieces(pieces: Float64, u: Any, check: Any) -> Any:
    """A function of u >= 0 in two pieces, 0 below, and its two derivatives; pieces: offset (not used), scale, cap, slope and at_cap of
    `tasks.objectives.losses.pieces`; check: 0, or NaN where u is not finite."""
    zero, end, line, second = splat(0.0), splat(pieces[2]), splat(pieces[3]), splat(2.0 * pieces[1])
    positive = where_less(u, zero, zero, u)
    v = where_less(end, positive, end, positive)
    value = fma(splat(pieces[1]) * v, v, line * (positive - v)) + check
    derivative = where_less(u, zero, zero, where_less(u, end, second * v, where_equal(u, end, splat(pieces[4]), line))) + check
    inside = where_less(u, zero, zero, where_less(end, u, zero, second)) + check
    return value, derivative, inside
