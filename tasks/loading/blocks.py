"""Blocks of numbers, made of what users hold in a partition: arrays, sparse matrices, pandas frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.sparse as sp

from tasks.loading.quarantine import text_of
from tasks.loading.residence import home_of
from tasks.machine.namespaces import brought_here, is_elsewhere, namespace_of, numpy_dtype
from tasks.rows.draws import split_rows, take
from tasks.rows.frames import frame_dtypes, frame_values, is_frame, is_series
from tasks.rows.partition import Block, normalise
from tasks.rows.targets import as_target, form_of, require_same_form
from tasks.typing import Design, Float64


@dataclass(frozen=True)
class BlockSpec:
    """The form that a block must have: dtype of X, its number of columns where that is known, and, when a partition is one frame that holds
    everything, which column is what."""

    dtype: str = "float64"
    n_columns: int | None = None
    columns: tuple[Any, ...] | None = None
    target: Any = None
    sample_weight: Any = None


@dataclass(frozen=True)
class Split:
    """A split of rows: training rows are subset 0, test rows subset 1; see tasks.rows.draws.split_rows. Raises ValueError or TypeError
    for what is no share or no seed."""

    test_size: float
    seed: int

    def __post_init__(self) -> None:
        size: Any = self.test_size
        seed: Any = self.seed
        if not isinstance(size, Real):
            raise TypeError(f"test_size must be a number between 0 and 1, got {size!r}")
        if not 0 < float(size) < 1:
            raise ValueError(f"test_size must lie between 0 and 1, got {size!r}")
        if not isinstance(seed, Integral):
            raise TypeError(f"seed must be a whole number of at least 0, got {seed!r}")
        if int(seed) < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")


def make_block(partition: int | None, spec: BlockSpec, X: Any, y: Any = None, sample_weight: Any = None) -> Block:
    """The block of one partition. Raises ValueError or TypeError, naming the partition (None: all rows), for what cannot be one."""
    try:
        return _block(spec, X, y, sample_weight)
    except (ValueError, TypeError, KeyError) as error:
        if partition is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"partition {partition}: {text_of(error)}") from error


def _block(spec: BlockSpec, X: Any, y: Any, sample_weight: Any) -> Block:
    if spec.columns is not None:
        y = X[spec.target] if spec.target is not None else y
        sample_weight = X[spec.sample_weight] if spec.sample_weight is not None else sample_weight
        X = X[list(spec.columns)]
    block = Block(as_design(X, spec.dtype), as_target(y), as_weight(sample_weight), home=home_of(X))
    n_columns = block.X.shape[1]
    if spec.n_columns not in (None, n_columns):
        raise ValueError(f"X has {n_columns} columns but was declared with {spec.n_columns}")
    require_lengths(block)
    return block


def require_lengths(block: Block) -> None:
    """Raise ValueError where X, y and sample_weight are not of as many rows."""
    n_rows = block.X.shape[0]
    for name, array in (("y", block.y), ("sample_weight", block.sample_weight)):
        if array is not None and len(array) != n_rows:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X has {n_rows} rows but {name} has {len(array)}; "
                "both must be cut into the same partitions"
            )


def pack(*rows: Any) -> tuple[Any, ...]:
    """X, y and sample_weight of one partition, held together."""
    return rows


def unpack_block(partition: int, spec: BlockSpec, rows: Sequence[Any]) -> Block:
    """The block of packed rows."""
    return make_block(partition, spec, *rows)


def call_block(partition: int, spec: BlockSpec, make: Callable[[int], Any]) -> Block:
    """The block of make(partition) = (X, y) or (X, y, sample_weight). Raises ValueError or TypeError, naming the partition, for what is
    none."""
    needs = "it must return a tuple (X, y) or (X, y, sample_weight)"
    try:
        rows = make(partition)
    except (MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"partition {partition}: make({partition}) raised {type(error).__name__}: {error}; {needs}") from error
    if not isinstance(rows, tuple) or len(rows) not in (2, 3):
        found = f"a tuple of {len(rows)}" if isinstance(rows, tuple) else type(rows).__name__
        raise TypeError(f"partition {partition}: make({partition}) returned {found}; {needs}")
    return make_block(partition, spec, *rows)


def count_rows(rows: Any) -> int:
    """Rows of a chunk of anything."""
    return int(rows.shape[0])


def as_design(X: Any, dtype: str) -> Design:
    """X as a C-ordered aligned array or CSR of `dtype`, (n, p), on the host; the caller's own rows are never changed."""
    if is_frame(X):
        X = frame_values(X, row_dtype(*frame_dtypes(X)) if dtype == "float32" else dtype)  # see _require_same_values
    if sp.issparse(X):
        return _csr(X, dtype)
    if np.ma.is_masked(X):
        raise TypeError("X is a masked array; fill it first: X.filled(value)")
    if is_series(X):
        raise ValueError("X must be 2-D (rows, columns), got a pandas Series; use X.to_frame() for a single column")
    X = brought_here(X)
    try:
        X = np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X must be 2-D (rows, columns), but is no table: {error}; make all rows of one length") from error
    require_real(X.dtype)
    if X.ndim != 2:
        raise ValueError(f"X must be 2-D (rows, columns), got {X.ndim}-D; use X.reshape(-1, 1) for a single column")
    if X.dtype.kind == "O":
        import pandas as pd

        X = frame_values(pd.DataFrame(X), "float64")
    with np.errstate(over="ignore"):  # overflow gives infinity, which the check finds
        rows = np.require(X, dtype=dtype, requirements=["C", "A"])
    _require_same_values(X, rows)
    return rows


