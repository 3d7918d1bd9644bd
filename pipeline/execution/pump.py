"""The pump: rounds are asked for, sent, taken, and move the states of a fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.execution.base import Advance, Executor, Pending
from pipeline.sources.rows import Rows
from tasks.reductions.remembered import Memory
from tasks.rounds.fitting import Fit, Round


class UnderWay(NamedTuple):
    """A round that was sent."""

    this: Round
    pending: Pending


class Copy(NamedTuple):
    """Where a fit stood, and what subtrees remembered then; n_since: rounds since then."""

    states: list[Any]
    memories: tuple[Memory, ...]
    n_since: int = 0


class Pump:
    """Moves one fit on. What is to be under way the states say: most strategies want one round at a time, each asked for from the states
    after the last; `Overlapping` ones want several. Ends by `close`, which gives up what is under way."""

    def __init__(self, executor: Executor, rows: Rows, fit: Fit) -> None:
        self.executor = executor
        self.rows = rows
        self.fit = fit
        self._under_way: dict[int, UnderWay] = {}

    def advance(self, states: list[Any], limit: int, number: int | None = None) -> Advance:
        """The states after the next round, or after several, at most `limit`. There must be one to do. number: of the round whose result
        is next, None for whichever may be."""
        if limit > 1 and (not self.fit.overlaps or self.fit.served):
            done = self.executor.on_workers(self.rows, self.fit, states, limit)
            if done is not None:
                self.close()
                return done
        began = time.perf_counter()
        try:
            self._send(states)
            number = self._next(states) if number is None else number
            pending = self._under_way[number].pending
            sums = pending.result()
        except BaseException:
            self.close()
            raise
        this = self._under_way.pop(number).this
        staleness = self.fit.staleness(states, this)
        states = self.fit.update(states, this, sums)
        return Advance(states, [self.fit.report(this, sums, states, time.perf_counter() - began, staleness, pending.traffic)])

    def _send(self, states: list[Any]) -> None:
        """Have under way what the states want, and nothing else."""
        wanted = self.fit.under_way(states)
        for number in self._under_way.keys() - set(wanted):
            self._under_way.pop(number).pending.cancel()
        for number in wanted:
            if number not in self._under_way:
                this = self.fit.ask(states, number)
                assert this is not None
                self._under_way[number] = UnderWay(this, self.executor.submit(self.rows, this.reduction, this.broadcast))

    def _next(self, states: list[Any]) -> int:
        """The number of the round to take."""
        numbers = self.fit.candidates(states)
        if len(numbers) == 1:
            return numbers[0]
        return numbers[self.executor.first_done(self.rows, [self._under_way[number].pending for number in numbers])]

    def repeating(self, subtrees: Sequence[int]) -> Pump:
        """A pump for the same fit that takes results in the order of one that took those of these subtrees first."""
        self.close()
        return Pump(self.executor, self.rows, self.fit.repeating(subtrees))

    def recall(self, states: list[Any], *, anew: bool) -> Copy | None:
        """What subtrees remember beside the rows: nothing, of most fits. anew: whether to ask for it."""
        return None

    def forget(self) -> None:
        """Have subtrees forget the fit: they remember nothing of most."""

    def close(self) -> None:
        """Give up what is under way."""
        for number in list(self._under_way):
            self._under_way[number].pending.cancel()
            del self._under_way[number]
