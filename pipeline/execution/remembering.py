"""The pump of fits whose subtrees remember something beside the rows: it is copied now and then, and put back where it was lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.execution.base import Advance, Executor
from pipeline.execution.pump import Copy, Pump
from pipeline.sources.rows import Rows
from tasks.reductions.reduction import Reduction
from tasks.reductions.remembered import FORGET, READ, RESTORE, ForgottenError, Memories, Memory
from tasks.rounds.fitting import Fit

logger = logging.getLogger("dask-descent")

COPY_EVERY: Final = 10.0
"""Seconds of rounds that are repeated at most, about, when a worker dies."""
SHARE: Final = 20.0
"""Rounds between two copies last this many times as long as a copy."""
MAX_REPEATS: Final = 10
"""Times that memory may be put back before the next round is done."""


class RememberingPump(Pump):
    """memories: what subtrees are to remember at first."""

    def __init__(self, executor: Executor, rows: Rows, fit: Fit, memories: tuple[Memory, ...]) -> None:
        super().__init__(executor, rows, fit)
        assert fit.remembering is not None
        self._remembering = fit.remembering
        self._memories = memories
        self._last: Copy | None = None
        self._since: list[int] = []
        self._again: list[int] = []
        self._due = 0.0

    def advance(self, states: list[Any], limit: int, number: int | None = None) -> Advance:
        last = self._begin(states) if self._last is None else self._last
        n_since = self._n_since(states, last)
        if len(self._since) > n_since:  # the fit goes on from where it was before, and subtrees know more
            self._again = self._since[n_since:] if self.fit.overlaps else []
            self._repeat(states)
        for attempts_left in reversed(range(MAX_REPEATS)):
            try:
                if time.monotonic() > self._due:
                    self._copy(states)
                done = self._advance(states, limit, number)
                break
            except ForgottenError as error:
                if not attempts_left:
                    raise ForgottenError(
                        f"what a fit remembers beside the rows was lost {MAX_REPEATS} times in one round, with workers that died or whose"
                        " rows others took; see that workers stay, or train without compression, and local updates with keep_slots=False"
                        " and control_variates=False"
                    ) from error
                self._repeat(states)
        self._since += [report.number for report in done.reports]
        return done

    def _advance(self, states: list[Any], limit: int, number: int | None) -> Advance:
        """Rounds that were done before are done in the order of then."""
        if not self._again:
            return super().advance(states, limit, number)
        done = super().advance(states, 1, self._again[0])
        del self._again[0]
        return done

    def recall(self, states: list[Any], *, anew: bool) -> Copy:
        """Where the fit stands, with what subtrees remember, or stood when that was copied last. anew: whether to ask for it."""
        if states[0].status.kind != "running":  # nobody will ask for it
            return Copy(states, ())
        if anew:
            try:
                return self._copy(states)
            except Exception:
                logger.warning("what subtrees remember cannot be had; the last copy is taken", exc_info=True)
        if self._last is None:
            return Copy(states, self._memories)
        return self._last._replace(n_since=self._n_since(states, self._last))

    def repeating(self, subtrees: Sequence[int]) -> Pump:
        """This one, which knows what it has taken."""
        return self

    def forget(self) -> None:
        """Have subtrees forget the fit, which is over whether they do or not."""
        try:
            self._ask(FORGET)
        except Exception:
            logger.warning("what subtrees remember stays with their rows", exc_info=True)

    def _begin(self, states: list[Any]) -> Copy:
        """Have subtrees remember what they are to begin with."""
        if self._memories:
            self._ask(RESTORE, self._memories)
        self._due = time.monotonic() + COPY_EVERY
        self._last = Copy(states, self._memories)
        return self._last

    def _n_since(self, states: list[Any], copy: Copy) -> int:
        """The rounds from a copy to these states."""
        return self._remembering.n_results(states[0]) - self._remembering.n_results(copy.states[0])

    def _copy(self, states: list[Any]) -> Copy:
        """Copy what is remembered now. Raises ForgottenError where something is lost."""
        began = time.monotonic()
        versions = self._remembering.versions(states[0])
        found = self._ask(READ, version=versions[0] if len(versions) == 1 else None)
        versions = versions * len(found) if len(versions) == 1 else versions
        memories: list[Memory] = []
        for of_subtree, version in zip(found, versions, strict=True):
            wanted = [memory for memory in of_subtree if memory.version == version]
            if version and not wanted:
                raise ForgottenError(f"nothing is remembered of round {version}")
            memories += wanted
        self._last, self._since = Copy(states, tuple(memories)), []
        now = time.monotonic()
        self._due = now + max(COPY_EVERY, SHARE * (now - began))
        return self._last

    def _repeat(self, states: list[Any]) -> None:
        """Put back the last copy, and repeat the rounds from there to these states."""
        assert self._last is not None
        del self._since[self._n_since(states, self._last) :]
        at, numbers = self._last.states, list(self._since)
        logger.info("what subtrees remember is not what it was: repeat %d rounds", len(numbers))
        self.close()
        most = 1 if self.fit.overlaps else len(numbers)  # workers by themselves would take results as they come now
        try:
            self._ask(RESTORE, self._last.memories)
            while numbers:
                at, reports = super().advance(at, min(most, len(numbers)), numbers[0])
                del numbers[: len(reports)]
        except ForgottenError:  # one more has died
            logger.debug("and again")

    def _ask(self, reduction: Reduction, restored: tuple[Memory, ...] = (), version: int | None = None) -> Any:
        layout, n_versions = self.fit.objective.layout, 2 if version is None else 1
        n_bytes = n_versions * self._remembering.n_remembered * layout.size * np.dtype(layout.dtype).itemsize if reduction is READ else 0
        question = Memories(self.fit.name, self._remembering.sampling.level, n_bytes, version, restored)
        return self.executor.map_reduce(self.rows, reduction, question)


def pump_for(executor: Executor, rows: Rows, fit: Fit, memories: tuple[Memory, ...]) -> Pump:
    """The pump that a fit needs."""
    return Pump(executor, rows, fit) if fit.remembering is None else RememberingPump(executor, rows, fit, memories)
