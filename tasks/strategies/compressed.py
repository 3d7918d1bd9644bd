"""Any strategy by mini-batches, with less to send: what workers get and return is compressed (`tasks.reductions.stages.compression`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from tasks.arguments import check_counts
from tasks.objectives.base import Layout
from tasks.objectives.evaluation import Evaluation
from tasks.reductions.blocks import BLOCK
from tasks.reductions.stages.codecs import CODECS, Blockwise, Codec, Payload, RandomK, Shapes, TopK
from tasks.reductions.stages.compression import Coding, Packet, can_encode
from tasks.rows.batches import Sampling
from tasks.strategies.asynchronous import Asynchronous
from tasks.strategies.base import Asked, Iterate, Request, Status
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

DOWN: Final = "compressed down"
"""The purpose of random numbers."""


@dataclass(frozen=True)
class Compression:
    """How what travels is made small.

    up          the codec of the gradients that workers return
    down        the codec of what the parameters have moved by; None: they are sent whole
    feedback    whether what a gradient lost is added to the next one of the same subtree
    n_subtrees  at most so many subtrees of groups return a gradient each in a synchronous round (more, where one would have more than 256
                MB of rows), and so many threads work on it: the more there are, the more is sent

    Raises TypeError for what is no codec or no boolean, ValueError for n_subtrees below 1.
    """

    up: Codec
    down: Codec | None = None
    feedback: bool = True
    n_subtrees: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.up, Codec):
            raise TypeError(f"up must be a codec such as TopK(0.01), got {self.up!r}")
        if not (self.down is None or isinstance(self.down, Codec)):
            raise TypeError(f"down must be a codec such as TopK(0.01), or None, got {self.down!r}")
        if not isinstance(self.feedback, bool):
            raise TypeError(f"feedback must be True or False, got {self.feedback!r}")
        check_counts(n_subtrees=self.n_subtrees)


COMPRESSIONS: Final[dict[str, Compression]] = {
    **{name: Compression(codec, codec) for name, codec in CODECS.items()},
    "top-k": Compression(TopK(0.01), TopK(0.03)),
    "random-k": Compression(RandomK(0.01), TopK(0.03)),
}
"""By name. Parameters move by what several subtrees returned, so of these more is sent."""


def check_compressible(local: LocalUpdates) -> None:
    """Raises ValueError for local updates whose rounds cannot be compressed."""
    if local.control_variates:
        raise ValueError(
            f"{local}: control variates compare gradients of two places, which is not for compressed rounds; set control_variates=False,"
            " or compression=None"
        )


def check_sliceable(compression: Compression) -> None:
    """Raises ValueError where slices of a vector, which parameter servers have, cannot be made small by themselves."""
    for codec in (compression.up, compression.down):
        if codec is None:
            continue
        if not isinstance(codec, Blockwise):
            raise ValueError(
                f"parameter servers have slices of the vectors, and {codec} needs whole ones; take compression='int8', 'float16' or"
                " 'bfloat16', or rounds that go through the client, solver='async'"
            )
        if BLOCK % (block := codec.scaled(sys.maxsize)):
            raise ValueError(
                f"parameter servers have slices of the vectors, of whole blocks of {BLOCK} numbers, and block={block} does not divide that;"
                f" take a power of two of at most {BLOCK}"
            )


class Place(NamedTuple):
    """Where subtrees work. parameters (n,), None before their first round; version: rounds that they were asked for; kept: see `Codec`."""

    parameters: Array | None = None
    version: int = 0
    kept: Payload = ()


class CompressedState(NamedTuple):
    """inner: of the strategy; asked: the rounds under way, as they are sent; places: of all subtrees together, or of each where they take
    turns; n_taken: updates so far; rounds: results so far."""

    inner: Any
    asked: tuple[Asked, ...]
    places: tuple[Place, ...]
    n_taken: int = 0
    rounds: int = 0

    @property
    def iterate(self) -> Iterate:
        found: Iterate = self.inner.iterate
        return found

    @property
    def iteration(self) -> int:
        return int(self.inner.iteration)

    @property
    def status(self) -> Status:
        found: Status = self.inner.status
        return found


@dataclass(frozen=True)
class Compressed:
    """`strategy`, whose rounds about batches are compressed.

    strategy     stochastic gradients, local updates, or either of them with rounds that overlap
    compression  how
    layout       of the parameters: the objective's

    Gradients are made where the workers' parameters are, y, which follow those of the strategy, x: see the stage. Rounds about all rows are
    not compressed. What subtrees remember stays on the workers, with their rows; when a worker dies, the rounds since the last copy are
    repeated. Raises ValueError for strategies that compare gradients of two places (variance_reduction, control variates), and for a codec
    that makes nothing smaller.
    """

    strategy: StochasticGradient | Asynchronous
    compression: Compression
    layout: Layout

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, StochasticGradient | Asynchronous):
            raise TypeError(f"strategy must be one by mini-batches, such as StochasticGradient, got {self.strategy!r}")
        if not isinstance(self.compression, Compression):
            raise TypeError(f"compression must be a Compression, got {self.compression!r}")
        if self.served:
            check_sliceable(self.compression)
        if self._gradients.variance_reduction:
            raise ValueError("variance_reduction compares gradients of two places, which is not for compressed ones; leave it out")
        if isinstance(self.strategy, LocalSGD):
            check_compressible(self.strategy.local)
        if self.layout.standard is not None:
            raise ValueError("compression is for parameters by the user's columns; use a layout without `standard`")
        for codec in (self.compression.up, self.compression.down):
            if codec is not None and not codec.shrinks(self.shapes):
                raise ValueError(
                    f"compression by {codec} makes none of the parameters' arrays smaller, which have the shapes"
                    f" {', '.join(map(str, self.shapes))}; take another one, such as compression='top-k'"
                )

    def on_slice(self, begin: int) -> Compressed:
        """The same strategy on a slice of the vectors that begins there."""
        down = self.compression.down
        if not isinstance(down, Blockwise):
            return self
        return replace(self, compression=replace(self.compression, down=down.of_slice(begin)))

    @property
    def _gradients(self) -> StochasticGradient:
        return self.strategy.strategy if isinstance(self.strategy, Asynchronous) else self.strategy

    @property
    def sampling(self) -> Sampling:
        """Which rows a round draws, and by which subtrees."""
        return self._gradients.sampling

    @property
    def shapes(self) -> Shapes:
        """The shapes of the arrays that the parameters consist of."""
        return (*self.layout.coef.values(), *self.layout.free.values())

    @property
    def coding(self) -> Coding:
        """What workers need to know of it."""
        how = self.compression
        return Coding(how.down, how.up, how.feedback, self.shapes, self.layout.dtype, self.sampling.seed)

    @property
    def n_remembered(self) -> int:
        inner = self.strategy.n_remembered if isinstance(self.strategy, LocalSGD) else 0
        return inner + 2  # where a subtree works, and what it owes

    @property
    def oracles(self) -> tuple[str, ...]:
        return self.strategy.oracles

    @property
    def takes_kinks(self) -> bool:
        return self.strategy.takes_kinks

    @property
    def overlaps(self) -> bool:
        return isinstance(self.strategy, Asynchronous) and self.strategy.overlaps

    @property
    def served(self) -> bool:
        return isinstance(self.strategy, Asynchronous) and self.strategy.served

    def repeating(self, subtrees: Sequence[int]) -> Compressed:
        return replace(self, strategy=self.strategy.repeating(subtrees)) if isinstance(self.strategy, Asynchronous) else self

    def init(self, parameters: Array) -> CompressedState:
        return self._begun(self.strategy.init(parameters))

    def resume(self, state: Any) -> CompressedState:
        """From the state of the strategy's fit that has ended: workers have forgotten it, and get the parameters whole once more."""
        return self._begun(self.strategy.resume(state))

    def moved(self, state: CompressedState, parameters: Array) -> CompressedState:
        """See `StochasticGradient.moved`."""
        return self._begun(self.strategy.moved(state.inner, parameters))

    def _begun(self, inner: Any) -> CompressedState:
        return self._sent(CompressedState(inner, (), (Place(),) * max(1, self.sampling.n_turns)))

    def request(self, state: CompressedState) -> Request:
        """The oldest round under way."""
        return state.asked[0].request

    def update(self, state: CompressedState, evaluation: Evaluation) -> CompressedState:
        """The state after the result of the oldest round."""
        return self.take(state, state.asked[0].number, evaluation)

    def candidates(self, state: CompressedState) -> list[int]:
        """The rounds of which any may be taken next."""
        return self.strategy.candidates(state.inner) if isinstance(self.strategy, Asynchronous) else [state.asked[0].number]

    def take(self, state: CompressedState, number: int, evaluation: Evaluation) -> CompressedState:
        rounds = state.rounds + 1
        if isinstance(self.strategy, Asynchronous):
            inner = self.strategy.take(state.inner, number, evaluation)
            return self._sent(state._replace(inner=inner, n_taken=inner.n_taken, rounds=rounds))
        return self._sent(state._replace(inner=self.strategy.update(state.inner, evaluation), n_taken=rounds, rounds=rounds))

    def n_results(self, state: CompressedState) -> int:
        """See `Remembering`."""
        return state.rounds

    def versions(self, state: CompressedState) -> list[int]:
        """See `Remembering`."""
        found = [place.version for place in state.places]
        for asked in state.asked:
            if asked.request.packet is not None:
                found[asked.subtree or 0] = asked.request.packet.version
        return found

    def _sent(self, state: CompressedState) -> CompressedState:
        """The rounds that are to be under way: those that are, as they were sent, and new ones."""
        sent = {asked.number: asked for asked in state.asked}
        places, found = list(state.places), []
        for asked in self._wanted(state):
            if asked.number not in sent and asked.request.batch is not None and asked.request.batch.number >= 0:
                number = asked.subtree or 0
                places[number], request = self._packed(asked.request, places[number], number)
                asked = asked._replace(request=request)
            found.append(sent.get(asked.number, asked))
        return state._replace(asked=tuple(found), places=tuple(places))

    def _wanted(self, state: CompressedState) -> Sequence[Asked]:
        """The rounds that the strategy wants under way."""
        inner = state.inner
        if isinstance(self.strategy, Asynchronous):
            found: tuple[Asked, ...] = inner.asked
            return found
        return (Asked(state.n_taken, state.n_taken, self.strategy.request(inner)),) if inner.status.kind == "running" else ()

    def _packed(self, request: Request, place: Place, number: int) -> tuple[Place, Request]:
        """A request for what is sent in place of its parameters, and where subtrees are with it."""
        codec, before, now, kept = self.compression.down, place.parameters, request.parameters, place.kept
        packet = Packet(place.version, (now,), whole=True)
        if codec is not None and before is not None and can_encode(now - before):
            key = (self.sampling.seed, DOWN, number, place.version)
            payload = codec.encode(now - before, self.shapes, key, kept)
            packet, kept = Packet(place.version, payload, whole=False), codec.keep(payload, self.shapes)
            now = before + codec.decode(payload, self.shapes, before)
        return Place(now, place.version + 1, kept), request._replace(parameters=now, packet=packet)
