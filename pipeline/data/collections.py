"""Dask collections as blocks: column chunks joined, X and y aligned, unknown sizes resolved where they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import scipy.sparse as sp
from dask.array.optimization import optimize
from dask.base import tokenize
from dask.core import flatten
from dask.dataframe.dask_expr.io import FromMap
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from pipeline.data.inputs import LAZY, as_rows
from pipeline.execution.current import compute
from pipeline.sources.graphs import futures_in, outside_of
from pipeline.sources.locations import Locations, array_locations, call_locations, frame_locations
from tasks.loading.blocks import (
    BlockSpec,
    as_design,
    as_weight,
    call_block,
    count_rows,
    make_block,
    pack,
    require_real,
    row_dtype,
    unpack_block,
)
from tasks.loading.file_rows import CsvRows
from tasks.machine.namespaces import is_elsewhere, numpy_dtype
from tasks.rows.frames import frame_dtypes, require_numeric
from tasks.rows.targets import NUMBERS, as_target

MAX_PARTITIONS = 1_000_000
NAMES = ("X", "y", "sample_weight")


@dataclass(frozen=True, eq=False)
class Table:
    """Partitions as lazy blocks. blocks: one Delayed `Block` a partition; locations: where they come from; dtype: of the rows;
    parameter_dtype: of what is fitted to them; given: by name, the collections that they are made from, whose futures must live; sizes:
    rows of the partitions, if known."""

    blocks: Sequence[Delayed]
    locations: Locations
    n_columns: int
    dtype: str
    parameter_dtype: str
    columns: tuple[str, ...] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[int] | None = None


def from_dask(X: Any, y: Any, sample_weight: Any, n_partitions: int | None) -> Table:
    """Blocks of Dask arrays or frames; see `Dataset.from_dask`."""
    X, y, sample_weight = map(as_rows, NAMES, (X, y, sample_weight))
    require_design(X)
    require_count(n_partitions)
    if isinstance(sample_weight, dd.DataFrame) and sample_weight.shape[1] == 1:
        sample_weight = sample_weight[sample_weight.columns[0]]
    columns = feature_names(X.columns) if isinstance(X, dd.DataFrame) else None
    spec = BlockSpec(design_dtype(X), int(X.shape[1]))
    given = (X, y, sample_weight)
    sizes: Sequence[int] | None = None
    present = [a for a in given if a is not None]
    if all(isinstance(a, dd.DataFrame | dd.Series) for a in present) and len({a.npartitions for a in present}) == 1:
        blocks = make_blocks(unpack_block, spec, [[rows] for rows in frame_pieces(given, n_partitions)])
        locations = frame_locations(X, n_partitions)
    else:
        arrays = align(given, n_partitions)
        blocks = make_blocks(make_block, spec, list(zip(*array_pieces(arrays), strict=True)))
        sizes = None if np.isnan(arrays[0].shape[0]) else arrays[0].chunks[0]
        locations = array_locations(X, arrays[0], sizes) if isinstance(X, da.Array) else frame_locations(X, n_partitions)
    return Table(blocks, locations, int(X.shape[1]), spec.dtype, parameter_dtype(X), columns, dict(zip(NAMES, given, strict=True)), sizes)


def from_frame(frame: Any, target: Any, sample_weight: Any, columns: Sequence[Any] | None, n_partitions: int | None) -> Table:
    """Blocks of one Dask frame that holds features, target and weights; see `Dataset.from_dataframe`."""
    require_count(n_partitions)
    features, special = choose_columns(frame.columns, target, sample_weight, columns)
    try:
        require_numeric(frame._meta[list(features)])
    except ValueError as error:
        raise ValueError(f"{first_file(frame)}{error}") from error
    chosen = frame[list(features)]
    dtype = design_dtype(chosen)
    spec = BlockSpec(dtype, len(features), features, target, sample_weight)
    pieces = partitions_of(repartitioned(frame[[*features, *special]], n_partitions))
    blocks = make_blocks(make_block, spec, [[piece] for piece in pieces])
    locations, names = frame_locations(frame, n_partitions), feature_names(pd.Index(features))
    return Table(blocks, locations, len(features), dtype, parameter_dtype(chosen), names, {"the frame": frame})


def from_function(make: Callable[[int], Any], n_partitions: int, n_columns: int, dtype: str) -> Table:
    """Blocks of a function of the partition's number; see `Dataset.from_function`."""
    require_count(n_partitions)
    given = np.dtype(dtype).newbyteorder("=")
    if given.kind not in NUMBERS:
        raise ValueError(f"dtype must be one of real numbers or booleans, got {dtype!r}; it is that of the X which make returns")
    rows = row_dtype(given)
    blocks = make_blocks(call_block, BlockSpec(rows, n_columns), [[make]] * n_partitions)
    return Table(blocks, call_locations(), n_columns, rows, "float32" if given == np.float32 else "float64")


