"""Columns as solvers see them: centred, and of about the same size, whatever units the user's have.

Strategies move the coefficients of z = factor (x - shift), so that no step, no rank decision and no tolerance hangs on the units of
a column. The objective stays the user's: penalties are written in the new coefficients, and results are read back in the user's units.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tasks.objectives.penalties import L2
from tasks.typing import Array, Float64

EPSILON: Final = float(np.finfo(np.float64).eps)
LARGEST_EXPONENT: Final = 465
"""Factors lie in 2^-465 .. 2^465, so that their squares are numbers, too."""
CONSTANT: Final = 4 * EPSILON
"""Of a column's mean: a size up to this is rounding."""
COMMON_RANGE: Final = 10
"""In powers of two."""


class Standardisation(NamedTuple):
    """shift (p,) is taken from the columns, which are then multiplied with factor (p,).

    Factors are powers of two, so that they round nothing, and 0 for columns that are constant, which say nothing beside an intercept.
    coef (..., c, p), intercept (..., c).
    """

    shift: Float64
    factor: Float64

    def in_units(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Coefficients of z as those of the user's columns."""
        coef = coef * self.factor
        return coef, intercept - np.sum(coef * self.shift, axis=-1)

    def from_units(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Coefficients of the user's columns as those of z, with the same predictions."""
        scaled = np.divide(coef, self.factor, out=np.zeros_like(coef), where=self.factor > 0)
        return scaled, intercept + np.sum(coef * self.shift, axis=-1)

    def gradient(self, coef: Array, intercept: Array) -> Array:
        """The gradient by the coefficients of z, from that by those of the user's columns; intercept (..., c) stays as it is."""
        return (coef - intercept[..., None] * self.shift) * self.factor

    def penalty(self, penalty: L2, n_outputs: int) -> L2:
        """The penalty on the user's coefficients, one strength or (n_outputs p,) of them, as one on those of z."""
        factor = np.where(self.factor > 0, self.factor, 1.0)
        strength = np.broadcast_to(np.asarray(penalty.strength), (n_outputs * len(factor),))
        return L2(strength * np.tile(factor * factor, n_outputs))

    def rounding(self, coef: Array, intercept: Array) -> float:
        """How far rounding may move raw predictions that are made from the user's columns, by their coef (c, p) and intercept (c,)."""
        return 4 * EPSILON * float(np.max(np.sum(np.abs(coef * self.shift), axis=-1) + np.abs(intercept), initial=0.0))


def standardisation(mean: Float64, size: Float64, curvature: float, strength: float, *, common: bool = False) -> Standardisation:
    """Which shift and factor suit columns of that mean and size (p,), standard deviations where they are centred.

    The size of a column includes what the penalty, ½ strength coef², adds to the curvature of the objective along its coefficient, some
    `curvature` size² from the losses: a small column that is heavily penalised is not made large. common: one factor for all, where
    sizes are within COMMON_RANGE, so that the least norm among many solutions is that of the user's coefficients.
    """
    informative = size > CONSTANT * np.abs(mean)
    with np.errstate(divide="ignore"):
        exponent = np.round(-np.log2(np.hypot(size, np.sqrt(strength / curvature))))
    exponent = np.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    known = exponent[informative]
    if common and len(known) and np.ptp(known) <= COMMON_RANGE:
        exponent = np.full_like(exponent, np.median(known).round())
    return Standardisation(mean, np.where(informative, np.exp2(exponent), 0.0))


def target_standardisation(mean: Float64, size: Float64) -> Standardisation | None:
    """How several targets of that mean and size (t,) are brought to the size of the largest, and one that is far from zero is centred; None
    where nothing is to be done.

    Losses of targets add up, so that the small ones would not be seen beside the large; their minima do not hang on each other. A target
    that is constant has no size, and stays as large as it is.
    """
    known = size > CONSTANT * np.abs(mean)
    largest = float(np.max(size[known], initial=0.0))
    exponent = np.round(np.log2(largest / np.where(known, size, largest))) if largest else np.zeros(len(size))
    if not np.any(exponent) and not np.any(np.abs(mean) > FAR * size):
        return None
    return Standardisation(mean, np.exp2(np.clip(exponent, 0, LARGEST_EXPONENT)))


FAR: Final = 100.0
"""Sizes from zero: a target that is farther costs digits."""
