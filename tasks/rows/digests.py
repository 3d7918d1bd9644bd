"""Digests of rows, one for each partition, by which it is known whether rows that are read again are the same.

No cryptography: it tells a file that was written anew, not a forgery.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from math import gcd
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.sparse as sp

from tasks.lazy import Lazy
from tasks.machine.namespaces import on_host
from tasks.rows.partition import Group, Shard
from tasks.typing import Array, Int64, UInt64

if TYPE_CHECKING:
    from tasks.kernels import words as folding
else:
    folding = Lazy("tasks.kernels.words")

MODULUS: Final = 1 << 64
DIGESTS: Final = "digests"
"""The name under which groups keep theirs."""


def partition_digests(group: Group) -> UInt64:
    """The digest of each partition, (q,): of its number, and dtype, shape, bits and order of its rows; made once where the group lives.

    CSR and dense rows of the same values differ, as do 0.0 and -0.0, and y in another dtype.
    """
    found: UInt64 = group.derived(DIGESTS, _partition_digests)
    return found


def _partition_digests(group: Group) -> UInt64:
    X = group.X
    digests = np.arange(group.first_partition, group.first_partition + len(group.offsets) - 1).astype(np.uint64)
    if isinstance(X, sp.csr_array):
        entries = X.indptr[group.offsets].astype(np.int64)
        _take_in("entries", np.diff(X.indptr), group.offsets, digests)
        _take_in("columns", X.indices, entries, digests)
        _take_in(f"values of {X.shape[1]}", X.data, entries, digests)
    else:
        _take_in("X", on_host(X), group.offsets, digests)
    if group.y is not None:
        _take_in("y", group.y if group.y.dtype.kind in "biuf" else _text_digests(group.y), group.offsets, digests)
    if group.sample_weight is not None:
        _take_in("sample_weight", group.sample_weight, group.offsets, digests)
    return digests


def _text_digests(y: Array) -> UInt64:
    """The digest of each label, in the shape of y: how wide strings are stored depends on the other partitions of the group."""
    import pandas as pd

    hashes: UInt64 = pd.util.hash_array(y.ravel().astype(object)).reshape(y.shape)
    return hashes


def _take_in(name: str, array: Array, offsets: Int64, digests: UInt64) -> None:
    """Take rows offsets[k]:offsets[k + 1] of a C-ordered array (n, ...) into digests[k]."""
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    unit = gcd(row_bytes, 8)
    words = array.reshape(-1).view(f"u{unit}")
    words.flags.writeable = False  # read-only view: one compiled function serves rows of all origins
    digests ^= np.uint64(zlib.crc32(f"{name} {array.dtype.str} {array.shape[1:]}".encode()))
    folding.fold(words, offsets * (row_bytes // unit), digests)


def bits_digest(arrays: Iterable[Array]) -> np.uint64:
    """The digest of the bits of arrays of numbers, one after the other."""
    digest = np.zeros(1, np.uint64)
    for array in arrays:
        words = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
        words.flags.writeable = False
        folding.fold(words, np.array([0, len(words)]), digest)
    return digest[0]


def shard_digest(shard: Shard, subset: int) -> int:
    """The sum of the digests of all partitions of a subset that are not from the client, modulo 2^64; made once where the shard lives."""

    def add_up(whole: Shard) -> int:
        read = [partition_digests(group) for group in whole.groups(subset) if not group.from_client]
        return total(np.concatenate([np.zeros(0, np.uint64), *read]))

    return int(shard.derived(("digest", subset), add_up))


def total(digests: UInt64) -> int:
    """The sum of digests modulo 2^64."""
    return int(np.sum(digests, dtype=np.uint64))