def make_blocks(make: Callable[..., Any], spec: BlockSpec, arguments: Sequence[Sequence[Any]]) -> list[Delayed]:
    """Block i as make(i, spec, *arguments[i]), lazy; all share one graph, in which Delayed arguments are keys."""
    pieces = [piece for row in arguments for piece in row if isinstance(piece, Delayed)]
    keys = (piece.key if isinstance(piece, Delayed) else None for row in arguments for piece in row)
    name = f"block-{tokenize(make, spec, joined_keys(keys) if pieces else arguments)}"
    layer: dict[Any, Task] = {}
    for i, row in enumerate(arguments):
        key = (name, i)
        layer[key] = Task(key, make, i, spec, *[TaskRef(a.key) if isinstance(a, Delayed) else a for a in row])
    sources: list[Any] = list({id(piece.dask): piece for piece in pieces}.values())
    graph = HighLevelGraph.from_collections(name, layer, dependencies=sources)
    return [Delayed(key, graph, layer=name) for key in layer]


def joined_keys(keys: Iterable[Any]) -> str:
    """The keys as one text, which Dask makes a token of in a hundredth of the time that it takes for many keys."""
    return " ".join(map(str, keys))


def choose_columns(names: Any, target: Any, sample_weight: Any, columns: Sequence[Any] | None) -> tuple[tuple[Any, ...], list[Any]]:
    """The features and the other columns of a frame with columns `names`. Raises ValueError for names that are missing or not unique,
    TypeError for what is no name, or for columns no list of names."""
    for name, given in (("target", target), ("sample_weight", sample_weight)):
        if isinstance(given, list | dict | set) or (given is None and name == "target"):
            raise TypeError(f"{name} must be the name of one column, got {given!r}; the columns are {', '.join(map(repr, names))}")
    if isinstance(columns, str) or not isinstance(columns, Iterable | None):
        raise TypeError(f"columns must be a list of names, got {columns!r}; the columns are {', '.join(map(repr, names))}")
    special = [target] if sample_weight is None else [target, sample_weight]
    features = tuple(name for name in names if name not in special) if columns is None else tuple(columns)
    known = list(names)
    for name in [*special, *features]:
        if known.count(name) != 1:
            problem = "is not there" if name not in known else "is there several times"
            raise ValueError(f"column {name!r} {problem}; the columns are {', '.join(map(repr, known))}")
    if not features:
        raise ValueError(f"no column is left as a feature beside {', '.join(map(repr, special))}")
    if set(features) & set(special):
        raise ValueError(f"column {next(name for name in special if name in features)!r} cannot be a feature and the target or weight too")
    return features, special


def feature_names(columns: pd.Index) -> tuple[str, ...] | None:
    """Names that are strings, None when none is. Raises ValueError for a name that is there twice, TypeError for a mixture, as scikit-learn
    does."""
    if not columns.is_unique:
        raise ValueError(
            f"column {columns[columns.duplicated()][0]!r} is there several times; names must differ: rename it, or pass an array"
        )
    text = [isinstance(name, str) for name in columns]
    if any(text) and not all(text):
        raise TypeError("Feature names are only supported if all are strings; use frame.columns = frame.columns.astype(str)")
    return tuple(columns) if all(text) else None


