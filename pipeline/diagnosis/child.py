"""Checks in a process of their own: what they import and call may end a process, or never come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final, Self

from pipeline.diagnosis.findings import Check, Item

END_SECONDS: Final = 5.0


class Failed(Exception):  # noqa: N818
    """A check that ended its process, or took too long."""


def examine(checks: Sequence[Check]) -> Iterator[Item]:
    """The items of all checks, as they are found. A process works through them; a check that ends it, or takes too long, is broken, and
    another process goes on behind it."""
    left = list(checks)
    while left:
        with Child(left) as child:
            while left:
                check = left.pop(0)
                try:
                    yield from child.items(check)
                except Failed as error:
                    yield check.broken(str(error))
                    break


class Child:
    """A process that works through checks, and is gone at the end of the block, with all that it started."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._pipe, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from pipeline.diagnosis.child import work; work({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )
        theirs.close()
        self._pipe.send(list(checks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it has ended already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._wait()
        self._pipe.close()
        self._said.close()

    def items(self, check: Check) -> Iterator[Item]:
        """What its next check, this one, finds. Raises Failed."""
        deadline = time.monotonic() + check.seconds
        while True:
            try:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise Failed(f"no answer in {check.seconds:.0f} s")
                item: Item | None = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise Failed(self._end()) from error
            if item is None:
                return
            yield item

    def _wait(self) -> int | None:
        """The exit status, once there is one: a process that waits for a disk that is gone cannot even be killed."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_SECONDS)
        return None

    def _end(self) -> str:
        """How the process ended, and the last that it said."""
        status = self._wait() or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"it ended the process with {how}" + (f": {lines[-1]}" if lines else "")


def work(descriptor: int) -> None:
    """What the process does: the checks that come, each item as it is found, and None behind those of each check."""
    warnings.simplefilter("ignore")
    pipe: Connection = Connection(descriptor)
    for check in pipe.recv():
        for item in check.items():
            pipe.send(item)
        pipe.send(None)
