"""Checks of arguments that users give."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np


def as_number(value: Any) -> float:
    """value, or NaN, which passes no comparison, when it is no number, as True is none."""
    return np.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def check_counts(**counts: Any) -> None:
    """Raises ValueError for a hyperparameter that is not a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_tolerances(**tolerances: Any) -> None:
    """Raises ValueError for a hyperparameter that is not a number of at least 0; NaN would never end a fit."""
    for name, value in tolerances.items():
        if not as_number(value) >= 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
