"""What a plan goes by: the kinds of a job's rounds, and what each costs on a worker of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.strategies.base import LocalSteps


class Kind(NamedTuple):
    """A kind of round: what it asks for, see `tasks.strategies.base.Request`."""

    oracle: str
    row_step: int
    n_batches: int = 0  # batches in an epoch, for a round about one of them
    by_turns: bool = False  # whether it is about one subtree of groups alone, beside others that are under way

    def __str__(self) -> str:
        if self.n_batches and self.oracle != "local_steps":
            return f"{self.oracle} of a batch".replace("_", " ") + " of one subtree" * self.by_turns
        return self.oracle.replace("_", " ") + (f" of every {self.row_step}th row" if self.row_step > 1 else "")


@dataclass(frozen=True)
class Cost:
    """The cost of one kind of round. count: how many of them a fit takes, by the sample's.

    row_seconds: of a worker thread's computing, for each training row; subtree_seconds: for each subtree, beside its rows;
    update_seconds: of the client's, between rounds; delay_seconds: until a round of one message is back, beside all that; of rounds by
    turns, how long after one another they end where there is nothing to compute; message_seconds: for each further message; sent_bytes,
    returned_bytes: numbers to and from one worker thread; n_steps: the updates that subtrees make by themselves in a round, on average;
    adds_up: whether a thread returns one sum of its subtrees, see `tasks.reductions.reduction.Reduction`; summed_bytes: of the numbers that
    a thread adds up, or solves with, before it makes them small.
    """

    kind: Kind
    count: int
    update_seconds: float
    sent_bytes: int
    returned_bytes: int
    row_seconds: float = 0.0
    delay_seconds: float = 0.0
    message_seconds: float = 0.0
    subtree_seconds: float = 0.0
    n_steps: float = 1.0
    adds_up: bool = True
    summed_bytes: int = 0


class Worker(NamedTuple):
    """The cost of a worker process of this machine. costs: of each kind of round; load_seconds: a thread's, to read and check a row of any
    part; n_bytes: of the process when it has read and fitted, but holds no rows."""

    costs: tuple[Cost, ...]
    load_seconds: float
    n_bytes: int


def kind_of(broadcast: Broadcast) -> Kind:
    """The kind of a round; a full pass before epochs of batches is of another kind than they are."""
    batch = broadcast.batch
    if batch is None or batch.number < 0:
        return Kind(broadcast.oracle, broadcast.row_step)
    return Kind(broadcast.oracle, broadcast.row_step, batch.sampling.rounds_an_epoch, batch.subtree is not None)


def n_steps_of(broadcast: Broadcast) -> int:
    """The updates that subtrees make by themselves in a round, 1 where they make none: so many batches it is about."""
    return len(broadcast.local.step_sizes) if isinstance(broadcast.local, LocalSteps) else 1


def level_of(broadcast: Broadcast) -> int:
    """The level of a round: subtrees of 2^level groups compute it together."""
    return reduction_of(broadcast).level(broadcast)
