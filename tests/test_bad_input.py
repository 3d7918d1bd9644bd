"""Whatever comes in, there is a right answer or an error that names the thing and the cure; never a wrong answer, never a hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from tasks.strategies.gradient_descent import GradientDescent

pytestmark = pytest.mark.timeout(60)

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = (X[:, 0] + 0.5 * RANDOM.normal(size=60) > 0).astype(np.int64)
PADDED = np.vstack([X, np.full((20, 3), -100.0)])
NAMES = ["a", "b", "c"]
FRAME = pd.DataFrame(X, columns=NAMES).assign(t=Y)
Classifier = LogisticRegression


def with_value(value: Any, row: int = 45, column: int = 1, dtype: Any = np.float64) -> Any:
    rows = X.astype(dtype)
    with np.errstate(over="ignore"):
        rows[row, column] = value
    return rows


def lazy(rows: Any, chunks: Any = 20) -> da.Array:
    return da.from_array(np.asarray(rows), chunks=(chunks, -1) if np.ndim(rows) == 2 else chunks)


def unknown(rows: Any, chunks: Any = 20) -> da.Array:
    """The same rows, the sizes of whose chunks Dask does not know."""
    array = lazy(rows, chunks)
    return array[da.ones(len(array), chunks=chunks) > 0]


def frame(**columns: Any) -> Any:
    return dd.from_pandas(FRAME.assign(**columns), npartitions=3)


def partitions(n: int, make: Callable[[int], Any]) -> Dataset:
    return Dataset.from_function(make, n_partitions=n, n_columns=3)


def fit(*data: Any) -> LogisticRegression:
    return LogisticRegression().fit(*data)


def fitted() -> LogisticRegression:
    return fit(FRAME[NAMES], Y)


def mixed(i: int) -> Any:
    return X, Y.astype(str) if i else Y


Case = tuple[Callable[[], Any], type[Exception], str]
ERRORS: dict[str, Case] = {
    # values
    "NaN in one partition": (
        lambda: fit(Dataset.from_arrays(with_value(np.nan), Y, n_partitions=3)),
        ValueError,
        r"Input X contains NaN: column 'x1' of X, row 5 of partition 2 \(row 45 of X\); drop or impute such rows",
    ),
    "NaN in one partition, Dask": (lambda: fit(lazy(with_value(np.nan)), Y), ValueError, r"column 'x1' of X, row 5 of partition 2"),
    "NaN in one partition, frame": (lambda: fit(frame(b=with_value(np.nan)[:, 1])[NAMES], frame()["t"]), ValueError, r"column 'b' of X"),
    "infinity": (lambda: fit(with_value(-np.inf), Y), ValueError, r"Input X contains infinity: column 'x1' of X, row 45 of partition 0"),
    "sparse NaN": (lambda: fit(sp.csr_matrix(with_value(np.nan)), Y), ValueError, "Input X contains NaN: column 'x1' of X, row 45"),
    "float16 that overflowed": (lambda: Ridge().fit(with_value(1e5, dtype=np.float16), Y), ValueError, "Input X contains infinity"),
    "1e200": (
        lambda: Ridge().fit(with_value(1e200), Y),
        ValueError,
        "column 'x1' of X goes up to 1e\\+200, whose square overflows float64; scale it",
    ),
    "1e200 in y": (lambda: Ridge().fit(X, with_value(1e200)[:, 1]), ValueError, "y goes up to 1e\\+200"),
    "missing in a nullable column": (
        lambda: fit(FRAME[NAMES].assign(b=pd.array([1, None] * 30, dtype="Int64")), Y),
        ValueError,
        "NaN",
    ),
    "missing in a nullable column, Dask": (
        lambda: fit(frame(b=pd.array([1, None] * 30, dtype="Int64"))[NAMES], frame()["t"]),
        ValueError,
        "Input X contains NaN: column 'b' of X, row 1 of partition 0",
    ),
    "masked": (lambda: Dataset.from_arrays(np.ma.masked_greater(X, 0), Y), TypeError, r"X is a masked array; fill it first: X\.filled"),
    # shapes
    "lengths differ": (lambda: fit(X, Y[:50]), ValueError, "inconsistent numbers of samples"),
    "lengths differ, Dataset": (lambda: Dataset.from_arrays(X, Y[:50]), ValueError, "X has 60 rows but y has 50"),
    "lengths differ, Dask": (lambda: fit(lazy(X), lazy(Y[:50])), ValueError, "X has 60 rows, y has 50 rows"),
    "lengths differ, Dask, unknown": (
        lambda: fit(unknown(X), unknown(Y[:50])),
        ValueError,
        r"partition 2 \(chunk \(2, 0\) of '.*'\): .*X has 20 rows but y has 10",
    ),
    "lengths differ, Dask, unknown and known": (lambda: fit(unknown(X), lazy(Y[:50])), ValueError, "X has 60 rows, y has 50 rows"),
    "lengths differ, frames": (
        lambda: fit(frame()[NAMES], dd.from_pandas(FRAME["t"][:50], npartitions=2)),
        ValueError,
        "X has 60 rows, y has 50 rows",
    ),
    "weights too short": (lambda: fit(X, Y, np.ones(59)), ValueError, "sample_weight"),
    "weights too short, Dask": (lambda: fit(lazy(X), lazy(Y), np.ones(59)), ValueError, "sample_weight has 59 rows"),
    "weights of two dimensions": (lambda: Dataset.from_arrays(X, Y, np.ones((60, 2))), ValueError, "sample_weight must be 1-D"),
    "no rows": (lambda: fit(X[:0], Y[:0]), ValueError, r"0 sample\(s\)"),
    "all partitions empty": (lambda: fit(lazy(X)[:0], lazy(Y)[:0]), ValueError, r"0 sample\(s\)"),
    "all partitions empty, unknown": (lambda: fit(lazy(X)[lazy(X)[:, 0] > 99], lazy(Y)[lazy(X)[:, 0] > 99]), ValueError, r"0 sample\(s\)"),
    "1-D X": (lambda: fit(X[:, 0], Y), ValueError, "Expected 2D array"),
    "1-D X, Dataset": (lambda: Dataset.from_arrays(X[:, 0], Y), ValueError, r"X must be 2-D .* use X\.reshape\(-1, 1\)"),
    "1-D X, Dask": (lambda: fit(lazy(X[:, 0]), lazy(Y)), ValueError, "Expected 2D array"),
    "a series for X": (lambda: fit(frame()["a"], frame()["t"]), ValueError, "Expected 2D array"),
    "3-D y": (lambda: Dataset.from_arrays(X, np.zeros((60, 1, 1))), ValueError, "y must be 1-D"),
    "2-D y for a classifier": (lambda: fit(X, np.column_stack([Y, Y])), ValueError, "1d array"),
    "2-D y for a classifier, Dask": (lambda: fit(lazy(X), lazy(np.column_stack([Y, Y]))), ValueError, "Unknown label type: multioutput"),
    "fewer columns than declared": (
        lambda: Dataset.from_function(lambda i: (X, Y), n_partitions=2, n_columns=4).schema,
        ValueError,
        r"partition (\d) \(make\(\1\)\): X has 3",
    ),
    # kinds
    "text in X": (lambda: fit(np.array([["a", "b", "c"]] * 60, dtype=object), Y), ValueError, "could not convert string to float"),
    "text column": (lambda: fit(frame(b="word")[NAMES], frame()["t"]), ValueError, "column 'b' has dtype .*, not numbers; encode it"),
    "text column, pandas": (lambda: Dataset.from_dataframe(FRAME.assign(b="word"), target="t"), ValueError, "column 'b' has dtype"),
    "text in a column of objects": (
        lambda: Dataset.from_dataframe(FRAME.assign(b=pd.Series([1, "x"] * 30, dtype=object)), target="t"),
        ValueError,
        "column 'b' of X has values that are not numbers",
    ),
    "categorical column": (
        lambda: Dataset.from_dataframe(frame(b=pd.Categorical(["u", "v"] * 30)), target="t"),
        ValueError,
        "column 'b' has dtype category",
    ),
    "dates": (
        lambda: Dataset.from_dataframe(frame(b=pd.date_range("2020", periods=60)), target="t"),
        ValueError,
        "column 'b' has dtype datetime64",
    ),
    "dates in an array": (
        lambda: Dataset.from_arrays(X.astype("M8[s]"), Y),
        TypeError,
        r"X has dtype datetime64\[s\], not numbers; convert it first",
    ),
    "complex": (lambda: fit(X + 1j, Y), ValueError, "Complex data not supported"),
    "complex, Dask": (lambda: fit(lazy(X + 1j), lazy(Y)), ValueError, "Complex data not supported"),
    "complex column": (lambda: Dataset.from_dataframe(frame(b=X[:, 0] + 1j), target="t"), ValueError, "column 'b' has dtype complex128"),
    "duplicate columns": (
        lambda: Dataset.from_dataframe(pd.DataFrame(np.c_[X, Y], columns=["a", "a", "c", "t"]), target="t"),
        ValueError,
        "column 'a' is there several times",
    ),
    "missing column": (
        lambda: Dataset.from_dataframe(frame(), target="label"),
        ValueError,
        "column 'label' is not there; the columns are 'a', 'b', 'c', 't'",
    ),
    "target among the features": (
        lambda: Dataset.from_dataframe(frame(), target="t", columns=["a", "t"]),
        ValueError,
        "column 't' cannot be a feature and the",
    ),
    "sparse and dense partitions": (
        lambda: partitions(300, lambda i: (X if i else sp.csr_array(X), Y)).schema,
        ValueError,
        "partition 0 and partition 1 mix sparse and dense X",
    ),
    "weights in some partitions": (
        lambda: partitions(2, lambda i: (X, Y, np.ones(60)) if i else (X, Y)).schema,
        ValueError,
        "mix rows with and without sample_weight",
    ),
    # targets
    "one class": (lambda: fit(X, np.ones(60)), ValueError, "only one class"),
    "continuous y for a classifier": (lambda: fit(X, X[:, 0]), ValueError, "Unknown label type: continuous"),
    "continuous y for a classifier, Dask": (lambda: fit(lazy(X), lazy(X[:, 0])), ValueError, "Unknown label type: continuous"),
    "labels for a regressor": (lambda: Ridge().fit(X, np.where(Y, "yes", "no")), ValueError, "yes|no|numeric"),
    "labels for a regressor, Dask": (
        lambda: Ridge().fit(lazy(X), lazy(np.where(Y, "yes", "no"))),
        ValueError,
        "y holds labels, .*use LogisticRegression",
    ),
    "labels of mixed types": (lambda: fit(X, np.array([1, "a"] * 30, dtype=object)), TypeError, "y mixes labels of types number and str"),
    "labels of mixed types, Dask": (
        lambda: fit(lazy(X), lazy(np.array([1, "a"] * 30, dtype=object))),
        TypeError,
        r"partition (\d) \(chunk \(\1, 0\) of 'array-.*'\): y mixes labels of types number and str; make them one type",
    ),
    "labels of mixed types over partitions": (
        lambda: partitions(2, mixed).schema,
        ValueError,
        "mix labels that are text and labels that are numbers",
    ),
    "labels of mixed types over groups": (
        lambda: partitions(300, mixed).schema,
        ValueError,
        "mix labels that are text and labels that are numbers",
    ),
    "missing y": (lambda: fit(X, np.where(Y, 1.0, np.nan)), ValueError, "NaN"),
    "missing y, Dask": (lambda: fit(lazy(X), lazy(np.where(Y, 1.0, np.nan))), ValueError, "Input y contains NaN: y, row . of partition 0"),
    "None in y": (
        lambda: fit(lazy(X), lazy(np.where(Y, "yes", None).astype(object))),
        ValueError,
        r"Input y contains NaN: y, row . of partition 0 \(chunk \(0, 0\) of 'array-.*'\); drop or impute",
    ),
    "missing nullable label": (
        lambda: fit(frame()[NAMES], frame(t=pd.array([1, 0, None] * 20, dtype="Int64"))["t"]),
        ValueError,
        "Input y contains NaN: y, row 2 of partition 0",
    ),
    "no y": (lambda: fit(X), ValueError, "requires y to be passed"),
    "a dataset without y": (lambda: fit(Dataset.from_arrays(X)), ValueError, "the dataset has no y; name its target="),
    "a dataset and y": (lambda: fit(Dataset.from_arrays(X, Y), Y), ValueError, "a Dataset brings its own y"),
    "y of a dataset without": (lambda: Dataset.from_arrays(X).y, ValueError, "this dataset has no y"),
    "lazy y beside X in memory": (lambda: fit(X, lazy(Y)), TypeError, r"y is a Dask collection but X is in memory; .* y\.compute\(\)"),
    "lazy rows as arrays": (lambda: Dataset.from_arrays(lazy(X), Y), TypeError, r"use Dataset\.from_dask"),
    "arrays as lazy rows": (lambda: Dataset.from_dask(X, Y), TypeError, r"use Dataset\.from_arrays"),
    # weights
    "negative weight": (
        lambda: fit(X, Y, with_value(-1.0)[:, 1] * 0 - np.eye(60)[45]),
        ValueError,
        r"sample_weight is -1.0 in row 45 of partition 0 \(row 45 of X\); weights must be finite and not negative",
    ),
    "NaN weight": (
        lambda: fit(lazy(X), lazy(Y), with_value(np.nan)[:, 1] ** 2),
        ValueError,
        "sample_weight is nan in row 5 of partition 2",
    ),
    "no weight at all": (lambda: fit(X, Y, np.zeros(60)), ValueError, "at least one non-zero"),
    "no weight at all, Dask": (lambda: fit(lazy(X), Y, np.zeros(60)), ValueError, "all sample_weight are zero; at least one row must"),
    "weights that overflow": (lambda: fit(X, Y, np.full(60, 1e200)), ValueError, "the sum of sample_weight goes up to"),
    "class_weight of an unknown label": (
        lambda: Classifier(class_weight={0: 1, 7: 2}).fit(X, Y),
        ValueError,
        r"factors for \[7\], but y has no such classes: they are 0, 1",
    ),
    # partitions
    "no partitions": (lambda: Dataset.from_arrays(X, Y, n_partitions=0), ValueError, "n_partitions must be at least 1, got 0"),
    "no partitions, Dask": (
        lambda: Dataset.from_dask(lazy(X), lazy(Y), n_partitions=0),
        ValueError,
        "n_partitions must be at least 1, got 0",
    ),
    "no partitions, frame": (
        lambda: Dataset.from_dataframe(frame(), target="t", n_partitions=0),
        ValueError,
        "n_partitions must be at least 1",
    ),
    "partition_rows that do not add up": (
        lambda: Dataset.from_arrays(X, Y, partition_rows=[30, 29]),
        ValueError,
        "must be counts that add up to the 60 rows",
    ),
    "negative partition_rows": (lambda: Dataset.from_arrays(X, Y, partition_rows=[70, -10]), ValueError, "must be counts that add up"),
    "both ways of cutting": (
        lambda: Dataset.from_arrays(X, Y, n_partitions=1, partition_rows=[60]),
        ValueError,
        "n_partitions or partition_rows, not both",
    ),
    "test_size": (lambda: Dataset.from_arrays(X, Y).split(1.5), ValueError, "test_size must lie between 0 and 1, got 1.5"),
    "split of a split": (lambda: Dataset.from_arrays(X, Y).split()[0].split(), ValueError, "one part of a split already"),
    # parameters
    "unknown solver": (lambda: Classifier(solver="magic").fit(X, Y), ValueError, "solver='magic' is not available; use one of 'auto'"),
    "tol": (lambda: Classifier(tol=-1).fit(X, Y), ValueError, "'tol' parameter"),
    "C": (lambda: Classifier(C=0).fit(X, Y), ValueError, "'C' parameter"),
    "max_iter": (lambda: Classifier(max_iter=0).fit(X, Y), ValueError, "'max_iter' parameter"),
    "alpha": (lambda: Ridge(alpha=-1).fit(X, Y), ValueError, "alpha"),
    "dual": (lambda: Classifier(dual=True).fit(X, Y), ValueError, r"dual=True\) is not available: there is no dual solver"),
    "l1_ratio": (lambda: Classifier(l1_ratio=0.5).fit(X, Y), ValueError, r"l1_ratio=0.5\) is not available"),
    "positive": (lambda: Ridge(positive=True).fit(X, Y), ValueError, r"positive=True\) is not available"),
    "n_jobs": (lambda: LinearRegression(n_jobs=2).fit(X, Y), ValueError, r"n_jobs=2\) is not available"),
    # predictions
    "predict before fit": (lambda: Classifier().predict(X), NotFittedError, "not fitted"),
    "predict: columns": (lambda: fitted().predict(pd.DataFrame(X[:, :2], columns=["a", "b"])), ValueError, "feature names"),
    "predict: columns, array": (lambda: fit(X, Y).predict(X[:, :2]), ValueError, "X has 2 features, but LogisticRegression is expecting 3"),
    "predict: columns, sparse": (lambda: fit(X, Y).predict(sp.csr_array(X[:, :2])), ValueError, "X has 2 features"),
    "predict: columns, Dask": (lambda: fitted().predict(lazy(X[:, :2])), ValueError, "X has 2 features"),
    "predict: columns, Dask frame": (lambda: fitted().predict(frame()[["a", "b"]]), ValueError, "X has 2 features"),
    "predict: columns, Dataset": (lambda: fitted().predict(Dataset.from_arrays(X[:, :2])), ValueError, "X has 2 features"),
    "predict: names": (lambda: fitted().predict(FRAME[["a", "c", "b"]]), ValueError, "feature names"),
    "predict: names, Dask frame": (lambda: fitted().predict(frame()[["a", "c", "b"]]), ValueError, "feature names"),
    "predict: names, Dataset": (lambda: fitted().predict(Dataset.from_arrays(FRAME[["a", "c", "b"]])), ValueError, "feature names"),
    "predict: 1-D": (lambda: fitted().predict(lazy(X[:, 0])), ValueError, "Expected 2D array"),
    "names of mixed types": (
        lambda: Dataset.from_arrays(pd.DataFrame(X, columns=["a", 1, "c"]), Y),
        TypeError,
        "Feature names are only supported if all are",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_clear_error(name: str) -> None:
    action, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        action()


def coef(model: Any, *data: Any) -> Any:
    return model.fit(*data).coef_


def expected(*data: Any) -> Any:
    return coef(Classifier(solver="newton", tol=1e-9), *(data or (X, Y)))


NEWTON = Classifier(solver="newton", tol=1e-9)
FINE: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "empty partitions": (lambda: coef(NEWTON, Dataset.from_arrays(X, Y, partition_rows=[0, 10, 0, 50, 0])), expected),
    "empty partitions, Dask": (lambda: coef(NEWTON, lazy(PADDED)[lazy(PADDED)[:, 0] > -99], Y), expected),
    "empty partitions of labels": (
        lambda: coef(NEWTON, partitions(4, lambda i: (X[: 60 * (i == 2)], np.where(Y, "yes", "no").astype(object)[: 60 * (i == 2)]))),
        expected,
    ),
    "a class missing from some partitions": (
        lambda: coef(NEWTON, Dataset.from_arrays(X[np.argsort(Y)], np.sort(Y), n_partitions=6)),
        expected,
    ),
    "more partitions than rows": (lambda: coef(NEWTON, Dataset.from_arrays(X, Y, n_partitions=100)), expected),
    "more partitions than rows, Dask": (lambda: coef(NEWTON, Dataset.from_dask(lazy(X), lazy(Y), n_partitions=100)), expected),
    "more partitions than rows, frame": (lambda: coef(NEWTON, Dataset.from_dataframe(frame(), target="t", n_partitions=70)), expected),
    "a list": (lambda: coef(NEWTON, X.tolist(), Y.tolist()), expected),
    "y in memory beside lazy X": (lambda: coef(NEWTON, lazy(X), Y.tolist()), expected),
    "y as a lazy column of a frame": (lambda: coef(NEWTON, frame()[NAMES], frame()["t"]), expected),
    "y as a lazy column of a frame beside an array": (lambda: coef(NEWTON, lazy(X, 30), frame(t=np.where(Y, "yes", "no"))["t"]), expected),
    "y as a lazy column": (lambda: coef(NEWTON, lazy(X), lazy(Y)[:, None][:, 0]), expected),
    "columns without names": (lambda: coef(NEWTON, dd.from_pandas(pd.DataFrame(X), npartitions=2), Y), expected),
    "objects that are numbers": (lambda: coef(NEWTON, X.astype(object), Y), expected),
    "sparse of 64-bit indices": (
        lambda: coef(
            NEWTON,
            sp.csr_array((X.ravel(), np.tile(np.arange(3), 60).astype(np.int64), np.arange(0, 181, 3).astype(np.int64)), shape=(60, 3)),
            Y,
        ),
        expected,
    ),
    "weights as nullable numbers": (
        lambda: coef(NEWTON, Dataset.from_dataframe(frame(w=pd.array([2] * 60, dtype="Int64")), target="t", sample_weight="w")),
        lambda: expected(X, Y, np.full(60, 2.0)),
    ),
    "zero weights as rows left out": (lambda: coef(NEWTON, X, Y, (np.arange(60) < 50) * 1.0), lambda: expected(X[:50], Y[:50])),
    "float32 whose sum overflows float32": (
        lambda: coef(Ridge(fit_intercept=False), Dataset.from_arrays(X.astype(np.float32) * np.float32(1e38), X[:, 0] * 1e38)) > 0.9,
        lambda: np.array([True, False, False]),
    ),
    "constant columns": (lambda: coef(NEWTON, np.c_[X, np.ones(60)], Y)[:, :3], expected),
    "constant columns of a regression": (
        lambda: coef(LinearRegression(), np.c_[X, np.ones(60)], X @ [1, 2, 3]),
        lambda: np.array([1.0, 2, 3, 0]),
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_right_answer(name: str) -> None:
    found, wanted = FINE[name]
    np.testing.assert_allclose(np.squeeze(found()), np.squeeze(wanted()), rtol=1e-6, atol=1e-9)


def test_columns_of_labels_are_flattened_with_a_warning() -> None:
    with pytest.warns(DataConversionWarning):
        model = LogisticRegression(solver="newton", tol=1e-9).fit(X, Y[:, None])
    np.testing.assert_array_equal(model.coef_, expected())


def test_separable_data_end_with_a_warning() -> None:
    with pytest.warns(ConvergenceWarning):
        model = LogisticRegression(C=np.inf, max_iter=20, tol=0.0).fit(X, (X[:, 0] > 0).astype(int))
    assert np.all(np.isfinite(model.coef_))
    assert model.score(X, (X[:, 0] > 0).astype(int)) == 1.0


def test_diverging_step_size() -> None:
    with pytest.warns(ConvergenceWarning, match="LinearRegression ended diverged .* lower step_size"):
        model = LinearRegression(solver=GradientDescent(step_size=1e3, max_iter=2000)).fit(X * 10, Y)
    assert model.status_.kind == "diverged"
    assert np.all(np.isfinite(model.coef_))
