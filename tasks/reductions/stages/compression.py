"""Compression: what goes to the workers and comes back is made small, and what that leaves out is remembered and sent later.

    to subtree t     y_t <- y_t + D(x - y_t)                        x: the parameters of the fit; y_t: where the subtree works
    from subtree t   c_t = C(g_t + e_t), e_t <- g_t + e_t - c_t     g_t: its sum of gradients at y_t; e_t: what it still owes

C and D are codecs (`tasks.reductions.stages.codecs`). Error feedback: F. Seide, H. Fu, J. Droppo, G. Li and D. Yu, Interspeech 2014; S. P.
Karimireddy, Q. Rebjock, S. Stich and M. Jaggi, ICML 2019; in both directions: H. Tang, X. Lian, C. Yu, T. Zhang and J. Liu,
*DoubleSqueeze*, ICML 2019. Which subtrees there are follows from the data alone, and so do the bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from tasks.machine.threads import single_blas_thread
from tasks.reductions.reduction import Reduction
from tasks.reductions.remembered import COMPRESSION, attempt, recall, remember
from tasks.reductions.stages.codecs import Codec, Payload, Shapes, aligned
from tasks.reductions.tree import tree_sum
from tasks.rows.partition import Group
from tasks.typing import Array

UP: Final = "compressed up"
"""The purpose of random numbers."""
LARGEST: Final = float(np.finfo(np.float32).max)


class Packet(NamedTuple):
    """What a subtree gets in place of parameters. version: rounds that it has seen; payload: the parameters, where they come whole, or of
    the codec `down`."""

    version: int
    payload: Payload
    whole: bool


class Coding(NamedTuple):
    """How a fit's packets and sums are made small.

    down, up   codecs of what subtrees get and of what they return; down None: they get parameters whole
    feedback   whether what is left out is added to the next gradient
    shapes     of the arrays that the parameters (n,) consist of
    dtype      of the parameters
    seed       of the codecs' random numbers
    """

    down: Codec | None
    up: Codec
    feedback: bool
    shapes: Shapes
    dtype: str
    seed: int

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(map(math.prod, self.shapes))

    def opened(self, packet: Packet, before: Array | None) -> Array:
        """Where a subtree works in this round, a vector (n,); before: where it did in the last. Its first packet is whole."""
        if packet.whole:
            return aligned(packet.payload[0])
        assert self.down is not None
        assert before is not None
        return before + self.down.decode(packet.payload, self.shapes, before)


class Encoded(NamedTuple):
    """rest: sums without their gradients; payloads: those, of each subtree in order."""

    rest: Any
    payloads: tuple[Payload, ...]


def can_encode(vector: Array) -> bool:
    """Whether codecs take it: numbers that float32 has."""
    return bool(np.max(np.abs(vector), initial=0.0) <= LARGEST)


def compressed(coding: Coding, reduction: Reduction) -> Reduction:
    """The same reduction of sums with one gradient, (1, n) in `gradient_sum`, for subtrees that get packets in place of parameters and
    return payloads in place of gradients: a stage."""
    return reduction._replace(
        map=partial(_map, coding, reduction.map),
        combine=partial(_combine, reduction.combine),
        n_bytes=partial(_bytes, coding),
        finish=partial(_finish, coding, reduction),
        joint=None,
        adds_up=False,
    )


def _map(coding: Coding, map_subtree: Callable[[Sequence[Group], Any], Any], groups: Sequence[Group], broadcast: Any) -> Encoded:
    packet: Packet = broadcast.packet
    of_attempt = attempt(groups, broadcast.fit)
    before, owed, kept = recall(groups, broadcast.fit, COMPRESSION, packet.version) if packet.version else (None, None, ())
    parameters = coding.opened(packet, before)
    sums = map_subtree(groups, broadcast._replace(parameters=parameters[None], packet=None))
    vector, loss_sum = sums.gradient_sum[0], sums.loss_sum
    if owed is not None:
        vector = vector + owed
    if not can_encode(vector):  # nothing of it may be remembered; the loss says so
        vector, loss_sum = np.zeros_like(vector), np.full_like(loss_sum, np.nan)
    key = (coding.seed, UP, groups[0].first_partition, packet.version)
    payload = coding.up.encode(vector, coding.shapes, key, kept)
    owes = vector - coding.up.decode(payload, coding.shapes, vector) if coding.feedback else None
    kept = coding.up.keep(payload, coding.shapes)
    remember(groups, broadcast.fit, COMPRESSION, packet.version + 1, (parameters, owes, kept), of_attempt)
    return Encoded(sums._replace(loss_sum=loss_sum, gradient_sum=sums.gradient_sum[:, :0]), (payload,))


def _combine(combine: Callable[[Any, Any], Any], left: Encoded, right: Encoded) -> Encoded:
    return Encoded(combine(left.rest, right.rest), left.payloads + right.payloads)


def _bytes(coding: Coding, broadcast: Any, n_columns: int) -> int:
    return coding.up.n_bytes(coding.size)


def _finish(coding: Coding, reduction: Reduction, found: Encoded, broadcast: Any) -> Any:
    like = np.empty(coding.size, coding.dtype)
    with single_blas_thread():
        gradient: Array = tree_sum([coding.up.decode(payload, coding.shapes, like) for payload in found.payloads], np.add)
    return reduction.finish(found.rest._replace(gradient_sum=gradient[None]), broadcast)
