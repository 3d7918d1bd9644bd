"""The passes in any array namespace: CuPy on GPUs, and NumPy for rows that are too few to compile for. The same sums along the same tree,
equal to rounding.

X and y may live on a device; parameters come, and sums go, as NumPy arrays. Raw predictions stay there. One partition at a time is
converted to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tasks.kernels.loss import PointwiseLoss
from tasks.machine.namespaces import beside, device_of, namespace_of, on_host
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
        return _gradient_sums(xp, loss, rows, _predict(xp, rows, coef, intercept, n_models), target, w, positive_weight)

    loss_sum, weight_sum, coef_sum, intercept_sum = map(to_numpy, sums_along_tree(map(_apply(leaf), _leaves(xp, X, y, weight, offsets))))
    return loss_sum, float(weight_sum), coef_sum, intercept_sum


def hessian(
    loss: PointwiseLoss,
    X: Any,
    y: Any,
    weight: Any,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    n_models: int,
    fit_intercept: bool,
    positive_weight: Float64 | None = None,
    standard: tuple[Float64, Float64] | None = None,
    shared: bool = False,
    apart: bool = False,
) -> tuple[Float64, float, Float64, Float64, Float64]:
    """Sums of the loss, its gradient and its Hessian, as tasks.kernels.hessian has them."""
    xp = namespace_of(X)
    coef, intercept = like(X, coef), like(X, intercept)
    shift, factor = (None, None) if standard is None else (like(X, a)[None, :] for a in standard)

    def leaf(rows: Any, target: Any, w: Any) -> Sums:
        z = rows if shift is None else factor * (rows - shift)
        raw = _predict(xp, z, coef, intercept, n_models)
        sums = _gradient_sums(xp, loss, z, raw, target, w, positive_weight)
        design = xp.concat([z, xp.ones_like(z[:, :1])], axis=1) if fit_intercept else z
        if shared:
            return [*sums, _gram(xp, design, w)[None, None, None, :, :]]
        y, positive = _outputs(xp, loss, raw, target, positive_weight)
        curvature = _weighted(xp, w[:, None, None], loss.curvature(xp, y, raw) * positive + _unhidden(xp, raw))
        of_model = partial(_own_blocks if apart else _coupled_blocks if loss.coupled else _separate_blocks, xp, design, w)
        models = [curvature[:, model, :] for model in range(n_models)]
        return [*sums, xp.stack([of_model(_against_others(xp, each, w) if apart and loss.coupled else each) for each in models])]

    loss_sum, weight_sum, coef_sum, intercept_sum, blocks = map(
        to_numpy, sums_along_tree(map(_apply(leaf), _leaves(xp, X, y, weight, offsets)))
    )
    return loss_sum, float(weight_sum), coef_sum, intercept_sum, blocks if apart else _by_parameters(blocks, X.shape[1])


def _own_blocks(xp: Any, design: Any, w: Any, curvature: Any) -> Any:
    """Σ_i h_ia z_i z_iᵀ of each output a, (c, P, P), from weighted curvature (n, c)."""
    return xp.stack([_gram(xp, design, curvature[:, a]) for a in range(curvature.shape[1])])


def _against_others(xp: Any, curvature: Any, w: Any) -> Any:
    """w p_a (1 - p_a) of each output (n, c), from w p; 1 - p_a as the sum of the others, or it would lose the digits of a small one."""
    share = curvature / xp.where(w == 0.0, xp.ones_like(w), w)[:, None]
    c = curvature.shape[1]
    others = [sum((share[:, b] for b in range(c) if b != a), xp.zeros_like(w)) for a in range(c)]
    return curvature * xp.stack(others, axis=1)


def _separate_blocks(xp: Any, design: Any, w: Any, curvature: Any) -> Any:
    """Σ_i h_ia z_i z_iᵀ of each output a, as blocks (c, c, P, P) of the Hessian of one model, from weighted curvature (n, c)."""
    c, size = curvature.shape[1], design.shape[1]
    zero = xp.zeros((size, size), dtype=xp.float64, device=device_of(design))
    own = _own_blocks(xp, design, w, curvature)
    return xp.stack([xp.stack([own[a, ...] if a == b else zero for b in range(c)]) for a in range(c)])


def _coupled_blocks(xp: Any, design: Any, w: Any, curvature: Any) -> Any:
    """Σ_i w_i (δ_ab p_ia - p_ia p_ib) z_i z_iᵀ of each pair of outputs, as `_separate_blocks` has them, from w p (n, c)."""
    c = curvature.shape[1]
    share, own = curvature / xp.where(w == 0.0, xp.ones_like(w), w)[:, None], _against_others(xp, curvature, w)
    blocks: list[list[Any]] = [[None] * c for _ in range(c)]
    for a in range(c):
        for b in range(a + 1):
            blocks[a][b] = blocks[b][a] = _gram(xp, design, own[:, a] if a == b else -curvature[:, a] * share[:, b])
    return xp.stack([xp.stack(row) for row in blocks])


def _gram(xp: Any, design: Any, h: Any) -> Any:
    """Σ_i h_i z_i z_iᵀ, exactly symmetric."""
    found = xp.matmul(design.T, h[:, None] * design)
    return (found + found.T) / 2.0


def _by_parameters(blocks: Float64, p: int) -> Float64:
    """(k, c, c, P, P) -> (k, c P, c P), in the order of parameters: coef of all outputs, then their intercepts."""
    k, c, _, size, _ = blocks.shape
    hessian = np.moveaxis(blocks, 3, 2).reshape(k, c * size, c * size)
    number = np.arange(c * size).reshape(c, size)
    order = np.concatenate([number[:, :p].ravel(), number[:, p:].ravel()])
    return np.ascontiguousarray(hessian[:, order[:, None], order])


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
        curvature = loss.curvature(xp, y, raw) * factor + _unhidden(xp, raw)
        direction = _predict(xp, rows, coef_direction, intercept_direction, n_models)
        if loss.coupled:
            direction = direction - xp.sum(curvature * direction, axis=2, keepdims=True)
        product = _flat(xp, _weighted(xp, w[:, None, None], curvature * direction))
        return [xp.matmul(product.T, rows), xp.sum(product, axis=0)]

    coef_sum, intercept_sum = map(to_numpy, sums_along_tree(map(_apply(leaf), _leaves(xp, X, y, weight, offsets))))
    return coef_sum, intercept_sum


def raw_prediction(X: Any, coef: Float64, intercept: Float64) -> Any:
    """Raw predictions where X lives, as tasks.kernels.raw_prediction has them."""
    xp = namespace_of(X)
    return _flat(xp, _predict(xp, xp.astype(X, xp.float64, copy=False), like(X, coef), like(X, intercept), 1))


def column_spread(X: Any, weight: Any) -> tuple[float, Float64, Float64, Float64]:
    """The spread of columns as tasks.kernels.column_spread has it, for a single partition. Columns are measured from a row that counts, and
    then from their means, so that large means cost no digits."""
    xp = namespace_of(X)
    p = X.shape[1]
    if not X.shape[0]:
        return 0.0, np.zeros(p), np.zeros(p), np.zeros(p)
    with np.errstate(all="ignore"):
        rows = xp.astype(X, xp.float64, copy=False)
        w = xp.ones(X.shape[0], dtype=xp.float64, device=device_of(X)) if weight is None else like(X, weight)
        total = float(xp.sum(w))
        largest = to_numpy(xp.max(xp.abs(rows), axis=0))
        mean, scatter = xp.zeros_like(rows[0, :]), xp.zeros_like(rows[0, :])
        if total:
            mean = rows[int(xp.argmax(xp.astype(w != 0.0, xp.int8))), :]
            for _ in range(2):
                mean = mean + xp.matmul(w, rows - mean[None, :]) / total
            scatter = xp.matmul(w, (rows - mean[None, :]) ** 2)
        return total, to_numpy(mean), to_numpy(scatter), np.where(np.isfinite(largest), largest, np.nan)


def _gradient_sums(xp: Any, loss: PointwiseLoss, rows: Any, raw: Any, target: Any, w: Any, positive_weight: Float64 | None) -> Sums:
    """The sums of `loss_and_gradient` over these rows, whose raw predictions are raw (n, k, c)."""
    value, residual = _losses(xp, loss, raw, target, positive_weight)
    residual = _flat(xp, _weighted(xp, w[:, None, None], residual))
    return [xp.sum(_weighted(xp, w[:, None], value), axis=0), xp.sum(w), xp.matmul(residual.T, rows), xp.sum(residual, axis=0)]


def _losses(xp: Any, loss: PointwiseLoss, raw: Any, target: Any, positive_weight: Float64 | None) -> tuple[Any, Any]:
    """Loss (n, k) and dloss/draw (n, k, c) as in tasks.kernels.pointwise but without row weights; raw (n, k, c)."""
    y, factor = _outputs(xp, loss, raw, target, positive_weight)
    value, residual = loss.at(xp, y, raw)
    if loss.coupled:
        unhidden = _unhidden(xp, raw)
        return value + unhidden[:, :, 0], residual + unhidden
    return (xp.sum(value * factor, axis=2), residual * factor)


def _weighted(xp: Any, w: Any, values: Any) -> Any:
    """The values by their rows' weights: a row without weight counts nothing, even where its value is too large a number."""
    return xp.where(w == 0.0, xp.zeros_like(values), w * values)


