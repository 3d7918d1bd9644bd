"""Array namespaces: NumPy itself for its own arrays; for others array-api-compat, which nobody else needs to have."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def namespace_of(X: Any) -> Any:
    """The namespace of dense arrays computed with X: NumPy's for CSR rows."""
    if isinstance(X, np.ndarray | sp.csr_array):
        return np
    from array_api_compat import array_namespace

    return array_namespace(X)


def device_of(X: Any) -> Any:
    """The device where an array lives, for what is to be made there."""
    if isinstance(X, np.ndarray):
        return "cpu"
    from array_api_compat import device

    return device(X)


def on_host(X: Any) -> Any:
    """An array, or a number, as NumPy's, from wherever it lives."""
    if isinstance(X, np.ndarray | np.generic):
        return X
    from array_api_compat import is_cupy_array

    return X.get() if is_cupy_array(X) else np.from_dlpack(X)
