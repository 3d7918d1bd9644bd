"""Rows of several groups, gathered into one block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

from tasks.lazy import Lazy
from tasks.machine import buffers
from tasks.machine.namespaces import device_of, namespace_of
from tasks.rows.partition import Group, nbytes
from tasks.typing import Array, Int64

if TYPE_CHECKING:
    from tasks.kernels import copying
else:
    copying = Lazy("tasks.kernels.copying")

WORTH_COMPILING: Final = 2 << 20
"""Bytes of the rows that are drawn from: with fewer, NumPy takes no longer than compiling does. It holds the GIL, so that threads wait."""


class Piece:
    """An array of a group, and where its memory begins; form: dtype and shape of a row of what is bytes in the order of rows, and nothing
    else, or None."""

    __slots__ = ("address", "array", "form")

    def __init__(self, name: str, group: Group) -> None:
        self.array: Any = attrgetter(name)(group)
        plain = isinstance(self.array, np.ndarray) and self.array.flags.c_contiguous and not self.array.dtype.hasobject
        self.form = (self.array.dtype, self.array.shape[1:]) if plain else None
        self.address = self.array.ctypes.data if plain else 0


def gather(groups: Sequence[Group], rows: Int64, bounds: Int64) -> tuple[Any, Array | None]:
    """X and y of the rows `rows[bounds[g] : bounds[g + 1]]` of each group, one below the other. Groups without rows may be of any kind.
    Raises ValueError for others of unlike columns."""
    used = np.flatnonzero(np.diff(bounds)).tolist() or [0]
    owners, bounds = [groups[g] for g in used], bounds[[*used, used[-1] + 1]]
    n_bytes = sum(nbytes(group.X) for group in owners if isinstance(group.X, np.ndarray | sp.csr_array))
    take, ends = partial(taken, owners, bounds, n_bytes >= WORTH_COMPILING), np.arange(len(rows) + 1)
    y = take("y", rows, ends) if all(group.y is not None for group in owners) else None
    if not isinstance(owners[0].X, sp.csr_array):
        return take("X", rows, ends), y
    if any(group.X.shape[1] != owners[0].X.shape[1] for group in owners):
        raise ValueError("X has other numbers of columns in some groups than in others")
    pairs = take("X.indptr", rows, 2 * ends).reshape(-1, 2).astype(np.int64, copy=False)  # scipy's indexing takes several times as long
    starts, indptr = np.ascontiguousarray(pairs[:, 0]), np.concatenate([[0], np.cumsum(pairs[:, 1] - pairs[:, 0])])
    parts = take("X.data", starts, indptr), take("X.indices", starts, indptr), indptr
    return sp.csr_array(parts, shape=(len(rows), owners[0].X.shape[1])), y


def taken(groups: Sequence[Group], bounds: Int64, compiled: bool, name: str, starts: Int64, ends: Int64) -> Any:
    """Elements starts[i] .. of the array of that name, as elements ends[i] : ends[i + 1], for all i in bounds[g] : bounds[g + 1] of group
    g. Arrays may be of any namespace, and of several dtypes."""
    pieces = [group.derived((Piece, name), partial(Piece, name)) for group in groups]
    first, form = pieces[0].array, pieces[0].form
    if compiled and form is not None and all(piece.form == form for piece in pieces):
        out = buffers.empty((int(ends[-1]), *first.shape[1:]), first.dtype)
        copying.copy_pieces([piece.address for piece in pieces], bounds, starts, ends, out)
        return out
    elements = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], np.diff(ends))
    xp, device, cuts = namespace_of(first), device_of(first), pairwise(ends[bounds].tolist())
    found = [xp.take(piece.array, xp.asarray(elements[a:b], device=device), axis=0) for piece, (a, b) in zip(pieces, cuts, strict=True)]
    return found[0] if len(found) == 1 else xp.concat(found, axis=0)
