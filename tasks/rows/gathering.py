"""Rows of several groups, gathered into one block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import numpy as np
import scipy.sparse as sp

from tasks.lazy import Lazy
from tasks.machine import buffers
from tasks.machine.namespaces import beside, namespace_of, take_rows
from tasks.rows.partition import Group, nbytes
from tasks.typing import Array, Int64

if TYPE_CHECKING:
    from tasks.kernels import copying
else:
    copying = Lazy("tasks.kernels.copying")

WORTH_COMPILING: Final = 2 << 20
"""Bytes of the rows that are drawn from: with fewer, NumPy takes no longer than compiling does. It holds the GIL, so that threads wait."""


class Pieces:
    """The arrays of one name that groups have, of any namespace and of several dtypes. form: dtype and shape of an element where all are
    alike, C-contiguous and without Python objects, else None; addresses: where their memory begins, then."""

    __slots__ = ("addresses", "arrays_of", "form")

    def __init__(self, name: str, groups: Sequence[Group]) -> None:
        self.arrays_of = partial(map, attrgetter(name))
        arrays = list(self.arrays_of(groups))
        plain = all(isinstance(each, np.ndarray) and each.flags.c_contiguous and not each.dtype.hasobject for each in arrays)
        forms = {(each.dtype, each.shape[1:]) for each in arrays} if plain else set()
        self.form = forms.pop() if len(forms) == 1 else None
        self.addresses = np.array([each.ctypes.data for each in arrays] if self.form else [], np.int64)

    def take(self, groups: Sequence[Group], compiled: bool, bounds: Int64, starts: Int64, ends: Int64) -> Any:
        """Elements starts[i] .. of array g, as elements ends[i] : ends[i + 1], for all i in bounds[g] : bounds[g + 1]."""
        if compiled and self.form is not None:
            dtype, shape = self.form
            out = buffers.empty((int(ends[-1]), *shape), dtype)
            copying.copy_pieces(self.addresses, bounds, starts, ends, out)
            return out
        arrays = list(self.arrays_of(groups))
        elements = beside(arrays[0], np.arange(ends[-1]) + np.repeat(starts - ends[:-1], np.diff(ends)))
        cuts = zip(arrays, pairwise(ends[bounds].tolist()), strict=True)
        used = [(array, elements[a:b]) for array, (a, b) in cuts if a < b] or [(arrays[0], elements)]
        found = [take_rows(array, some) for array, some in used]
        return found[0] if len(found) == 1 else namespace_of(found[0]).concat(found, axis=0)


class Gatherer:
    """What there is to know of groups that rows are gathered from, and nothing that keeps their memory: shards may move apart."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.with_rows = [g for g, group in enumerate(groups) if group.n_rows] or [0]
        owners = [groups[g] for g in self.with_rows]
        self.n_columns = owners[0].X.shape[1]
        self.sparse = isinstance(owners[0].X, sp.csr_array)
        if self.sparse and any(group.X.shape[1] != self.n_columns for group in owners):
            raise ValueError("X has other numbers of columns in some groups than in others")
        self.compiled = sum(nbytes(each.X) for each in owners if isinstance(each.X, np.ndarray | sp.csr_array)) >= WORTH_COMPILING
        self.X = [Pieces(name, owners) for name in (("X.indptr", "X.data", "X.indices") if self.sparse else ("X",))]
        self.y = Pieces("y", owners) if all(group.y is not None for group in owners) else None

    def take(self, groups: Sequence[Group], rows: Int64, bounds: Int64) -> tuple[Any, Array | None]:
        """What `gather` does, of the groups that it knows."""
        if len(self.with_rows) < len(groups):
            groups, bounds = [groups[g] for g in self.with_rows], bounds[[*self.with_rows, self.with_rows[-1] + 1]]
        ends = np.arange(len(rows) + 1)
        y = None if self.y is None else self.y.take(groups, self.compiled, bounds, rows, ends)
        found = self.X[0].take(groups, self.compiled, bounds, rows, 2 * ends if self.sparse else ends)
        if not self.sparse:
            return found, y
        pairs = found.reshape(-1, 2).astype(np.int64, copy=False)  # scipy's indexing takes several times as long
        starts, indptr = np.ascontiguousarray(pairs[:, 0]), np.concatenate([[0], np.cumsum(pairs[:, 1] - pairs[:, 0])])
        data, indices = (pieces.take(groups, self.compiled, bounds, starts, indptr) for pieces in self.X[1:])
        return sp.csr_array((data, indices, indptr), shape=(len(rows), self.n_columns)), y


def gather(groups: Sequence[Group], rows: Int64, bounds: Int64) -> tuple[Any, Array | None]:
    """X and y of the rows `rows[bounds[g] : bounds[g + 1]]` of each group, one below the other. Groups without rows may be of any kind.
    Raises ValueError for others of unlike columns."""
    gatherer: Gatherer = groups[0].keep_last_two("gatherer", tuple(map(ref, groups)), lambda _: Gatherer(groups))
    return gatherer.take(groups, rows, bounds)
