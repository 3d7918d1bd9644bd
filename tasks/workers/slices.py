"""Slices: the state of a fit cut along its vectors, each slice a whole state, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from tasks.objectives.penalties import L2, ElasticNet
from tasks.reductions import blocks
from tasks.reductions.stages.codecs import Blockwise, Payload
from tasks.reductions.stages.compression import Packet
from tasks.strategies.base import Iterate, Request
from tasks.strategies.compressed import Place
from tasks.strategies.optimizers import OptimizerState
from tasks.strategies.stochastic_gradient import Accumulated, Anchor, Best, StochasticGradientState
from tasks.typing import Array, Float64

BLOCK: int = blocks.BLOCK
"""Numbers: a slice is a multiple of so many, and so of whole blocks of the penalty. Fewer would not be worth messages of their own."""

VECTORS: Final[Mapping[type, tuple[str, ...]]] = {
    StochasticGradientState: ("parameters", "mean"),
    OptimizerState: ("slots",),
    Iterate: ("parameters", "gradient"),
    Best: ("parameters",),
    Accumulated: ("gradient",),
    Anchor: ("parameters", "gradient"),
    Request: ("parameters", "direction"),
    Place: ("parameters",),
}
"""The fields that are vectors (n,), None, or tuples of vectors. All others are the same in every slice, but for what packets have."""


class Cut(NamedTuple):
    """A slice begin:end of all vectors (n,)."""

    begin: int
    end: int

    def of(self, vector: Array) -> Array:
        """This slice of a vector, without a copy."""
        return vector[self.begin : self.end]

    @property
    def size(self) -> int:
        return self.end - self.begin


def cuts(n: int, most: int) -> tuple[Cut, ...]:
    """At most so many slices of vectors (n,), of about equal size: whole blocks, but for the end."""
    n_blocks = max(1, -(-n // BLOCK))
    n_slices = min(most, n_blocks)
    bounds = [BLOCK * (n_blocks * i // n_slices) for i in range(n_slices)]
    return tuple(Cut(begin, end) for begin, end in zip(bounds, [*bounds[1:], n], strict=True))


def cut_state(state: Any, cut: Cut, codec: Blockwise | None = None) -> Any:
    """A slice of a state. codec: of its packets, where they are coded."""

    def cut_payload(payload: Payload) -> Payload:
        assert codec is not None, "parameter servers take codecs that go block by block"
        return codec.cut(payload, cut.begin, cut.end)

    return over_vectors(cut.of, cut_payload, [state])


def join_states(slices: Sequence[Any]) -> Any:
    """The state, or the request, that these are all slices of, in order. Raises ValueError where they differ in what is no vector."""
    return over_vectors(concatenated, joined_payload, slices) if len(slices) > 1 else slices[0]


def concatenated(*parts: Array) -> Array:
    """The slices one after the other."""
    return np.concatenate(parts)


def joined_payload(*payloads: Payload) -> Payload:
    """The payload of which these are all slices, in order."""
    return tuple(map(np.concatenate, zip(*payloads, strict=True)))


def over_vectors(function: Callable[..., Array], of_payload: Callable[..., Payload], states: Sequence[Any]) -> Any:
    """The state that has function(vector of each state) in the place of each vector, once for one vector in several places, and likewise
    of_payload(...) in the place of each payload."""
    made: dict[tuple[int, ...], Array] = {}

    def vectors(*values: Any) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], tuple):
            return tuple(vectors(*each) for each in zip(*values, strict=True))
        key = tuple(map(id, values))
        if key not in made:
            made[key] = function(*values)
        return made[key]

    def whole(*values: Any) -> Any:
        first = values[0]
        if isinstance(first, tuple):
            kind: Any = type(first)
            if isinstance(first, Packet):
                made_of = vectors if first.whole else of_payload
                return Packet(whole(*(each.version for each in values)), made_of(*(each.payload for each in values)), first.whole)
            names = ("",) * len(first) if kind is tuple else kind._fields
            own = VECTORS.get(kind, ())
            each = [(vectors if name in own else whole)(*parts) for name, parts in zip(names, zip(*values, strict=True), strict=True)]
            return tuple(each) if kind is tuple else kind._make(each)
        if not all(map(same, values, [first] * len(values))):
            raise ValueError(f"slices of one state differ: {first!r:.80}")
        return first

    return whole(*states)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, NaN to NaN, too."""
    if left is right or not isinstance(left, float | np.ndarray):
        return bool(left is right or left == right)
    return np.array_equal(left, right, equal_nan=True)


def cut_penalty(penalty: L2 | ElasticNet, cut: Cut) -> L2 | ElasticNet:
    """The penalty of the coefficients of a slice: strengths may be one for each."""

    def of(strength: float | Float64) -> float | Float64:
        return cut.of(np.asarray(strength)) if np.ndim(strength) else strength

    return L2(of(penalty.strength)) if isinstance(penalty, L2) else ElasticNet(of(penalty.l1), of(penalty.l2))
