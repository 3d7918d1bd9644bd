"""What passes do with a block of rows: numba picks how by the type of X, an array or a CSR triple."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from tasks.kernels import csr, dense, fused
from tasks.kernels.compiling import PART, compiled_leaf
from tasks.typing import Float64, UInt64


def block_rows(X: Any) -> Any:
    """The number of rows of a block."""


def gradient_block_rows(X: Any, m: int) -> Any:
    """The number of rows of a block that `add_and_predict` takes."""


def scratch_size(X: Any) -> Any:
    """Elements of the scratch memory that the two below share."""


def predict_block(X: Any, start: int, count: int, coef: Float64, intercept: Float64, raw: Float64, scratch: Float64) -> Any:
    """Compute raw (m, count) flat = the raw predictions of a block."""


def add_block(X: Any, start: int, count: int, factor: Float64, sums: Float64, scratch: Float64) -> Any:
    """Add up sums (m p,) += factor (m, count) flat @ block, of at least one row."""


def add_and_predict(
    X: Any,
    start: int,
    n_added: int,
    factor: Float64,
    sums: Float64,
    following: int,
    n_read: int,
    coef: Float64,
    intercept: Float64,
    raw: Float64,
    scratch: Float64,
) -> None:
    """Do `add_block(X, start, n_added, factor, sums, scratch)` and `predict_block(X, following, n_read, coef, intercept, raw, scratch)`."""


def mark_block(X: Any, start: int, stop: int, k: int, m: int, p: int, marks: UInt64) -> Any:
    """Mark the pages, if there are any, of the sums [loss (k), weight (1), coef (m p), intercept (m)] of rows start .. stop - 1."""


def take_block(X: Any, start: int, count: int, block: Float64) -> Any:
    """Copy block (count, p) = X[start : start + count] as dense float64."""


@overload(block_rows, jit_options=PART, strict=False)
def _block_rows(X: Any) -> Any:
    rows = dense.dense_block_rows if isinstance(X, types.Array) else csr.csr_block_rows
    return lambda X: rows(X)


@overload(scratch_size, jit_options=PART, strict=False)
def _scratch_size(X: Any) -> Any:
    size = dense.dense_scratch_size if isinstance(X, types.Array) else csr.csr_scratch_size
    return lambda X: size(X)


@overload(predict_block, jit_options=PART, strict=False)
def _predict_block(X: Any, start: Any, count: Any, coef: Any, intercept: Any, raw: Any, scratch: Any) -> Any:
    predict = dense.dense_predict if isinstance(X, types.Array) else csr.csr_predict
    return lambda X, start, count, coef, intercept, raw, scratch: predict(X, start, count, coef, intercept, raw, scratch)


@overload(add_block, jit_options=PART, strict=False)
def _add_block(X: Any, start: Any, count: Any, factor: Any, sums: Any, scratch: Any) -> Any:
    add = dense.dense_add if isinstance(X, types.Array) else csr.csr_add
    return lambda X, start, count, factor, sums, scratch: add(X, start, count, factor, sums, scratch)


@compiled_leaf
def one_after_the_other(
    X: Any,
    start: int,
    n_added: int,
    factor: Float64,
    sums: Float64,
    following: int,
    n_read: int,
    coef: Float64,
    intercept: Float64,
    raw: Float64,
    scratch: Float64,
) -> None:
    """What `add_and_predict` does, where nothing is gained by doing both at once."""
    add_block(X, start, n_added, factor, sums, scratch)
    predict_block(X, following, n_read, coef, intercept, raw, scratch)


@overload(gradient_block_rows, jit_options=PART, strict=False)
def _gradient_block_rows(X: Any, m: Any) -> Any:
    if not isinstance(X, types.Array):
        return lambda X, m: csr.csr_block_rows(X)
    return lambda X, m: fused.fused_block_rows(X) if fused.worth_fusing(X, m) else dense.dense_block_rows(X)


@overload(add_and_predict, jit_options=PART, strict=False)
def _add_and_predict(
    X: Any, start: Any, n_added: Any, factor: Any, sums: Any, following: Any, n_read: Any, coef: Any, intercept: Any, raw: Any, scratch: Any
) -> Any:
    def together(X, start, n_added, factor, sums, following, n_read, coef, intercept, raw, scratch):  # type: ignore[no-untyped-def]
        if fused.worth_fusing(X, len(coef)):
            fused.add_and_dot(X, start, n_added, factor, sums, following, n_read, coef, intercept[0], raw)
        else:
            one_after_the_other(X, start, n_added, factor, sums, following, n_read, coef, intercept, raw, scratch)

    return together if isinstance(X, types.Array) else one_after_the_other.py_func


@overload(mark_block, jit_options=PART, strict=False)
def _mark_block(X: Any, start: Any, stop: Any, k: Any, m: Any, p: Any, marks: Any) -> Any:
    if isinstance(X, types.Array):  # its sums have none
        return lambda X, start, stop, k, m, p, marks: None
    return lambda X, start, stop, k, m, p, marks: csr.csr_mark(X, start, stop, k, m, p, marks)


@overload(take_block, jit_options=PART, strict=False)
def _take_block(X: Any, start: Any, count: Any, block: Any) -> Any:
    take = dense.dense_take if isinstance(X, types.Array) else csr.csr_take
    return lambda X, start, count, block: take(X, start, count, block)
