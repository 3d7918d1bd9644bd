"""Compiling the passes, and keeping their machine code on disk."""

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
    return _compiled(function, counts_references=True, for_python=False)


def compiled_pass(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that Python calls."""
    return _compiled(function, counts_references=True, for_python=True)


def compiled_leaf(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that runs once a partition: it must allocate nothing and return no array. It counts no
    references to arrays, each an atomic operation: together they take longer than the arithmetic of a few rows."""
    return _compiled(function, counts_references=False, for_python=False)


def _compiled(function: Callable[..., Any], *, counts_references: bool, for_python: bool) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    options: dict[str, Any] = {"forceinline": True, "_nrt": counts_references}  # numba's own types do not know the second option
    options |= {"no_cpython_wrapper": not for_python, "no_cfunc_wrapper": True}
    return njit(nogil=True, cache=True, error_model="numpy", **options)(function)
