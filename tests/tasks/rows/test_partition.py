"""Rows of a partition: what is a view of what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.rows.partition import row_slice


@pytest.mark.parametrize("integer", [np.int32, np.int64])
def test_slices_of_csr_rows(integer: Any) -> None:
    """Equal to SciPy's; with int32 indices they take no memory of their own, however small a part they are."""
    X = sp.random_array((400, 9), density=0.3, format="csr", rng=np.random.default_rng(0))
    X.indices, X.indptr = X.indices.astype(integer), X.indptr.astype(integer)
    for start, stop in ((0, 400), (0, 3), (17, 18), (5, 5), (399, 400)):
        found = row_slice(X, start, stop)
        assert found.shape == (stop - start, 9)
        np.testing.assert_array_equal(found.toarray(), X.toarray()[start:stop])
        assert found.has_canonical_format
        if integer == np.int32 and stop > start:
            assert found.indices.dtype == found.indptr.dtype == np.int32
            assert np.shares_memory(found.data, X.data)
            assert np.shares_memory(found.indices, X.indices)
