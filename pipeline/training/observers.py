"""Observers: who is told of the rounds of a fit, in the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pipeline.training.checkpoints.files import Saved
from pipeline.training.history import Row
from tasks.rounds.fitting import Report

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset

OnRound = Callable[[Row], bool]


class Observer:
    """Somebody who is told of the rounds of a fit. Does nothing by itself."""

    def watching(self, states: list[Any]) -> AbstractContextManager[Any]:
        """A context in which rounds are run, from these states. Raises TypeError for states that cannot be watched."""
        return nullcontext()

    def hear(self, row: Row, report: Report) -> None:
        """A round is over, but does not count yet: what is noted here is noted before any checkpoint has the round."""

    def after(self, row: Row) -> bool:
        """A round counts. True ends the fit with it."""
        return False

    def rest(self, saved: Saved) -> None:
        """Rounds have been taken, and count; `saved` is where the fit stands."""

    def end(self, saved: Saved, *, complete: bool) -> None:
        """There are no more rounds. complete: whether all that the strategy wanted are done; else an error or an observer ended the fit."""


class Calling(Observer):
    """Calls a function after each round, which ends the fit by returning True."""

    def __init__(self, function: OnRound) -> None:
        self._function = function

    def after(self, row: Row) -> bool:
        return bool(self._function(row))


class Record(Observer, ABC):
    """An observer of the marks of rounds, which must know what they are of. arrivals: of an asynchronous fit that this one repeats, the
    subtrees in the order in which their results were taken."""

    arrivals: tuple[int, ...] = ()

    @abstractmethod
    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        """Before the first round after number `resumed_from`; returns the seed to take in place of the one that was drawn."""
