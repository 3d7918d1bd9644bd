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

    y is float64 (n, t) or (n,) for one output, or int64 class codes (n,) for softmax; raw is float64 (n, c).
    """

    name: ClassVar[str]
    code: ClassVar[int]
    classification: ClassVar[bool]

    @abstractmethod
    def value(self, y: Array, raw: Float64) -> Float64:
        """Loss of each row, (n,)."""

    @abstractmethod
    def gradient(self, y: Array, raw: Float64) -> Float64:
        """Derivative with respect to each raw prediction, (n, c)."""

    @abstractmethod
    def mean(self, raw: Float64) -> Float64:
        """Inverse link: the predicted mean (a probability for classification), (n, c)."""

    @abstractmethod
    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        """Raw predictions per row."""


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Half squared error ½ (raw - y)², identity link."""

    name: ClassVar[str] = "squared"
    code: ClassVar[int] = kernels.SQUARED
    classification: ClassVar[bool] = False

    def value(self, y: Array, raw: Float64) -> Float64:
        return np.asarray(0.5 * ((raw - y.reshape(raw.shape)) ** 2).sum(axis=1))

    def gradient(self, y: Array, raw: Float64) -> Float64:
        return raw - y.reshape(raw.shape)

    def mean(self, raw: Float64) -> Float64:
        return raw

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_targets


@dataclass(frozen=True)
class LogisticLoss(Loss):
    """Binary log loss log(1 + exp(raw)) - y raw for y in {0, 1}, logit link."""

    name: ClassVar[str] = "logistic"
    code: ClassVar[int] = kernels.LOGISTIC
    classification: ClassVar[bool] = True

    def value(self, y: Array, raw: Float64) -> Float64:
        raw = raw[:, 0]
        return np.asarray(np.logaddexp(0.0, raw) - y * raw)

    def gradient(self, y: Array, raw: Float64) -> Float64:
        return self.mean(raw) - y[:, None]

    def mean(self, raw: Float64) -> Float64:
        small = np.exp(-np.abs(raw))
        return np.where(raw >= 0, 1.0, small) / (1.0 + small)

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return 1


@dataclass(frozen=True)
class MultinomialLoss(Loss):
    """Softmax cross-entropy log Σ exp(raw_k) - raw_y, symmetric (one raw prediction for every class)."""

    name: ClassVar[str] = "multinomial"
    code: ClassVar[int] = kernels.MULTINOMIAL
    classification: ClassVar[bool] = True

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


LOSSES: Final[dict[str, Loss]] = {loss.name: loss for loss in (SquaredLoss(), LogisticLoss(), MultinomialLoss())}
