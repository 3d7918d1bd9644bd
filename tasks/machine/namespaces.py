"""Array namespaces: NumPy itself for its own arrays; for others array-api-compat, which nobody else needs to have.

*Here* is the host and NumPy, and CSR rows are here, too; *elsewhere* are the dense arrays of any other namespace, on a device perhaps.
"""

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
    if isinstance(X, np.ndarray | sp.csr_array):
        return "cpu"
    from array_api_compat import device

    return device(X)


def is_elsewhere(X: Any) -> bool:
    """Whether X is an array of another namespace than NumPy's. What is no array (lists, frames, lazy collections) is not."""
    if isinstance(X, np.ndarray | np.generic | list | tuple) or sp.issparse(X):
        return False
    try:
        from array_api_compat import is_array_api_obj, is_dask_array
    except ModuleNotFoundError:  # a process that is to compute with such arrays has it
        return False
    return is_array_api_obj(X) and not is_dask_array(X)


def on_host(X: Any) -> Any:
    """An array, or a number, as NumPy's, from wherever it lives; CSR rows as they are."""
    if isinstance(X, np.ndarray | np.generic | sp.csr_array):
        return X
    from array_api_compat import is_cupy_array, is_torch_array

    if is_torch_array(X):
        return X.numpy(force=True)
    return X.get() if is_cupy_array(X) else np.from_dlpack(X)


def brought_here(value: Any) -> Any:
    """An array that is elsewhere as NumPy's; all else as it is."""
    return on_host(value) if is_elsewhere(value) else value


def beside(X: Any, array: Any) -> Any:
    """An array where X lives: itself beside rows that are here."""
    if isinstance(X, np.ndarray | sp.csr_array):
        return array
    if isinstance(array, np.ndarray):  # PyTorch shares the memory of NumPy's, and refuses that of arrays which nobody may write to
        array = np.require(array, requirements=["C", "A", "W"])
    return namespace_of(X).asarray(array, device=device_of(X))


def take_rows(X: Any, rows: Any) -> Any:
    """The rows of an array, or of CSR rows, with these numbers."""
    return X[rows] if isinstance(X, sp.csr_array) else namespace_of(X).take(X, beside(X, rows), axis=0)


def numpy_dtype(array: Any) -> np.dtype[Any]:
    """The dtype of an array of any namespace as NumPy has it. Raises TypeError where it has none like it."""
    found = array.dtype
    return found if isinstance(found, np.dtype) else np.dtype(str(found).rpartition(".")[2])
