"""Where rows in memory are cut into partitions, on which bits depend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from pipeline.data.dataset import partition_sizes
from tasks.rows.partition import Block


def dense(n_rows: int, n_columns: int, dtype: Any = np.float64) -> Block:
    """Rows that take no memory."""
    return Block(np.broadcast_to(dtype(0), (n_rows, n_columns)))


def sparse(n_rows: int, n_columns: int, n_stored: int) -> Block:
    """Rows of n_stored values each, of 12 bytes, and 4 for the row itself."""
    X = sp.csr_array((n_rows, n_columns))
    data, indices = np.broadcast_to(0.0, n_rows * n_stored), np.broadcast_to(np.int32(0), n_rows * n_stored)
    X.data, X.indices, X.indptr = data, indices, np.arange(n_rows + 1, dtype=np.int32) * np.int32(n_stored)
    return Block(X)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (dense(0, 28), 1),
        (dense(1000, 28), 1),
        (dense(1_000_000, 28), 32),  # 53 times 4 MiB
        (dense(1_000_000, 28, np.float32), 16),
        (dense(100_000_000, 28), 256),
        (dense(1_000_000_000, 28), 2048),  # 3338 times 64 MiB
        (sparse(100_000, 262_144, 100), 16),  # 28 times 4 MiB
        (sparse(100_000, 524_288, 100), 8),  # 14 times the bytes of two gradients, 8 MiB
        (sparse(100_000, 1_000_000, 100), 4),  # 7 times 16 MB
        (dense(3, 100_000_000), 1),  # 1.5 times 1.6 GB
        (dense(12, 100_000_000), 4),
    ],
)
def test_partitions_have_4_MiB_or_two_gradients_at_least(block: Block, expected: int) -> None:
    sizes = partition_sizes(block, None, None)
    assert len(sizes) == expected
    assert sum(sizes) == block.X.shape[0]
    assert max(sizes) - min(sizes) <= 1