def rows_in_place(X: Any) -> Any:
    """Rows of numbers where they are: an array that is elsewhere as float32 or float64 there, all else as `as_design` has it."""
    if not is_elsewhere(X):
        return as_design(X, row_dtype(X.dtype))
    xp, given = namespace_of(X), numpy_dtype(X)
    require_real(given)
    if X.ndim != 2:
        raise ValueError(f"X must be 2-D (rows, columns), got {X.ndim}-D; use a column of its own for a single one, X[:, None]")
    return xp.astype(X, getattr(xp, row_dtype(given)), copy=False)


def _require_same_values(given: Any, rows: Any) -> None:
    """Raise ValueError where `rows` are float32, as what was declared for all partitions, and do not hold the values given."""
    if rows.dtype != np.float32 or np.can_cast(given.dtype, np.float32):
        return
    if not np.array_equal(given, rows, equal_nan=given.dtype.kind == "f"):
        raise ValueError(
            f"X holds {given.dtype} values, which float32 would round, but is declared in a dtype of 16 bits or as float32; "
            f"declare what it holds (dtype={given.dtype.name!r}, meta=), or round it with X.astype('float32')"
        )


def require_places(X: Any) -> None:
    """Raise ValueError where a sparse matrix is not (n, p), or has values at places that are not there: SciPy does not look at the indices
    that it is given, and compiled code would read and write other memory."""
    if X.ndim != 2:
        raise ValueError(f"X must be 2-D (rows, columns), got {X.ndim}-D")
    fault = None
    places = list(zip(("row", "column"), X.coords, X.shape, strict=True)) if X.format == "coo" else []
    if X.format in ("csr", "csc", "bsr"):
        height, width = (n // size for n, size in zip(X.shape, getattr(X, "blocksize", (1, 1)), strict=True))
        n_lines, axis, size = (width, "row", height) if X.format == "csc" else (height, "column", width)
        ends, stored = X.indptr, X.indices[: X.indptr[-1]] if len(X.indptr) else X.indices  # SciPy lets there be more room
        if len(ends) != n_lines + 1 or ends[0] != 0 or np.any(ends[1:] < ends[:-1]) or ends[-1] > min(len(X.indices), len(X.data)):
            fault = "its indptr does not ascend from 0 to the number of stored values"
        places = [(axis, stored, size)]
    for axis, indices, size in places:
        if fault is None and len(indices) and (indices.min() < 0 or indices.max() >= size):
            wrong = indices.max() if indices.min() >= 0 else indices.min()
            fault = f"a value is in {axis} {wrong}, and there are {size}, counted from 0"
    if fault is not None:
        raise ValueError(
            f"X is a sparse matrix ({X.format}) of wrong indices: {fault}; make it anew from right ones, as"
            " scipy.sparse.coo_array((values, (rows, columns)), shape=...) does, which looks at them"
        )


def _csr(X: Any, dtype: str) -> sp.csr_array:
    require_places(X)
    require_real(X.dtype)
    entries = X if X.format in ("csr", "csc") else X.tocoo()
    wide = entries.astype(dtype, copy=False)  # first: equal places are added up on the way to CSR, and narrow integers cannot hold the sums
    _require_same_values(entries.data, wide.data)
    csr: Any = sp.csr_array(wide)
    if not csr.has_canonical_format:
        csr = csr.copy() if np.shares_memory(csr.data, getattr(X, "data", csr.data)) else csr
        csr.sum_duplicates()
    canonical: sp.csr_array = normalise(csr)
    return canonical


def as_weight(sample_weight: Any) -> Float64 | None:
    """Weights as float64 (n,); missing ones as NaN, which the check finds."""
    if sample_weight is None:
        return None
    if is_frame(sample_weight) and sample_weight.shape[1] == 1:
        sample_weight = sample_weight.iloc[:, 0]
    if np.ma.is_masked(sample_weight):
        raise TypeError("sample_weight is a masked array; fill it first: sample_weight.filled(value)")
    weight = sample_weight.to_numpy() if is_series(sample_weight) else np.asarray(brought_here(sample_weight))
    require_real(weight.dtype, "sample_weight")
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must be 1-D (rows,), got {weight.ndim}-D; give each row its own, or leave it out")
    if weight.dtype.kind == "O":
        import pandas as pd

        weight = pd.Series(weight).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.require(weight, dtype=np.float64, requirements=["C", "A"])


def assemble(blocks: Sequence[Block], first_partition: int, split: Split | None) -> list[list[Block]]:
    """The blocks of a group, by subset: all of them, or training rows and test rows.

    Raises ValueError when partitions differ in kind (text beside numbers, weights in some only).
    """
    blocks = _alike(blocks, first_partition)
    if split is None:
        return [blocks]
    subsets: list[list[Block]] = [[], []]
    for partition, block in enumerate(blocks, first_partition):
        for subset, rows in enumerate(split_rows(block.X.shape[0], split.test_size, split.seed, partition)):
            subsets[subset].append(take(block, rows))
    return subsets


def _alike(blocks: Sequence[Block], first_partition: int) -> list[Block]:
    """The same blocks, empty ones in the form of the others: a partition without rows does not know what its labels would be."""
    filled = [(i, block) for i, block in enumerate(blocks, first_partition) if block.X.shape[0]]
    read = [block for block in blocks if block.quarantined is None]
    first, model = filled[0] if filled else (first_partition, (read or blocks)[0])
    for i, block in filled[1:]:
        require_same_form(form_of(model), form_of(block), f"partition {first}", f"partition {i}")
    if len(filled) == len(blocks):
        return list(blocks)
    empty = take(model, np.zeros(0, np.int64))
    return [block if block.X.shape[0] else replace(empty, quarantined=block.quarantined) for block in blocks]


def subset_X(block: Block, partition: int, split: Split | None, subset: int, dtype: str) -> Design:
    """X of one partition of one subset, in that dtype."""
    X: Any = assemble([block], partition, split)[subset][0].X
    rows: Design = X.astype(dtype, copy=False)
    return rows


def subset_y(block: Block, partition: int, split: Split | None, subset: int, dtype: Any) -> Any:
    """y of one partition of one subset, in the dtype of all partitions."""
    y = assemble([block], partition, split)[subset][0].y
    return None if y is None else y.astype(dtype, copy=False)


def require_real(dtype: np.dtype[Any], name: str = "X") -> None:
    """Raise ValueError for complex values, TypeError for dates and records."""
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {dtype}; pass real and imaginary parts as columns of their own")
    if dtype.kind in "mMV":
        raise TypeError(f"{name} has dtype {dtype}, not numbers; convert it first")


def row_dtype(*dtypes: np.dtype[Any]) -> str:
    """The dtype that rows of values of these dtypes live in: float32 where that holds every value exactly (of 16 bits and fewer), else
    float64."""
    return "float32" if dtypes and all(np.can_cast(dtype, np.float32) for dtype in dtypes) else "float64"
