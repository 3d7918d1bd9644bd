"""What participants that are parameter servers (`tasks.workers.serving`) say to each other, and their threads to themselves.

generation: of the states that it is about: states from the client begin a new one.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple

from tasks.reductions.stages.codecs import Payload
from tasks.rounds.fitting import Report
from tasks.strategies.asynchronous import AsynchronousState
from tasks.strategies.base import Request
from tasks.strategies.compressed import CompressedState
from tasks.typing import Array
from tasks.workers.evaluating import Found
from tasks.workers.participants import Exchanged
from tasks.workers.touched import Touched


class Want(NamedTuple):
    """To a server: the rows of a subtree are with the participant of that rank. positions: in the slice, of the parameters that the next
    batch touches; None: all, of every batch."""

    generation: int
    rank: int
    subtree: int
    positions: Array | None = None


class Pull(NamedTuple):
    """From a server: the slice of a round's request, or of it what was wanted, and then the values of the penalty, block by block."""

    generation: int
    rank: int
    number: int
    request: Request
    penalties: list[float]


class Push(NamedTuple):
    """To a server: the slice of a round's gradient, or of the loss's at what was wanted, or of the payload that this is coded by; and what
    goes with it; report: what the root says of the round."""

    generation: int
    number: int
    value: float
    weight: float
    gradient: Payload
    report: Report | None


class Begin(NamedTuple):
    """From the root: go on from this slice of a state."""

    generation: int
    state: AsynchronousState | CompressedState


class Next(NamedTuple):
    """From the root: the result of that round is next."""

    generation: int
    number: int


class Stop(NamedTuple):
    """From the root: no further round for now; say where you are."""

    generation: int


class Part(NamedTuple):
    """To the root: the slice of the state; the largest |gradient| in it after each round since the last such answer; content: what the
    digests of the rows here add up to."""

    generation: int
    rank: int
    state: AsynchronousState | CompressedState
    gradient_norms: list[float]
    content: int
    traffic: Exchanged


class Computed(NamedTuple):
    """Within a participant: what a round has found."""

    generation: int
    number: int
    subtree: int
    result: Future[Found]


class Drawn(NamedTuple):
    """Within a participant: the next batch of a subtree of CSR rows."""

    generation: int
    subtree: int
    result: Future[Touched]
