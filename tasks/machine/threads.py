"""One BLAS thread, because two give other bits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import scipy.linalg.cython_blas  # noqa: F401  SciPy's BLAS: only a library that is loaded can be limited
import threadpoolctl
from threadpoolctl import ThreadpoolController, threadpool_limits

_CLEAR: Final[Any] = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)

_lock = threading.Lock()
_active = 0
_limit: threadpool_limits | None = None


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # scans the loaded libraries: milliseconds, once


def _let_anyone_set_limits() -> None:
    """Let every thread set limits: from 3.8 on threadpoolctl silently does nothing in any but the first one; here a lock keeps order."""
    if _CLEAR is not None:
        _CLEAR(force=True)


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """BLAS on one thread in this process while any such block is open; may be nested and entered from several threads."""
    global _active, _limit
    with _lock:
        _active += 1
        if _active == 1:
            _let_anyone_set_limits()
            _limit = _controller().limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0 and _limit is not None:
                _let_anyone_set_limits()
                _limit.restore_original_limits()
                _limit = None
                _let_anyone_set_limits()
