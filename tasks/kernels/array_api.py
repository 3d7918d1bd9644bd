"""The passes in any other array namespace (CuPy on GPUs): the same sums along the same tree, equal to rounding.

X and y may live on a device; parameters come, and results go, as NumPy arrays. One partition at a time is converted to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.kernels.loss import PointwiseLoss
from tasks.machine.namespaces import device_of, namespace_of, on_host
from tasks.typing import Float64, Int64

Sums = list[Any]


def loss_and_gradient(
    loss: PointwiseLoss,
    X: Any,
    y: Any,
    weight: Any,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    n_models: int,
    positive_weight: Float64 | None = None,
) -> tuple[Float64, float, Float64, Float64]:
    """Sums of the loss and its gradient, as tasks.kernels.loss_and_gradient has them."""
    xp = namespace_of(X)
    coef, intercept = like(X, coef), like(X, intercept)

    def leaf(rows: Any, target: Any, w: Any) -> Sums:
        raw = _predict(xp, rows, coef, intercept, n_models)
        value, residual = _losses(xp, loss, raw, target, positive_weight)
        residual = _flat(xp, residual * w[:, None, None])
        return [xp.sum(value * w[:, None], axis=0), xp.sum(w), xp.matmul(residual.T, rows), xp.sum(residual, axis=0)]

    loss_sum, weight_sum, coef_sum, intercept_sum = map(to_numpy, sums_along_tree(map(_apply(leaf), _leaves(xp, X, y, weight, offsets))))
    return loss_sum, float(weight_sum), coef_sum, intercept_sum


def hessian_vector(
    loss: PointwiseLoss,
    X: Any,
    y: Any,
    weight: Any,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    n_models: int,
    coef_direction: Float64,
    intercept_direction: Float64,
    positive_weight: Float64 | None = None,
) -> tuple[Float64, Float64]:
    """Sums of Hessian-vector products, as tasks.kernels.hessian_vector has them."""
    xp = namespace_of(X)
    coef, intercept, coef_direction, intercept_direction = (like(X, a) for a in (coef, intercept, coef_direction, intercept_direction))

    def leaf(rows: Any, target: Any, w: Any) -> Sums:
        raw = _predict(xp, rows, coef, intercept, n_models)
        y, factor = _outputs(xp, loss, raw, target, positive_weight)
        curvature = loss.curvature(xp, y, raw) * factor
        direction = _predict(xp, rows, coef_direction, intercept_direction, n_models)
        if loss.coupled:
            direction = direction - xp.sum(curvature * direction, axis=2, keepdims=True)
        product = _flat(xp, curvature * direction * w[:, None, None])
        return [xp.matmul(product.T, rows), xp.sum(product, axis=0)]

    coef_sum, intercept_sum = map(to_numpy, sums_along_tree(map(_apply(leaf), _leaves(xp, X, y, weight, offsets))))
    return coef_sum, intercept_sum


def raw_prediction(X: Any, coef: Float64, intercept: Float64) -> Float64:
    """Raw predictions, as tasks.kernels.raw_prediction has them."""
    xp = namespace_of(X)
    return to_numpy(_flat(xp, _predict(xp, xp.astype(X, xp.float64), like(X, coef), like(X, intercept), 1)))


def column_spread(X: Any, weight: Any) -> tuple[float, Float64, Float64, Float64]:
    """The spread of columns as tasks.kernels.column_spread has it, for a single partition, in two passes."""
    xp = namespace_of(X)
    p = X.shape[1]
    if not X.shape[0]:
        return 0.0, np.zeros(p), np.zeros(p), np.zeros(p)
    rows = xp.astype(X, xp.float64)
    w = xp.ones(X.shape[0], dtype=xp.float64, device=device_of(X)) if weight is None else like(X, weight)
    total = float(xp.sum(w))
    mean = xp.matmul(w, rows) / total if total else xp.zeros_like(rows[0, :])
    largest = to_numpy(xp.max(xp.abs(rows), axis=0))
    return total, to_numpy(mean), to_numpy(xp.matmul(w, (rows - mean[None, :]) ** 2)), np.where(np.isfinite(largest), largest, np.nan)


def _losses(xp: Any, loss: PointwiseLoss, raw: Any, target: Any, positive_weight: Float64 | None) -> tuple[Any, Any]:
    """Loss (n, k) and dloss/draw (n, k, c) as in tasks.kernels.pointwise but without row weights; raw (n, k, c)."""
    y, factor = _outputs(xp, loss, raw, target, positive_weight)
    value, residual = loss.at(xp, y, raw)
    return (value, residual) if loss.coupled else (xp.sum(value * factor, axis=2), residual * factor)


def _outputs(xp: Any, loss: PointwiseLoss, raw: Any, target: Any, positive_weight: Float64 | None) -> tuple[Any, Any]:
    """Targets as a loss takes them beside raw (n, k, c), and the factors of outputs: 1.0, or (n, 1, c) by positive_weight."""
    if loss.coupled:
        return target, 1.0
    y = xp.reshape(xp.astype(target, xp.float64), (raw.shape[0], 1, raw.shape[2]))
    return y, 1.0 if positive_weight is None else xp.where(y == 1.0, like(raw, positive_weight)[None, None, :], xp.ones_like(y))


def _predict(xp: Any, rows: Any, coef: Any, intercept: Any, k: int) -> Any:
    raw = xp.matmul(rows, coef.T) + intercept[None, :]
    return xp.reshape(raw, (rows.shape[0], k, coef.shape[0] // k))


def _flat(xp: Any, values: Any) -> Any:
    return xp.reshape(values, (values.shape[0], values.shape[1] * values.shape[2]))


def like(X: Any, array: Any) -> Any:
    """The array in the namespace and on the device of X."""
    return namespace_of(X).asarray(array, device=device_of(X))


def to_numpy(array: Any) -> Float64:
    """A copy of the array as NumPy's."""
    return np.array(on_host(array), dtype=np.float64)


def _leaves(xp: Any, X: Any, y: Any, weight: Any, offsets: Int64) -> Iterator[tuple[Any, Any, Any]]:
    """float64 rows, y and weights of each partition."""
    y = like(X, y)
    weight = xp.ones(X.shape[0], dtype=xp.float64, device=device_of(X)) if weight is None else like(X, weight)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield xp.astype(X[start:stop, :], xp.float64), y[start:stop, ...], weight[start:stop]


def _apply(leaf: Callable[[Any, Any, Any], Sums]) -> Callable[[tuple[Any, Any, Any]], Sums]:
    return lambda arguments: leaf(*arguments)


def sums_along_tree(leaves: Iterator[Sums]) -> Sums:
    """The sums along the fixed tree (see tasks.kernels.tree)."""
    stack: list[Sums] = []
    for j, sums in enumerate(leaves):
        stack.append(sums)
        rest = j + 1
        while rest & 1 == 0:
            _merge(stack)
            rest >>= 1
    while len(stack) > 1:
        _merge(stack)
    return stack[0]


def _merge(stack: list[Sums]) -> None:
    right, left = stack.pop(), stack.pop()
    stack.append([a + b for a, b in zip(left, right, strict=True)])
