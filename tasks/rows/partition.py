"""Rows where they live: a group of partitions, and the shard of groups that lives, and moves, as one piece of what a worker has."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from tasks.machine.namespaces import namespace_of, numpy_dtype, on_host
from tasks.typing import Array, Design, Int64

HERE: Final = "numpy"
"""The home of rows that are to stay on the host, wherever they come from."""


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one partition as a source delivers them: X (n, p), y (n,) or (n, t) or None, sample_weight (n,) or None.

    quarantined: why these are no rows, of a partition that is left out; see `tasks.loading.quarantine`. home: the device that X came from.
    """

    X: Design
    y: Array | None = None
    sample_weight: Array | None = None
    quarantined: Any = None
    home: str | None = None


def normalise(X: Any) -> Any:
    """The same rows as a C-ordered, *aligned* array (or canonical CSR) in native byte order.

    Arrays that arrive over a network can start at an address that is no multiple of their item size; NumPy and BLAS then take
    other code paths and give other bits, and `np.ascontiguousarray` does not cure it.
    """
    if isinstance(X, sp.csr_array):
        data, indices, indptr = (np.require(a, requirements=["C", "A"]) for a in (X.data, X.indices, X.indptr))
        if data is X.data and indices is X.indices and indptr is X.indptr:
            return X
        return sp.csr_array((data, indices, indptr), shape=X.shape)
    if isinstance(X, np.ndarray):
        return np.require(X, dtype=X.dtype.newbyteorder("="), requirements=["C", "A"])
    return X


def row_slice(X: Any, start: int, stop: int) -> Any:
    """Rows start .. stop - 1 of an array or of CSR rows: a view, where indices are int32. SciPy makes these of others, and copies."""
    if not isinstance(X, sp.csr_array):
        return X[start:stop, ...]
    if X.indices.dtype != np.int32:
        return X[start:stop]
    first, last = X.indptr[start], X.indptr[stop]
    rows = sp.csr_array((stop - start, X.shape[1]), dtype=X.dtype)
    rows.data, rows.indices, rows.indptr = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
    return rows


