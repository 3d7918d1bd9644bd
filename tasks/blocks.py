"""From what users hold in a partition (arrays, sparse matrices, pandas frames) to a block of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tasks.partition import Block, normalise
from tasks.rows import split_rows, take
from tasks.typing import Array, Design, Float64


@dataclass(frozen=True)
class BlockSpec:
    """What a block must become: dtype of X, and, when a partition is one frame that holds everything, which column is what."""

    dtype: str = "float64"
    columns: tuple[str, ...] | None = None
    target: str | None = None
    sample_weight: str | None = None


@dataclass(frozen=True)
class Split:
    """Training rows are part 0, test rows part 1; see tasks.rows.split_rows."""

    test_size: float
    seed: int


def make_block(partition: int, spec: BlockSpec, X: Any, y: Any = None, sample_weight: Any = None) -> Block:
    """The block of one partition. Raises ValueError or TypeError, naming the partition, for what cannot be one."""
    try:
        if spec.columns is not None and isinstance(X, pd.DataFrame):
            y = X[spec.target] if spec.target is not None else y
            sample_weight = X[spec.sample_weight] if spec.sample_weight is not None else sample_weight
            X = X[list(spec.columns)]
        block = Block(as_design(X, spec.dtype), as_target(y), as_weight(sample_weight))
    except (ValueError, TypeError, KeyError) as error:
        raise type(error)(f"partition {partition}: {error}") from error
    n_rows = block.X.shape[0]
    for name, array in (("y", block.y), ("sample_weight", block.sample_weight)):
        if array is not None and len(array) != n_rows:
            raise ValueError(f"partition {partition}: X has {n_rows} rows but {name} has {len(array)}; partition both alike")
    return block


def as_design(X: Any, dtype: str) -> Design:
    """X as a C-ordered aligned array or CSR of `dtype`, (n, p)."""
    if isinstance(X, pd.DataFrame):
        _require_numeric(X)
        X = X.to_numpy(dtype=dtype, na_value=np.nan)
    if sp.issparse(X):
        csr = sp.csr_array(X)
        _require_real(csr.dtype)
        csr.sum_duplicates()
        return normalise(csr.astype(dtype))
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X must be 2-D (rows, columns), got {X.ndim}-D; use X.reshape(-1, 1) for a single column")
    _require_real(X.dtype)
    return np.require(X, dtype=dtype, requirements=["C", "A"])


def as_target(y: Any) -> Array | None:
    """y as an aligned array (n,) or (n, t) in its own kind: labels stay labels, float16 becomes float64."""
    if y is None:
        return None
    if isinstance(y, pd.DataFrame) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    if isinstance(y, pd.Series) and isinstance(y.dtype, pd.api.extensions.ExtensionDtype):
        y = y.to_numpy(dtype=float, na_value=np.nan) if pd.api.types.is_numeric_dtype(y) else y.to_numpy(dtype=object)
    y = np.asarray(y)
    if y.ndim not in (1, 2):
        raise ValueError(f"y must be 1-D (rows,) or 2-D (rows, targets), got {y.ndim}-D")
    if y.dtype.kind == "O":
        return _labels(y)
    _require_real(y.dtype)
    if y.dtype.kind == "f" and y.dtype.itemsize < 4:
        y = y.astype(np.float64)
    return np.asarray(normalise(y))


def as_weight(sample_weight: Any) -> Float64 | None:
    """Weights as float64 (n,)."""
    if sample_weight is None:
        return None
    weight = np.require(np.asarray(sample_weight), dtype=np.float64, requirements=["C", "A"])
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must be 1-D (rows,), got {weight.ndim}-D")
    return weight


def assemble(blocks: Sequence[Block], first_partition: int, split: Split | None) -> list[list[Block]]:
    """The blocks of a group, by part: all of them, or training rows and test rows."""
    if split is None:
        return [list(blocks)]
    parts: list[list[Block]] = [[], []]
    for partition, block in enumerate(blocks, first_partition):
        for part, rows in enumerate(split_rows(block.X.shape[0], split.test_size, split.seed, partition)):
            parts[part].append(take(block, rows))
    return parts


def _labels(y: Array) -> Array:
    """Object labels as strings or numbers where they are all of one kind; a missing label stays and is found by the check."""
    if len(y) and all(isinstance(value, str) for value in y.ravel()):
        return y.astype(str)
    if len(y) and all(isinstance(value, (bool, np.bool_)) for value in y.ravel()):
        return y.astype(bool)
    if len(y) and all(isinstance(value, (int, float, np.number)) for value in y.ravel()):
        return y.astype(np.float64)
    return y


def _require_real(dtype: np.dtype[Any]) -> None:
    if dtype.kind == "c":
        raise ValueError("Complex data not supported; pass the real and imaginary parts as columns of their own")
    if dtype.kind in "mMV":
        raise TypeError(f"values of dtype {dtype} are not numbers; convert them first")


def _require_numeric(frame: pd.DataFrame) -> None:
    for name, dtype in frame.dtypes.items():
        if not (pd.api.types.is_numeric_dtype(dtype) or dtype == object):
            raise ValueError(f"column {name!r} has dtype {dtype}, not numbers; encode it, or leave it out with columns=")
