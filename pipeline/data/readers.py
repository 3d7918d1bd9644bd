"""Files as Dask collections. Where partitions are cut depends on the files alone, never on the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import dask.dataframe as dd
import fsspec
import numpy as np
from dask.delayed import delayed

from pipeline.data.collections import Table, from_dask
from tasks.readers import npy_header, read_hdf5_rows, read_npy_rows

CSV_BLOCK = 32 << 20
ROW_CHUNK = 16 << 20


def read_csv(urlpath: Any, **options: Any) -> Any:
    """dask.dataframe.read_csv with a fixed block size (Dask's own default follows the machine's memory)."""
    paths = expand(urlpath)
    options.setdefault("blocksize", CSV_BLOCK)
    return dd.read_csv(paths, **options)


def read_parquet(urlpath: Any, **options: Any) -> Any:
    """dask.dataframe.read_parquet, a partition a row group."""
    paths = [urlpath] if isinstance(urlpath, str | os.PathLike) and _is_directory(urlpath) else expand(urlpath)
    options.setdefault("split_row_groups", True)
    return dd.read_parquet([str(path) for path in paths], **options)


def read_npy(X: Any, y: Any, sample_weight: Any, n_partitions: int | None) -> Table:
    """See `Dataset.read_npy`."""
    arrays: list[Any] = [_npy(X, None)]
    arrays += [None if path is None else _npy(path, arrays[0]) for path in (y, sample_weight)]
    return from_dask(*arrays, n_partitions)


def read_zarr(X: Any, y: Any, sample_weight: Any, n_partitions: int | None, **options: Any) -> Table:
    """See `Dataset.read_zarr`."""
    return from_dask(*(None if path is None else _zarr(path, options) for path in (X, y, sample_weight)), n_partitions)


def read_hdf5(urlpath: Any, X: str, y: str | None, sample_weight: str | None, n_partitions: int | None) -> Table:
    """See `Dataset.read_hdf5`."""
    paths = expand(urlpath)
    arrays: list[Any] = [_hdf5(paths, X, None)]
    arrays += [None if name is None else _hdf5(paths, name, arrays[0]) for name in (y, sample_weight)]
    return from_dask(*arrays, n_partitions)


def expand(urlpath: Any) -> list[str]:
    """Globs resolved, in sorted order; fsspec addresses as they are understood there. Raises FileNotFoundError for no match."""
    patterns = [urlpath] if isinstance(urlpath, str | os.PathLike) else list(urlpath)
    paths: list[str] = []
    for pattern in map(os.fspath, patterns):
        fs, path = fsspec.core.url_to_fs(pattern)
        found = sorted(fs.glob(path)) if "*" in path or "?" in path or "[" in path else [path] * fs.exists(path)
        if not found:
            raise FileNotFoundError(f"no file matches {pattern!r}")
        paths += [fs.unstrip_protocol(p) if "://" in pattern else p for p in found]
    return paths


def _is_directory(path: Any) -> bool:
    fs, inner = fsspec.core.url_to_fs(os.fspath(path))
    return bool(fs.isdir(inner))


def _npy(paths: Any, like: da.Array | None) -> da.Array:
    if isinstance(paths, str | os.PathLike) and _is_directory(paths):
        return da.from_npy_stack(os.fspath(paths), mmap_mode=None)
    headers = [(path, *npy_header(path)[:3]) for path in expand(paths)]
    return _stacked([(path, shape, dtype, read_npy_rows) for path, shape, _, dtype in headers], like)


def _zarr(path: Any, options: dict[str, Any]) -> da.Array:
    try:
        return da.from_zarr(os.fspath(path), **options)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no readable Zarr array: {error}") from error


def _hdf5(paths: Sequence[str], name: str, like: da.Array | None) -> da.Array:
    import h5py  # noqa: PLC0415  (an extra)

    files = []
    for path in paths:
        try:
            with fsspec.open(path, "rb") as file, h5py.File(file, "r") as h5:
                if name not in h5:
                    raise ValueError(f"{path} has no dataset {name!r}; it has {', '.join(map(repr, h5))}")
                files.append((path, h5[name].shape, _numpy_dtype(h5[name].dtype), NamedRead(name)))
        except OSError as error:
            raise ValueError(f"{path} is no readable HDF5 file: {error}") from error
    return _stacked(files, like)


class NamedRead:
    """read_hdf5_rows of one dataset, as (path, start, stop)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, path: str, start: int, stop: int) -> Any:
        return read_hdf5_rows(path, self.name, start, stop)


def _numpy_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(str) if dtype.kind in "OS" else dtype


def _stacked(files: Sequence[tuple[str, tuple[int, ...], np.dtype[Any], Callable[..., Any]]], like: da.Array | None) -> da.Array:
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
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            rows = delayed(read, pure=True)(path, int(start), int(stop))
            pieces.append(da.from_delayed(rows, (int(stop - start), *shape[1:]), dtype=dtype))
    if not pieces:
        raise ValueError(f"Found array with 0 sample(s) in {files[0][0]} while a minimum of 1 is required")
    return da.concatenate(pieces)
