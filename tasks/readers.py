"""Rows of files, read where they will live."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    """Rows start:stop of an `.npy` file, without reading the others. Raises ValueError when the file is cut short."""
    shape, fortran, dtype, offset = npy_header(path)
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects; save numbers or fixed-width strings")
    columns = math.prod(shape[1:])
    runs = (columns, stop - start) if fortran else (1, (stop - start) * columns)  # contiguous in the file
    rows = np.empty(runs, dtype)  # memory of our own: an array over bytes would be read-only
    with fsspec.open(path, "rb") as file:
        for i, run in enumerate(rows if rows.nbytes else ()):
            first = i * shape[0] + start if fortran else start * columns
            file.seek(offset + first * dtype.itemsize)
            if file.readinto(memoryview(run.view(np.uint8))) != run.nbytes:
                raise ValueError(f"{path} ends before row {stop}: the file is cut short")
    return np.ascontiguousarray(rows.reshape(*shape[:0:-1], stop - start).T) if fortran else rows.reshape(stop - start, *shape[1:])


@dataclass(frozen=True)
class Hdf5Rows:
    """Reads rows of dataset `name` of HDF5 files."""

    name: str

    def __call__(self, path: str, start: int, stop: int) -> Array:
        """Rows start:stop of the file at path; text as strings."""
        import h5py

        with fsspec.open(path, "rb") as file, h5py.File(file, "r") as h5:
            found = h5[self.name]
            if h5py.check_string_dtype(found.dtype) is not None:
                return np.asarray(found.asstr()[start:stop]).astype(str)
            rows: Array = found[start:stop]
            return rows
