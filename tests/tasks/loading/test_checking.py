"""The checking pass: the first bad value by partition, row and column, and classes with their weights."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.loading import checking
from tasks.loading.checking import KEPT, Summary, add_summaries, keep_summary, summarise, summary
from tasks.rows.partition import Block, Group, make_group


def group(X: Any, y: Any = None, weight: Any = None, rows: tuple[int, ...] = (2, 0, 3), first: int = 4) -> Group:
    """A group whose partitions start at number `first`."""
    found = make_group([Block(X, y, weight)], first)
    found.offsets = np.concatenate([[0], np.cumsum(rows)])
    return found


@pytest.fixture(params=["dense", "float32", "csr"])
def X(request: pytest.FixtureRequest) -> Any:
    rows = np.arange(15.0).reshape(5, 3) - 7.0
    rows[1, 2] = 0.0
    return {"dense": rows, "float32": rows.astype(np.float32), "csr": sp.csr_array(rows)}[request.param]


def with_value(X: Any, row: int, column: int, value: float) -> Any:
    X = X.copy()
    X[row, column] = value
    return X


def test_totals(X: Any) -> None:
    found = summarise(group(X, weight=np.array([1.0, 0.5, 0, 2, 3])))
    assert found.partition_rows.tolist() == [2, 0, 3]
    assert found.weight_sum == 6.5
    assert found.spread.largest.tolist() == [7, 6, 7]
    assert found.fault is None
    assert summarise(group(X)).weight_sum == 5


def test_a_summary_that_is_kept_is_handed_out_once(X: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again gets a new one of the same bits, and nothing stays."""
    made: list[int | None] = []

    def counted(whole: Group, n_partitions: int | None = None) -> Summary:
        made.append(n_partitions)
        return summarise(whole, n_partitions)

    monkeypatch.setattr(checking, "summarise", counted)
    whole = group(X, np.arange(5) % 2, np.ones(5))
    keep_summary(whole, 9)
    first = summary(whole, 9)
    assert made == [9]
    assert whole.pop(KEPT) is None
    again = summary(whole, 9)
    assert made == [9, 9]
    np.testing.assert_equal(again, first)
    assert whole.pop(KEPT) is None


def test_no_summary_is_kept_that_is_larger_than_the_rows() -> None:
    whole = group(sp.csr_array((5, 1000)))
    keep_summary(whole, 9)
    assert whole.pop(KEPT) is None
    assert summary(whole, 9).spread.mean.tolist() == [0.0] * 1000


def test_bytes_of_X_add_up(X: Any) -> None:
    expected = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if isinstance(X, sp.csr_array) else 15 * X.itemsize
    found = summarise(group(X, np.arange(5), np.ones(5)))
    assert found.n_bytes == expected
    assert add_summaries(found, summarise(group(X, np.arange(5), np.ones(5), first=7))).n_bytes == 2 * expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite(X: Any, value: float) -> None:
    fault = summarise(group(with_value(with_value(X, 4, 0, np.nan), 3, 1, value))).fault
    assert fault is not None
    assert fault[:4] == (6, 1, "X", 1)
    np.testing.assert_equal(fault.value, value)


def test_faults_in_y_and_weights(X: Any) -> None:
    y = np.array([1.0, 2, 3, np.inf, 5])
    assert summarise(group(X, y)).fault == (6, 1, "y", 0, np.inf)
    labels = np.array(["a", None, "b", "a", "b"], dtype=object)
    fault = summarise(group(X, labels)).fault
    assert fault is not None
    assert fault[:4] == (4, 1, "y", 0)
    for bad in (-1.0, np.nan, np.inf):
        fault = summarise(group(X, None, np.array([1, 1, bad, 1, 1]))).fault
        assert fault is not None
        assert fault[:4] == (6, 0, "sample_weight", 0)


def test_the_first_fault_wins(X: Any) -> None:
    good, bad, worse = (
        summarise(group(x, first=i)) for i, x in ((0, X), (3, with_value(X, 0, 0, np.nan)), (6, with_value(X, 0, 1, np.nan)))
    )
    assert reduce(add_summaries, [good, bad, worse]).fault == bad.fault


@pytest.mark.parametrize(
    ("y", "classes", "rows", "weights"),
    [
        (np.array(["b", "a", "b", "b", "a"]), ["a", "b"], [2, 3], [7.0, 8.0]),
        (np.array([3, 1, 3, 2, 1]), [1, 2, 3], [2, 1, 2], [7.0, 4.0, 4.0]),
        (np.array([0.0, 1, 0, 0, 1]), [0.0, 1.0], [3, 2], [8.0, 7.0]),
        (np.array([True] * 5), [True], [5], [15.0]),
    ],
)
def test_classes(X: Any, y: Any, classes: list[Any], rows: list[int], weights: list[float]) -> None:
    found = summarise(group(X, y, np.arange(1.0, 6.0)))
    assert found.classes is not None
    assert (found.classes.tolist(), found.class_rows.tolist(), found.class_weights.tolist()) == (classes, rows, weights)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int64", "uint64", "float32"])
