"""Targets: y as numbers or labels, in one form over all partitions."""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.machine.namespaces import brought_here
from tasks.rows.frames import is_frame, is_series, series_values
from tasks.rows.partition import Block, Group, normalise
from tasks.typing import Array, Float64

LARGEST_WHOLE: Final = 2.0**53
"""Up to which float64 holds all whole numbers."""
NUMBERS: Final = "biuf"
"""The kinds of NumPy's dtypes whose values can be regressed on: booleans, integers, floats."""


class Form(NamedTuple):
    """The form in which all partitions with rows must agree: sparse X, weights or none, y's shape after the rows (None without y), and
    whether y holds numbers or text."""

    sparse: bool
    weighted: bool
    target_shape: tuple[int, ...] | None
    text: bool


def form_of(rows: Block | Group) -> Form:
    """The form of some rows."""
    shape = None if rows.y is None else rows.y.shape[1:]
    text = rows.y is not None and rows.y.dtype.kind in "US"
    return Form(isinstance(rows.X, sp.csr_array), rows.sample_weight is not None, shape, text)


def require_same_form(left: Form, right: Form, left_name: str, right_name: str) -> None:
    """Raise ValueError saying in what the two differ."""
    if left == right:
        return
    differences = {
        "sparse": "sparse and dense X",
        "weighted": "rows with and without sample_weight",
        "target_shape": "y of different shapes",
        "text": "labels that are text and labels that are numbers",
    }
    (what, *_) = (text for field, text in differences.items() if getattr(left, field) != getattr(right, field))
    raise ValueError(f"{left_name} and {right_name} mix {what}; make all partitions alike")


def as_target(y: Any) -> Array | None:
    """The target y as an aligned array (n,) or (n, t) in its own kind: labels stay labels, float16, decimals and fractions become float64;
    a missing label becomes None, a missing number NaN, which the check finds. A frame is (n, t), also of one column. Raises ValueError or
    TypeError for what is neither numbers nor labels of one type."""
    if y is None:
        return None
    if np.ma.is_masked(y):
        raise TypeError("y is a masked array; fill it first: y.filled(value)")
    y = _values(y)
    if y.ndim not in (1, 2):
        raise ValueError(f"y must be 1-D (rows,) or 2-D (rows, targets), got {y.ndim}-D")
    if y.shape[1:] == (0,):
        raise ValueError("y has no columns; it needs one for each target")
    if y.dtype.kind == "O":
        y = _labels(y)
    if y.dtype.kind == "T":  # NumPy's strings of variable width
        y = y.astype(str)
    if y.dtype.kind == "c":
        raise ValueError("Complex data not supported: y must hold real numbers or labels")
    if y.dtype.kind in "mMV":
        raise TypeError(f"y has dtype {y.dtype}, neither numbers nor labels; convert it first")
    if y.dtype.kind == "f" and y.dtype.itemsize not in (4, 8):
        y = y.astype(np.float64)
    return np.asarray(normalise(y))


def _values(y: Any) -> Array:
    if is_frame(y) and y.shape[1]:
        return np.column_stack([series_values(y.iloc[:, i]) for i in range(y.shape[1])])
    if is_series(y):
        return series_values(y)
    y = brought_here(y)
    try:
        values = np.asarray(y)
        return np.array(y, dtype=object) if isinstance(y, list | tuple) and _may_be_others(values) else values
    except ValueError as error:
        raise ValueError(
            f"y must be 1-D (rows,) or 2-D (rows, targets), but is neither: {error}; make all its rows of one length"
        ) from error


def _may_be_others(values: Array) -> bool:
    """Whether NumPy's array of a list may not hold what the list does: text of numbers among strings, or rounded whole numbers."""
    return values.dtype.kind in "US" or (values.dtype.kind == "f" and bool(np.any(np.abs(values) >= LARGEST_WHOLE)))


def _labels(y: Array) -> Array:
    """Labels of objects as strings or numbers, float64 for those that NumPy has no dtype for. Raises TypeError where they are of several
    types, ValueError for whole numbers that no dtype holds."""
    import pandas as pd

    missing = pd.isna(y)
    kinds = sorted({_kind(value) for value in y[~missing].ravel()})
    if len(kinds) > 1:
        raise TypeError(f"y mixes labels of types {' and '.join(kinds)}; make them one type")
    if kinds and kinds[0] not in ("bool", "number", "str"):
        raise TypeError(f"y holds values of type {kinds[0]}; labels must be strings, numbers or booleans")
    if missing.any():
        y = y.copy()
        y[missing] = None
        return y
    if not kinds:
        return y
    values = np.array(y.tolist()).reshape(y.shape)
    values = values.astype(np.float64) if values.dtype.kind == "O" else values
    if values.dtype.kind == "f":
        _require_distinct(y.ravel(), values.ravel())
    return values


def _require_distinct(y: Array, values: Float64) -> None:
    """Raise ValueError where whole numbers of y that differ are one in float64 `values`: two labels would become one."""
    whole = {int(given): value for given, value in zip(y, values.tolist(), strict=True) if isinstance(given, Integral)}
    if len(set(whole.values())) < len(whole):
        raise ValueError(
            f"y holds whole numbers, {max(whole)} say, that neither 64 bits nor float64 tell from others;"
            f" pass labels as text, {str(max(whole))!r}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, Real | Decimal | np.number):
        return "number"
    return "str" if isinstance(value, str) else type(value).__name__
