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

from pipeline import Dataset, LogisticRegression, MLPClassifier, Ridge
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


def with_classes(classes: Any) -> LogisticRegression:
    model = fit(X, Y)
    model.classes_ = classes
    return model


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
    "NaN, score": (
        lambda: fit(FRAME, Y).score(lazy(HOLE), lazy(Y)),
        ValueError,
        "contains NaN: column 'b' of X, row 5 of partition 2; drop",
    ),
    "NaN in y, score": (
        lambda: Ridge().fit(X, X[:, 0]).score(lazy(X), lazy(HOLE[:, 1])),
        ValueError,
        "y contains NaN .* in row 5 of partition 2",
    ),
    "weights, score": (
        lambda: fit(X, Y).score(lazy(X), lazy(Y), lazy(np.where(np.arange(60) == 45, -1.0, 1.0))),
        ValueError,
        "sample_weight must be finite and not negative, got -1.0 in row 5 of partition 2",
    ),
    "targets, score": (
        lambda: Ridge().fit(X, X[:, 0]).score(lazy(X), lazy(X[:, :2])),
        ValueError,
        r"y has 2 targets, but the model was fitted on 1; pass y of shape \(rows, 1\)",
    ),
    "target, score": (
        lambda: Ridge().fit(X, X[:, :2]).score(Dataset.from_arrays(X, X[:, 0])),
        ValueError,
        "y has 1 targets, but the model was fitted on 2",
    ),
    "a missing value, predict": (
        lambda: fit(FRAME, Y).predict(lazy_frame(pd.DataFrame(HOLE, columns=["a", "b", "c"]).convert_dtypes())).compute(),
        ValueError,
        "contains NaN: column 'b' of X, row 5 of block 2; drop or impute",
    ),
    "text, predict, Dask": (
        lambda: fit(FRAME, Y).predict(lazy_frame(FRAME.assign(b="x"))),
        ValueError,
        "column 'b' has dtype .*, not numbers",
    ),
    "dates, predict, Dask": (lambda: fit(X, Y).predict(lazy(X.astype("M8[s]"))), TypeError, "X has dtype datetime64.*, not numbers"),
    "one class, predict": (lambda: with_classes([0]).predict(X), ValueError, r"classes_ must hold at least 2 labels, .* got \[0\]"),
    "no classes, score": (lambda: with_classes(None).score(X, Y), ValueError, "classes_ must hold at least 2 labels, .* got None"),
    "too many classes, predict": (
        lambda: with_classes([0, 1, 2]).predict(lazy(X)),
        ValueError,
        "classes_ has 3 labels, but .* are of 2 classes",
    ),
    "alpha below zero": (lambda: Ridge(alpha=[-1]).fit(X, Y), ValueError, r"alpha must be finite and at least 0, got \[-1\]"),
    "alpha of text": (lambda: Ridge(alpha=["x"]).fit(X, Y), ValueError, r"alpha must be a number, or one for each target, got \['x'\]"),
    "an unknown parameter": (
        lambda: MLPClassifier(foo=1),
        TypeError,
        r"MLPClassifier.__init__\(\) got an unexpected keyword argument 'foo'",
    ),
    "axes": (lambda: fit(X, Y).history_.plot([1, 2]), TypeError, r"axes must be two, .* got \[1, 2\]"),
    "tol of a plot": (lambda: fit(X, Y).history_.plot(tol="x"), TypeError, "tol must be a number, .* got 'x'"),
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


def test_predictions_are_of_what_was_given() -> None:
    """Whatever is done in place to rows and attributes afterwards."""
    model, rows = fit(X, Y), lazy(X)
    wanted, found = model.predict(X), model.predict(rows)
    rows[:40] = -rows[:40]
    model.classes_[1] = 7
    assert np.array_equal(found.compute(), wanted)
    assert np.array_equal((found + 0).compute(), wanted)
    assert not np.array_equal(fit(X, Y).predict(rows).compute(), wanted)
