"""Values that users hand over as X, y and sample_weight: those that are rows, and for others the way to rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import dask.array as da
import dask.dataframe as dd
import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from dask import is_dask_collection
from dask.bag import Bag
from dask.delayed import Delayed

from pipeline.execution.gathering import FUTURES
from tasks.loading.blocks import require_real

LAZY: Final = (da.Array, dd.DataFrame, dd.Series)
PATHS: Final = (str, bytes, os.PathLike)
OPTIONS: Final = {"y": "target", "sample_weight": "sample_weight"}
COLLECT: Final = {"polars": "collect()", "duckdb": "df()", "pyspark": "toPandas()", "sqlframe": "toPandas()"}
"""The call that makes a frame in memory of a lazy one, by library, where it is not to_pandas()."""
READERS: Final = "Dataset.read_csv, read_parquet, read_npy, read_zarr or read_hdf5"


def as_rows(name: str, value: Any) -> Any:
    """The argument `name`: lazy collections, arrays and pandas frames as they are, other frames (polars, Arrow) as pandas.

    Raises TypeError, saying what makes rows of it, for what holds none here (paths, futures, delayed values, bags, dicts, iterators), and
    for None as X; ValueError for a list of rows of different lengths.
    """
    if (isinstance(value, LAZY) and value.ndim) or (value is None and name in OPTIONS):
        return value
    if value is None:
        raise TypeError(f"{name} is None; pass an array or a frame, (n, p)")
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    several = isinstance(value, list | tuple) and len(value) > 0
    cure = cure_of(name, value[0] if several else value, several)
    if cure is not None:
        kind = f"a list of {kind_of(value[0])}s" if several else f"a {kind_of(value)}"
        raise TypeError(f"{name} is {kind}, which is no rows: {cure}")
    if isinstance(value, np.ndarray) and (name == "X" or value.dtype.kind == "c"):
        require_real(value.dtype, name)
    if several and name == "X":
        require_even(value)
    if isinstance(value, np.ndarray | pd.DataFrame | pd.Series):  # narwhals would refuse names that are there twice, with less to say
        return value
    frame: Any = nw.from_native(value, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        package = kind_of(value).split()[0]
        raise TypeError(f"{name} is a lazy {kind_of(value)}: use {name}.{COLLECT.get(package, 'to_pandas()')}")
    if isinstance(frame, nw.DataFrame):
        return frame.to_pandas()
    require_values(name, frame)
    return frame


def kind_of(value: Any) -> str:
    """The kind of a value in words: "distributed Future", "dict", or what a text may be."""
    if isinstance(value, PATHS):
        return f"path or a name, {value!r}"
    package = type(value).__module__.split(".")[0]
    return type(value).__name__ if package == "builtins" else f"{package} {type(value).__name__}"


def require_values(name: str, value: Any) -> None:
    """Raise TypeError for an object that NumPy takes for a single value of no kind: a coroutine, a model, a dataset."""
    if isinstance(value, list | tuple) or sp.issparse(value) or getattr(value, "ndim", None):
        return
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind == "O":
        raise TypeError(f"{name} is a {kind_of(value)}, which is no rows: pass an array or a frame{', (n, p)' if name == 'X' else ''}")


def require_even(rows: Sequence[Any]) -> None:
    """Raise ValueError for rows of different lengths."""
    lengths = sorted({len(row) for row in rows if isinstance(row, list | tuple)})
    if len(lengths) > 1:
        raise ValueError(f"X has rows of {lengths[0]} and of {lengths[-1]} values; a table has as many in each: fill the missing ones")


def cure_of(name: str, value: Any, several: bool) -> str | None:
    """The advice how to make rows of a value that holds none, or of several in a list; None for what may be rows."""
    if isinstance(value, FUTURES):
        here = f"client.gather({name})" if several else f"{name}.result()"
        return f"use {here} for rows in memory, or dask.dataframe.from_delayed, which takes futures of frames, for lazy ones"
    if isinstance(value, Delayed):
        here = f"dask.compute(*{name})" if several else f"{name}.compute()"
        return f"use {here} for rows in memory, dask.array.from_delayed or dask.dataframe.from_delayed for lazy ones"
    if isinstance(value, LAZY):
        return (
            f"use dask.array.concatenate({name}) or dask.dataframe.concat({name})"
            if several
            else "it is a single number; pass one for each row"
        )
    if several:
        return f"use pandas.DataFrame({name})" if isinstance(value, Mapping) else None
    if sp.issparse(value):  # some sparse matrices are dicts, too
        return f"use {name}.toarray().ravel()" if name in OPTIONS else None
    if isinstance(value, Bag):
        return f"use {name}.to_dataframe() for a lazy frame"
    if is_dask_collection(value):
        return f"pass the Dask array or frame that it wraps, {name}.data of xarray for instance, or {name}.compute()"
    if isinstance(value, PATHS):
        column = (
            f"; for a column use Dataset.from_dataframe(X, {OPTIONS[name]}={value!r})" if name in OPTIONS and isinstance(value, str) else ""
        )
        return f"to read files use {READERS}{column}"
    if isinstance(value, Mapping):
        if any(isinstance(each, FUTURES) for each in value.values()):
            return f"its values are futures; use pandas.DataFrame(client.gather({name})) for rows in memory"
        return f"use pandas.DataFrame({name})"
    if isinstance(value, Iterator | Set):
        return f"use list({name}), or Dataset.from_function for partitions that are made one by one"
    return None
