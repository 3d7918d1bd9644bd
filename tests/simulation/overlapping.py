"""What a fit with several rounds under way asks for and takes, seen from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from pipeline.training.history import Row
from tasks.rounds.fitting import Fit, Round
from tasks.rows.batches import Batch
from tasks.strategies.asynchronous import Asynchronous


class Taken(NamedTuple):
    """An update. batch: whose gradient it takes; missed: updates since that was asked for."""

    batch: Batch
    missed: int


@dataclass(frozen=True, eq=False)
class Watched(Fit):
    """A fit that notes its updates, in their order. asked: by the number of a round, the updates before it was asked for."""

    asked: dict[int, int] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)

    def ask(self, states: Sequence[Any], number: int = 0) -> Round | None:
        self.asked[number] = len(self.taken)
        return super().ask(states, number)

    def update(self, states: Sequence[Any], this: Round, sums: Any) -> list[Any]:
        batch = this.broadcast.batch
        if batch is not None and batch.subtree is not None:
            self.taken.append(Taken(batch, len(self.taken) - self.asked[this.number]))
        return super().update(states, this, sums)

    @property
    def arrivals(self) -> tuple[int, ...]:
        """The subtrees of the updates."""
        return tuple(each.batch.subtree for each in self.taken if each.batch.subtree is not None)

    def check_updates(self, strategy: Asynchronous, history: Sequence[Row], *, whole: bool) -> None:
        """No gradient counts twice, none is left out, none is older than it may be, and the history says so. whole: whether the fit was not
        ended early."""
        overlap, inner, sampling = strategy.overlap, strategy.strategy, strategy.strategy.sampling
        batches = [each.batch for each in self.taken]
        said = [(row["subtree"], row["staleness"]) for row in history if row["subtree"] >= 0]
        assert said == [(each.batch.subtree, each.missed) for each in self.taken], "the history says something else"
        assert overlap.staleness is None or all(each.missed <= overlap.staleness for each in self.taken), "a gradient older than the bound"
        counts = Counter(self.arrivals)
        visits = {(subtree, *divmod(visit, sampling.n_rounds)) for subtree, n in counts.items() for visit in range(n)}
        assert sorted((batch.subtree, batch.epoch, batch.number) for batch in batches) == sorted(visits), "a gradient twice, or none"
        assert not whole or len(batches) == inner.max_epochs * sampling.rounds_an_epoch, "not all rounds"
        if overlap.order == "in-order":
            assert all(one.epoch <= other.epoch for one, other in pairwise(batches)), "an epoch before the one before it is over"
            assert not whole or set(counts.values()) == {inner.max_epochs * sampling.n_rounds}, "not all rounds of each subtree"
