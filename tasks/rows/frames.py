"""Frames of pandas as rows: without pandas there are none, and a process that gets arrays alone need not have it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from tasks.typing import Array

if TYPE_CHECKING:
    import pandas as pd


def is_frame(rows: Any) -> TypeGuard[pd.DataFrame]:
    """Whether rows are a pandas frame."""
    return isinstance(rows, _kind("DataFrame"))


def is_series(rows: Any) -> TypeGuard[pd.Series]:
    """Whether rows are a pandas series."""
    return isinstance(rows, _kind("Series"))


def _kind(name: str) -> Any:
    """A class of pandas; no class where nobody has imported that, or while it is imported."""
    return getattr(sys.modules.get("pandas"), name, ())


def require_numeric(frame: pd.DataFrame) -> None:
    """Raise ValueError, naming the column, for a dtype that cannot hold numbers. Objects are seen to with their values."""
    from pandas.api.types import is_object_dtype

    for name, dtype in frame.dtypes.items():
        if not (holds_numbers(dtype) or is_object_dtype(dtype)):
            raise ValueError(f"column {name!r} has dtype {dtype}, not numbers; encode it, or leave it out with columns=")


def holds_numbers(dtype: Any) -> bool:
    """Whether a column of a frame of that dtype holds real numbers or booleans, NumPy's, nullable ones or Arrow's."""
    from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

    return (is_numeric_dtype(dtype) or is_bool_dtype(dtype)) and not is_complex_dtype(dtype)


def frame_dtypes(frame: Any) -> set[np.dtype[Any]]:
    """The dtypes of the columns of a frame, a lazy one too, as NumPy has them."""
    import pandas as pd

    return {pd.array([], dtype=dtype).to_numpy().dtype for dtype in set(frame.dtypes)}


def frame_values(frame: pd.DataFrame, dtype: str) -> Any:
    """The values of a frame, missing ones as NaN. Raises ValueError naming the first column that holds something else."""
    require_numeric(frame)
    if all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in frame.dtypes):
        with np.errstate(over="ignore"):
            return frame.to_numpy(dtype=dtype)
    for position, name in enumerate(frame.columns):
        try:
            frame.iloc[:, position].to_numpy(dtype=dtype, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise ValueError(f"column {name!r} of X has values that are not numbers ({error}); encode it, or leave it out") from error
    return frame.to_numpy(dtype=dtype, na_value=np.nan)


def series_values(y: pd.Series) -> Array:
    """The values of a target: numbers, missing ones as NaN, or labels."""
    from pandas.api.types import is_numeric_dtype

    if isinstance(y.dtype, np.dtype) or not is_numeric_dtype(y.dtype):
        return y.to_numpy(dtype=None if isinstance(y.dtype, np.dtype) else object)
    return y.to_numpy(dtype=np.float64, na_value=np.nan) if y.hasnans else y.to_numpy()
