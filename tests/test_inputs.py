"""What is handed over as X, y and sample_weight: it works, or an error names it, what it needs and the cure."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from distributed import Client

from pipeline import Dataset, LogisticRegression, MLPClassifier, Ridge, SGDClassifier
from pipeline.models.predictions import predict_files

pytestmark = pytest.mark.timeout(60)

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = X @ [1.0, 2.0, 3.0] + RANDOM.normal(size=60)
WEIGHT = RANDOM.random(60) + 0.1
NAMES = ["a", "b", "c"]
FRAME = pd.DataFrame(X, columns=NAMES)
LAZY = da.from_array(X, chunks=(20, 3))
READ = r"to read files use Dataset\.read_csv, read_parquet, read_npy, read_zarr or read_hdf5"


def future(value: Any) -> Any:
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()
    done.set_result(value)
    return done


def parts(value: Any) -> list[Any]:
    return [value[:30], value[30:]]


NO_ROWS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "delayed": (lambda v: dask.delayed(lambda: v)(), r"a dask Delayed, .* \{name\}\.compute\(\) .* dask\.array\.from_delayed"),
    "list of delayed": (lambda v: [dask.delayed(part) for part in parts(v)], r"a list of dask Delayed\w*, .* dask\.compute\(\*\{name\}\)"),
    "bag": (lambda v: dask.bag.from_sequence(v.tolist()), r"a dask Bag, .* \{name\}\.to_dataframe\(\)"),
    "future": (future, r"a concurrent Future, .* \{name\}\.result\(\)"),
    "list of futures": (lambda v: [future(part) for part in parts(v)], r"a list of concurrent Futures, .* client\.gather\(\{name\}\)"),
    "list of Dask arrays": (
        lambda v: [da.from_array(part) for part in parts(v)],
        r"a list of dask Arrays, .* dask\.array\.concatenate\(\{name\}\)",
    ),
    "a single lazy number": (lambda v: da.from_array(v).sum(), "a dask Array, .* it is a single number"),
    "text": (lambda v: "rows.csv", f"a path or a name, 'rows.csv', which is no rows: {READ}"),
    "path": (lambda v: Path("rows.parquet"), f"a path or a name, .*rows.parquet.*, which is no rows: {READ}"),
    "dict": (lambda v: {"a": v}, r"a dict, which is no rows: use pandas\.DataFrame\(\{name\}\)"),
    "generator": (lambda v: (row for row in v), r"a generator, .* list\(\{name\}\), or Dataset\.from_function"),
    "set": (lambda v: set(v.ravel().tolist()), r"a set, .* list\(\{name\}\)"),
}


@pytest.mark.parametrize("kind", NO_ROWS)
def test_what_holds_no_rows(kind: str) -> None:
    """In every argument of every function that takes rows, in memory and beside lazy ones."""
    make, pattern = NO_ROWS[kind]
    fitted = Ridge().fit(X, Y)
    calls: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("X", X, lambda v: Ridge().fit(v, Y)),
        ("X", X, lambda v: Dataset.from_arrays(v, Y)),
        ("X", X, lambda v: Dataset.from_dask(v, Y)),
        ("X", X, fitted.predict),
        ("frame", X, lambda v: Dataset.from_dataframe(v, target="t")),
        ("y", Y, lambda v: Ridge().fit(X, v)),
        ("y", Y, lambda v: Ridge().fit(LAZY, v)),
        ("y", Y, lambda v: Dataset.from_arrays(X, v)),
        ("y", Y, lambda v: Dataset.from_dask(LAZY, v)),
        ("y", Y, lambda v: fitted.score(LAZY, v)),
        ("sample_weight", WEIGHT, lambda v: Ridge().fit(X, Y, v)),
        ("sample_weight", WEIGHT, lambda v: Ridge().fit(LAZY, Y, v)),
        ("sample_weight", WEIGHT, lambda v: Dataset.from_arrays(X, Y, v)),
        ("sample_weight", WEIGHT, lambda v: Dataset.from_dask(LAZY, Y, v)),
    ]
    for name, value, call in calls:
        with pytest.raises(TypeError, match=f"^{name} is {pattern}".replace(r"\{name\}", name)):
            call(make(value))


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        yield client


def test_scattered_rows(client: Client) -> None:
    X_future, y_future = client.scatter(X), client.scatter(Y)
    for call in (lambda: Ridge().fit(X_future, Y), lambda: Dataset.from_arrays(X_future, Y), lambda: Ridge().fit(X_future, y_future)):
        with pytest.raises(TypeError, match=r"X is a distributed Future, which is no rows: use X\.result\(\)"):
            call()
    for rows in (X, LAZY):
        with pytest.raises(TypeError, match=r"y is a distributed Future, which is no rows: use y\.result\(\)"):
            Ridge().fit(rows, y_future)
    with pytest.raises(TypeError, match=r"X is a list of distributed Futures, .* client\.gather\(X\)"):
        Ridge().fit(client.scatter(parts(X)), Y)
    cure = dd.from_delayed(client.scatter(parts(FRAME)))
    np.testing.assert_allclose(Ridge().fit(cure, Y).coef_, Ridge().fit(X, Y).coef_)


OTHERS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "None": (lambda: Ridge().fit(None, Y), TypeError, r"X is None; pass an array or a frame, \(n, p\)"),
    "None, dataset": (lambda: Dataset.from_arrays(None, Y), TypeError, "X is None"),
    "None, Dask": (lambda: Dataset.from_dask(None, Y), TypeError, "X is None"),
    "name of y": (lambda: Ridge().fit(FRAME, "t"), TypeError, r"for a column use Dataset\.from_dataframe\(X, target='t'\)"),
    "name of weights": (lambda: Ridge().fit(FRAME, Y, "w"), TypeError, r"Dataset\.from_dataframe\(X, sample_weight='w'\)"),
    "uneven rows": (lambda: Ridge().fit([[1.0, 2.0], [3.0]], [1, 2]), ValueError, "X has rows of 1 and of 2 values"),
    "records": (lambda: Ridge().fit(np.zeros(60, [("a", float)]), Y), TypeError, r"X has dtype .*, not numbers; convert it first"),
    "a series": (lambda: Dataset.from_arrays(FRAME["a"], Y), ValueError, r"got a pandas Series; use X\.to_frame\(\)"),
    "array as a frame": (
        lambda: Dataset.from_dataframe(X, target=0),
        TypeError,
        r"frame must be a data frame .* got ndarray; .*from_arrays",
    ),
    "Dask array as a frame": (lambda: Dataset.from_dataframe(LAZY, target=0), TypeError, r"frame must be .* got Array; .*from_dask"),
    "list as a frame": (lambda: Dataset.from_dataframe(X.tolist(), target=0), TypeError, r"frame must be .* got list"),
    "series as a frame": (lambda: Dataset.from_dataframe(FRAME["a"], target="a"), TypeError, r"frame must be .* got Series"),
    "sparse y": (lambda: Ridge().fit(X, sp.csr_array(Y[:, None])), TypeError, r"y is a scipy csr_array, .* y\.toarray\(\)\.ravel\(\)"),
    "dataset as y": (lambda: Ridge().fit(X, Dataset.from_arrays(X, Y)), TypeError, r"a Dataset brings its own: call fit\(dataset\)"),
    "lazy y": (
        lambda: Ridge().fit(X, dd.from_pandas(pd.Series(Y), npartitions=2)),
        TypeError,
        r"y is a Dask collection but X is in memory",
    ),
    "lazy weights": (lambda: Ridge().fit(X, Y, da.from_array(WEIGHT)), TypeError, r"sample_weight is a Dask collection .*compute\(\)"),
    "a number for lazy weights": (
        lambda: Ridge().fit(LAZY, Y, 2.0),
        ValueError,
        r"sample_weight must be 1-D \(rows,\), got 0-D; give each",
    ),
    "y without columns": (lambda: Dataset.from_arrays(X, Y[:, None][:, :0]), ValueError, "y has no columns; it needs one for each target"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_clear_error(name: str) -> None:
    action, kind, message = OTHERS[name]
    with pytest.raises(kind, match=message):
        action()


def polars() -> Any:
    return pytest.importorskip("polars")


FRAMES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "polars": (lambda columns: polars().DataFrame(columns), lambda y: polars().Series(y)),
    "Arrow": (pa.table, pa.array),
    "pandas": (pd.DataFrame, pd.Series),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_other_libraries(name: str) -> None:
    """With the names of their columns, as in scikit-learn, and with rows as narrow as their dtypes."""
    make, series = FRAMES[name]
    frame = make(dict(zip(NAMES, X.T, strict=True)))
    expected = Ridge().fit(FRAME, Y, WEIGHT)
    for model in (
        Ridge().fit(frame, series(Y), series(WEIGHT)),
        Ridge().fit(Dataset.from_arrays(frame, series(Y), series(WEIGHT))),
        Ridge().fit(
            Dataset.from_dataframe(make({**dict(zip(NAMES, X.T, strict=True)), "t": Y, "w": WEIGHT}), target="t", sample_weight="w")
        ),
    ):
        assert model.parameters_sha256_ == expected.parameters_sha256_
        assert model.feature_names_in_.tolist() == NAMES
        np.testing.assert_array_equal(model.predict(frame), expected.predict(FRAME))
        assert model.score(frame, Y) == expected.score(FRAME, Y)
        with pytest.raises(ValueError, match="feature names"):
            model.predict(make(dict(zip("xyz", X.T, strict=True))))
    np.testing.assert_allclose(Ridge().fit(LAZY, series(Y), series(WEIGHT)).coef_, expected.coef_)
    narrow = make({"a": np.arange(60, dtype=np.uint8), "b": X[:, 0] > 0})
    dataset = Dataset.from_arrays(narrow, Y)
    assert (dataset.dtype, dataset.columns, dataset.schema.n_bytes) == ("float32", ("a", "b"), 60 * 2 * 4)
    labels = np.where(Y > 0, "yes", "no")
    assert LogisticRegression().fit(frame, series(labels.tolist())).classes_.tolist() == ["no", "yes"]
    with pytest.raises(ValueError, match=r"column 'b' has dtype .*, not numbers"):
        Ridge().fit(make({"a": X[:, 0], "b": labels.tolist()}), Y)


def test_lazy_frames_of_polars() -> None:
    frame = polars().DataFrame(dict(zip(NAMES, X.T, strict=True))).lazy()
    for call in (lambda: Ridge().fit(frame, Y), lambda: Dataset.from_arrays(frame), lambda: Ridge().fit(X, Y).predict(frame)):
        with pytest.raises(TypeError, match=r"X is a lazy polars LazyFrame: use X\.collect\(\)"):
            call()


MIXTURES: dict[str, Callable[[Any], Any]] = {
    "array": lambda v: v,
    "list": lambda v: v.tolist(),
    "tuple": lambda v: tuple(v.tolist()),
    "series": lambda v: pd.Series(v, index=range(60, 0, -1)),
    "index": pd.Index,
    "frame of one column": lambda v: pd.DataFrame({"v": v}),
    "nullable": lambda v: pd.Series(v, dtype="Float64"),
    "Arrow": pa.array,
    "Arrow in pieces": lambda v: pa.chunked_array([v[:7], v[7:]]),
}
LAZY_MIXTURES: dict[str, Callable[[Any], Any]] = {
    "Dask array": lambda v: da.from_array(v, chunks=17),
    "Dask array of unknown chunks": lambda v: da.from_array(v, chunks=17)[da.ones(60, chunks=17) > 0],
    "Dask series": lambda v: dd.from_pandas(pd.Series(v), npartitions=2),
    "Dask series of as many partitions": lambda v: dd.from_pandas(pd.Series(v), npartitions=3),
    "Dask frame of one column": lambda v: dd.from_pandas(pd.DataFrame({"v": v}), npartitions=3),
    "Dask frame of one column, other partitions": lambda v: dd.from_pandas(pd.DataFrame({"v": v}), npartitions=2),
}
ROWS: dict[str, Any] = {
    "array": X,
    "lists": X.tolist(),
    "frame": FRAME,
    "columns of several levels": FRAME.set_axis(pd.MultiIndex.from_tuples([("u", "a"), ("u", "b"), ("v", "c")]), axis=1),
    "CSR": sp.csr_array(X),
    "CSC": sp.csc_matrix(X),
    "COO": sp.coo_array(X),
    "DOK": sp.dok_matrix(X),
    "LIL": sp.lil_array(X),
    "DIA": sp.dia_matrix(X),
    "BSR": sp.bsr_array(X),
    "lazy": LAZY,
    "lazy, unknown chunks": LAZY[LAZY[:, 0] > -99],
    "lazy frame": dd.from_pandas(FRAME, npartitions=3),
}


@pytest.mark.parametrize("name", ROWS)
def test_mixtures_of_rows_targets_and_weights(name: str) -> None:
    rows = ROWS[name]
    expected = Ridge().fit(X, Y, WEIGHT).coef_
    lazy = isinstance(rows, da.Array | dd.DataFrame)
    for form, make in (MIXTURES | (LAZY_MIXTURES if lazy else {})).items():
        for data in ((rows, make(Y), WEIGHT), (rows, Y, make(WEIGHT))):
            np.testing.assert_allclose(np.squeeze(Ridge().fit(*data).coef_), expected, rtol=1e-9, err_msg=form)


# -- columns that some partitions lack ---------------------------------------------------------------------------------------------------

LACKS = r"it lacks columns that the first one has, .*'b'.*; add them, or leave them out with columns="


def test_files_that_lack_a_column(tmp_path: Path) -> None:
    whole = FRAME.assign(t=Y)
    for number, frame in enumerate([whole, whole, whole.drop(columns="b")]):
        frame.to_parquet(tmp_path / f"part-{number}.parquet")
    for place in (tmp_path, str(tmp_path / "*.parquet"), [tmp_path / f"part-{i}.parquet" for i in range(3)]):
        with pytest.raises(ValueError, match=rf"partition 2 \(.*part-2\.parquet, row group 0\): {LACKS}"):
            Ridge().fit(Dataset.read_parquet(place, target="t"))
    assert Ridge().fit(Dataset.read_parquet(tmp_path, target="t", columns=["a", "c"])).coef_.shape == (2,)
    lazy = dd.read_parquet(tmp_path)
    with pytest.raises(ValueError, match=rf"partition 2 \(.*part-2\.parquet\): {LACKS}"):
        Ridge().fit(lazy[NAMES], lazy["t"])
    with pytest.warns(UserWarning, match="1 of 3 partitions are left out") as warned:
        (left,) = Dataset.read_parquet(tmp_path, target="t", on_error="quarantine").quarantined
    assert len(warned) == 1
    assert (left.partition, "it lacks columns" in left.reason) == (2, True)
    with pytest.raises(ValueError, match=rf"partition 2 \(.*part-2\.parquet.*\): {LACKS}"):
        predict_files(Ridge().fit(FRAME, Y), [str(tmp_path)], tmp_path / "out.csv")
    predicted = Ridge().fit(FRAME, Y).predict(Dataset.read_parquet(tmp_path, target="t"))
    for made in (predicted.compute, lambda: np.asarray(predicted)):
        with pytest.raises(ValueError, match=rf"partition 2 \(.*part-2\.parquet, row group 0\): {LACKS}"):
            made()


def test_a_file_that_is_damaged_before_it_is_predicted(tmp_path: Path) -> None:
    file = tmp_path / "1.parquet"
    FRAME.assign(t=Y).to_parquet(file)
    predicted = Ridge().fit(FRAME, Y).predict(Dataset.read_parquet(tmp_path, target="t"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"partition 0 \(.*1\.parquet, row group 0\)"):
        predicted.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urlpath": None}, "path of the files must be text, a pathlib.Path or a list of these, got None"),
        ({"urlpath": 3}, "got 3"),
        ({"urlpath": []}, r"got \[\]"),
        ({"urlpath": {}}, r"got \{\}"),
        ({"columns": 3}, "columns must be a list of names, got 3; the columns are 'a', 'b', 'c', 't'"),
        ({"columns": "ab"}, "columns must be a list of names, got 'ab'"),
        ({"target": ["t"]}, r"target must be the name of one column, got \['t'\]; the columns are 'a', 'b', 'c', 't'"),
        ({"target": None}, "target must be the name of one column, got None"),
        ({"sample_weight": ["a"]}, "sample_weight must be the name of one column"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_paths_and_names_that_are_none(tmp_path: Path, suffix: str, options: dict[str, Any], message: str) -> None:
    file, frame = tmp_path / f"rows.{suffix}", FRAME.assign(t=Y)
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
    read = Dataset.read_csv if suffix == "csv" else Dataset.read_parquet
    with pytest.raises(TypeError, match=message):
        read(**{"urlpath": file, "target": "t"} | options)


def test_labels_in_an_object_array_are_scored_as_they_are_fitted() -> None:
    labels = (FRAME["a"].to_numpy() > FRAME["a"].median()).astype(object)
    model = LogisticRegression().fit(FRAME, labels)
    assert model.score(FRAME, labels) == np.mean(model.predict(FRAME) == labels)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_complex_values_are_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=f"^Complex data not supported: {name} has dtype complex128"):
        Ridge().fit(FRAME, **({"y": Y} | {name: Y + 1j}))


def test_a_list_of_dicts() -> None:
    with pytest.raises(TypeError, match=r"X is a list of dicts, which is no rows: use pandas\.DataFrame\(X\)"):
        Ridge().fit(FRAME.to_dict("records"), Y)


def test_partitions_that_lack_a_column() -> None:
    pieces = [dask.delayed(FRAME.assign(t=Y)), dask.delayed(FRAME.drop(columns="b").assign(t=Y))]
    lazy = dd.from_delayed(pieces, meta=FRAME.assign(t=Y).iloc[:0], verify_meta=False)
    with pytest.raises(ValueError, match=rf"partition 1 \(.*\): {LACKS}"):
        Ridge().fit(Dataset.from_dataframe(lazy, target="t"))


# -- objects that hold rows elsewhere, or none -------------------------------------------------------------------------------------------


class Keeper:
    """An actor that has rows."""

    def rows(self) -> Any:
        return X


def test_results_of_actors_and_dicts_of_futures(client: Client) -> None:
    actor: Any = client.submit(Keeper, actor=True).result()
    with pytest.raises(TypeError, match=r"X is a distributed ActorFuture, which is no rows: use X\.result\(\)"):
        Ridge().fit(actor.rows(), Y)
    with pytest.raises(TypeError, match=r"X is a list of distributed ActorFutures, .* client\.gather\(X\)"):
        Ridge().fit([actor.rows()], Y)
    scattered = client.scatter({"a": X[:, 0], "b": X[:, 1]})
    with pytest.raises(TypeError, match=r"X is a dict, .* its values are futures; use pandas\.DataFrame\(client\.gather\(X\)\)"):
        Ridge().fit(scattered, Y)
    np.testing.assert_allclose(Ridge().fit(pd.DataFrame(client.gather(scattered)), Y).coef_, Ridge().fit(X[:, :2], Y).coef_)


async def coroutine() -> Any:
    return X


OBJECTS: dict[str, Callable[[], Any]] = {
    "coroutine": coroutine,
    "object": object,
    "model": Ridge,
    "dataset": lambda: Dataset.from_arrays(X, Y),
}


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_objects_that_are_no_rows(make: Callable[[], Any]) -> None:
    value = make()
    kind = type(value).__name__
    for name, call in (
        ("X", lambda: Dataset.from_arrays(value, Y)),
        ("y", lambda: Dataset.from_arrays(X, value)),
        ("sample_weight", lambda: Dataset.from_dask(LAZY, Y, value)),
    ):
        with pytest.raises(TypeError, match=rf"^{name} is a .*{kind}, which is no rows: pass an array or a frame"):
            call()
    if make is coroutine:
        value.close()


def test_batches_of_arrow_keep_their_names() -> None:
    (batch,) = pa.table({"a": X[:, 0], "b": X[:, 1]}).to_batches()
    dataset = Dataset.from_arrays(batch, Y)
    assert dataset.columns == ("a", "b")
    model = Ridge().fit(batch, Y)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(model.predict(batch), Ridge().fit(X[:, :2], Y).predict(X[:, :2]))


def test_names_that_are_there_twice() -> None:
    with pytest.raises(ValueError, match="column 'a' is there several times; names must differ"):
        Dataset.from_arrays(X[:, :2], columns=["a", "a"])
    assert Dataset.from_arrays(X[:, :2], columns=["a", "b"]).columns == ("a", "b")


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_equal_places_of_narrow_integers_add_up(form: str) -> None:
    places = ([0, 0, 1], [0, 0, 1])
    narrow = sp.coo_array((np.array([200, 200, 3], np.uint8), places), shape=(2, 2))
    if form == "csr":
        narrow = sp.csr_array((np.array([200, 200, 3], np.uint8), [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    if form == "csc":
        narrow = sp.csc_array((np.array([200, 200, 3], np.uint8), [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    before = narrow.data.copy()
    (group,) = Dataset.from_arrays(narrow, [0.0, 1.0]).source.load_local(1).groups(0)
    expected = np.zeros((2, 2))
    np.add.at(expected, places, [200.0, 200.0, 3.0])
    np.testing.assert_array_equal(group.X.toarray(), expected)
    np.testing.assert_array_equal(narrow.data, before)


@pytest.mark.parametrize("model", [SGDClassifier(), LogisticRegression(), MLPClassifier()], ids=str)
@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"]], ids=str)
def test_classes_that_are_set_as_a_list(model: Any, labels: list[Any]) -> None:
    if isinstance(model, MLPClassifier):
        model.coefs_, model.intercepts_ = [np.ones((2, 1))], [np.zeros(1)]
        model.set_params(hidden_layer_sizes=())
    else:
        model.coef_, model.intercept_ = np.ones((1, 2)), [0.0]
    model.classes_ = labels
    rows = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert model.predict(rows).tolist() == labels[::-1]