def first_file(frame: Any) -> str:
    """The file from which the dtypes of a frame of CSV files are taken, as the start of a message; empty for other frames."""
    reads = [read for read in frame.expr.find_operations(FromMap) if isinstance(read.operand("func"), CsvRows)]
    return f"{reads[0].operand('iterables')[2][0][0]}: " if reads else ""


def frame_pieces(frames: Sequence[Any], n_partitions: int | None) -> list[Delayed]:
    """The tuple (X, y, sample_weight) of each partition, one read serving all three."""
    X, *others = (repartitioned(frame, n_partitions) for frame in frames)
    packed = X.map_partitions(pack, *others, meta=(None, object), align_dataframes=False, enforce_metadata=False)
    return partitions_of(packed)


def partitions_of(frame: Any) -> list[Delayed]:
    """The partitions of a frame, with only the columns read that are needed.

    No further optimisation: Dask would read several files as one partition where few columns of each are wanted.
    """
    pieces: list[Delayed] = frame.simplify().to_delayed(optimize_graph=False)
    return pieces


def repartitioned(frame: Any, n_partitions: int | None) -> Any:
    """The frame in n_partitions, or as it is; None stays None."""
    return frame if n_partitions is None or frame is None else frame.repartition(npartitions=n_partitions)


def array_pieces(arrays: Sequence[da.Array | None]) -> list[list[Any]]:
    """The row chunks of each array (or None for each), optimised as one graph so that what they share is made once."""
    keys = [[] if a is None else list(flatten(a.__dask_keys__())) for a in arrays]
    merged = HighLevelGraph.merge(*(a.dask for a in arrays if a is not None))
    flat = [key for some in keys for key in some]
    name = f"aligned-{tokenize(joined_keys(flat))}"
    held = futures_in(merged)
    made = {} if held.keys() >= set(flat) else optimize(merged, flat)  # nothing of what is persisted: to see that takes Dask its time
    graph = HighLevelGraph.from_collections(name, {**held, **made})
    return [[Delayed(key, graph, layer=name) for key in some] or [None] * len(keys[0]) for some in keys]


