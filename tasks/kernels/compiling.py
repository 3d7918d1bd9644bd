"""Compiling the passes and what they call, and keeping their machine code on disk.

What a pass calls becomes a part of it (calls cost more than the arithmetic of a small partition). numba by itself would optimise each such
function, make machine code of it, and do the same again at every level of calls above it: half of what compiling takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numba.core import event
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class _PartLibrary(JITCodeLibrary):
    """The code of a function that others take in: they optimise it and make machine code of it, with their own."""

    counts_references = True

    def _optimize_final_module(self) -> None:
        """Optimise only what counts references: in a large pass numba looks for those that cancel out, for up to a minute."""
        if self.counts_references:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """What is told where the function's environment lies: nothing, as there is no machine code that would look for it."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _PartCompiler(Compiler):
    def __init__(self, typing: Any, target: Any, library: Any, args: Any, return_type: Any, flags: Any, names: Any) -> None:
        library = _PartLibrary(target.codegen(), "part")
        library.counts_references = flags.nrt
        super().__init__(typing, target, library, args, return_type, flags, names)


SOURCES = _digest()
UNCALLED: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of what Python never calls: the code for such calls would be a fifth of all compiling, and a call is a crash."""
SEPARATE: Any = {**UNCALLED, "pipeline_class": _PartCompiler, "_nrt": False, "forceinline": False}
PART: Any = {**SEPARATE, "forceinline": True}
"""Options of what becomes a part of others and allocates nothing; numba's own types do not know `_nrt`."""
ZERO: Final = np.int64(0)
"""A zero to call functions with: for a plain 0, and what begins as one, numba would compile them once more."""


class Clock(event.TimingListener):
    """The time that numba compiles. It compiles one function at a time, whatever the threads."""

    @property
    def seconds(self) -> float:
        """What compiling has taken so far."""
        return self.duration if self.done else 0.0


CLOCK = Clock()
event.register("numba:compile", CLOCK)


def compiled_pass(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, by njit, which releases the GIL, cached on disk under a name that carries the digest of all
    sources in this folder.

    numba itself compares the file of the function alone, and would run old machine code when only a helper in another file changed.
    """
    return _cached(function, no_cfunc_wrapper=True)


def compiled_block(function: Callable[..., Any]) -> Any:
    """Compile, and keep on disk, a function that is called by its address: what `compiled_leaf` says of references holds for it, too."""
    return _cached(function, **UNCALLED, _nrt=False)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that becomes a part of what calls it, and is kept on disk with that. Python must not call it."""
    return _part(function, **{**PART, "_nrt": True})


def compiled_leaf(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled` does, a function that allocates nothing and returns no array. It counts no references to arrays, each an
    atomic operation: together they take longer than the arithmetic of a few rows."""
    return _part(function, **PART)


def compiled_apart(function: Callable[..., Any]) -> Any:
    """Compile, as `compiled_leaf` does, a large function that is called: its loops have all registers then, and a pass has it once."""
    return _part(function, **SEPARATE)


def _cached(function: Callable[..., Any], **options: Any) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    return njit(nogil=True, cache=True, error_model="numpy", **options)(function)


def _part(function: Callable[..., Any], **options: Any) -> Any:
    return njit(nogil=True, error_model="numpy", **options)(function)
