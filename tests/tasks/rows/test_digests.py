"""Digests of partitions: any other value, order, shape or dtype is another digest; where groups are cut, and who computes, is not."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.rows.digests import partition_digests, shard_digest, total
from tasks.rows.partition import Block, Group, Shard, make_group

DTYPES = st.sampled_from(["float32", "float64"])
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 5))


def digests(X: Any, y: Any = None, weight: Any = None, rows: tuple[int, ...] = (), first: int = 0) -> list[int]:
    group = make_group([Block(X, y, weight)], first)
    group.offsets = np.concatenate([[0], np.cumsum(rows or (X.shape[0],))]).astype(np.int64)
    return [int(digest) for digest in partition_digests(group)]


def reference(words: list[int], digest: int) -> int:
    """The recurrence along the eight subtrees, written out with whole numbers."""

    def mix(digest: int, word: int) -> int:
        digest = (digest ^ word) * 0x9E3779B185EBCA87 % 2**64
        return (digest << 29 | digest >> 35) % 2**64

    digest = mix(digest, len(words))
    subtrees = [mix(digest, subtree) for subtree in range(1, 9)]
    whole = len(words) - len(words) % 8
    for i, word in enumerate(words):
        subtree = i % 8 if i < whole else 0
        subtrees[subtree] = mix(subtrees[subtree], word)
    for lane_digest in subtrees:
        digest = mix(digest, lane_digest)
    return digest


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 5), (16, 8)])
def test_the_definition(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).normal(size=shape)
    expected = reference(X.ravel().view(np.uint64).tolist(), 4 ^ zlib.crc32(f"X <f8 ({shape[1]},)".encode()))
    assert digests(X, first=4) == [expected]


@given(st.data(), DTYPES, SHAPES)
@pytest.mark.long
def test_any_flipped_bit(data: st.DataObject, dtype: str, shape: tuple[int, int]) -> None:
    X = data.draw(hnp.arrays(dtype, shape, elements=st.floats(-8, 8, width=32)))
    flipped = X.copy()
    position, bit = data.draw(st.integers(0, X.nbytes - 1)), data.draw(st.integers(0, 7))
    flipped.reshape(-1).view(np.uint8)[position] ^= np.uint8(1 << bit)
    assert digests(flipped) != digests(X)
    rows = np.zeros((X.size, 1))
    assert digests(rows, flipped.ravel()) != digests(rows, X.ravel())
    assert digests(rows, None, flipped.ravel()) != digests(rows, None, X.ravel())


@given(st.data(), DTYPES, SHAPES, st.booleans(), st.sampled_from(["rows", "columns"]))
def test_swaps(data: st.DataObject, dtype: str, shape: tuple[int, int], sparse: bool, what: str) -> None:
    """Of values that are alike but for one bit, too: -1 and 1 differ in their highest."""
    X = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from([-1.0, 1.0, 2.0, 3.5])))
    axis = 0 if what == "rows" else 1
    i, j = (data.draw(st.integers(0, shape[axis] - 1)) for _ in range(2))
    order = np.arange(shape[axis])
    order[[i, j]] = order[[j, i]]
    swapped = np.take(X, order, axis)
    if not np.array_equal(X, swapped):
        form = sp.csr_array if sparse else np.asarray
        assert digests(form(swapped)) != digests(form(X))


def test_what_makes_a_difference() -> None:
    """Everything that could change the bits of a fit, and where a partition stands."""
    X, y, weight = np.arange(12.0).reshape(6, 2), np.arange(6), np.ones(6)
    sparse = sp.csr_array(X)
    moved = sp.csr_array((sparse.data, np.where(np.arange(11) == 0, 0, sparse.indices), sparse.indptr), shape=X.shape)
    found = [
        digests(X),
        digests(X, first=1),
        digests(X.reshape(4, 3)),
        digests(X[:, [0]]),
        digests(X.astype(np.float32)),
        digests(sparse),
        digests(moved),
        digests(sp.csr_array((sparse.data, sparse.indices, sparse.indptr), shape=(6, 3))),
        digests(X, y),
        digests(X, y.astype(np.float64)),
        digests(X, y[:, None]),
        digests(X, y > 2),
        digests(X, weight),
        digests(X, None, weight),
        digests(X, y, weight),
        digests(X, y.astype(str)),
        digests(np.where(X == 0, -0.0, X)),
        digests(np.zeros((0, 2))),
        digests(np.zeros((0, 3))),
    ]
    assert len(set(map(tuple, found))) == len(found)


@pytest.mark.parametrize("dtype", ["float64", "float32", "csr"])
def test_partitions_are_for_themselves(dtype: str) -> None:
    """However groups are cut, also of rows that begin at no multiple of 8 bytes; labels, however long those beside them are."""
    dense = np.random.default_rng(1).normal(size=(9, 3)).astype("float32" if dtype == "float32" else "float64")
    X: Any = sp.csr_array(dense) if dtype == "csr" else dense
    y, weight = np.array(["a", "bb", "a", "ccc", "a", "long label", "a", "b", "b"]), np.arange(9.0)
    together = digests(X, y, weight, rows=(2, 0, 3, 4), first=5)
    cuts = [(0, 2), (2, 2), (2, 5), (5, 9)]
    apart = [digests(X[a:b], np.array(y[a:b].tolist(), dtype=str), weight[a:b], first=5 + i)[0] for i, (a, b) in enumerate(cuts)]
    assert together == apart
    changed = y.copy()
    changed[5] = "another and longer label"
    other = digests(X, changed, weight, rows=(2, 0, 3, 4), first=5)
    assert [a == b for a, b in zip(together, other, strict=True)] == [True, True, True, False]


def test_missing_labels() -> None:
    X, y = np.eye(3), np.array(["a", None, "b"], dtype=object)
    assert digests(X, y) == digests(X, y.copy()) != digests(X, np.array(["a", "c", "b"]))
    assert digests(X, y[[1, 0, 2]]) != digests(X, y)


def test_a_digest_is_made_anew_where_rows_arrive() -> None:
    group = make_group([Block(np.eye(4), np.arange(4))], 0)
    shard = Shard((0,), ((group,),))
    expected = shard_digest(shard, 0)
    assert expected == total(partition_digests(group))
    arrived: Shard = pickle.loads(pickle.dumps(shard))
    arrived.groups(0)[0].X[2, 2] = 5.0
    assert shard_digest(arrived, 0) != expected == shard_digest(shard, 0)
    assert shard_digest(Shard((), ((),)), 0) == 0


def test_rows_that_nobody_may_write_to_and_that_lie_anywhere() -> None:
    X = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    fixed = X.copy()
    fixed.flags.writeable = False
    odd = np.empty(X.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(X.shape)
    odd[:] = X
    found = [partition_digests(Group(each, None, None, np.array([0, 2, 5]), 0)).tolist() for each in (X, fixed, odd)]
    assert found[0] == found[1] == found[2]
