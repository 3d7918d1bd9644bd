"""Functions in two pieces, a parabola and then a line, of which many losses are made."""

from __future__ import annotations

from typing import Any, NamedTuple


class Pieces(NamedTuple):
    """0 for u < 0, scale u² up to u = cap, from there on a line of that slope; at_cap: the derivative at u = cap, where it may jump.

    offset: where u begins, see the losses.
    """

    offset: float
    scale: float
    cap: float
    slope: float
    at_cap: float

    def at(self, xp: Any, u: Any) -> tuple[Any, Any]:
        """The function and its derivative in an array namespace."""
        positive = xp.where(u < 0, 0.0, u)
        v = xp.where(positive > self.cap, self.cap, positive)
        beyond = xp.where(u == self.cap, self.at_cap, self.slope * xp.ones_like(u))
        derivative = xp.where(u < 0, 0.0, xp.where(u < self.cap, 2.0 * self.scale * v, beyond))
        return self.scale * v * v + self.slope * (positive - v), derivative

    def curvature(self, xp: Any, u: Any) -> Any:
        """The second derivative in an array namespace."""
        return xp.where((u < 0) | (u > self.cap), 0.0, 2.0 * self.scale * xp.ones_like(u))
