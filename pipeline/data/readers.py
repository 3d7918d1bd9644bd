"""Files as Dask collections. Where partitions are cut depends on the files alone, never on the machine."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from glob import has_magic
from typing import Any, NamedTuple

import dask.array as da
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
from dask.dataframe.dask_expr.io import FromMap
from dask.delayed import delayed
from dask.utils import natural_sort_key
from fsspec.utils import infer_compression

from pipeline.data.collections import Table, from_dask
from pipeline.sources.locations import RowLocations
from tasks.loading.file_rows import CsvRows, npy_header, read_npy_rows
from tasks.loading.hdf5 import Hdf5Rows

CSV_BLOCK = 32 << 20
ROW_CHUNK = 16 << 20


def read_csv(urlpath: Any, **options: Any) -> Any:
    """A lazy frame of CSV files: dask.dataframe.read_csv with a fixed block size (Dask's own default follows the machine's memory);
    compressed files stay whole.

    Raises ValueError, naming the file, for what is no CSV and for a first file without rows; reading does so for cells of another kind.
    """
    paths = expand(urlpath)
    compressed = options.get("compression", "infer") == "infer" and any(infer_compression(path) for path in paths)
    options.setdefault("blocksize", None if compressed else CSV_BLOCK)
    try:
        frame = dd.read_csv(paths, **options)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{paths[0]} is empty; a CSV file starts with a line of column names") from error
    except ValueError as error:
        raise ValueError(f"reading {paths[0]} failed: {str(error.__cause__ or error).strip()}") from error
    if "dtype" not in options:
        require_rows(frame, paths[0])
    return with_file_names(frame)


def require_rows(frame: Any, path: str) -> None:
    """Raise ValueError when Dask found no row in the file from which it takes the columns' dtypes."""
    if any(read.operand("user_meta").empty for read in frame.expr.find_operations(FromMap)):
        raise ValueError(f"{path} has column names but no rows, from which the columns' dtypes are taken; leave it out, or give dtype=")


