"""Rows of files, read where they will live."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from tasks.typing import Array

if TYPE_CHECKING:
    import pandas as pd


def npy_header(path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """The header of an `.npy` file: shape, Fortran order, dtype and the offset of the data. Raises ValueError for what is none."""
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
class CsvRows:
    """Dask's reader of a piece of a CSV file, with errors that name the file.

    read: read(piece, part, columns, dtypes=...) gives a frame; dtypes: of the columns, None for them as they are found.
    """

    read: Callable[..., pd.DataFrame]
    dtypes: dict[str, Any]

    def __call__(self, piece: bytes, part: Any, place: tuple[str, int], columns: Sequence[str]) -> pd.DataFrame:
        """The rows of a piece of file place[0] that starts at byte place[1]. Raises ValueError for what is no table of these columns."""
        path, start = place
        try:
            frame = self.read(piece, part, columns, dtypes=self.dtypes)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: {self._bad_cell(piece, part, start, columns) or str(error).strip()}") from error
        if missing := [name for name in columns if name not in frame]:
            raise ValueError(f"{path} lacks column {missing[0]!r} of the first file; it has {', '.join(map(repr, frame.columns))}")
        return frame

    def _bad_cell(self, piece: bytes, part: Any, start: int, columns: Sequence[str]) -> str | None:
        """The first cell that is not what its column's dtype holds; None when the rows cannot be read at all."""
        import pandas as pd

        try:
            frame = self.read(piece, part, columns, dtypes=None)
        except (ValueError, KeyError):
            return None
        where = f"from byte {start} on" if start else "after the header"
        for name, dtype in self.dtypes.items():
            if name not in frame or not pd.api.types.is_numeric_dtype(dtype):
                continue
            numbers = pd.to_numeric(frame[name], errors="coerce")
            text = (numbers.isna() & frame[name].notna()).to_numpy()
            if text.any():
                row = int(text.argmax())
                value = frame[name].iloc[row]
                return f"column {name!r} holds {value!r} in row {row} {where}, which is no number; mend it, or give na_values="
            odd = (numbers % 1 != 0).to_numpy()  # missing values too
            if pd.api.types.is_integer_dtype(dtype) and odd.any():
                row = int(odd.argmax())
                value, cure = float(numbers.iloc[row]), f"give dtype={{{name!r}: 'float64'}} or assume_missing=True"
                return f"column {name!r} holds {value} in row {row} {where}, but whole numbers in the first rows; {cure}"
        return None
