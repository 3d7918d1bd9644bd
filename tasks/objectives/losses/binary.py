"""Losses of two classes, and of more as one against the rest."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from tasks.machine.namespaces import namespace_of
from tasks.objectives.losses.base import Loss, registered
from tasks.objectives.losses.pieces import Pieces
from tasks.typing import Float64

__all__ = ["BinaryLoss", "HingeLoss", "LogisticLoss", "ModifiedHuberLoss", "PerceptronLoss", "SquaredHingeLoss"]


class BinaryLoss(Loss):
    """A loss for two classes, y in {0, 1}. More classes are one-vs-rest: y (n, c) has a one in the column of each row's class, and the
    c binary losses of a row add up."""

    classification: ClassVar[bool] = True
    outputs: ClassVar[tuple[int, float]] = (1, 1)

    def probability(self, raw: Any) -> Any:
        """That of y = 1, for each raw prediction by itself.

        Raises ValueError where the loss is not probabilistic.
        """
        raise ValueError(f"the {self.name} loss gives no probabilities; use the logistic or modified_huber loss, or raw predictions")

    def mean(self, raw: Any) -> Any:
        """One-vs-rest probabilities are divided by their sum, and uniform where all are zero (Zadrozny & Elkan 2002, section 5)."""
        probability = self.probability(raw)
        if raw.shape[1] == 1:
            return probability
        xp = namespace_of(raw)
        total = xp.sum(probability, axis=1, keepdims=True)
        return xp.where(total == 0, 1.0 / raw.shape[1], probability / xp.where(total == 0, 1.0, total))

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return 1 if n_classes == 2 else n_classes


@registered
@dataclass(frozen=True)
class LogisticLoss(BinaryLoss):
    """Binary log loss log(1 + exp(raw)) - y raw for y in {0, 1}, logit link."""

    name: ClassVar[str] = "logistic"
    probabilistic: ClassVar[bool] = True
    largest_curvature: ClassVar[float] = 0.25
    usual_curvature: ClassVar[float] = 0.0025  # most rows are predicted well
    inverse_link: ClassVar[str] = "logistic"

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        small = xp.exp(-xp.abs(raw))
        value = xp.maximum(raw, 0.0) - y * raw + xp.log1p(small)
        mean = xp.where(raw < 0.0, small, xp.ones_like(raw)) / (1.0 + small) + 0.0 * raw
        return value, mean - y

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        small = xp.exp(-xp.abs(raw))
        return small / (1.0 + small) ** 2 + 0.0 * raw

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        zero, one = v.splat(0.0), v.splat(1.0)
        small = v.exp_nonpositive(v.where_less(raw, zero, raw, zero - raw))
        reciprocal = one / (one + small)
        mean = v.fma(raw, zero, v.where_less(raw, zero, small, one) * reciprocal)
        value = (v.where_less(raw, zero, zero, raw) - y * raw) + v.log1p_nonnegative(small)
        return weight * value, weight * (mean - y), weight * v.fma(raw, zero, small * reciprocal * reciprocal)

    def probability(self, raw: Any) -> Any:
        xp = namespace_of(raw)
        small = xp.exp(-xp.abs(raw))
        return xp.where(raw >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True)
class MarginLoss(BinaryLoss):
    """A loss in two pieces of u = offset - margin, with margin = (2 y - 1) raw."""

    @property
    @abstractmethod
    def pieces(self) -> Pieces: ...

    @property
    def parameters(self) -> tuple[float, ...]:
        return self.pieces

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        sign = 1.0 - 2.0 * y
        value, derivative = self.pieces.at(xp, self.pieces.offset + sign * raw)
        return value + 0.0 * raw, sign * derivative + 0.0 * raw

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        return self.pieces.curvature(xp, self.pieces.offset + (1.0 - 2.0 * y) * raw) + 0.0 * raw

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        sign = v.splat(1.0) - (y + y)  # du/draw
        u = v.fma(sign, raw, v.splat(parameters[0]))
        value, derivative, second = v.two_pieces(parameters, u, raw * v.splat(0.0))
        return weight * value, weight * (sign * derivative), weight * second


@registered
@dataclass(frozen=True)
class HingeLoss(MarginLoss):
    """max(0, threshold - margin): that of linear support vector machines. At the kink it has the slope of the line."""

    name: ClassVar[str] = "hinge"
    smooth: ClassVar[bool] = False
    threshold: float = 1.0

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=self.threshold, scale=0.0, cap=0.0, slope=1.0, at_cap=1.0)


@registered
@dataclass(frozen=True)
class PerceptronLoss(HingeLoss):
    """max(0, -margin): Rosenblatt's perceptron as the hinge with threshold zero."""

    name: ClassVar[str] = "perceptron"
    threshold: float = 0.0


@registered
@dataclass(frozen=True)
class SquaredHingeLoss(MarginLoss):
    """max(0, 1 - margin)²."""

    name: ClassVar[str] = "squared_hinge"
    largest_curvature: ClassVar[float] = 2.0

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=1.0, scale=1.0, cap=inf, slope=0.0, at_cap=0.0)


@registered
@dataclass(frozen=True)
class ModifiedHuberLoss(MarginLoss):
    """max(0, 1 - margin)² down to margin = -1, then -4 margin; P(y = 1) = (clip(raw, -1, 1) + 1) / 2 (Zhang 2004)."""

    name: ClassVar[str] = "modified_huber"
    probabilistic: ClassVar[bool] = True
    largest_curvature: ClassVar[float] = 2.0

    @property
    def pieces(self) -> Pieces:
        return Pieces(offset=1.0, scale=1.0, cap=2.0, slope=4.0, at_cap=4.0)

    def probability(self, raw: Any) -> Any:
        return (namespace_of(raw).clip(raw, -1.0, 1.0) + 1.0) / 2.0
