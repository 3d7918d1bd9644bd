"""Codecs: a vector as fewer bytes, and back.

A codec is a frozen set of numbers. What it makes of a vector hangs on the vector, on the codec and on a key alone, so the bits do not
depend on who computes them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, get_args

import numpy as np

from tasks.arguments import as_number, check_counts
from tasks.reductions.blocks import BLOCK, blocks
from tasks.rows.draws import generator
from tasks.typing import Array

Payload = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]
"""Of the arrays that a vector consists of."""
Key = tuple[Any, ...]
"""Seed, purpose and counters of random numbers: see `tasks.rows.draws.generator`."""
FloatName = Literal["float16", "bfloat16"]
LEVELS: Final = 127.0
RUN: Final = 1 << 16
"""Places that 16 bits tell apart."""


class Codec(ABC):
    """Makes a vector (n,) small. What it loses, the sender may add to the next vector: see `tasks.reductions.stages.compression`."""

    @abstractmethod
    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        """What is sent for a vector (n,), float32 or float64, of finite numbers. kept: what `keep` kept of the last vector."""

    @abstractmethod
    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        """A new vector (n,) in the dtype of `like`."""

    def keep(self, payload: Payload, shapes: Shapes) -> Payload:
        """What helps to encode the next vector."""
        return ()

    def shrinks(self, shapes: Shapes) -> bool:
        """Whether vectors of these arrays become smaller."""
        return True

    @abstractmethod
    def n_bytes(self, size: int) -> int:
        """About how many bytes are sent for a vector of that size."""


class Blockwise(Codec):
    """Makes each of the fixed blocks (`tasks.reductions.blocks`) small by itself: what it makes of a slice of a vector, of whole blocks, is
    the slice of what it makes of the vector. Its payload is a number for each number, and a scale for each `scaled` of them."""

    @abstractmethod
    def scaled(self, size: int) -> int:
        """How many numbers share a scale in a vector of that size."""

    def cut(self, payload: Payload, begin: int, end: int) -> Payload:
        """The slice begin:end of a payload. Slices one after the other, concatenated array by array, are the payload."""
        numbers, scales = payload
        scaled = self.scaled(len(numbers))
        return numbers[begin:end], scales[begin // scaled : -(-end // scaled)]

    def of_slice(self, begin: int) -> Blockwise:
        """The same for a slice that begins there in the whole vector."""
        return self


@dataclass(frozen=True)
class Floats(Blockwise):
    """Numbers of 16 bits, each times the largest magnitude of its block: "float16" has 11 significant bits and is zero below 6e-8 of that;
    "bfloat16" has 8, and all of float32's range. Rounded to the nearest. Raises ValueError for another name."""

    name: FloatName = "float16"

    def __post_init__(self) -> None:
        if self.name not in get_args(FloatName):
            raise ValueError(f"name must be one of {', '.join(map(repr, get_args(FloatName)))}, got {self.name!r}")

    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        scales = np.array([scale_of(vector[block]) for block in blocks(len(vector))], np.float32)
        scaled = np.divide(vector, repeated(scales, BLOCK, len(vector)), dtype=vector.dtype)
        if self.name == "float16":
            return scaled.astype(np.float16), scales
        bits = scaled.astype(np.float32).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16), scales

    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        numbers, scales = payload
        found = numbers if self.name == "float16" else (numbers.astype(np.uint32) << 16).view(np.float32)
        return found.astype(like.dtype) * repeated(scales.astype(like.dtype), BLOCK, len(numbers))

    def scaled(self, size: int) -> int:
        return BLOCK

    def n_bytes(self, size: int) -> int:
        return 2 * size + 4 * len(blocks(size))


