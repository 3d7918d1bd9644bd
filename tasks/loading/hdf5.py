"""Rows of HDF5 files, read where they will live: there alone h5py must be installed."""

from __future__ import annotations

from dataclasses import dataclass

import fsspec
import h5py
import numpy as np

from tasks.typing import Array


@dataclass(frozen=True)
class Hdf5Rows:
    """Reads rows of dataset `name` of HDF5 files."""

    name: str

    def __call__(self, path: str, start: int, stop: int) -> Array:
        """Rows start:stop of the file at path; text as strings."""
        with fsspec.open(path, "rb") as file, h5py.File(file, "r") as h5:
            found = h5[self.name]
            if h5py.check_string_dtype(found.dtype) is not None:
                return np.asarray(found.asstr()[start:stop]).astype(str)
            rows: Array = found[start:stop]
            return rows
