"""Compiling the passes and what they call, and keeping their machine code on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


SOURCES = _digest()
INNER: Any = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of what Python never calls."""
PART: Any = {**INNER, "_nrt": False}
"""Options of what allocates nothing besides; numba's own types do not know the last one."""


class Clock(event.TimingListener):
    """The time that numba compiles. It compiles one function at a time, whatever the threads."""

    @property
    def seconds(self) -> float:
        """What compiling has taken so far."""
        return self.duration if self.done else 0.0


CLOCK = Clock()
event.register("numba:compile", CLOCK)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that other compiled ones call, by njit, which releases the GIL and inlines (calls cost more than the arithmetic of
    a small partition), cached on disk under a name that carries the digest of all sources in this folder.

    numba itself compares the file of the function alone, and would run old machine code when only a helper in another file changed.
    Python must not call it, which would be a crash: the code for such calls would be a fifth of all compiling.
    """
    return _compiled(function, **INNER, _nrt=True)


def compiled_pass(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that Python calls."""
    return _compiled(function, forceinline=True, no_cfunc_wrapper=True, _nrt=True)


def compiled_leaf(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that runs once a partition, or is called by its address: it must allocate nothing and return
    no array. It counts no references to arrays, each an atomic operation: together they take longer than the arithmetic of a few rows."""
    return _compiled(function, **PART)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function that becomes a part of what calls it, and is cached with that."""
    return njit(nogil=True, error_model="numpy", **PART)(function)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    return njit(nogil=True, cache=True, error_model="numpy", **options)(function)
