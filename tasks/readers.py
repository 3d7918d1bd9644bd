"""Rows of files, read where they will live."""

from __future__ import annotations

import math
from typing import Any

import fsspec
import numpy as np

from tasks.typing import Array


def npy_header(path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """shape, Fortran order, dtype and the offset of the data of an `.npy` file. Raises ValueError for what is none."""
    with fsspec.open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no readable .npy file: {error}") from error
        return shape, fortran, dtype, file.tell()


def read_npy_rows(path: str, start: int, stop: int) -> Array:
    """Rows start:stop of an `.npy` file, without reading the others (a Fortran-ordered file is read whole). Raises ValueError when cut short."""
    shape, fortran, dtype, offset = npy_header(path)
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects; save numbers or fixed-width strings")
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    with fsspec.open(path, "rb") as file:
        if fortran and len(shape) > 1:
            file.seek(offset)
            raw = file.read(dtype.itemsize * math.prod(shape))
            return np.ascontiguousarray(np.frombuffer(raw, dtype).reshape(shape, order="F")[start:stop])
        file.seek(offset + start * row_bytes)
        raw = file.read((stop - start) * row_bytes)
    if len(raw) != (stop - start) * row_bytes:
        raise ValueError(f"{path} ends before row {stop}: the file is cut short")
    return np.frombuffer(raw, dtype).reshape(stop - start, *shape[1:])


def read_hdf5_rows(path: str, name: str, start: int, stop: int) -> Array:
    """Rows start:stop of dataset `name` of an HDF5 file."""
    import h5py  # noqa: PLC0415  (an extra)

    with fsspec.open(path, "rb") as file, h5py.File(file, "r") as h5:
        rows: Array = h5[name][start:stop]
        return rows.astype(str) if rows.dtype.kind in "OS" else rows
