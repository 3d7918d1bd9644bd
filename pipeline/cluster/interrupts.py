"""Ctrl-C: it goes to every process of a terminal, but the client alone is to answer it, and then end its workers in order."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def spared_interrupts() -> Iterator[None]:
    """A block in which threads and processes start that never see SIGINT, nor do those that they start; here it arrives after the block."""
    resource_tracker.ensure_running()  # starting with the first process, it would let SIGINT through again in that thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """A block in which this process logs nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def quiet_imports() -> None:
    """Let Ctrl-C end `python -m pipeline`, whose commands take seconds to import, with 130 and no traceback until `imports_done`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def imports_done() -> None:
    """Make Ctrl-C a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)  # nothing is started or written yet
