"""Peak memory of processes, sampled."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """A context that samples the resident memory of processes, summed, every `interval` seconds from a thread.

    before: bytes at the start; peak: the most seen.
    """

    def __init__(self, pids: Sequence[int], interval: float = 0.02) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self.before = self._resident()
        self.peak = self.before

    @property
    def growth(self) -> int:
        """The growth of memory: peak - before."""
        return self.peak - self.before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _resident(self) -> int:
        total = 0
        for process in self._processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # killed for its time limit
                continue
        return total

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, self._resident())
            if self._done.wait(self._interval):
                self.peak = max(self.peak, self._resident())
                return
