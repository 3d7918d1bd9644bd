"""Where workers do what a test wants at exactly the moment that it wants: code of ours or of a user's that passes a gate.

Workers import this: nothing of `pipeline`, which would take them seconds."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import distributed
import numpy as np

from tasks.objectives.linear import LinearObjective
from tasks.reductions.reduction import NodeSums, Reduction, merge_sums
from tasks.workers import participants

Where = Literal["task", "call", "session"]
LIMIT: Final = 50.0


def fail() -> None:
    raise ZeroDivisionError("what the user's code does")


def fill_memory() -> None:
    held = []
    while True:
        held.append(np.ones(1 << 20))
        time.sleep(0.02)


ACTIONS: Final[dict[str, Callable[[], Any]]] = {
    "pass": lambda: None,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "out of memory": lambda: np.empty(1 << 56, dtype=np.uint8),
    "exception": fail,
    "fill memory": fill_memory,
}


@dataclass(frozen=True)
class Gate:
    """The first process that comes to it stops there, until it is told what to do; later ones pass, or do what is for all. Files, so that
    all processes see it; the process that made it passes."""

    directory: Path
    owner: int

    @classmethod
    def new(cls, directory: Path) -> Gate:
        directory.mkdir()
        return cls(directory, os.getpid())

    def reach(self) -> None:
        if os.getpid() == self.owner:
            return
        if (self.directory / "for all").exists():
            (self.directory / "tripped").touch()
            ACTIONS[(self.directory / "for all").read_text()]()
        own = self.directory / f"at-{os.getpid()}-{time.monotonic_ns()}"
        if (self.directory / "reached").exists():
            return
        own.write_text(str(os.getpid()))
        try:
            os.link(own, self.directory / "reached")
        except FileExistsError:
            return
        deadline = time.monotonic() + LIMIT
        while not (self.directory / "told").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        ACTIONS[(self.directory / "told").read_text()]()

    @property
    def tripped(self) -> bool:
        """Whether what is for all has happened to anybody."""
        return (self.directory / "tripped").exists()

    def await_one(self, seconds: float = 30.0) -> int:
        """The process that has come to it."""
        deadline = time.monotonic() + seconds
        while not (self.directory / "reached").exists():
            assert time.monotonic() < deadline, "nobody came to the gate"
            time.sleep(0.002)
        return int((self.directory / "reached").read_text())

    def tell(self, action: str) -> None:
        self._write("told", action)

    def tell_all(self, action: str) -> None:
        """Those that come later, too."""
        self._write("for all", action)
        self._write("told", action)

    def _write(self, name: str, action: str) -> None:
        (self.directory / "writing").write_text(action)
        (self.directory / "writing").rename(self.directory / name)


@dataclass(frozen=True)
class GatedMake:
    """Partitions of these rows, the sixth of them behind a gate."""

    X: Any
    y: Any
    n_partitions: int
    gate: Gate | None

    def __call__(self, i: int) -> tuple[Any, Any]:
        if i == 5 and self.gate is not None:
            self.gate.reach()
        start, stop = (j * len(self.y) // self.n_partitions for j in (i, i + 1))
        return self.X[start:stop], self.y[start:stop]


@dataclass(frozen=True, eq=False)
class GatedObjective(LinearObjective):
    """Has a gate after the first round, where rounds run in a certain way; what is for all then happens however they run."""

    gate: Gate | None = None
    where: Where = "task"
    fatal: int | None = None
    """Only the group that begins with this partition."""

    def loss_and_gradient(self, group: Any, parameters: Any) -> Any:
        gated = self.gate is not None and np.any(parameters != 0) and self.fatal in (None, group.first_partition)
        if gated and self.gate is not None and (self.where == running_as() or self.gate.tripped):
            self.gate.reach()
        return super().loss_and_gradient(group, parameters)


def running_as() -> Where:
    if participants.live:
        return "session"
    try:
        distributed.get_worker()
    except ValueError:
        return "call"
    return "task"


@dataclass(frozen=True)
class GatedMap:
    """What a reduction does with each subtree, behind a gate."""

    map: Callable[[Sequence[Any], Any], Any]
    gate: Gate

    def __call__(self, subtree: Sequence[Any], broadcast: Any) -> Any:
        self.gate.reach()
        return self.map(subtree, broadcast)


def gated(reduction: Reduction, gate: Gate) -> Reduction:
    return reduction._replace(map=GatedMap(reduction.map, gate))


@dataclass(frozen=True)
class GatedMerge:
    """Sums of sums, behind a gate."""

    gate: Gate

    def __call__(self, parts: Sequence[NodeSums], n_groups: int, combine: Any) -> NodeSums:
        self.gate.reach()
        return merge_sums(parts, n_groups, combine)
