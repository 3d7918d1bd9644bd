"""Dask collections as blocks: column chunks joined, X and y aligned, unknown sizes resolved where they must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.delayed import Delayed, delayed

from tasks.blocks import BlockSpec, make_block


@dataclass(frozen=True, eq=False)
class Table:
    """blocks: one Delayed `Block` a partition; keep: collections whose futures must live; sizes: rows of the partitions, if known."""

    blocks: Sequence[Delayed]
    n_columns: int
    dtype: str
    columns: tuple[str, ...] | None = None
    keep: tuple[Any, ...] = ()
    sizes: Sequence[int] | None = None


def from_dask(X: Any, y: Any, sample_weight: Any, n_partitions: int | None) -> Table:
    """Blocks of Dask arrays or frames; see `Dataset.from_dask`."""
    given = (X, y, sample_weight)
    columns = tuple(str(name) for name in X.columns) if isinstance(X, dd.DataFrame) else None
    sizes: Sequence[int] | None = None
    if all(a is None or isinstance(a, (dd.DataFrame, dd.Series)) for a in given):
        pieces = frame_pieces(given, n_partitions)
    else:
        arrays = align([_as_array(a) for a in given], n_partitions)
        rows = _known(arrays[0])
        pieces = [None if a is None else list(a.to_delayed().reshape(a.numblocks[0])) for a in arrays]
        sizes = None if rows is None else arrays[0].chunks[0]
    n_blocks = len(pieces[0])
    filled = [[None] * n_blocks if piece is None else piece for piece in pieces]
    make, spec = delayed(make_block, pure=True), BlockSpec(design_dtype(X))
    blocks = [make(i, spec, *piece) for i, piece in enumerate(zip(*filled, strict=True))]
    return Table(blocks, int(X.shape[1]), spec.dtype, columns, given, sizes)


def frame_pieces(frames: Sequence[Any], n_partitions: int | None) -> list[Any]:
    """Each frame's partitions as Delayed, as many for one as for the others.

    Optimised on its own, a frame of few columns may read several files as one partition; then all are taken unoptimised.
    """
    if n_partitions is not None:
        frames = [None if f is None else f.repartition(npartitions=n_partitions) for f in frames]
    for optimize in (True, False):
        pieces = [None if f is None else f.to_delayed(optimize_graph=optimize) for f in frames]
        if len({len(piece) for piece in pieces if piece is not None}) == 1:
            return pieces
    counts = ", ".join(str(f.npartitions) for f in frames if f is not None)
    raise ValueError(f"X, y and sample_weight have different partitions ({counts}); repartition them alike, or give n_partitions=")


def from_frame(frame: Any, target: str, sample_weight: str | None, columns: Sequence[str] | None, n_partitions: int | None) -> Table:
    """Blocks of one frame that holds features, target and weights; see `Dataset.from_dataframe`."""
    if isinstance(frame, pd.DataFrame):
        frame = dd.from_pandas(frame, npartitions=n_partitions or 1, sort=False)
    elif n_partitions is not None:
        frame = frame.repartition(npartitions=n_partitions)
    names = [str(name) for name in frame.columns]
    special = [target] if sample_weight is None else [target, sample_weight]
    features = tuple(columns) if columns is not None else tuple(name for name in names if name not in special)
    missing = [name for name in [*special, *features] if name not in names]
    if missing:
        raise ValueError(f"column {missing[0]!r} is not there; the columns are {', '.join(map(repr, names))}")
    dtype = design_dtype(frame[list(features)])
    spec = BlockSpec(dtype, features, target, sample_weight)
    make = delayed(make_block, pure=True)
    blocks = [make(i, spec, piece) for i, piece in enumerate(frame[[*features, *special]].to_delayed())]
    return Table(blocks, len(features), dtype, features, (frame,))


def from_function(make: Callable[[int], Any], n_partitions: int, n_columns: int, dtype: str) -> Table:
    """Blocks of a function of the partition's number; see `Dataset.from_function`."""
    call = delayed(call_partition, pure=True)
    return Table([call(make, i, BlockSpec(dtype), n_columns) for i in range(n_partitions)], n_columns, dtype)


def call_partition(make: Callable[[int], Any], partition: int, spec: BlockSpec, n_columns: int) -> Any:
    """The block of make(partition)."""
    block = make_block(partition, spec, *make(partition))
    if block.X.shape[1] != n_columns:
        raise ValueError(f"partition {partition}: X has {block.X.shape[1]} columns but n_columns is {n_columns}")
    return block


def align(arrays: Sequence[da.Array | None], n_partitions: int | None) -> list[da.Array | None]:
    """The same row chunks for all, X's own unless n_partitions asks for others; columns in one chunk."""
    X = arrays[0]
    assert X is not None
    present = [a for a in arrays if a is not None]
    unknown = [bool(np.isnan(a.shape[0])) for a in present]
    same_blocks = len({a.numblocks[0] for a in present}) == 1
    if any(unknown) and (not same_blocks or n_partitions is not None or not all(unknown)):
        arrays = [None if a is None else with_known_rows(a) for a in arrays]
    X = arrays[0]
    assert X is not None
    lengths = {name: a.shape[0] for name, a in zip(("X", "y", "sample_weight"), arrays, strict=True) if a is not None}
    if len({n for n in lengths.values() if not np.isnan(n)}) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {found} rows")
    rows: Any = X.chunks[0]
    if n_partitions is not None:
        if not 1 <= n_partitions:
            raise ValueError(f"n_partitions must be at least 1, got {n_partitions}")
        rows = tuple(int(n) for n in np.diff(np.arange(n_partitions + 1) * X.shape[0] // n_partitions))
    return [None if a is None else _rechunk(a, rows) for a in arrays]


def with_known_rows(array: da.Array) -> da.Array:
    """The same array with its row chunks counted (this computes it once)."""
    if not np.isnan(array.shape[0]):
        return array
    column = array if array.ndim == 1 else array[:, :1]
    counts = dask.compute(*[delayed(len)(piece) for piece in column.to_delayed().reshape(-1)])
    return da.Array(array.dask, array.name, chunks=(tuple(counts), *array.chunks[1:]), meta=array._meta)


def _rechunk(array: da.Array, rows: Any) -> da.Array:
    unknown = bool(np.isnan(array.shape[0]))
    chunks: Any = {0: array.chunks[0] if unknown else rows}
    chunks.update(dict.fromkeys(range(1, array.ndim), -1))
    return array if unknown and array.ndim == 1 else array.rechunk(chunks)


def _as_array(collection: Any) -> Any:
    """Frames and series as arrays of the same partitions; arrays in memory as one chunk."""
    if collection is None or isinstance(collection, da.Array):
        return collection
    if isinstance(collection, (dd.DataFrame, dd.Series)):
        return collection.to_dask_array()
    return da.from_array(np.asarray(collection), chunks=-1)


def _known(array: Any) -> Sequence[int] | None:
    return None if np.isnan(array.shape[0]) else array.chunks[0]


def design_dtype(X: Any) -> str:
    """float32 when all of X is, else float64."""
    dtypes = X.dtypes if isinstance(X, (pd.DataFrame, dd.DataFrame)) else [getattr(X, "dtype", None)]
    return "float32" if {str(dtype) for dtype in dtypes} == {"float32"} else "float64"