@dataclass(eq=False)
class Group:
    """Neighbouring partitions that form a whole subtree: the unit of work, of movement and of whatever a strategy remembers.

    X             (n, p) float32 or float64, C-ordered, or CSR; of any namespace once the group is at home on a device
    y             (n,) or (n, t), in the user's own dtype (labels stay labels), or None
    sample_weight (n,) float64, or None for ones
    offsets       (q + 1,) int64: partition `first_partition + j` is rows offsets[j]:offsets[j + 1]
    draw          counters that key random numbers of this batch (seed, epoch, round, first partition), empty outside of mini-batches
    quarantined   (partition, why) of those that are left out, and have no rows here
    from_client   whether the rows came from the client's memory: nobody reads them again, so nobody compares what is read
    home          the name of the device that X lives on from the first round on (see `tasks.loading.residence`); None: it stays here, as
                  all else does
    memory        what fits remember here, which moves with the group, and is only ever replaced: see `tasks.reductions.remembered`
    """

    X: Design
    y: Array | None
    sample_weight: Array | None
    offsets: Int64
    first_partition: int
    draw: tuple[int, ...] = ()
    quarantined: tuple[tuple[int, Any], ...] = ()
    from_client: bool = False
    home: str | None = None
    memory: dict[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)
    _derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def n_rows(self) -> int:
        return int(self.X.shape[0])

    def partitions(self) -> Iterator[Group]:
        """Each partition of this group by itself, a group of one."""
        for partition, (start, stop) in enumerate(pairwise(self.offsets.tolist()), self.first_partition):
            y = None if self.y is None else self.y[start:stop]
            weight = None if self.sample_weight is None else self.sample_weight[start:stop]
            yield Group(row_slice(self.X, start, stop), y, weight, np.array([0, stop - start]), partition, self.draw)

    def derived(self, key: Any, make: Callable[[Group], Any]) -> Any:
        """`make(self)`, computed once where the group lives (encoded labels, say); recomputed, never sent, when the group moves."""
        if key not in self._derived:
            self._derived[key] = make(self)
        return self._derived[key]

    def keep_last_two(self, name: str, key: Any, make: Callable[[Group], Any]) -> Any:
        """A value as of `derived`, but of one name only the values of the last two keys are kept: those of two fits that take turns
        (of a single one, where the key changes with the epoch, those of the last two epochs)."""
        kept = self._derived.get(name, ())
        found = next((pair for pair in kept if pair[0] == key), None) or (key, make(self))
        self._derived[name] = (found, *(pair for pair in kept if pair[0] != key))[:2]
        return found[1]

    def keep(self, name: str, value: Any) -> None:
        """Keep a value here until it is handed out, once."""
        self._derived[name] = value

    def pop(self, name: str) -> Any:
        """Hand out what was kept under that name, once; None where there is nothing."""
        return self._derived.pop(name, None)

    def move(self, X: Any, *kept: str) -> None:
        """Have the same rows live elsewhere, as X. What is derived from them is made anew there, but for what is kept under these names."""
        self._derived = {name: value for name, value in self._derived.items() if name in kept}
        self.X = X

    @property
    def derived_nbytes(self) -> int:
        """Bytes of the arrays that are kept here, each counted once, beside the group's own."""
        own = {id(array) for array in (self.X, self.y, self.sample_weight, self.offsets)}
        found = {id(array): array for array in arrays_of((*self._derived.values(), *self.memory.values()))}
        return sum(nbytes(array) for key, array in found.items() if key not in own)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The group's own arrays, and those of what is kept here."""
        return self.X, self.y, self.sample_weight, self.offsets, tuple(self._derived.values()), tuple(self.memory.values())

    def __getstate__(self) -> dict[str, Any]:  # rows travel by way of the host
        return {**self.__dict__, "X": on_host(self.X), "_derived": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in ("X", "y", "sample_weight", "offsets"):
            state[name] = normalise(state[name])
        self.__dict__.update(state)

    def __sizeof__(self) -> int:
        return sum(nbytes(a) for a in (self.X, self.y, self.sample_weight, self.offsets))


@runtime_checkable
class Holder(Protocol):
    """A value that a group keeps, and whose arrays count as memory."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The value's arrays, or holders, or tuples of them."""


def arrays_of(value: Any) -> list[Any]:
    """The arrays in holders and plain tuples."""
    if isinstance(value, np.ndarray | sp.csr_array):
        return [value]
    members = value.arrays if isinstance(value, Holder) else value if type(value) is tuple else ()
    return [array for member in members for array in arrays_of(member)]


@dataclass(eq=False)
class Shard:
    """Groups that live, are made again and move together: a piece of what a worker thread has. numbers: which they are of all groups,
    ascending; mostly neighbours, but whatever was there. subsets: the groups of each subset, see `groups`."""

    numbers: tuple[int, ...]
    subsets: tuple[tuple[Group, ...], ...]
    _derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    def groups(self, subset: int) -> tuple[Group, ...]:
        """The groups of one subset of the rows, in the order of `numbers`: 0 for all rows, or for those to train on; 1 for the rows that a
        split holds back, made in one read of the source and without a second copy."""
        return self.subsets[subset]

    @property
    def all_groups(self) -> tuple[Group, ...]:
        """The groups of all subsets."""
        return tuple(chain.from_iterable(self.subsets))

    def derived(self, key: Any, make: Callable[[Shard], Any]) -> Any:
        """`make(self)`, as `Group.derived`."""
        if key not in self._derived:
            self._derived[key] = make(self)
        return self._derived[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}

    def release(self) -> None:
        """Let go of the rows."""
        self.subsets = tuple(() for _ in self.subsets)

    def __sizeof__(self) -> int:  # what Dask's memory limits and spilling see
        return sum(map(sys.getsizeof, self.all_groups))


def join_shards(shards: Sequence[Shard]) -> Shard:
    """One shard of all their groups. The shards' numbers must ascend."""
    numbers = tuple(chain.from_iterable(shard.numbers for shard in shards))
    subsets = zip(*(shard.subsets for shard in shards), strict=True)
    return Shard(numbers, tuple(tuple(chain.from_iterable(subset)) for subset in subsets))


def nbytes(X: Any) -> int:
    """Bytes held by an array, a CSR matrix, or 0 for None."""
    if X is None:
        return 0
    if isinstance(X, sp.csr_array):
        return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
    if isinstance(X, np.ndarray):
        return int(X.nbytes)
    return math.prod(X.shape) * numpy_dtype(X).itemsize


def stack_rows(pieces: Sequence[Any]) -> Any:
    """Pieces of rows one below the other; a single piece is passed on without a copy, None if the pieces are None."""
    if any(piece is None for piece in pieces):
        return None
    if len(pieces) == 1:
        return normalise(pieces[0])
    if isinstance(pieces[0], sp.csr_array):
        return normalise(sp.vstack(pieces, format="csr"))
    return normalise(namespace_of(pieces[0]).concat(pieces))


def make_group(blocks: Sequence[Block], first_partition: int, *, from_client: bool = False, home: str | None = None) -> Group:
    """A group from the blocks of its partitions, in order. home: None for the device that they came from, if they did."""
    sizes = [block.X.shape[0] for block in blocks]
    home = home or next((block.home for block in blocks if block.home is not None), None)
    return Group(
        X=stack_rows([block.X for block in blocks]),
        y=stack_rows([block.y for block in blocks]),
        sample_weight=stack_rows([block.sample_weight for block in blocks]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        first_partition=first_partition,
        quarantined=tuple((i, block.quarantined) for i, block in enumerate(blocks, first_partition) if block.quarantined is not None),
        from_client=from_client,
        home=None if home == HERE else home,
    )


def join_groups(left: Group, right: Group) -> Group:
    """Two neighbours as one group. One without rows may not know what the other's look like."""
    filled = [side for side in (left, right) if side.n_rows] or [left]
    return Group(
        X=stack_rows([side.X for side in filled]),
        y=stack_rows([side.y for side in filled]),
        sample_weight=stack_rows([side.sample_weight for side in filled]),
        offsets=np.concatenate([left.offsets, left.offsets[-1] + right.offsets[1:]]),
        first_partition=left.first_partition,
        home=filled[0].home,
    )
