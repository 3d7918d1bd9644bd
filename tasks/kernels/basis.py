"""Gram matrices of rows in other coordinates than their columns', where columns nearly depend on each other: in any array namespace.

Squares of what is small beside the columns are lost in the columns' own Gram matrix. Where it is made large before it is squared, they are
not: Y. Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44 (2015).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from tasks.kernels.array_api import like, sums_along_tree, to_numpy
from tasks.kernels.loss import PointwiseLoss
from tasks.machine.namespaces import namespace_of
from tasks.typing import Float64, Int64

NUMBERS_A_BLOCK: Final = 1 << 20


def gram_in_basis(
    loss: PointwiseLoss,
    X: Any,
    y: Any,
    weight: Any,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    fit_intercept: bool,
    standard: tuple[Float64, Float64],
    basis: Float64,
) -> tuple[Float64, float, Float64, Float64, Float64]:
    """Sums for one model of a loss of constant curvature, of rows z = factor (x - shift): loss_sum (1,), weight_sum, coef_gradient (c, p),
    intercept_gradient (c,), all as tasks.kernels.hessian has them, and [B'B, B'R] (q, q + c).

    B are the rows [z @ basis, 1], basis (p, p), without the 1 where no intercept is fitted; R (n, c) the derivatives of the losses, all
    weighted. q = p + 1, or p. Sums run over the fixed tree of partitions.
    """
    xp = namespace_of(X)
    p = basis.shape[0]
    dense = np.empty(0) if isinstance(X, sp.csr_array) else X  # whose namespace and device all arrays have
    y, coef, intercept, basis, shift, factor = (like(dense, a) for a in (y, coef, intercept, basis, *standard))
    weight = None if weight is None else like(dense, weight)

    def block(start: int, stop: int) -> list[Any]:
        rows = X[start:stop, :]
        z = factor * (xp.astype(rows.toarray() if isinstance(rows, sp.csr_array) else rows, xp.float64) - shift)
        raw = xp.matmul(z, coef.T) + intercept
        value, slope = loss.at(xp, xp.reshape(xp.astype(y[start:stop, ...], xp.float64), raw.shape), raw)
        w = xp.ones_like(raw[:, 0]) if weight is None else weight[start:stop]
        inside = xp.matmul(z, basis)
        inside = xp.concat([inside, xp.ones_like(inside[:, :1])], axis=1) if fit_intercept else inside
        root = xp.sqrt(w)[:, None]
        scaled, slope = root * inside, root * slope
        return [
            xp.reshape(xp.sum(w[:, None] * value), (1,)),
            xp.reshape(xp.sum(w), (1,)),
            xp.matmul(slope.T, root * z),
            xp.sum(root * slope, axis=0),
            xp.concat([xp.matmul(scaled.T, scaled), xp.matmul(scaled.T, slope)], axis=1),
        ]

    size = max(64, NUMBERS_A_BLOCK // max(1, p))

    def partition(start: int, stop: int) -> list[Any]:
        sums = block(start, min(stop, start + size))
        for at in range(start + size, stop, size):
            sums = [a + b for a, b in zip(sums, block(at, min(stop, at + size)), strict=True)]
        return sums

    bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        loss_sum, weight_sum, coef_sum, intercept_sum, gram = map(to_numpy, sums_along_tree(partition(*pair) for pair in bounds))
    return loss_sum, float(weight_sum[0]), coef_sum, intercept_sum, gram
