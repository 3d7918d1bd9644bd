"""The tables that scikit-learn brings along, no network needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

BUNDLED: Final[Mapping[str, Callable[..., Any]]] = {
    "breast_cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
}
# Pixels of the digits count from 0 to 16; as shares of full ink they lie between 0 and 1.
UNITS: Final[Mapping[str, float]] = {"digits": 16.0}


def load_bundled(name: str) -> tuple[pd.DataFrame, pd.Series]:
    """X (n, p) with its column names, y (n,). Raises KeyError for a name not in BUNDLED."""
    X, y = BUNDLED[name](return_X_y=True, as_frame=True)
    return X / UNITS.get(name, 1.0), y
