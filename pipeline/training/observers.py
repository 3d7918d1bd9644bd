"""Who is told of the rounds of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tasks.reductions.stages.marks import Marks

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset


class Record(Protocol):
    """What a fit tells of its rounds."""

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        """Before the first round after number `resumed_from`; the seed to take in place of the one that was drawn."""

    def add(self, n_round: int, marks: Marks) -> None:
        """After a round."""