@dataclass(frozen=True)
class EightBit(Blockwise):
    """Whole numbers from -127 to 127 times a scale for each `block` of them, rounded up or down at random so that the mean is right: D.
    Alistarh, D. Grubic, J. Li, R. Tomioka and M. Vojnović, *QSGD*, NIPS 2017, with the largest magnitude as the scale.

    block: numbers that share a scale; parameter servers need a power of two of at most 32768. Raises ValueError for one below 1.
    """

    block: int = 1024
    begin: int = field(default=0, init=False, repr=False, compare=False)  # of the slice that it is for

    def __post_init__(self) -> None:
        check_counts(block=self.block)

    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        block = self.scaled(len(vector))
        rows = np.zeros((-(-len(vector) // block), block), np.float32)
        rows.reshape(-1)[: len(vector)] = vector
        scales = np.max(np.abs(rows), axis=1)
        steps = np.where(scales > 0, scales, np.float32(1)) / np.float32(LEVELS)
        rows /= np.maximum(steps, np.finfo(np.float32).tiny)[:, None]
        together = max(1, BLOCK // block)  # random numbers are drawn block by block, so that a slice has its own
        for number, first in enumerate(range(0, len(rows), together), self.begin // BLOCK):
            some = rows[first : first + together]
            some += generator(*key, *([number] if number else [])).random(some.shape, np.float32)
        np.clip(np.floor(rows, out=rows), -LEVELS, LEVELS, out=rows)
        return rows.reshape(-1)[: len(vector)].astype(np.int8), steps

    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        numbers, steps = payload
        return numbers.astype(like.dtype) * repeated(steps.astype(like.dtype), self.scaled(len(numbers)), len(numbers))

    def scaled(self, size: int) -> int:
        return max(1, min(self.block, size))

    def of_slice(self, begin: int) -> EightBit:
        codec = replace(self)
        object.__setattr__(codec, "begin", begin)
        return codec

    def n_bytes(self, size: int) -> int:
        return size + 4 * -(-size // self.block)


@dataclass(frozen=True)
class TopK(Codec):
    """The numbers of largest magnitude, ⌈share n⌉ of n, as float32 with their places, which are of 16 bits in runs of 65536; of equal ones
    the first: D. Alistarh et al., *The convergence of sparsified gradient methods*, NeurIPS 2018. Raises ValueError for a share outside
    (0, 1]."""

    share: float = 0.01

    def __post_init__(self) -> None:
        check_share(self.share)

    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        size, wanted = np.abs(vector), count_of(self.share, len(vector))
        least = np.partition(size, len(size) - wanted)[len(size) - wanted]  # the value does not hang on how ties are sorted
        chosen = size > least
        ties = np.flatnonzero(size == least)[: wanted - int(np.count_nonzero(chosen))]
        chosen[ties] = True
        places = np.flatnonzero(chosen)
        in_each = np.bincount(places // RUN, minlength=-(-len(vector) // RUN))
        return (places % RUN).astype(np.uint16), in_each.astype(np.uint32), vector[places].astype(np.float32)

    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        places, in_each, numbers = payload
        found = np.zeros_like(like)
        found[np.repeat(np.arange(0, RUN * len(in_each), RUN), in_each) + places] = numbers
        return found

    def n_bytes(self, size: int) -> int:
        return 6 * count_of(self.share, size) + 4 * -(-size // RUN)


@dataclass(frozen=True)
class RandomK(Codec):
    """⌈share n⌉ of n numbers, drawn without replacement, as float32; their places follow from the key, which alone is sent: S. Stich, J.-B.
    Cordonnier and M. Jaggi, *Sparsified SGD with memory*, NeurIPS 2018. Raises ValueError for a share outside (0, 1]."""

    share: float = 0.01

    def __post_init__(self) -> None:
        check_share(self.share)

    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        seed = generator(*key).integers(0, 1 << 63, size=2, dtype=np.uint64)
        return vector[self._places(seed, len(vector))].astype(np.float32), seed

    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        numbers, seed = payload
        found = np.zeros_like(like)
        found[self._places(seed, len(like))] = numbers
        return found

    def _places(self, seed: Array, size: int) -> Array:
        random = np.random.Generator(np.random.Philox(key=seed))
        return np.sort(random.choice(size, count_of(self.share, size), replace=False, shuffle=False))

    def n_bytes(self, size: int) -> int:
        return 4 * count_of(self.share, size) + 16


@dataclass(frozen=True)
class LowRank(Codec):
    """Each matrix M as P Qᵀ of that rank, where P is an orthonormal basis of M Q', Q = Mᵀ P, and Q' the Q of the vector before: one step of
    subspace iteration (T. Vogels, S. P. Karimireddy and M. Jaggi, *PowerSGD*, NeurIPS 2019, algorithm 1). Other arrays are sent as they
    are. Raises ValueError for a rank below 1."""

    rank: int = 2

    def __post_init__(self) -> None:
        check_counts(rank=self.rank)

    def encode(self, vector: Array, shapes: Shapes, key: Key, kept: Payload) -> Payload:
        found: list[Array] = []
        for number, (array, shape) in enumerate(zip(pieces(vector, shapes), shapes, strict=True)):
            if not self._shrinks(shape):
                found.append(array.copy())
                continue
            matrix = array.reshape(len(array) // shape[-1], shape[-1])
            start = kept[number] if kept else generator(*key, number).standard_normal((shape[-1], self.rank))
            basis, _ = np.linalg.qr(matrix @ start.astype(vector.dtype))
            found += [basis, matrix.T @ basis]
        return tuple(found)

    def decode(self, payload: Payload, shapes: Shapes, like: Array) -> Array:
        arrays, found = iter(payload), []
        for shape in shapes:
            array = next(arrays)
            found.append((aligned(array) @ aligned(next(arrays)).T).ravel() if self._shrinks(shape) else array)
        return np.concatenate(found)

    def keep(self, payload: Payload, shapes: Shapes) -> Payload:
        arrays, found = iter(payload), []
        for shape in shapes:
            array = next(arrays)
            found.append(next(arrays) if self._shrinks(shape) else array[:0])
        return tuple(found)

    def shrinks(self, shapes: Shapes) -> bool:
        return any(map(self._shrinks, shapes))

    def _shrinks(self, shape: Sequence[int]) -> bool:
        """Whether a matrix of that shape has more numbers than its factors."""
        n_columns = shape[-1] if shape else 1
        n_rows = math.prod(shape[:-1])
        return len(shape) > 1 and (n_rows + n_columns) * self.rank < n_rows * n_columns

    def n_bytes(self, size: int) -> int:
        return 8 * 2 * self.rank * math.isqrt(size)


def repeated(scales: Array, each: int, n: int) -> Array:
    """The scale of each of n numbers, of which so many share one."""
    return np.repeat(scales, each)[:n] if len(scales) > 1 else scales


def scale_of(vector: Array) -> np.float32:
    """The largest magnitude; 1 where float32 has none but zero."""
    return np.float32(np.max(np.abs(vector), initial=0.0)) or np.float32(1.0)


def count_of(share: float, size: int) -> int:
    """That share of so many, rounded up."""
    return min(size, math.ceil(share * size))


def check_share(share: Any) -> None:
    """Raise ValueError for what is no share."""
    if not 0 < as_number(share) <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")


def pieces(vector: Array, shapes: Shapes) -> list[Array]:
    """The arrays that a vector consists of, flat."""
    ends = accumulate((math.prod(shape) for shape in shapes), initial=0)
    return [vector[start:stop] for start, stop in pairwise(ends)]


def aligned(array: Array) -> Array:
    """The array in C order and aligned: those that came over a network need not be, and BLAS then gives other bits."""
    return np.require(array, requirements=["C", "A"])


CODECS: Final[dict[str, Codec]] = {
    "float16": Floats(),
    "bfloat16": Floats("bfloat16"),
    "int8": EightBit(),
    "top-k": TopK(),
    "random-k": RandomK(),
    "low-rank": LowRank(),
}