@pytest.mark.long
def test_classes_over_the_range_of_a_dtype(dtype: str) -> None:
    span = np.iinfo("int8" if dtype == "int8" else "uint8")
    ends = np.iinfo(dtype) if dtype != "float32" else span
    low = max(ends.min, -5000) if dtype != "int64" else ends.min
    whole = np.array([low, low + 200, low + 100, low + 200, low], dtype=dtype)
    for y in (whole, np.array([ends.max, ends.min, 0, ends.max, ends.max], dtype=dtype)):
        found = summarise(group(np.zeros((5, 1)), y))
        classes, rows = np.unique(y, return_counts=True)
        assert found.classes is not None
        assert found.classes.dtype == found.target_dtype == dtype
        assert found.classes.tolist() == classes.tolist()
        assert found.class_rows.tolist() == rows.tolist()


def test_the_dtype_that_holds_every_target(X: Any) -> None:
    empty = summarise(group(X[:0], np.zeros(0, object), rows=(0, 0)))
    kinds: list[tuple[Any, Any, str]] = [
        ("U1", "U7", "U7"),
        ("int8", "uint8", "int16"),
        ("float32", "float32", "float32"),
        ("?", "i8", "i8"),
    ]
    for left, right, expected in kinds:
        sides = [summarise(group(X, np.ones(5, dtype))) for dtype in (left, right)]
        assert reduce(add_summaries, [empty, *sides, empty]).target_dtype == np.dtype(expected)
    assert summarise(group(X)).target_dtype is None
    assert summarise(group(X, np.ones((5, 2), np.float32))).target_dtype == np.float32


@pytest.mark.parametrize("weight", [None, np.array([1.0, 0.5, 0, 2, 3])])
@pytest.mark.parametrize(
    "values", [[4, 0, 4, 1, 1], [7, 3, 3, 3, 9], [1, 0, 0, 1, 1], [0.5, 0.25, 4.0, 4.0, -3.0], [10**9 + 1, 10**9, 0, 0, 1]]
)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", "float64"])
def test_the_spread_of_targets(values: list[float], weight: Any, dtype: str) -> None:
    y = np.array(values).astype(dtype)
    wide = y.astype(np.float64)
    mean = np.average(wide, weights=weight)
    found = summarise(group(np.zeros((5, 1)), y, weight)).target_spread
    assert found is not None
    assert found.weight == (5 if weight is None else weight.sum())
    np.testing.assert_allclose(found.mean, [mean], rtol=1e-14)
    np.testing.assert_allclose(found.scatter, [np.sum((1.0 if weight is None else weight) * (wide - mean) ** 2)], rtol=1e-14)
    assert found.largest == [np.max(np.abs(wide))]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_the_spread_of_targets_beyond_numbers(value: float) -> None:
    for y in (np.array([1.0, 2.0, value, 0.0, 1.0]), np.array([1.5, 2.0, value, 0.0, 1.0])):
        found = summarise(group(np.zeros((5, 1)), y)).target_spread
        assert found is not None
        assert found.largest == 1e300 if value == 1e300 else np.isnan(found.largest)


@pytest.mark.parametrize("y", [None, np.array([0.5, 1, 2, 3, 4]), np.zeros((5, 2))])
def test_no_classes(X: Any, y: Any) -> None:
    assert summarise(group(X, y)).classes is None


def test_classes_of_neighbours_are_united(X: Any) -> None:
    parts = [np.array(["b"] * 5), np.array(["a", "c", "c", "c", "long label"])]
    found = reduce(add_summaries, [summarise(group(X, y)) for y in parts])
    assert found.classes is not None
    assert found.classes.tolist() == ["a", "b", "c", "long label"]
    assert found.class_rows.tolist() == [1, 5, 3, 1]


def test_rows_without_a_say(X: Any) -> None:
    """Empty groups, whatever their dtype, change nothing; one continuous group makes all continuous."""
    labels = summarise(group(X, np.array(["a", "b", "a", "b", "b"])))
    empty = summarise(group(X[:0], np.zeros(0, object), rows=(0, 0)))
    for pair in ((labels, empty), (empty, labels)):
        found = add_summaries(*pair)
        assert found.classes is not None
        assert found.classes.tolist() == ["a", "b"]
        assert found.form == labels.form
    whole, continuous = summarise(group(X, np.ones(5))), summarise(group(X, np.full(5, 0.5)))
    assert add_summaries(whole, continuous).classes is None
    assert add_summaries(continuous, whole).classes is None


def test_too_many_classes(X: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MAX_CLASSES", 6)
    low, high = summarise(group(X, np.arange(5))), summarise(group(X, np.arange(5) + 5))
    assert low.classes is not None
    assert add_summaries(low, high).classes is None
    assert len(add_summaries(low, low).classes) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left", "right", "what"),
    [
        ((np.ones(5), None), (np.array(list("abcde")), None), "labels that are text and labels that are numbers"),
        ((np.ones(5), None), (None, None), "y of different shapes"),
        ((np.ones(5), None), (np.ones((5, 2)), None), "y of different shapes"),
        ((np.ones(5), np.ones(5)), (np.ones(5), None), "rows with and without sample_weight"),
    ],
)
def test_forms_that_differ(X: Any, left: tuple[Any, Any], right: tuple[Any, Any], what: str) -> None:
    sides: list[Summary] = [summarise(group(X, *side, first=i)) for side, i in ((left, 0), (right, 3))]
    with pytest.raises(ValueError, match=f"partitions from 0 on and partitions from 3 on mix {what}; make all partitions alike"):
        add_summaries(*sides)
