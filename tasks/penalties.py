"""Penalties on the coefficients: value, gradient, curvature, prox. Intercepts are never penalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.typing import Float64


@dataclass(frozen=True, eq=False)
class L2:
    """½ Σ_j strength_j coef_j², with one strength or one per coefficient (targets with penalties of their own).

    strength: float, or float64 of the coefficients' flat length.
    """

    strength: float | Float64 = 0.0

    def value(self, coef: Float64) -> float:
        return float(0.5 * np.sum(self.strength * coef * coef))

    def gradient(self, coef: Float64) -> Float64:
        return np.asarray(self.strength * coef)

    def curvature(self, coef: Float64) -> Float64:
        """Diagonal of the Hessian, shape of coef."""
        return np.broadcast_to(np.asarray(self.strength, dtype=np.float64), coef.shape)

    def prox(self, coef: Float64, step: float) -> Float64:
        """argmin_u ½ |u - coef|² + step value(u) = coef / (1 + step strength)."""
        return np.asarray(coef / (1.0 + step * np.asarray(self.strength)))
