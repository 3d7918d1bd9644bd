"""Pointwise losses and their links.

A loss is a function of the true target y and the raw prediction (x @ coef + intercept) of one row. It knows nothing of penalties,
of sums or of weights. The hot loops (tasks/kernels) compute it by `code`; the expressions here are the definition, in any array
namespace, that the tests hold the loops against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from tasks import kernels
from tasks.typing import Array, Float64


class Loss(ABC):
    """value(y, raw) and its derivatives with respect to raw.

    y is float64 (n, t) or (n,) for one output, or int64 class codes (n,) for softmax; raw is float64 (n, c). Where there is a kink,
    the derivative is scikit-learn's choice among the subgradients.

    code            what the hot loops know the loss by
    probabilistic   mean() gives probabilities
    smooth          there is a second derivative, except at isolated points, that is not zero everywhere: Newton's method has something
                    to go by
    """

    name: ClassVar[str]
    code: ClassVar[int]
    classification: ClassVar[bool]
    probabilistic: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    @property
    def parameter(self) -> float:
        """The one number that the hot loops get beside `code`: a threshold or an epsilon, 0.0 for losses without."""
        return 0.0

    @abstractmethod
    def value(self, y: Array, raw: Float64) -> Float64:
        """Loss of each row, (n,)."""

    @abstractmethod
    def gradient(self, y: Array, raw: Float64) -> Float64:
        """Derivative with respect to each raw prediction, (n, c)."""

    @abstractmethod
    def mean(self, raw: Float64) -> Float64:
        """Inverse link: the predicted mean (a probability for classification), (n, c).

        Raises ValueError for classification losses that are not probabilistic.
        """

    @abstractmethod
    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        """Raw predictions per row."""


class RegressionLoss(Loss):
    """A function of the error raw - y alone, identity link; several targets add up."""

    classification: ClassVar[bool] = False

    @abstractmethod
    def at_error(self, error: Float64) -> tuple[Float64, Float64]:
        """The loss and its derivative, each of the shape of error."""

    def value(self, y: Array, raw: Float64) -> Float64:
        return np.asarray(self.at_error(raw - y.reshape(raw.shape))[0].sum(axis=1))

    def gradient(self, y: Array, raw: Float64) -> Float64:
        return self.at_error(raw - y.reshape(raw.shape))[1]

    def mean(self, raw: Float64) -> Float64:
        return raw

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_targets


class BinaryLoss(Loss):
    """A loss for two classes, y in {0, 1}. More classes are one-vs-rest: y (n, c) has a one in the column of each row's class, and the
    c binary losses of a row add up."""

    classification: ClassVar[bool] = True

    def probability(self, raw: Float64) -> Float64:
        """That of y = 1, for each raw prediction by itself.

        Raises ValueError where the loss is not probabilistic.
        """
        raise ValueError(f"the {self.name} loss gives no probabilities; use the logistic or modified_huber loss, or raw predictions")

    def mean(self, raw: Float64) -> Float64:
        """One-vs-rest probabilities are divided by their sum, and uniform where all are zero (Zadrozny & Elkan 2002, section 5)."""
        probability = self.probability(raw)
        if raw.shape[1] == 1:
            return probability
        total = probability.sum(axis=1, keepdims=True)
        return np.where(total == 0, 1.0 / raw.shape[1], probability / np.where(total == 0, 1.0, total))

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return 1 if n_classes == 2 else n_classes


class MarginLoss(BinaryLoss):
    """A function of the margin (2 y - 1) raw alone."""

    @abstractmethod
    def at_margin(self, margin: Float64) -> tuple[Float64, Float64]:
        """The loss and its derivative, each of the shape of margin."""

    def value(self, y: Array, raw: Float64) -> Float64:
        return np.asarray(self.at_margin((2.0 * y.reshape(raw.shape) - 1.0) * raw)[0].sum(axis=1))

    def gradient(self, y: Array, raw: Float64) -> Float64:
        sign = 2.0 * y.reshape(raw.shape) - 1.0
        return sign * self.at_margin(sign * raw)[1]


@dataclass(frozen=True)
class SquaredLoss(RegressionLoss):
    """Half squared error ½ (raw - y)²."""

    name: ClassVar[str] = "squared"
    code: ClassVar[int] = kernels.SQUARED

    def at_error(self, error: Float64) -> tuple[Float64, Float64]:
        return 0.5 * error**2, error


@dataclass(frozen=True)
class _EpsilonLoss(RegressionLoss):
    """What the losses with an epsilon share; ValueError when it is negative."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"the {self.name} loss needs epsilon >= 0, got {self.epsilon}")

    @property
    def parameter(self) -> float:
        return float(self.epsilon)


@dataclass(frozen=True)
class HuberLoss(_EpsilonLoss):
    """½ error² up to |error| = epsilon, then epsilon (|error| - ½ epsilon) (Huber 1964)."""

    name: ClassVar[str] = "huber"
    code: ClassVar[int] = kernels.HUBER

    def at_error(self, error: Float64) -> tuple[Float64, Float64]:
        size, epsilon = np.abs(error), self.epsilon
        inside = np.minimum(size, epsilon)
        return inside * (size - 0.5 * inside), np.clip(error, -epsilon, epsilon)


