"""Compiling the passes and what they call, and keeping their machine code on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


SOURCES = _digest()
PART: Any = {"forceinline": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of what Python never calls, and what allocates nothing; numba's own types do not know them."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function by njit, which releases the GIL and inlines (calls cost more than the arithmetic of a small partition), cached on
    disk under a name that carries the digest of all sources in this folder.

    numba itself compares the file of the function alone, and would run old machine code when only a helper in another file changed.
    """
    return _compiled(function, _nrt=True)


def compiled_leaf(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that runs once a partition: it must allocate nothing and return no array. It counts no
    references to arrays, each an atomic operation: together they take longer than the arithmetic of a few rows."""
    return _compiled(function, _nrt=False)


def compiled_apart(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled_leaf` does, a function that compiled code alone calls, by its address."""
    return _compiled(function, **PART)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    return njit(nogil=True, cache=True, error_model="numpy", **{"forceinline": True, **options})(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function that becomes a part of what calls it, and is cached with that."""
    return njit(nogil=True, error_model="numpy", **PART)(function)