def with_file_names(frame: Any) -> Any:
    """The frame that Dask reads from CSV files, its errors naming the file, the column and the row.

    Which file a piece comes from Dask keeps to itself. Where another version keeps it elsewhere, the frame is left as it is.
    """
    try:
        (source,) = frame.expr.find_operations(FromMap)
        pieces, parts = source.operand("iterables")
        locations = [(piece.args[0].path, int(piece.args[1])) for piece in pieces]
        read = partial(source.func.func, **{**source.func.keywords, "dtypes": None})
        rows = CsvRows(read, source.func.keywords["dtypes"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return frame
    return dd.from_map(rows, pieces, parts, locations, meta=source.operand("user_meta"), label="read-csv", enforce_metadata=False)


def read_parquet(urlpath: Any, **options: Any) -> Any:
    """A lazy frame of Parquet files: dask.dataframe.read_parquet, a partition a row group. Raises ValueError for what is no Parquet."""
    paths = [os.fspath(urlpath)] if is_directory(urlpath) else expand(urlpath)
    options.setdefault("split_row_groups", True)
    try:
        return dd.read_parquet(paths, **options)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{', '.join(paths[:3])}: no readable Parquet file: {error}") from error


class Stacked(NamedTuple):
    """An array, and the path and the rows of each file that it consists of."""

    array: da.Array
    files: Sequence[tuple[str, int]]


def read_npy(X: Any, y: Any, sample_weight: Any, n_partitions: int | None) -> Table:
    """The table of `Dataset.read_npy`."""
    design = _npy(X, None)
    return _table([design, *(None if path is None else _npy(path, design.array) for path in (y, sample_weight))], n_partitions)


def read_zarr(X: Any, y: Any, sample_weight: Any, n_partitions: int | None, **options: Any) -> Table:
    """The table of `Dataset.read_zarr`."""
    return _table([None if path is None else _zarr(path, options) for path in (X, y, sample_weight)], n_partitions)


def read_hdf5(urlpath: Any, X: str, y: str | None, sample_weight: str | None, n_partitions: int | None) -> Table:
    """The table of `Dataset.read_hdf5`."""
    paths = expand(urlpath)
    design = _hdf5(paths, X, None)
    return _table([design, *(None if name is None else _hdf5(paths, name, design.array) for name in (y, sample_weight))], n_partitions)


def _table(given: Sequence[Stacked | None], n_partitions: int | None) -> Table:
    """The table of X, y and sample_weight in files."""
    X, y, sample_weight = (None if stacked is None else stacked.array for stacked in given)
    table = from_dask(X, y, sample_weight, n_partitions)
    assert table.sizes is not None
    files = {tuple(stacked.files): None for stacked in given if stacked is not None}  # the files of one HDF5 table are named once
    return replace(table, locations=RowLocations(table.sizes, list(files)))


def expand(urlpath: Any) -> list[str]:
    """The paths with globs resolved, part-2 before part-10; fsspec addresses as they are understood there. Raises FileNotFoundError for no
    match, TypeError for what is no path."""
    patterns = list(urlpath) if isinstance(urlpath, Sequence) and not isinstance(urlpath, str) else [urlpath]
    if not patterns or not all(isinstance(pattern, str | os.PathLike) for pattern in patterns):
        raise TypeError(f"the path of the files must be text, a pathlib.Path or a list of these, got {urlpath!r}")
    paths: list[str] = []
    for pattern in [os.fspath(pattern) for pattern in patterns]:
        fs, path = fsspec.core.url_to_fs(pattern)
        found = fs.glob(path) if has_magic(path) else [path] * fs.exists(path)
        if not found:
            raise FileNotFoundError(f"no file matches {pattern!r}")
        paths += [fs.unstrip_protocol(p) if "://" in pattern else p for p in sorted(found, key=natural_sort_key)]
    return paths


def is_directory(urlpath: Any) -> bool:
    """Whether one address is given and is a directory."""
    if not isinstance(urlpath, str | os.PathLike):
        return False
    fs, path = fsspec.core.url_to_fs(os.fspath(urlpath))
    return bool(fs.isdir(path))


def _npy(paths: Any, like: da.Array | None) -> Stacked:
    if is_directory(paths):
        return _single(da.from_npy_stack(os.fspath(paths), mmap_mode=None), os.fspath(paths))
    headers = [(path, *npy_header(path)[:3]) for path in expand(paths)]
    return _stacked([(path, shape, dtype, read_npy_rows) for path, shape, _, dtype in headers], like)


def _single(array: da.Array, path: str) -> Stacked:
    return Stacked(array, [(path, int(array.shape[0]))])


def _zarr(path: Any, options: dict[str, Any]) -> Stacked:
    try:
        return _single(da.from_zarr(os.fspath(path), **options), os.fspath(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no Zarr array at {path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no readable Zarr array: {error}") from error


def _hdf5(paths: Sequence[str], name: str, like: da.Array | None) -> Stacked:
    import h5py

    files = []
    for path in paths:
        try:
            with fsspec.open(path, "rb") as file, h5py.File(file, "r") as h5:
                if name not in h5:
                    raise ValueError(f"{path} has no dataset {name!r}; it has {', '.join(map(repr, h5))}")
                files.append((path, h5[name].shape, _numpy_dtype(h5[name].dtype), Hdf5Rows(name)))
        except OSError as error:
            raise ValueError(f"{path} is no readable HDF5 file: {error}") from error
    return _stacked(files, like)


def _numpy_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(str) if dtype.kind in "OS" else dtype


def _stacked(files: Sequence[tuple[str, tuple[int, ...], np.dtype[Any], Callable[..., Any]]], like: da.Array | None) -> Stacked:
    """The rows of all files one below the other, cut about every 16 MiB inside each file, or every as many rows as `like` is."""
    first = files[0][1]
    if not first:
        raise ValueError(f"{files[0][0]} holds a single number, not rows")
    chunk_rows = max(1, ROW_CHUNK // max(1, files[0][2].itemsize * math.prod(first[1:]))) if like is None else max(like.chunks[0])
    pieces = []
    for path, shape, dtype, read in files:
        if shape[1:] != first[1:]:
            raise ValueError(f"{path} has rows of shape {shape[1:]} but {files[0][0]} has {first[1:]}")
        cuts = np.append(np.arange(0, shape[0], chunk_rows), shape[0])
        for start, stop in itertools.pairwise(cuts):
            rows = delayed(read, pure=True)(path, int(start), int(stop))
            pieces.append(da.from_delayed(rows, (int(stop - start), *shape[1:]), dtype=dtype))
    if not pieces:
        raise ValueError(f"Found array with 0 sample(s) in {files[0][0]} while a minimum of 1 is required")
    return Stacked(da.concatenate(pieces), [(path, shape[0]) for path, shape, _, _ in files])