def align(given: Sequence[Any], n_partitions: int | None) -> list[Any]:
    """Dask arrays of the same row chunks for all, X's own unless n_partitions asks for others; columns in one chunk.

    Where some row counts are unknown and must be known for that, they are counted, which reads the source once more.
    """
    X, *others = given
    dtype = design_dtype(X)
    arrays = [as_array(X, partial(as_design, dtype=dtype), dtype), *map(as_array, others, (as_target, as_weight))]
    lazy = [a for a in arrays if isinstance(a, da.Array)]
    unknown = [bool(np.isnan(a.shape[0])) for a in lazy]
    simple = all(unknown) and len({a.numblocks[0] for a in lazy}) == 1 and len(lazy) == sum(a is not None for a in arrays)
    if any(unknown) and (n_partitions is not None or not simple):
        arrays = with_known_rows(arrays)
    lengths = {name: int(a.shape[0]) for name, a in zip(NAMES, arrays, strict=True) if a is not None and not np.isnan(a.shape[0])}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n} rows" for name, n in lengths.items())
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {found}")
    rows = arrays[0].chunks[0]
    if n_partitions is not None:
        rows = tuple(int(n) for n in np.diff(np.arange(n_partitions + 1) * lengths["X"] // n_partitions))
    return [None if a is None else rechunked(a, rows) for a in arrays]


def with_known_rows(arrays: Sequence[Any]) -> list[Any]:
    """The same arrays with their row chunks counted, all in one computation."""
    columns = [a if a.ndim == 1 else a[:, :1] for a in arrays if isinstance(a, da.Array) and np.isnan(a.shape[0])]
    count = delayed(count_rows, pure=True)
    numbers = [column.numblocks[0] for column in columns]
    outside = outside_of(dict(zip(NAMES, arrays, strict=True)))
    found = compute([count(piece) for column in columns for piece in column.to_delayed().reshape(-1)], outside)
    counts = iter([found[sum(numbers[:i]) : sum(numbers[: i + 1])] for i in range(len(columns))])

    def known(array: Any) -> Any:
        if not isinstance(array, da.Array) or not np.isnan(array.shape[0]):
            return array
        return da.Array(array.dask, array.name, chunks=(tuple(next(counts)), *array.chunks[1:]), meta=array._meta)

    return [known(array) for array in arrays]


def rechunked(array: Any, rows: tuple[int, ...]) -> da.Array:
    """The array in those row chunks; unknown ones stay."""
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(rows, *array.shape[1:]))
    if array.ndim == 1 and np.isnan(array.shape[0]):
        return array
    return array.rechunk({0: array.chunks[0] if np.isnan(array.shape[0]) else rows, **dict.fromkeys(range(1, array.ndim), -1)})


def as_array(collection: Any, convert: Callable[[Any], Any], dtype: Any = object) -> Any:
    """Frames and series as Dask arrays of the same partitions, each made by `convert`; targets and weights in memory as NumPy arrays."""
    if collection is None or isinstance(collection, da.Array):
        return collection
    if not isinstance(collection, dd.DataFrame | dd.Series):
        return convert(collection)
    shape = (np.nan, *collection.shape[1:])
    made = delayed(convert, pure=True)
    chunks = [da.from_delayed(made(piece), shape, dtype) for piece in partitions_of(collection)]
    return da.concatenate(chunks, allow_unknown_chunksizes=True)


def require_design(X: Any) -> None:
    """Raise TypeError or ValueError, before anything is computed, for what cannot be (rows, columns) of numbers."""
    if not isinstance(X, LAZY):
        raise TypeError(f"X must be a Dask array or data frame, got {type(X).__name__}; for rows in memory use Dataset.from_arrays")
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead: X must be (rows, columns); use X.reshape(-1, 1) or X.to_frame()")
    if isinstance(X, dd.DataFrame):
        require_numeric(X._meta)
        return
    if da.array_expr_enabled():
        raise TypeError("Dask arrays as expressions are not supported; set array.query-planning to False in Dask's configuration")
    if np.isnan(X.shape[1]):
        raise ValueError("X has an unknown number of columns; call X.compute_chunk_sizes() first")
    if X.dtype is not None:
        require_real(X.dtype)


def require_count(n_partitions: Any) -> None:
    """Raise TypeError or ValueError for a number of partitions that is none, or that nobody can mean."""
    if n_partitions is None:
        return
    if not isinstance(n_partitions, Integral):
        raise TypeError(f"n_partitions must be a whole number, got {n_partitions!r}")
    if int(n_partitions) < 1:
        raise ValueError(f"n_partitions must be at least 1, got {n_partitions}")
    if int(n_partitions) > MAX_PARTITIONS:
        raise ValueError(f"n_partitions must be at most {MAX_PARTITIONS}, got {n_partitions}")


def numpy_dtypes(X: Any) -> set[np.dtype[Any]]:
    """The dtypes of the columns of a frame, or of an array, lazy, sparse or on a device, as NumPy has them; none where X is neither."""
    if isinstance(X, pd.DataFrame | dd.DataFrame):
        found = frame_dtypes(X)
    else:
        is_array = isinstance(X, np.ndarray | da.Array) or sp.issparse(X) or is_elsewhere(X)
        found = {numpy_dtype(X)} if is_array else set()
    return {dtype.newbyteorder("=") for dtype in found}


def design_dtype(X: Any) -> str:
    """The dtype of the rows of X where they live."""
    return row_dtype(*numpy_dtypes(X))


def parameter_dtype(X: Any) -> str:
    """The dtype of parameters that are fitted to X: float32 when all of X is, else float64."""
    return "float32" if numpy_dtypes(X) == {np.dtype(np.float32)} else "float64"
