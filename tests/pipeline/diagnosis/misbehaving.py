"""Checks that go wrong in all ways; a process that imports them imports little."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.diagnosis.findings import Item


def fine(name: str) -> Iterator[Item]:
    print("this is not for the user")
    yield Item("ok", name, "well")


def fails() -> Iterator[Item]:
    raise ValueError("none:\n  of these, here\n  or there")
    yield


def lacks() -> Iterator[Item]:
    import no_such_module  # noqa: F401

    yield Item("ok", "never", "comes")


def crashes() -> Iterator[Item]:
    yield Item("ok", "before", "that")
    print("no such instruction", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def exits() -> Iterator[Item]:
    os._exit(3)
    yield


def hangs(file: str) -> Iterator[Item]:
    child = subprocess.Popen(["sleep", "300"])
    Path(file).write_text(str(child.pid))
    child.wait()
    yield Item("ok", "never", "comes")
