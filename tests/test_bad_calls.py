"""Names, dtypes and labels of rows in memory and of lazy ones: refused alike, with an error that names the thing and the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning

from pipeline import Dataset, LogisticRegression, Ridge
from tasks.loading.blocks import Split

pytestmark = pytest.mark.timeout(60)

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(np.int64)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
TWICE = pd.DataFrame(X, columns=["a", "a", "c"])
HOLE = X.copy()
HOLE[45, 1] = np.nan


def fit(*data: Any, **parameters: Any) -> LogisticRegression:
    return LogisticRegression(**parameters).fit(*data)


def lazy(rows: Any) -> da.Array:
    return da.from_array(rows, chunks=(20, *rows.shape[1:]))


def lazy_frame(frame: pd.DataFrame) -> Any:
    return dd.from_pandas(frame, npartitions=3)


def made(make: Callable[[int], Any]) -> Any:
    return Dataset.from_function(make, n_partitions=1, n_columns=3).schema


def broken(i: int) -> Any:
    raise RuntimeError("the disk is gone")


NEEDS = r"it must return a tuple \(X, y\) or \(X, y, sample_weight\)"
ORDER = "Feature names must be in the same order as they were in fit"
CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "make raises": (
        lambda: made(broken),
        ValueError,
        rf"partition 0 \(make\(0\)\): make\(0\) raised RuntimeError: the disk is gone; {NEEDS}",
    ),
    "make returns nothing": (lambda: made(lambda i: None), TypeError, rf"partition 0 \(make\(0\)\): make\(0\) returned NoneType; {NEEDS}"),
    "make returns an array": (lambda: made(lambda i: X), TypeError, rf"make\(0\) returned ndarray; {NEEDS}"),
    "make returns too little": (lambda: made(lambda i: (X,)), TypeError, rf"make\(0\) returned a tuple of 1; {NEEDS}"),
    "make returns too much": (lambda: made(lambda i: (X, Y, Y, Y)), TypeError, rf"make\(0\) returned a tuple of 4; {NEEDS}"),
    "names twice": (lambda: fit(TWICE, Y), ValueError, "column 'a' is there several times; names must differ: rename it"),
    "names twice, Dask": (lambda: fit(lazy_frame(TWICE), lazy(Y)), ValueError, "column 'a' is there several times"),
    "names twice, from_arrays": (lambda: Dataset.from_arrays(TWICE, Y), ValueError, "column 'a' is there several times"),
    "names twice, predict": (lambda: fit(FRAME, Y).predict(TWICE), ValueError, "column 'a' is there several times"),
    "names twice, predict, Dask": (lambda: fit(X, Y).predict(lazy_frame(TWICE)), ValueError, "column 'a' is there several times"),
    "dates": (lambda: fit(FRAME.assign(b=pd.date_range("2020", periods=60)), Y), ValueError, "column 'b' has dtype datetime64"),
    "dates, predict": (
        lambda: fit(FRAME, Y).predict(FRAME.assign(b=pd.date_range("2020", periods=60))),
        ValueError,
        "column 'b' has dtype datetime64",
    ),
    "text": (lambda: Ridge().fit(FRAME.assign(b="x"), Y), ValueError, "column 'b' has dtype .*, not numbers; encode it"),
    "NaN": (lambda: fit(pd.DataFrame(HOLE, columns=["a", "b", "c"]), Y), ValueError, "column 'b' of X, row 45 of partition 0"),
    "NaN, predict": (lambda: fit(X, Y).predict(lazy(HOLE)).compute(), ValueError, "contains NaN: column 'x1' of X, row 5 of block 2; drop"),
    "NaN, predict, frame": (
        lambda: fit(FRAME, Y).predict_proba(lazy_frame(pd.DataFrame(HOLE, columns=["a", "b", "c"]))).compute(),
        ValueError,
        "contains NaN: column 'b' of X, row 5 of block 2; drop or impute",
    ),
    "NaN, score": (lambda: fit(FRAME, Y).score(lazy(HOLE), lazy(Y)), ValueError, "contains NaN: column 'b' of X, row 5; drop"),
    "overflow, predict": (
        lambda: Ridge().fit(X, 99 * Y).predict(lazy(np.full((60, 3), 1e308))).compute(),
        ValueError,
        "row 0 of block . overflows; scale X",
    ),
    "order, predict": (lambda: fit(FRAME, Y).predict(FRAME[["a", "c", "b"]]), ValueError, ORDER),
    "order, predict, Dask": (lambda: fit(FRAME, Y).predict(lazy_frame(FRAME[["a", "c", "b"]])), ValueError, ORDER),
    "order, predict, Dataset": (lambda: fit(FRAME, Y).predict(Dataset.from_arrays(FRAME[["a", "c", "b"]])), ValueError, ORDER),
    "labels of several types": (
        lambda: fit(X[:3], [1, "a", None]),
        TypeError,
        "y mixes labels of types number and str; make them one type",
    ),
    "labels of two types": (lambda: fit(X[:3], [1, "a", 2]), TypeError, "y mixes labels of types number and str"),
    "labels of two types, series": (lambda: fit(X[:3], pd.Series([1, "a", 2])), TypeError, "y mixes labels of types number and str"),
    "labels of two types, Dask": (lambda: fit(lazy(X)[:3], [1, "a", 2]), TypeError, "y mixes labels of types number and str"),
    "labels of no type": (lambda: fit(X[:2], np.array([{}, {}], dtype=object)), TypeError, "y holds values of type dict; labels must be"),
    "a label missing": (lambda: fit(X[:3], ["u", "v", None]), ValueError, "Input y contains NaN: y, row 2 of partition 0"),
    "columns of labels": (lambda: fit(Dataset.from_arrays(X, np.c_[Y, Y])), ValueError, r"y has shape \(rows, 2\) but .* needs \(rows,\)"),
    "columns of labels, score": (
        lambda: fit(X, Y).score(Dataset.from_arrays(X, np.c_[Y, Y])),
        ValueError,
        r"y must be \(rows,\), a label a row, got shape \(rows, 2\)",
    ),
    "class_weight of text": (lambda: fit(X, Y, class_weight={0: "a"}), TypeError, "class_weight must hold numbers, got 'a' for class 0"),
    "class_weight of nothing": (lambda: fit(X, Y, class_weight={0: None}), TypeError, "class_weight must hold numbers, got None"),
    "class_weight below 0": (
        lambda: fit(X, Y, class_weight={0: -1}),
        ValueError,
        "finite factors that are not negative, got -1 for class 0",
    ),
    "class_weight for strings": (lambda: fit(X, Y, class_weight={"0": 2}), ValueError, r"factors for \['0'\], but y has .*: they are 0, 1"),
    "class_weight for both": (lambda: fit(X, Y, class_weight={"0": 2, 1: 1}), TypeError, "the keys of class_weight must be classes"),
    "seed below 0": (lambda: Dataset.from_arrays(X, Y).split(seed=-1), ValueError, "seed must be a whole number of at least 0, got -1"),
    "seed of text": (lambda: Dataset.from_arrays(X, Y).split(seed="a"), TypeError, "seed must be a whole number"),  # type: ignore[arg-type]
    "test_size of text": (lambda: Split("a", 0), TypeError, "test_size must be a number between 0 and 1, got 'a'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CASES)
def test_clear_error(name: str) -> None:
    action, kind, message = CASES[name]
    with pytest.raises(kind, match=message):
        action()


def test_what_make_raised_is_the_cause() -> None:
    with pytest.raises(ValueError, match="partition 0") as raised:
        made(broken)
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize("labels", [Y, np.where(Y, "yes", "no")], ids=["numbers", "text"])
def test_a_lazy_column_of_labels_is_flattened_with_a_warning(labels: Any) -> None:
    column = pd.DataFrame({"t": labels})
    expected = LogisticRegression().fit(lazy(X), lazy(labels))
    for y in (lazy(labels[:, None]), labels[:, None], column, lazy_frame(column)):
        with pytest.warns(DataConversionWarning, match=r"y\[:, 0\]"):
            model = LogisticRegression().fit(lazy(X), y)
        np.testing.assert_array_equal(model.coef_, expected.coef_)
        assert model.score(lazy(X), y) == expected.score(X, labels)  # without a warning, as scikit-learn's
    dataset = Dataset.from_dask(lazy(X), lazy(labels[:, None]))
    with pytest.warns(DataConversionWarning, match=r"y\[:, 0\]"):
        model = LogisticRegression().fit(dataset)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    assert model.score(dataset) == expected.score(X, labels)
