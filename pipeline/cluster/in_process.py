"""Connections that keep the work in this process: while one of them is open, whatever client is current has none of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dask


@dataclass
class Level:
    """A change of Dask's configuration, and how many connections need it."""

    change: Any
    n_open: int = 1


class InProcess:
    """The connections of this kind that are open. The configuration from before the first is back after the last, whatever their order.

    Connections share a change of the configuration; one that is opened where something else has changed it again, as a client does, makes
    its own. Changes are undone last in, first out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: list[Level] = []

    @contextmanager
    def connection(self) -> Iterator[None]:
        """A block in which Dask's scheduler is the threads of this process."""
        with self._lock:
            level = self._enter()
        try:
            yield
        finally:
            with self._lock:
                level.n_open -= 1
                while self._levels and self._levels[-1].n_open == 0:
                    self._levels.pop().change.__exit__(None, None, None)

    def _enter(self) -> Level:
        if self._levels and dask.config.get("scheduler", None) == "threads":
            level = self._levels[-1]
            level.n_open += 1
        else:
            level = Level(dask.config.set(scheduler="threads"))
            self._levels.append(level)
        return level


IN_PROCESS: Final = InProcess()
