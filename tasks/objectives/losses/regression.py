"""Losses of numbers: regression."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from tasks.machine.namespaces import namespace_of
from tasks.objectives.losses.base import Loss, registered
from tasks.objectives.losses.pieces import Pieces
from tasks.typing import Float64

__all__ = [
    "EpsilonInsensitiveLoss",
    "HuberLoss",
    "PoissonLoss",
    "RegressionLoss",
    "SquaredEpsilonInsensitiveLoss",
    "SquaredLoss",
]


class RegressionLoss(Loss):
    """A loss of numbers y, with an output a target; several targets add up. The link is the identity, unless a loss has another."""

    classification: ClassVar[bool] = False
    outputs: ClassVar[tuple[int, float]] = (1, inf)

    def mean(self, raw: Any) -> Any:
        return raw

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_targets


@registered
@dataclass(frozen=True)
class SquaredLoss(RegressionLoss):
    """Half squared error ½ (raw - y)²."""

    name: ClassVar[str] = "squared"
    constant_curvature: ClassVar[bool] = True

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        error = raw - y
        return 0.5 * error * error, error

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        return xp.ones_like(raw)

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        error = raw - y
        residual = weight * error
        return v.splat(0.5) * residual * error, residual, weight


@dataclass(frozen=True)
class EpsilonLoss(RegressionLoss):
    """A loss in two pieces of u = |raw - y| - offset. ValueError when epsilon is negative."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"the {self.name} loss needs epsilon >= 0, got {self.epsilon}")

    @property
    @abstractmethod
    def pieces(self) -> Pieces: ...

    @property
    def parameters(self) -> tuple[float, ...]:
        return self.pieces

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        sign, u = self._parts(xp, y, raw)
        value, derivative = self.pieces.at(xp, u)
        return value + 0.0 * raw, sign * derivative + 0.0 * raw

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        return self.pieces.curvature(xp, self._parts(xp, y, raw)[1]) + 0.0 * raw

    def _parts(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        """The sign of the error, and u."""
        sign = xp.where(raw < y, -1.0, xp.ones_like(raw))
        return sign, sign * (raw - y) - self.pieces.offset

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        zero, one = v.splat(0.0), v.splat(1.0)
        sign = v.where_less(raw, y, zero - one, one)
        u = sign * (raw - y) - v.splat(parameters[0])
        value, derivative, second = v.two_pieces(parameters, u, raw * zero)
        return weight * value, weight * (sign * derivative), weight * second


@registered
@dataclass(frozen=True)
class HuberLoss(EpsilonLoss):
    """½ error² up to |error| = epsilon, then epsilon (|error| - ½ epsilon) (Huber 1964)."""

    name: ClassVar[str] = "huber"

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=0.0, scale=0.5, cap=self.epsilon, slope=self.epsilon, at_cap=self.epsilon)


@registered
@dataclass(frozen=True)
class EpsilonInsensitiveLoss(EpsilonLoss):
    """max(0, |error| - epsilon): that of support vector regression."""

    name: ClassVar[str] = "epsilon_insensitive"
    smooth: ClassVar[bool] = False

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=self.epsilon, scale=0.0, cap=0.0, slope=1.0, at_cap=0.0)


@registered
@dataclass(frozen=True)
class SquaredEpsilonInsensitiveLoss(EpsilonLoss):
    """max(0, |error| - epsilon)²."""

    name: ClassVar[str] = "squared_epsilon_insensitive"
    largest_curvature: ClassVar[float] = 2.0

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=self.epsilon, scale=1.0, cap=inf, slope=0.0, at_cap=inf)


@registered
@dataclass(frozen=True)
class PoissonLoss(RegressionLoss):
    """Half the Poisson deviance without what y alone decides, exp(raw) - y raw: for counts and rates, log link.

    Where exp(raw) overflows the loss is inf, of which line searches come back; rows without weight count nothing even there.
    """

    name: ClassVar[str] = "poisson"
    largest_curvature: ClassVar[float] = inf
    inverse_link: ClassVar[str] = "exp"
    targets: ClassVar[str] = "at least 0"

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        mean = xp.exp(raw) + 0.0 * raw
        return mean - y * raw, mean - y

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        return xp.exp(raw) + 0.0 * raw

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        zero = v.splat(0.0)
        small = v.exp_nonpositive(v.where_less(raw, zero, raw, zero - raw))
        exponential = v.where_less(raw, zero, small, v.splat(1.0) / small)
        mean = v.fma(raw, zero, v.where_equal(weight, zero, zero, exponential))
        return weight * (mean - y * raw), weight * (mean - y), weight * mean

    def mean(self, raw: Any) -> Any:
        return namespace_of(raw).exp(raw)

    def takes(self, y: Float64) -> Any:
        return y >= 0

    def reaches(self, mean: Float64) -> Any:
        return mean > 0
