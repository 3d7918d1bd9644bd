"""Softmax: the loss of several classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from tasks.machine.namespaces import device_of, namespace_of
from tasks.objectives.losses.base import Loss, registered
from tasks.typing import Float64

__all__ = ["MultinomialLoss"]


@registered
@dataclass(frozen=True)
class MultinomialLoss(Loss):
    """Softmax cross-entropy log Σ exp(raw_k) - raw_y, symmetric (one raw prediction for every class)."""

    name: ClassVar[str] = "multinomial"
    classification: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    probabilistic: ClassVar[bool] = True
    usual_curvature: ClassVar[float] = 0.0025  # most rows are predicted well
    outputs: ClassVar[tuple[int, float]] = (2, inf)
    inverse_link: ClassVar[str] = "softmax"

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        codes = xp.arange(raw.shape[-1], dtype=xp.int64, device=device_of(raw))
        chosen = xp.reshape(y, (raw.shape[0],) + (1,) * (raw.ndim - 1)) == codes
        below = raw - xp.max(raw, axis=-1, keepdims=True)
        exponential = xp.exp(below)
        first = codes == xp.argmax(raw, axis=-1, keepdims=True)
        # Without the largest, which is 1, or NaN: a tiny loss keeps its digits.
        rest = xp.sum(xp.where(first, 0.0 * exponential, exponential), axis=-1, keepdims=True)
        value = xp.log1p(rest[..., 0]) - xp.sum(xp.where(chosen, below, 0.0), axis=-1)
        return value, exponential / (1.0 + rest) - xp.astype(chosen, raw.dtype)

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        exponential = xp.exp(raw - xp.max(raw, axis=-1, keepdims=True))
        return exponential / xp.sum(exponential, axis=-1, keepdims=True)

    @staticmethod
    def kernel(
        v: Any,
        parameters: Float64,
        raw: Float64,
        target: Float64,
        weight: Float64,
        positive_weight: Float64,
        count: int,
        model: int,
        c: int,
        residual: Float64,
        probability: Float64,
        losses: Float64,
    ) -> None:
        """All outputs of one model: residual = weight (softmax - indicator), probability = softmax (not weighted)."""
        at, zero = model * c * count, v.splat(0.0)
        for i in range(0, count, v.LANES):
            n = min(v.LANES, count - i)
            w = v.load_some(weight, i, n)
            y = v.load_some(target, i, n)
            top = v.load_some(raw, at + i, n)
            best, chosen, check = zero, zero, zero
            for a in range(c):
                z, code = v.load_some(raw, at + a * count + i, n), v.splat(float(a))
                best = v.where_less(top, z, code, best)
                top = v.where_less(top, z, z, top)
                chosen = v.where_equal(y, code, z, chosen)
                check = v.fma(z, zero, check)
            rest = check  # the sum of the exponentials without the largest, which is 1: a tiny loss keeps its digits
            for a in range(c):
                e = v.exp_nonpositive(v.load_some(raw, at + a * count + i, n) - top)
                rest = rest + v.where_equal(best, v.splat(float(a)), zero, e)
                v.store_some(residual, at + a * count + i, e, n)
            v.put_loss(losses, False, model * count + i, w * ((top - chosen) + v.log1p_nonnegative(rest)), n)
            reciprocal = v.splat(1.0) / (v.splat(1.0) + rest)
            for a in range(c):
                mean = v.load_some(residual, at + a * count + i, n) * reciprocal
                if len(probability):
                    v.store_some(probability, at + a * count + i, mean, n)
                indicator = v.where_equal(y, v.splat(float(a)), v.splat(1.0), zero)
                v.store_some(residual, at + a * count + i, w * (mean - indicator), n)

    def mean(self, raw: Any) -> Any:
        return self.curvature(namespace_of(raw), None, raw)

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_classes
