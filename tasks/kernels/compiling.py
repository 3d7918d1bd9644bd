"""Compiling the passes, and keeping their machine code on disk."""

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


def compiled(function: Callable[..., Any]) -> Any:
    """njit that releases the GIL and inlines (calls cost more than the arithmetic of a small partition), cached on disk under a name that
    carries the digest of all sources in this folder.

    numba itself compares the file of the function alone, and would run old machine code when only a helper in another file changed.
    """
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    return njit(nogil=True, cache=True, error_model="numpy", forceinline=True)(function)
