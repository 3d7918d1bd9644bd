"""Asynchronous stochastic gradients: several rounds under way, each result is one update.

A round is about the next batch of one subtree of groups. Each is asked for at the parameters that were newest then, and its gradient moves
those that are newest when it comes: A. Agarwal and J. Duchi, NIPS 2011; X. Lian, Y. Huang, Y. Li and J. Liu, NIPS 2015 (with a bound on
staleness, as here). What is under way is in the state, so a fit goes on from any state to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from tasks.objectives.evaluation import Evaluation
from tasks.rows.batches import Batch, turns
from tasks.strategies.base import Asked, Iterate, Request, Status
from tasks.strategies.stochastic_gradient import StochasticGradient, StochasticGradientState
from tasks.typing import Array, Float64, Int64

Order = Literal["in-order", "as-they-come"]
MOST: Final = 4.0
"""Steps grow no further: those of a subtree that answers once in a long while would throw the parameters about."""
ORDERS: Final[tuple[str, ...]] = get_args(Order)


class AsynchronousState(NamedTuple):
    """inner: of the stochastic gradients; asked: rounds under way, oldest first; n_asked: so far; n_taken: results so far, each of them an
    update; visits (T,): rounds that each subtree was asked for; updates (T,): results that came from each; turn: whose the next one
    is; first_epoch: the number of the epoch that all began with."""

    inner: StochasticGradientState
    asked: tuple[Asked, ...]
    n_asked: int
    n_taken: int
    visits: Int64
    updates: Int64
    turn: int
    first_epoch: int

    @property
    def shares(self) -> Float64:
        """The share of the updates that came from each subtree, (T,)."""
        return self.updates / max(1, self.n_taken)

    @property
    def iterate(self) -> Iterate:
        return self.inner.iterate

    @property
    def iteration(self) -> int:
        return self.inner.iteration

    @property
    def status(self) -> Status:
        return self.inner.status


@dataclass(frozen=True)
class Overlap:
    """How rounds of an asynchronous fit overlap.

    staleness  the most updates that any gradient misses: at most staleness + 1 rounds are under way, and one that has missed so many is
               waited for; None: only that no subtree is asked again before it has answered
    order      "in-order": results are taken in the order in which they were asked for, so that the bits follow from the data alone;
               "as-they-come": the first that is there is taken, and nobody waits within the bound
    damped     whether the step of a gradient that has missed t updates is divided by 1 + t (W. Zhang, S. Gupta, X. Lian and J. Liu, IJCAI
               2016, divide by t)
    balanced   whether, as they come, the steps of subtrees that answer less often are larger, so that each subtree has the same share in
               the long run: of u updates so far, u_t of them from subtree t of T, ⌈u / T⌉ / u_t times, at most 4 times
    arrivals   of a fit as they come: the subtrees in the order in which their results were taken (`subtree` in its `history_`), to
               repeat it; where they end, the fit goes on in order
    served     whether workers serve the vectors to each other, in slices, where there are workers that can (`tasks.workers.servers`); in
               this process, and where they cannot, rounds go through the client, to the same bits

    Raises ValueError for numbers out of range, and TypeError for what is none.
    """

    staleness: int | None = 4
    order: Order = "in-order"
    damped: bool = False
    balanced: bool = True
    arrivals: tuple[int, ...] | None = field(default=None, repr=False)
    served: bool = False

    def __post_init__(self) -> None:
        if self.staleness is not None and not is_count(self.staleness):
            raise ValueError(f"staleness must be a whole number of at least 0, or None for no bound, got {self.staleness!r}")
        for name in ("damped", "balanced", "served"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {self.order!r}")
        if self.arrivals is not None:
            if self.order != "as-they-come":
                raise ValueError("arrivals are of a fit that took results as they came; use order='as-they-come'")
            given: Any = self.arrivals
            numbers = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
            if wrong := [number for number in numbers if not is_count(number)]:
                raise TypeError(f"arrivals must be the numbers of subtrees, in their order, got {wrong[0]!r:.80}")
            object.__setattr__(self, "arrivals", tuple(map(int, numbers)))


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 0."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


@dataclass(frozen=True)
class Asynchronous:
    """`strategy` with several rounds under way, as `overlap` says; its sampling lets subtrees take turns. With staleness=0 it is the
    synchronous fit by `strategy`, bit for bit. Raises ValueError for a sampling without turns."""

    strategy: StochasticGradient
    overlap: Overlap = Overlap()

    def __post_init__(self) -> None:
        if not isinstance(self.overlap, Overlap):
            raise TypeError(f"overlap must be an Overlap, got {self.overlap!r}")
        if not self.strategy.sampling.n_turns:
            raise ValueError("asynchronous rounds are of one subtree each; make the sampling by mini_batches(..., take_turns=True)")
        if self.overlap.served and self.strategy.clip_norm is not None:
            raise ValueError(
                f"clip_norm={self.strategy.clip_norm!r} needs the norm of a whole gradient, of which each server has a slice; set"
                " clip_norm=None, or Overlap(served=False)"
            )
        if self.overlap.served and self.strategy.parts:
            raise ValueError(
                f"parts={self.strategy.parts!r} may lie across two servers' slices; leave it out, or use Overlap(served=False)"
            )

    @property
    def oracles(self) -> tuple[str, ...]:
        return self.strategy.oracles

    @property
    def takes_kinks(self) -> bool:
        return self.strategy.takes_kinks

    @property
    def overlaps(self) -> bool:
        return True

    @property
    def served(self) -> bool:
        return self.overlap.served

    def repeating(self, subtrees: Sequence[int]) -> Asynchronous:
        if self.overlap.order == "in-order":
            return self
        return replace(self, overlap=replace(self.overlap, arrivals=tuple(subtrees)))

    def init(self, parameters: Array) -> AsynchronousState:
        return self._begun(self.strategy.init(parameters))

    def resume(self, state: StochasticGradientState) -> AsynchronousState:
        """From the `inner` state of a fit that has ended, as `StochasticGradient.resume`; but not to the bits of one longer fit: at the end
        of the first one none was under way any more."""
        return self._begun(self.strategy.resume(state))

    def moved(self, state: AsynchronousState, parameters: Array) -> AsynchronousState:
        """See `StochasticGradient.moved`."""
        return self._begun(self.strategy.moved(state.inner, parameters))

    def _begun(self, inner: StochasticGradientState) -> AsynchronousState:
        none = np.zeros(self.strategy.sampling.n_turns, dtype=np.int64)
        return self._filled(AsynchronousState(inner, (), 0, 0, none, none, 0, inner.epoch.number))

    def request(self, state: AsynchronousState) -> Request:
        """The oldest round under way."""
        return state.asked[0].request

    def update(self, state: AsynchronousState, evaluation: Evaluation) -> AsynchronousState:
        """The state after the result of the oldest round."""
        return self.take(state, state.asked[0].number, evaluation)

    def candidates(self, state: AsynchronousState) -> list[int]:
        """The rounds of which any may be taken next. Taking one leaves those before it a further update behind, so it is none beyond the
        first that could not be taken in time then."""
        if self.overlap.order == "in-order":
            return [state.asked[0].number]
        chosen = []
        for position, asked in enumerate(state.asked):
            chosen.append(asked.number)
            if self.overlap.staleness is not None and state.n_taken + position - asked.version >= self.overlap.staleness:
                break
        return chosen if self.overlap.arrivals is None else [self._recorded(state, chosen, self.overlap.arrivals)]

    @staticmethod
    def _recorded(state: AsynchronousState, candidates: list[int], arrivals: tuple[int, ...]) -> int:
        """The round that the record has next."""
        if state.asked[0].subtree is None or state.n_taken >= len(arrivals):
            return candidates[0]
        wanted = arrivals[state.n_taken]
        found = [asked.number for asked in state.asked if asked.subtree == wanted]
        if not found or found[0] not in candidates:
            why = "which has to wait for those before it" if found else "which is not under way then"
            under_way = ", ".join(str(asked.subtree) for asked in state.asked)
            raise ValueError(
                f"the record of arrivals has subtree {wanted} as number {state.n_taken + 1}, {why} (under way: {under_way}); it is of"
                " another fit, or was altered"
            )
        return found[0]

    def take(self, state: AsynchronousState, number: int, evaluation: Evaluation) -> AsynchronousState:
        (asked,) = (each for each in state.asked if each.number == number)
        state = state._replace(asked=tuple(each for each in state.asked if each is not asked))
        if asked.subtree is None:
            return self._filled(state._replace(inner=self.strategy.update(state.inner, evaluation)))
        missed = state.n_taken - asked.version
        assert self.overlap.staleness is None or missed <= self.overlap.staleness, "a round that has missed so many is waited for"
        updates = state.updates.copy()
        updates[asked.subtree] += 1
        inner = self.strategy.update(state.inner, evaluation, self._factor(missed, updates, asked.subtree))
        return self._filled(state._replace(inner=inner, n_taken=state.n_taken + 1, updates=updates))

    def _factor(self, missed: int, updates: Int64, subtree: int) -> float:
        """What the step of a gradient is multiplied by."""
        factor = 1.0 / (1 + missed) if self.overlap.damped else 1.0
        if self.overlap.balanced and self.overlap.order == "as-they-come":
            factor *= min(MOST, -(-int(updates.sum()) // len(updates)) / int(updates[subtree]))
        return factor

    def _filled(self, state: AsynchronousState) -> AsynchronousState:
        """Ask for as many rounds as may be under way."""
        if state.status.kind != "running":
            return state._replace(asked=())
        order = turns(self.strategy.sampling)
        while self.overlap.staleness is None or len(state.asked) <= self.overlap.staleness:
            request = self.strategy.request(state.inner)
            batch = request.batch
            assert batch is not None
            if batch.number < 0:  # about all rows: by itself
                return state if state.asked else self._with(state, request)
            under_way = {asked.subtree for asked in state.asked}
            turn = next((turn for turn in range(state.turn, state.turn + len(order)) if order[turn % len(order)] not in under_way), None)
            if turn is None or not self._left(state):
                break
            subtree = order[turn % len(order)]
            batch = self.next_batch(state, subtree)
            visits = state.visits.copy()
            visits[subtree] += 1
            state = self._with(state._replace(visits=visits, turn=(turn + 1) % len(order)), request._replace(batch=batch))
        return state

    def next_batch(self, state: AsynchronousState, subtree: int) -> Batch:
        """The batch that is asked of a subtree next."""
        epoch, visit = divmod(int(state.visits[subtree]), self.strategy.sampling.n_rounds)
        return Batch(self.strategy.sampling, state.first_epoch + epoch, visit, subtree)

    @staticmethod
    def _with(state: AsynchronousState, request: Request) -> AsynchronousState:
        return state._replace(asked=(*state.asked, Asked(state.n_asked, state.n_taken, request)), n_asked=state.n_asked + 1)

    def _left(self, state: AsynchronousState) -> bool:
        """Whether there are rounds to ask for: none beyond the last epoch, nor beyond this one where all rows are looked at after it."""
        inner, strategy = state.inner, self.strategy
        epochs = 1 if strategy.early_stopping or strategy.variance_reduction else strategy.max_epochs - len(inner.losses)
        return inner.epoch.rounds + len(state.asked) < epochs * strategy.sampling.rounds_an_epoch
