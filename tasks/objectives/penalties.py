"""Penalties on the coefficients: value, gradient, curvature, prox. Intercepts are never penalised.

Coefficients may be float32 or float64, and what is of their shape comes back in their dtype; values are summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tasks.lazy import Lazy
from tasks.machine import buffers
from tasks.reductions.blocks import blocks
from tasks.typing import Array, Float64

if TYPE_CHECKING:
    from tasks.kernels import updates
else:
    updates = Lazy("tasks.kernels.updates")


@runtime_checkable
class Penalty(Protocol):
    """A penalty: a smooth part, by its derivatives, and perhaps a part with kinks, by its prox."""

    @property
    def kinks(self) -> bool:
        """Whether there is a part with kinks."""
        ...

    def value(self, coef: Array) -> float:
        """The value of both parts."""
        ...

    def gradient(self, coef: Array) -> Array:
        """The gradient of the smooth part, shape of coef."""
        ...

    def curvature(self, coef: Array) -> Array:
        """The diagonal of the Hessian of the smooth part, shape of coef."""
        ...

    def prox(self, coef: Array, step: float) -> Array:
        """argmin_u ½ |u - coef|² + step k(u), where k is the part with kinks, shape of coef; coef itself without one."""
        ...


@dataclass(frozen=True, eq=False)
class L2:
    """½ Σ_j strength_j coef_j², with one strength or one per coefficient (targets with penalties of their own); all of it is smooth.

    strength: float, or float64 of the coefficients' flat length. Raises ValueError for what is negative, or no number.
    """

    strength: float | Float64 = 0.0

    def __post_init__(self) -> None:
        require_strength("strength", self.strength)

    def value(self, coef: Array) -> float:
        return in_order(self.values(coef))

    def values(self, coef: Array) -> list[float]:
        """The value's part of each block of coefficients."""
        flat = np.require(coef.ravel(), requirements=("C", "A"))
        return [half_squares(part(self.strength, of), flat[of]) for of in blocks(len(flat))]

    def gradient(self, coef: Array) -> Array:
        return scaled(self.strength, coef)

    def curvature(self, coef: Array) -> Array:
        return np.broadcast_to(np.asarray(self.strength, dtype=coef.dtype), coef.shape)

    @property
    def kinks(self) -> bool:
        return False

    def prox(self, coef: Array, step: float) -> Array:
        return coef


@dataclass(frozen=True, eq=False)
class ElasticNet:
    """Σ_j l1_j |coef_j| + ½ Σ_j l2_j coef_j², with one strength of each or one per coefficient; l2 = 0 is the lasso's penalty.

    gradient and curvature are those of the smooth part, l2, alone; prox is that of l1.

    l1, l2: float, or float64 of the coefficients' flat length. Raises ValueError for what is negative, or no number.
    """

    l1: float | Float64 = 0.0
    l2: float | Float64 = 0.0

    def __post_init__(self) -> None:
        require_strength("l1", self.l1)
        require_strength("l2", self.l2)

    def value(self, coef: Array) -> float:
        return in_order(self.values(coef))

    def values(self, coef: Array) -> list[float]:
        """The value's part of each block of coefficients."""
        flat = np.require(coef.ravel(), requirements=("C", "A"))
        smooth = [half_squares(part(self.l2, of), flat[of]) for of in blocks(len(flat))]
        if not self.kinks:
            return smooth
        kinks = [float(np.sum(np.asarray(part(self.l1, of)) * np.abs(flat[of]))) for of in blocks(len(flat))]
        return list(map(add, smooth, kinks))

    def gradient(self, coef: Array) -> Array:
        return scaled(self.l2, coef)

    def curvature(self, coef: Array) -> Array:
        return L2(self.l2).curvature(coef)

    @cached_property
    def kinks(self) -> bool:
        return bool(np.any(self.l1))

    def prox(self, coef: Array, step: float) -> Array:
        """soft_threshold(coef, step l1) (Parikh & Boyd 2014, Proximal Algorithms, section 6.5.2)."""
        return soft_threshold(coef, step * np.asarray(self.l1))


def part(strength: float | Float64, of: slice) -> float | Float64:
    """The strength of a block: one number, or one for each coefficient."""
    return np.asarray(strength)[of] if np.ndim(strength) else strength


def scaled(strength: float | Float64, coef: Array) -> Array:
    """The product, in the dtype of coef."""
    return np.multiply(np.asarray(strength, dtype=coef.dtype), coef, out=buffers.empty(coef.shape, coef.dtype))


def half_squares(strength: float | Float64, coef: Array) -> float:
    """½ Σ strength coef²; coef: aligned. Of one strength in one pass and without temporaries, which for a network's mini-batches counts."""
    if np.ndim(strength):
        return float(0.5 * np.sum(strength * coef * coef))
    return 0.5 * float(strength) * updates.squared_norm(coef)


def in_order(values: Iterable[float]) -> float:
    """Their sum, one after the other: `sum` does it another way from Python 3.12 on."""
    return reduce(add, values, 0.0)


def soft_threshold(coef: Array, threshold: float | Array) -> Array:
    """sign(coef) max(|coef| - threshold, 0) in the dtype of coef: the prox of threshold |coef|; threshold: a number, or one for each."""
    return np.asarray(np.sign(coef) * np.maximum(np.abs(coef) - np.asarray(threshold, dtype=coef.dtype), 0))


def require_strength(name: str, strength: float | Float64) -> None:
    """Raise ValueError for a strength that is negative, or no number."""
    if not np.all(np.asarray(strength) >= 0):
        raise ValueError(f"{name} must be a number of at least 0, or one for each coefficient, got {strength!r}")
