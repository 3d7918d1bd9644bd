"""Sparse matrices whose indices are wrong, which SciPy does not see: an error, before anything reads other memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from pipeline import Dataset, LogisticRegression
from tasks.loading.blocks import as_design

RANDOM = np.random.default_rng(0)
DENSE = RANDOM.normal(size=(60, 4)) * (RANDOM.random((60, 4)) < 0.7)
Y = (DENSE[:, 0] > 0).astype(np.int64)
FORMATS = ["csr", "csc", "coo", "bsr"]
FAULTS = ["far", "next", "negative", "indptr", "long"]
SAID = {"far": "2000000000, and there are ", "next": "counted from 0", "negative": "-1, and", "indptr": "its indptr", "long": "its indptr"}


def misplaced(kind: str, fault: str) -> Any:
    """The rows, with one index that is wrong, or an indptr that falls or goes on beyond the values."""
    X = getattr(sp, f"{kind}_array")(sp.csr_array(DENSE))
    if fault in ("indptr", "long"):
        X.indptr[-2 if fault == "indptr" else -1] += 1000
    else:
        indices = X.coords[1] if kind == "coo" else X.indices
        size = 60 if kind == "csc" else X.shape[1] // getattr(X, "blocksize", (1, 1))[1]
        indices[7] = {"far": 2_000_000_000, "next": size, "negative": -1}[fault]
    return X


def from_dask(X: Any) -> Any:
    return Dataset.from_dask(da.from_delayed(dask.delayed(lambda: X)(), X.shape, X.dtype), da.from_array(Y, chunks=60)).schema


TAKERS: dict[str, Callable[[Any], Any]] = {
    "from_arrays": lambda X: Dataset.from_arrays(X, Y),
    "from_dask": from_dask,
    "fit": lambda X: LogisticRegression().fit(X, Y),
    "predict": lambda X: LogisticRegression().fit(DENSE, Y).predict(X),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_indices_are_an_error(taker: str, kind: str, fault: str) -> None:
    if kind == "coo" and fault in ("indptr", "long"):
        return
    with pytest.raises(ValueError, match=f"X is a sparse matrix .{kind}. of wrong indices: .*{SAID[fault]}.*coo_array"):
        TAKERS[taker](misplaced(kind, fault))


@pytest.mark.parametrize("kind", [*FORMATS, "lil", "dok", "dia"])
def test_right_indices_are_none(kind: str) -> None:
    X = getattr(sp, f"{kind}_array")(sp.csr_array(DENSE))
    np.testing.assert_array_equal(as_design(X, "float64").toarray(), DENSE)
    empty = getattr(sp, f"{kind}_array")(sp.csr_array((0, 4)))
    assert as_design(empty, "float64").shape == (0, 4)
