"""The end that a queue or a system sets to a process, as an exception in its main thread, so that a fit can be saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

BY_SIGNAL: Final = 143
"""Exit status of a process that SIGTERM ended."""
OUT_OF_TIME: Final = 75
"""Exit status of a run whose walltime is over: it can go on in another job (EX_TEMPFAIL of sysexits.h)."""
END_TIME: Final = "SLURM_JOB_END_TIME"
MARGIN: Final = 60.0
"""Seconds before the end of the walltime, but no more than SHARE of what is left when a fit begins."""
SHARE: Final = 0.2


class Terminated(SystemExit):
    """SIGTERM has come, or the walltime is nearly over. `code`: the exit status, BY_SIGNAL or OUT_OF_TIME."""


@contextmanager
def terminations(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """In the block SIGTERM raises Terminated in the main thread, once; so does the approaching end of a SLURM job, of which the
    environment tells. Elsewhere than in the main thread, or where SIGTERM has a handler already, nothing changes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    over = threading.Event()
    raised = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        if not raised.is_set():
            raised.set()
            raise Terminated(OUT_OF_TIME if over.is_set() else BY_SIGNAL)

    def run_out() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    left = seconds_left(environment)
    timer = None if left is None else threading.Timer(max(0.0, left - min(MARGIN, SHARE * left)), run_out)
    signal.signal(signal.SIGTERM, end)
    try:
        if timer is not None:
            timer.daemon = True
            timer.start()
        yield
    finally:
        raised.set()  # what comes now comes too late
        if timer is not None and timer.is_alive():
            timer.cancel()
            timer.join()  # its signal would end the process once SIGTERM has no handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def seconds_left(environment: Mapping[str, str]) -> float | None:
    """Seconds until the end of the SLURM job that this process is in; None outside of one, or in one without an end."""
    end = environment.get(END_TIME, "")
    return float(end) - time.time() if end.isdigit() and float(end) > time.time() else None
