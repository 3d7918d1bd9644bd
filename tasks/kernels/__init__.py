"""The hot loops: sums of losses and derivatives over a group of partitions, one pass over the rows.

n rows in q partitions (offsets (q + 1,) int64), p columns, k models that share the pass, c raw predictions a row and model (classes
for multinomial and one-vs-rest, targets for regression, else 1), m = k c.

loss    what is summed: see `tasks.kernels.loss`
X       (n, p) float32 or float64: C-contiguous aligned numpy.ndarray, scipy.sparse.csr_array, or an array of another namespace
y       float64 (n,), or (n, c) for several outputs, whose losses add up; int64 class codes (n,) for losses whose outputs are coupled
weight  float64 (n,), or None for ones
positive_weight  float64 (c,), or None for ones: in output a, rows with y_ia = 1 count that much more (the class weights of one-vs-rest);
        no part of weight_sum. Not for losses whose outputs are coupled
coef    float64 (m, p); intercept float64 (m,)

All arithmetic is float64. Sums run over the fixed tree of partitions: the bits are those of each partition computed alone and added
along the tree. BLAS (small data, bases) must run on one thread, because two give other bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

from tasks.kernels import array_api
from tasks.kernels.basis import gram_in_basis
from tasks.kernels.loss import PointwiseLoss
from tasks.lazy import Lazy
from tasks.machine import buffers
from tasks.typing import Array, Float64, Int64, UInt64

if TYPE_CHECKING:
    import numba

    from tasks.kernels import passes, pointwise, spread, tree
else:
    numba, passes = Lazy("numba"), Lazy("tasks.kernels.passes")
    pointwise, spread, tree = Lazy("tasks.kernels.pointwise"), Lazy("tasks.kernels.spread"), Lazy("tasks.kernels.tree")

__all__ = [
    "PointwiseLoss",
    "column_spread",
    "flat_gradient",
    "gradient_of_groups",
    "gram_in_basis",
    "hessian",
    "hessian_vector",
    "loss_and_gradient",
    "raw_prediction",
    "worth_compiling",
]

_NO_WEIGHT: Final = np.empty(0)
_NO_MARKS: Final = np.empty((64, 0), np.uint64)
_EVERY_PAGE: Final = np.uint64((1 << 64) - 1)
FEW_NUMBERS: Final = 1 << 18
FEW_PARTITIONS: Final = 64


def worth_compiling(n_rows: int, n_columns: int, n_partitions: int) -> bool:
    """Whether compiled passes over that many rows gain more than compiling them takes, the first time on a machine.
    NumPy is as fast for few numbers in few partitions (tasks.kernels.array_api). It follows from the data alone, and so do the bits."""
    return n_rows * n_columns > FEW_NUMBERS or n_partitions > FEW_PARTITIONS


def loss_and_gradient(
    loss: PointwiseLoss,
    X: Any,
    y: Array,
    weight: Float64 | None,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    n_models: int,
    positive_weight: Float64 | None = None,
) -> tuple[Float64, float, Float64, Float64]:
    """Sums of the loss and its gradient, with raw = X @ coef.T + intercept: loss_sum (k,), weight_sum, coef_gradient (m, p),
    intercept_gradient (m,)."""
    if not isinstance(X, np.ndarray | sp.csr_array):
        return array_api.loss_and_gradient(loss, X, y, weight, offsets, coef, intercept, n_models, positive_weight)
    return gradient_of_groups(loss, [(X, y, weight, offsets)], coef, intercept, n_models, positive_weight)


def gradient_of_groups(
    loss: PointwiseLoss,
    groups: Sequence[tuple[Any, Array, Float64 | None, Int64]],
    coef: Float64,
    intercept: Float64,
    n_models: int,
    positive_weight: Float64 | None = None,
) -> tuple[Float64, float, Float64, Float64]:
    """The sums of `loss_and_gradient` over a subtree of groups (X, y, weight, offsets), NumPy or CSR: the next one's partitions go on where
    the tree of the last one's ends, so that wide sums are not formed for each group. Groups have equally many partitions, a power of two;
    the last one may have fewer."""
    m, p = coef.shape
    n_partitions = [len(offsets) - 1 for *_, offsets in groups]
    assert all(n == n_partitions[0] and n.bit_count() == 1 for n in n_partitions[:-1])
    stack, marks = _stack(sum(n_partitions), n_models + 1 + m * p + m, [X for X, *_ in groups])
    top = leaf = 0
    for X, y, weight, offsets in groups:
        rows, kind = _rows(X)
        per_row = _per_row(loss, X, y, weight, positive_weight, offsets)
        sums = stack, marks, top, leaf
        top = _compiled(passes.gradient_pass, kind)(*_arithmetic(loss), rows, *per_row, *_parameters(X, coef, intercept), n_models, *sums)
        leaf += len(offsets) - 1
    if top > 1:
        _compiled(passes.collapse_pass, ())(stack, marks, top)
    total = stack[0]
    if len(stack) > 1:  # in memory that holds nothing else
        total = buffers.empty(total.shape, np.float64)
        total[:] = stack[0]
    return _gradient_parts(total, n_models, coef.shape)


def hessian(
    loss: PointwiseLoss,
    X: Any,
    y: Array,
    weight: Float64 | None,
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
    """The sums of loss_and_gradient, and hessian_sum (k, N, N), exactly symmetric; all of rows factor (x - shift), where standard is
    (shift (p,), factor (p,)).

    N = c (p + 1), or c p without intercept, in the order [coef of output 0 (p), coef of output 1, ..., intercepts (c)].
    shared, for losses of constant curvature: the one block that all outputs of all models have, (1, P, P), P = p + 1 or p, in the order
    [coef, intercept].
    apart: the blocks of all outputs with themselves alone, (k, c, P, P), each in that order.
    """
    assert loss.constant_curvature or not shared
    assert not (shared and apart)
    if not isinstance(X, np.ndarray | sp.csr_array):
        return array_api.hessian(
            loss, X, y, weight, offsets, coef, intercept, n_models, fit_intercept, positive_weight, standard, shared, apart
        )
    rows, kind = _rows(X)
    shift, factor = (np.zeros(X.shape[1]), np.ones(X.shape[1])) if standard is None else standard
    sums = _compiled(passes.hessian_pass, kind)(
        *_arithmetic(loss),
        rows,
        *_per_row(loss, X, y, weight, positive_weight, offsets),
        *_parameters(X, coef, intercept),
        n_models,
        loss.constant_curvature,
        shared,
        apart,
        fit_intercept,
        np.ascontiguousarray(shift, np.float64),
        np.ascontiguousarray(factor, np.float64),
    )
    m, p = coef.shape
    blocks, outputs = ((1,), 1) if shared else ((n_models, m // n_models), 1) if apart else ((n_models,), m // n_models)
    size = outputs * (p + 1 if fit_intercept else p)
    return *_gradient_parts(sums, n_models, coef.shape), sums[n_models + 1 + m * p + m :].reshape(*blocks, size, size)


def hessian_vector(
    loss: PointwiseLoss,
    X: Any,
    y: Array,
    weight: Float64 | None,
    offsets: Int64,
    coef: Float64,
    intercept: Float64,
    n_models: int,
    coef_direction: Float64,
    intercept_direction: Float64,
    positive_weight: Float64 | None = None,
) -> tuple[Float64, Float64]:
    """Sums of the Hessian of each model times its direction: coef part (m, p), intercept part (m,)."""
    if not isinstance(X, np.ndarray | sp.csr_array):
        directions = coef_direction, intercept_direction
        return array_api.hessian_vector(loss, X, y, weight, offsets, coef, intercept, n_models, *directions, positive_weight)
    rows, kind = _rows(X)
    sums = _compiled(passes.product_pass, kind)(
        *_arithmetic(loss),
        rows,
        *_per_row(loss, X, y, weight, positive_weight, offsets),
        *_parameters(X, coef, intercept),
        n_models,
        *_parameters(X, coef_direction, intercept_direction),
    )
    return sums[: coef.size].reshape(coef.shape), sums[coef.size :]


def raw_prediction(X: Any, coef: Float64, intercept: Float64) -> Any:
    """Raw predictions X @ coef.T + intercept, (n, m) float64, where X lives."""
    if not isinstance(X, np.ndarray | sp.csr_array):
        return array_api.raw_prediction(X, coef, intercept)
    rows, kind = _rows(X)
    out: Float64 = _compiled(passes.predict_pass, kind)(rows, X.shape[0], *_parameters(X, coef, intercept))
    return out


def column_spread(X: Any, weight: Float64 | None, offsets: Int64) -> tuple[float, Float64, Float64, Float64]:
    """Weight of all rows, and of each column its weighted mean (p,), scatter Σ weight_i (x_i - mean)² (p,) and largest |value| (p,), NaN
    where a value is not finite."""
    rows, kind = _rows(X)
    weight = _NO_WEIGHT if weight is None else np.ascontiguousarray(weight, np.float64)
    assert len(weight) in (0, X.shape[0])
    assert offsets[-1] <= X.shape[0]
    p = X.shape[1]
    stack, scratch = _room(len(offsets) - 1, 1 + 3 * p, np.empty), np.empty(spread.FIELDS * p)
    _compiled(spread.spread_pass, kind)(rows, p, weight, np.ascontiguousarray(offsets, np.int64), stack, scratch)
    weight_sum, mean, scatter, largest = stack[0, 0], *stack[0, 1:].reshape(3, p).copy()
    return float(weight_sum), mean, scatter, largest_of(X) if np.isnan(largest).any() else largest


def largest_of(X: Any) -> Float64:
    """Largest |value| of each column (p,) of NumPy or CSR rows, NaN where one is not finite, also where squares overflow."""
    with np.errstate(invalid="ignore"):
        if isinstance(X, sp.csr_array):
            largest = np.zeros(X.shape[1])
            np.maximum.at(largest, X.indices, np.abs(X.data))  # propagates NaN
        else:
            largest = np.abs(X).max(axis=0, initial=0.0).astype(np.float64)
    largest[np.isinf(largest)] = np.nan
    return largest


def _rows(X: Any) -> tuple[Any, tuple[str, ...]]:
    """The form of X that the kernels take, and the kind of it that they are compiled for."""
    if isinstance(X, np.ndarray):
        assert X.flags.c_contiguous
        assert X.flags.aligned
        return X, (_name(X.dtype),)
    return (X.data, X.indices, X.indptr), (_name(X.data.dtype), _name(X.indices.dtype), _name(X.indptr.dtype))


def _room(n_leaves: int, size: int, empty: Callable[..., Float64] = buffers.empty) -> Float64:
    """Room for the sums of so many partitions that are open at once, (about log2(n_leaves) + 1, size). empty: makes it, by default from
    memory that is used again in the next round."""
    room = empty((max(1, n_leaves.bit_length()), size), np.float64)
    if n_leaves == 0:  # there is nothing that would be cleared
        room[0] = 0.0
    return room


def _stack(n_leaves: int, size: int, rows: Sequence[Any]) -> tuple[Float64, UInt64]:
    """`_room`, and its marks: see `tasks.kernels.tree`."""
    stack = _room(n_leaves, size)
    levels = len(stack)
    paged = n_leaves > 1 and size > tree.PAGED and all(isinstance(X, sp.csr_array) for X in rows)
    return stack, np.full((levels, -(-size // tree.WORD)), _EVERY_PAGE) if paged else _NO_MARKS[:levels]


@cache
def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name  # slow to make, and asked for at every call


def _per_row(
    loss: PointwiseLoss, X: Any, y: Array, weight: Float64 | None, positive_weight: Float64 | None, offsets: Int64
) -> tuple[Array, Array, Array, Int64]:
    """Targets and weights as the kernels take them: y as float64 (n, t), class codes as float64 bit patterns, so that one compiled version
    does; weights, empty for ones."""
    y = np.ascontiguousarray(y, np.int64).view(np.float64) if loss.coupled else np.ascontiguousarray(y, np.float64)
    n = X.shape[0]
    if y.ndim == 1:
        y = y.reshape(-1, 1)
    weight = _NO_WEIGHT if weight is None else np.ascontiguousarray(weight, np.float64)
    positive_weight = _NO_WEIGHT if positive_weight is None else np.ascontiguousarray(positive_weight, np.float64)
    assert len(y) == n  # a wrong length would read other memory
    assert len(weight) in (0, n)
    assert len(positive_weight) in (0, y.shape[1])
    assert offsets[-1] <= n
    return y, weight, positive_weight, np.ascontiguousarray(offsets, np.int64)


@cache
def _arithmetic(loss: PointwiseLoss) -> tuple[int, bool, Float64]:
    """What the passes get of a loss: the address of its compiled arithmetic, whether outputs are coupled, and its parameters."""
    return pointwise.address_of(loss.kernel, loss.coupled), loss.coupled, np.array(loss.parameters, np.float64)


def _parameters(X: Any, coef: Float64, intercept: Float64) -> tuple[Float64, Float64]:
    assert coef.shape[1] == X.shape[1]
    assert coef.shape[0] == intercept.shape[0]
    return np.ascontiguousarray(coef, np.float64), np.ascontiguousarray(intercept, np.float64)


def _gradient_parts(sums: Float64, k: int, shape: tuple[int, ...]) -> tuple[Float64, float, Float64, Float64]:
    m, p = shape
    end = k + 1 + m * p
    return sums[:k], float(sums[k]), sums[k + 1 : end].reshape(m, p), sums[end : end + m]


def flat_gradient(coef: Float64, intercept: Float64, k: int) -> Float64:
    """[coef (k, c p), intercept (k, c)] side by side, from the gradients (m, p) and (m,) of a pass. Those of one model are not copied, if
    they are the end of what it returned, as `_gradient_parts` leaves them."""
    sums, n = coef.base, coef.size + intercept.size
    if k == 1 and isinstance(sums, np.ndarray) and sums is intercept.base and sums.size == k + 1 + n:
        return sums.reshape(1, -1)[:, k + 1 :]
    return np.concatenate([coef.reshape(k, -1), intercept.reshape(k, -1)], axis=1)


@cache
def _compiled(kernel: Any, kind: tuple[str, ...]) -> Any:
    """The machine code of a pass for one kind of X, compiled or read from the cache on first use.

    Inputs are typed read-only, which takes writable arrays too: one version instead of one for each mixture.
    """

    def array(dtype: str, ndim: int) -> Any:
        return numba.types.Array(getattr(numba.types, dtype), ndim, "C", readonly=True)

    rows = array(kind[0], 2) if len(kind) == 1 else numba.types.Tuple([array(dtype, 1) for dtype in kind])
    stack, marks = numba.types.Array(numba.float64, 2, "C"), numba.types.Array(numba.uint64, 2, "C")
    integer, flag = numba.int64, numba.types.boolean
    vector, matrix, offsets = array("float64", 1), array("float64", 2), array("int64", 1)
    model = (integer, flag, vector, rows, matrix, vector, vector, offsets, matrix, vector, integer)
    arguments = {
        passes.gradient_pass: (*model, stack, marks, integer, integer),
        passes.collapse_pass: (stack, marks, integer),
        passes.hessian_pass: (*model, flag, flag, flag, flag, vector, vector),
        passes.product_pass: (*model, matrix, vector),
        passes.predict_pass: (rows, integer, matrix, vector),
        spread.spread_pass: (rows, integer, vector, offsets, stack, numba.types.Array(numba.float64, 1, "C")),
    }
    return kernel.compile(arguments[kernel])
