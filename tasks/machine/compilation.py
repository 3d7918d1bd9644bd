"""How long this process has compiled kernels so far."""

from __future__ import annotations

import sys


def compile_seconds() -> float:
    """Seconds that numba has compiled in this process since kernels were first used; 0.0 before. Machine code found on disk takes none."""
    compiling = sys.modules.get("tasks.kernels.compiling")
    return 0.0 if compiling is None else float(compiling.CLOCK.seconds)