@dataclass(frozen=True)
class EpsilonInsensitiveLoss(_EpsilonLoss):
    """max(0, |error| - epsilon): that of support vector regression."""

    name: ClassVar[str] = "epsilon_insensitive"
    code: ClassVar[int] = kernels.EPSILON_INSENSITIVE
    smooth: ClassVar[bool] = False

    def at_error(self, error: Float64) -> tuple[Float64, Float64]:
        excess = np.abs(error) - self.epsilon
        return np.maximum(excess, 0.0), np.where(excess > 0, np.sign(error), 0.0)


@dataclass(frozen=True)
class SquaredEpsilonInsensitiveLoss(_EpsilonLoss):
    """max(0, |error| - epsilon)²."""

    name: ClassVar[str] = "squared_epsilon_insensitive"
    code: ClassVar[int] = kernels.SQUARED_EPSILON_INSENSITIVE

    def at_error(self, error: Float64) -> tuple[Float64, Float64]:
        excess = np.maximum(np.abs(error) - self.epsilon, 0.0)
        return excess**2, 2.0 * excess * np.sign(error)


@dataclass(frozen=True)
class LogisticLoss(BinaryLoss):
    """Binary log loss log(1 + exp(raw)) - y raw for y in {0, 1}, logit link."""

    name: ClassVar[str] = "logistic"
    code: ClassVar[int] = kernels.LOGISTIC
    probabilistic: ClassVar[bool] = True

    def value(self, y: Array, raw: Float64) -> Float64:
        return np.asarray((np.logaddexp(0.0, raw) - y.reshape(raw.shape) * raw).sum(axis=1))

    def gradient(self, y: Array, raw: Float64) -> Float64:
        return self.probability(raw) - y.reshape(raw.shape)

    def probability(self, raw: Float64) -> Float64:
        small = np.exp(-np.abs(raw))
        return np.where(raw >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True)
class HingeLoss(MarginLoss):
    """max(0, threshold - margin): that of linear support vector machines."""

    name: ClassVar[str] = "hinge"
    code: ClassVar[int] = kernels.HINGE
    smooth: ClassVar[bool] = False
    threshold: float = 1.0

    @property
    def parameter(self) -> float:
        return float(self.threshold)

    def at_margin(self, margin: Float64) -> tuple[Float64, Float64]:
        return np.maximum(self.threshold - margin, 0.0), np.where(margin <= self.threshold, -1.0, 0.0)


@dataclass(frozen=True)
class PerceptronLoss(HingeLoss):
    """max(0, -margin): Rosenblatt's perceptron as the hinge with threshold zero."""

    name: ClassVar[str] = "perceptron"
    threshold: float = 0.0


@dataclass(frozen=True)
class SquaredHingeLoss(MarginLoss):
    """max(0, 1 - margin)²."""

    name: ClassVar[str] = "squared_hinge"
    code: ClassVar[int] = kernels.SQUARED_HINGE

    def at_margin(self, margin: Float64) -> tuple[Float64, Float64]:
        excess = np.maximum(1.0 - margin, 0.0)
        return excess**2, -2.0 * excess


@dataclass(frozen=True)
class ModifiedHuberLoss(MarginLoss):
    """max(0, 1 - margin)² down to margin = -1, then -4 margin; P(y = 1) = (clip(raw, -1, 1) + 1) / 2 (Zhang 2004)."""

    name: ClassVar[str] = "modified_huber"
    code: ClassVar[int] = kernels.MODIFIED_HUBER
    probabilistic: ClassVar[bool] = True

    def at_margin(self, margin: Float64) -> tuple[Float64, Float64]:
        excess = np.clip(1.0 - margin, 0.0, 2.0)
        return np.where(margin < -1.0, -4.0 * margin, excess**2), -2.0 * excess

    def probability(self, raw: Float64) -> Float64:
        return (np.clip(raw, -1.0, 1.0) + 1.0) / 2.0


@dataclass(frozen=True)
class MultinomialLoss(Loss):
    """Softmax cross-entropy log Σ exp(raw_k) - raw_y, symmetric (one raw prediction for every class)."""

    name: ClassVar[str] = "multinomial"
    code: ClassVar[int] = kernels.MULTINOMIAL
    classification: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = True

    def value(self, y: Array, raw: Float64) -> Float64:
        top = raw.max(axis=1)
        return np.asarray(top + np.log(np.exp(raw - top[:, None]).sum(axis=1)) - raw[np.arange(len(y)), y])

    def gradient(self, y: Array, raw: Float64) -> Float64:
        residual = self.mean(raw)
        residual[np.arange(len(y)), y] -= 1.0
        return residual

    def mean(self, raw: Float64) -> Float64:
        exponential = np.exp(raw - raw.max(axis=1, keepdims=True))
        return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_classes


LOSSES: Final[dict[str, Loss]] = {
    loss.name: loss
    for loss in (
        SquaredLoss(),
        HuberLoss(),
        EpsilonInsensitiveLoss(),
        SquaredEpsilonInsensitiveLoss(),
        LogisticLoss(),
        HingeLoss(),
        PerceptronLoss(),
        SquaredHingeLoss(),
        ModifiedHuberLoss(),
        MultinomialLoss(),
    )
}
