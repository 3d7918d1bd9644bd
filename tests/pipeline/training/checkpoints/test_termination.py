"""SIGTERM and the end of a walltime, as exceptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.training.checkpoints.termination import Terminated, terminations

pytestmark = pytest.mark.timeout(30)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)  # the exception comes in here


def test_sigterm_is_raised_once_and_the_handler_goes() -> None:
    with terminations({}):
        with pytest.raises(Terminated) as raised:
            sigterm()
        os.kill(os.getpid(), signal.SIGTERM)  # while what was done is saved
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_walltime_is_over_a_while_before_it_is() -> None:
    with pytest.raises(Terminated) as raised, terminations({"SLURM_JOB_END_TIME": str(int(time.time()) + 3)}):
        time.sleep(10)
    assert raised.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


TOO_LATE = """
import os, threading, time
from pipeline.training.checkpoints.termination import terminations
kill, coming = os.kill, threading.Event()

def slowly(*arguments):
    coming.set()
    time.sleep(0.3)
    kill(*arguments)

os.kill = slowly
with terminations({"SLURM_JOB_END_TIME": str(int(time.time()) + 2)}):
    assert coming.wait(20)
time.sleep(1)
print("done")
"""


@pytest.mark.long
def test_a_walltime_that_nears_its_end_when_the_fit_is_done_ends_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", TOO_LATE], check=False, capture_output=True, text=True, timeout=25)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_handler_of_somebody_else_stays() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with terminations({}):
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_in_another_thread_nothing_changes() -> None:
    handlers: list[object] = []

    def look() -> None:
        with terminations({}):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]
