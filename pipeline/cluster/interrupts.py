"""Ctrl-C in a terminal goes to every process there; the client is to answer it alone, and then end its workers in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def spared_interrupts() -> Iterator[None]:
    """Threads and processes that start in this block never see SIGINT, nor do those that they start; here it arrives after the block."""
    resource_tracker.ensure_running()  # starting with the first process, it would let SIGINT through again in that thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