def _unhidden(xp: Any, raw: Any) -> Any:
    """Zero for each row and model (n, k, 1), NaN where any of its raw predictions is not finite."""
    return xp.sum(0.0 * raw, axis=2, keepdims=True)


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
    """The array in the namespace and on the device of X, in C order, because BLAS rounds otherwise for others."""
    return np.ascontiguousarray(array) if isinstance(X, np.ndarray) else beside(X, array)


def to_numpy(array: Any) -> Float64:
    """A copy of the array as NumPy's, in C order: what is computed with it must not tell whether it has travelled."""
    return np.array(on_host(array), dtype=np.float64, order="C")


def _leaves(xp: Any, X: Any, y: Any, weight: Any, offsets: Int64) -> Iterator[tuple[Any, Any, Any]]:
    """float64 rows, y and weights of each partition."""
    y = like(X, y)
    weight = xp.ones(X.shape[0], dtype=xp.float64, device=device_of(X)) if weight is None else like(X, weight)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield xp.astype(X[start:stop, :], xp.float64, copy=False), y[start:stop, ...], weight[start:stop]


def _apply(leaf: Callable[[Any, Any, Any], Sums]) -> Callable[[tuple[Any, Any, Any]], Sums]:
    return lambda arguments: leaf(*arguments)


def sums_along_tree(leaves: Iterator[Sums]) -> Sums:
    """The sums along the fixed tree (see tasks.kernels.tree); too large a number is inf, as in compiled passes."""
    stack: list[Sums] = []
    with np.errstate(all="ignore"):
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
