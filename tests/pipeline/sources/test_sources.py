"""Whatever the rows come from, the same partitions give the same bits, here and on a cluster, from one read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from dask import delayed
from distributed import Client

from pipeline import Dataset, LinearRegression, LogisticRegression
from pipeline.sources.sources import GraphSource
from tasks.loading import checking

ROWS = (100, 200, 300)
CUTS = (0, 100, 300, 600)
NAMES = list("abcd")


def example() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(sum(ROWS), len(NAMES)))
    return X, (X @ [1.0, -1.0, 0.5, 0.0] + draw.normal(size=len(X)) > 0).astype(np.int64)


X, Y = example()
FRAME = pd.DataFrame(X, columns=NAMES).assign(t=Y)


def pieces(rows: Any) -> list[Any]:
    return [rows[a:b] for a, b in pairwise(CUTS)]


def dask_X(chunks: Any = (ROWS, (1, 3))) -> da.Array:
    return da.from_array(X, chunks=chunks)


def dask_y(chunks: Any = (ROWS,)) -> da.Array:
    return da.from_array(Y, chunks=chunks)


def dask_frame() -> Any:
    return dd.concat([dd.from_pandas(piece, npartitions=1) for piece in pieces(FRAME)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in every format."""
    root = tmp_path_factory.mktemp("files")
    for i, (x, y, frame) in enumerate(zip(pieces(X), pieces(Y), pieces(FRAME), strict=True)):
        np.save(root / f"X-{i}.npy", x)
        np.save(root / f"F-{i}.npy", np.asfortranarray(x))
        np.save(root / f"y-{i}.npy", y)
        frame.to_parquet(root / f"part-{i}.parquet")
        frame.to_csv(root / f"part-{i}.csv", index=False)
        frame.to_csv(root / f"part-{i}.csv.gz", index=False)
        with h5py.File(root / f"part-{i}.h5", "w") as h5:
            h5["X"], h5["y"] = x, y
    pd.concat(pieces(FRAME)).to_parquet(root / "groups.parquet", row_group_size=150)
    da.to_npy_stack(root / "X-stack", dask_X((ROWS, -1)))
    da.to_npy_stack(root / "y-stack", dask_y())
    dask_X((150, 2)).to_zarr(str(root / "X.zarr"))
    dask_y(150).to_zarr(str(root / "y.zarr"))
    return root


SOURCES: dict[str, Callable[[Path], Dataset]] = {
    "pandas": lambda files: Dataset.from_arrays(FRAME[NAMES], FRAME["t"], partition_rows=ROWS),
    "one-pandas-frame": lambda files: Dataset.from_dataframe(FRAME, target="t", n_partitions=3),
    "sparse": lambda files: Dataset.from_arrays(sp.csr_array(X), Y, partition_rows=ROWS),
    "dask": lambda files: Dataset.from_dask(dask_X(), dask_y()),
    "dask-repartitioned": lambda files: Dataset.from_dask(dask_X(), dask_y(), n_partitions=7),
    "dask-y-in-other-chunks": lambda files: Dataset.from_dask(dask_X(), dask_y(77)),
    "dask-y-in-memory": lambda files: Dataset.from_dask(dask_X(), Y),
    "dask-y-is-pandas": lambda files: Dataset.from_dask(dask_X(), FRAME["t"]),
    "dask-sparse": lambda files: Dataset.from_dask(dask_X().map_blocks(sp.csr_array, dtype=float), dask_y()),
    "unknown": lambda files: Dataset.from_dask(dask_X()[dask_X()[:, 0] > -99], dask_y()[dask_X()[:, 0] > -99]),
    "unknown-X": lambda files: Dataset.from_dask(dask_X()[dask_X()[:, 0] > -99], dask_y(77)),
    "unknown-repartitioned": lambda files: Dataset.from_dask(dask_X()[dask_X()[:, 0] > -99], dask_y(), n_partitions=4),
    "frames": lambda files: Dataset.from_dask(dask_frame()[NAMES], dask_frame()["t"]),
    "frames-repartitioned": lambda files: Dataset.from_dask(dask_frame()[NAMES], dask_frame()["t"], n_partitions=2),
    "frames-of-other-partitions": lambda files: Dataset.from_dask(dask_frame()[NAMES], dask_frame()["t"].repartition(npartitions=2)),
    "frame-and-array": lambda files: Dataset.from_dask(dask_frame()[NAMES], dask_y(77)),
    "array-and-series": lambda files: Dataset.from_dask(dask_X(), dask_frame()["t"]),
    "one-frame": lambda files: Dataset.from_dataframe(dask_frame(), target="t"),
    "one-frame-more-partitions": lambda files: Dataset.from_dataframe(dask_frame(), target="t", n_partitions=5),
    "function": lambda files: Dataset.from_function(lambda i: (pieces(X)[i], pieces(Y)[i]), n_partitions=3, n_columns=4),
    "npy": lambda files: Dataset.read_npy(files / "X-*.npy", files / "y-*.npy"),
    "npy-fortran": lambda files: Dataset.read_npy(files / "F-*.npy", files / "y-*.npy", n_partitions=6),
    "npy-stack": lambda files: Dataset.read_npy(files / "X-stack", files / "y-stack"),
    "csv": lambda files: Dataset.read_csv(str(files / "part-*.csv"), target="t"),
    "csv-gz": lambda files: Dataset.read_csv([files / f"part-{i}.csv.gz" for i in range(3)], target="t"),
    "parquet": lambda files: Dataset.read_parquet(files / "part-*.parquet", target="t"),
    "parquet-row-groups": lambda files: Dataset.read_parquet(files / "groups.parquet", target="t"),
    "zarr": lambda files: Dataset.read_zarr(files / "X.zarr", files / "y.zarr"),
    "hdf5": lambda files: Dataset.read_hdf5(files / "part-*.h5", X="X", y="y"),
}


@pytest.mark.parametrize("where", ["threads", pytest.param("cluster", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", SOURCES)
def test_same_bits_as_the_same_partitions_in_memory(name: str, where: str, files: Path, request: pytest.FixtureRequest) -> None:
    if where == "cluster":
        request.getfixturevalue("client")
    dataset = SOURCES[name](files)
    model = LogisticRegression(solver="newton").fit(dataset)
    expected = LogisticRegression(solver="newton").fit(Dataset.from_arrays(X, Y, partition_rows=dataset.schema.partition_rows))
    assert model.parameters_sha256_ == expected.parameters_sha256_
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    assert dataset.n_partitions == len(dataset.schema.partition_rows)


@pytest.mark.parametrize("name", SOURCES)
def test_X_and_y_are_dask_arrays_of_the_rows(name: str, files: Path) -> None:
    dataset = SOURCES[name](files)
    rows, targets = dataset.X, dataset.y
    assert isinstance(rows, da.Array)
    assert isinstance(targets, da.Array)
    found = rows.compute()
    np.testing.assert_array_equal(found.toarray() if sp.issparse(found) else found, X)
    np.testing.assert_array_equal(targets.compute(), Y)
    assert dataset.X.chunks[0] == targets.chunks[0] == tuple(dataset.schema.partition_rows)


def test_partitions_come_from_the_files(files: Path) -> None:
    assert Dataset.read_parquet(files / "groups.parquet", target="t", columns=["b"]).n_partitions == 4  # not fewer for fewer columns
    assert Dataset.read_csv(files / "part-*.csv", target="t", blocksize=8000).n_partitions > 3
    assert Dataset.read_parquet(files / "part-*.parquet", target="t", n_partitions=2).n_partitions == 2
    assert Dataset.from_arrays(np.zeros((300_000, 4)), np.zeros(300_000)).n_partitions == 2  # of 4 MiB or more


@pytest.mark.parametrize("n_partitions", [1, 600, 601, 1000])
@pytest.mark.long
def test_any_number_of_partitions(n_partitions: int) -> None:
    for dataset in (Dataset.from_arrays(X, Y, n_partitions=n_partitions), Dataset.from_dask(dask_X(), dask_y(), n_partitions=n_partitions)):
        assert dataset.n_partitions == n_partitions
        assert dataset.schema.n_rows == 600
        assert dataset.source.n_groups <= 256


@pytest.mark.parametrize(
    ("n_partitions", "mib_each", "n_groups"),
    [
        (16, 0.001, 16),
        (1000, 0.001, 16),
        (1000, 8, 250),
        (10_000, 0.1, 157),
        (10_000, 128, 2500),
        (100, 128, 100),
        (10_000, np.inf, 2500),
        (1000, np.inf, 250),
    ],
)
@pytest.mark.long
def test_groups_are_as_many_as_workers_may_need(n_partitions: int, mib_each: float, n_groups: int) -> None:
    """A thousand workers have something to do when there is much; little data are few groups."""
    table = Dataset.from_function(lambda i: None, n_partitions=n_partitions, n_columns=1).source
    assert isinstance(table, GraphSource)
    rows = None if np.isinf(mib_each) else [int(mib_each * 2**20) // 8] * n_partitions
    source = replace(table, sizes=rows)
    assert source.n_groups == n_groups
    assert source.group_starts[-1] == n_partitions


@pytest.mark.parametrize("where", ["threads", "cluster"])
@pytest.mark.long
def test_a_thousand_uneven_partitions_some_empty(where: str, request: pytest.FixtureRequest) -> None:
    if where == "cluster":
        request.getfixturevalue("client")
    cuts = np.sort(np.random.default_rng(1).integers(0, 601, size=999))
    rows = np.diff(np.concatenate([[0], cuts, [600]]))
    assert 0 in rows
    starts = np.concatenate([[0], np.cumsum(rows)])
    expected = Dataset.from_arrays(X, Y, partition_rows=rows)

    def make(i: int) -> tuple[Any, Any]:
        return X[starts[i] : starts[i + 1]], Y[starts[i] : starts[i + 1]]

    found = Dataset.from_function(make, n_partitions=1000, n_columns=4)
    models = [LogisticRegression(solver="newton").fit(dataset) for dataset in (expected, found)]
    assert models[0].parameters_sha256_ == models[1].parameters_sha256_
    assert found.source.n_groups == 250


@pytest.mark.parametrize(
    "convert",
    [np.asfortranarray, lambda x: x[::-1][::-1], lambda x: x.astype(">f8"), lambda x: np.lib.stride_tricks.as_strided(x, writeable=False)],
    ids=["fortran", "strided", "big-endian", "read-only"],
)
def test_memory_layout_does_not_matter(convert: Callable[[Any], Any]) -> None:
    expected = LogisticRegression(solver="newton").fit(Dataset.from_arrays(X, Y, n_partitions=3))
    for dataset in (
        Dataset.from_arrays(convert(X), Y, n_partitions=3),
        Dataset.from_dask(dask_X((200, -1)).map_blocks(convert), dask_y(200)),
    ):
        assert LogisticRegression(solver="newton").fit(dataset).parameters_sha256_ == expected.parameters_sha256_


@pytest.mark.parametrize("dtype", ["float16", "int8", "int64", "uint32", "bool", "object"])
def test_other_dtypes_are_fitted_as_float64(dtype: str) -> None:
    whole = np.abs(X * 10).round().astype(dtype)
    expected = LinearRegression().fit(Dataset.from_arrays(whole.astype(np.float64), Y, n_partitions=3))
    datasets = [Dataset.from_arrays(whole, Y, n_partitions=3), Dataset.from_dask(da.from_array(whole, chunks=200), dask_y(200))]
    if dtype != "object":  # Dask takes such columns for strings
        frame = pd.DataFrame(whole, columns=NAMES)
        datasets.append(Dataset.from_dask(dd.from_pandas(frame, npartitions=3), dd.from_pandas(FRAME["t"], npartitions=3)))
    for dataset in datasets:
        assert dataset.dtype == ("float32" if dtype in ("float16", "int8", "bool") else "float64")
        assert dataset.parameter_dtype == "float64"
        np.testing.assert_allclose(LinearRegression().fit(dataset).coef_, expected.coef_, rtol=1e-9)


def test_float32_is_kept() -> None:
    frame = pd.DataFrame(X.astype(np.float32), columns=NAMES)
    for dataset in (
        Dataset.from_arrays(frame, Y),
        Dataset.from_dask(dask_X().astype(np.float32), dask_y()),
        Dataset.from_dask(dd.from_pandas(frame, npartitions=2), dask_y()),
    ):
        assert dataset.dtype == "float32"
        assert LogisticRegression().fit(dataset).coef_.dtype == np.float32
    assert Dataset.from_arrays(frame.assign(a=X[:, 0]), Y).dtype == "float64"


LABELS: dict[str, Callable[[Any], Any]] = {
    "strings": lambda y: np.where(y == 1, "yes", "no"),
    "object-strings": lambda y: np.where(y == 1, "yes", "no").astype(object),
    "pandas-strings": lambda y: pd.Series(np.where(y == 1, "yes", "no")),
    "nullable-strings": lambda y: pd.Series(np.where(y == 1, "yes", "no"), dtype="string"),
    "categorical": lambda y: pd.Series(np.where(y == 1, "yes", "no"), dtype="category"),
    "categorical-integers": lambda y: pd.Series(y, dtype="category"),
    "nullable-integers": lambda y: pd.Series(y, dtype="Int64"),
    "nullable-booleans": lambda y: pd.Series(y == 1, dtype="boolean"),
    "arrow-strings": lambda y: pd.Series(np.where(y == 1, "yes", "no"), dtype="string[pyarrow]"),
    "arrow-integers": lambda y: pd.Series(y, dtype="int64[pyarrow]"),
    "booleans": lambda y: y == 1,
    "floats": lambda y: y.astype(np.float64),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type(kind: str) -> None:
    y = LABELS[kind](Y)
    classes = sorted(set(y.tolist()))
    expected = LogisticRegression(solver="newton").fit(Dataset.from_arrays(X, Y, partition_rows=ROWS))
    datasets = [Dataset.from_arrays(X, y, partition_rows=ROWS)]
    if isinstance(y, pd.Series):
        frame = dd.concat([dd.from_pandas(piece, npartitions=1) for piece in pieces(FRAME.assign(t=y))])
        datasets += [Dataset.from_dask(frame[NAMES], frame["t"]), Dataset.from_dataframe(frame, target="t")]
        datasets += [Dataset.from_dask(dask_X(), frame["t"])]
    for dataset in datasets:
        model = LogisticRegression(solver="newton").fit(dataset)
        assert model.classes_.tolist() == classes
        assert model.classes_.dtype.kind == np.asarray(classes).dtype.kind
        assert model.parameters_sha256_ == expected.parameters_sha256_


@pytest.mark.parametrize(
    ("y", "kind", "dtype", "text", "too_many"),
    [
        ((X[:, 0] * 10).astype(np.float32), "continuous", "float32", False, False),
        (np.arange(600, dtype=np.int32), "continuous", "int32", False, True),
        (np.arange(600).astype("U3"), "text", "<U3", True, True),
        (np.where(Y == 1, "yes", "no"), "classes", "<U3", True, False),
        (Y.astype(np.int8), "classes", "int8", False, False),
        (Y[:, None].astype(np.float32), "multioutput", "float32", False, False),
    ],
)
def test_the_kind_and_dtype_of_y(y: Any, kind: str, dtype: str, text: bool, too_many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MAX_CLASSES", 50)
    chunks = pieces(y)
    for dataset in (
        Dataset.from_arrays(X, y, partition_rows=ROWS),
        Dataset.from_function(lambda i: (pieces(X)[i], chunks[i]), n_partitions=3, n_columns=4),
    ):
        schema = dataset.schema
        assert (schema.target_kind, schema.target_dtype, schema.target_is_text, schema.too_many_classes) == (kind, dtype, text, too_many)
        assert dataset.y.dtype == dtype
        np.testing.assert_array_equal(dataset.y.compute(), y)
    assert Dataset.from_arrays(X).schema.target_dtype is None


def test_y_of_partitions_that_differ_in_dtype() -> None:
    chunks = [Y[:100].astype(np.int8), Y[100:300].astype(np.float32), Y[300:]]
    y = Dataset.from_function(lambda i: (pieces(X)[i], chunks[i]), n_partitions=3, n_columns=4).y
    assert {chunk.compute().dtype for chunk in y.partitions} == {y.dtype} == {np.dtype(np.float64)}


@dataclass
class Tally:
    """Counts reads, in whatever process they happen."""

    path: Path

    def reader(self, chunks: list[Any]) -> Callable[[int], Any]:
        path = self.path

        def read(i: int) -> Any:
            with path.open("a") as file:
                file.write("r")
            return chunks[i]

        return read

    @property
    def reads(self) -> int:
        return len(self.path.read_text())


@pytest.fixture(params=["threads", "cluster"])
def tally(tmp_path: Path, request: pytest.FixtureRequest) -> Tally:
    if request.param == "cluster":
        request.getfixturevalue("client")
    (tmp_path / "tally").touch()
    return Tally(tmp_path / "tally")


def counted_array(tally: Tally, rows: Any) -> da.Array:
    read = delayed(tally.reader(pieces(rows)), pure=True)
    return da.concatenate([da.from_delayed(read(i), (n, *rows.shape[1:]), rows.dtype) for i, n in enumerate(ROWS)])


def test_one_read_a_fit(tally: Tally) -> None:
    both = counted_array(tally, np.column_stack([X, Y]))
    LogisticRegression(solver="gradient-descent", tol=1e-2).fit(both[:, :4], both[:, 4])
    assert tally.reads == 3


def test_released_rows_are_read_again(tally: Tally) -> None:
    train, test = Dataset.from_dask(counted_array(tally, X), dask_y()).split()
    scores = []
    for reads in (3, 6):
        model = LogisticRegression().fit(train)
        scores.append((model.parameters_sha256_, model.score(test)))
        assert tally.reads == reads
        test.release()
        assert not train.source.resident
    assert scores[0] == scores[1]
    train.release()


def test_one_read_of_frames(tally: Tally) -> None:
    frame = dd.from_map(tally.reader(pieces(FRAME)), range(3), meta=FRAME.iloc[:0])
    LogisticRegression().fit(frame[NAMES], frame["t"])
    assert tally.reads == 3


def test_one_read_for_fit_split_describe_and_score(tally: Tally) -> None:
    train, test = Dataset.from_dask(counted_array(tally, X), dask_y()).split(0.3)
    model = LogisticRegression().fit(train)
    model.score(test)
    train.describe()
    test.describe()
    LogisticRegression(C=0.1).fit(train)
    assert tally.reads == 3


def test_one_read_of_chunks_that_do_not_match(tally: Tally) -> None:
    LogisticRegression().fit(counted_array(tally, X), dask_y(), sample_weight=None)
    assert tally.reads == 3
    Dataset.from_dask(counted_array(tally, X), dask_y(), n_partitions=8).schema  # noqa: B018
    assert tally.reads == 6


def test_one_read_of_a_whole_file_that_all_partitions_share(tally: Tally) -> None:
    whole = da.from_delayed(delayed(tally.reader([X]), pure=True)(0), (600, 4), float)
    Dataset.from_dask(whole.rechunk((50, 4)), dask_y(50)).schema  # noqa: B018
    assert tally.reads == 1


def test_one_read_a_use_for_scaling(tally: Tally) -> None:
    source = counted_array(tally, X)
    scaled = (source - source.mean(0)) / source.std(0)
    dataset = Dataset.from_dask(scaled, dask_y())
    model = LogisticRegression(solver="newton").fit(dataset)
    assert tally.reads <= 6  # for mean and deviation once, for the rows once
    expected = LogisticRegression(solver="newton").fit((X - X.mean(0)) / X.std(0), Y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-10)


def test_persisted_rows_on_the_cluster(client: Client) -> None:
    expected = LogisticRegression(solver="newton").fit(Dataset.from_arrays(X, Y, partition_rows=ROWS))
    arrays = Dataset.from_dask(*client.persist([dask_X((ROWS, -1)), dask_y()]))
    frame = client.persist(dask_frame())
    for dataset in (arrays, Dataset.from_dask(frame[NAMES], frame["t"]), Dataset.from_dask(dask_X().persist() * 1.0, dask_y())):
        assert LogisticRegression(solver="newton").fit(dataset).parameters_sha256_ == expected.parameters_sha256_


@pytest.mark.long
def test_shuffled_frame_on_the_cluster(client: Client) -> None:
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        frame = dask_frame().assign(key=lambda f: (f["a"] * 1000).astype(int) % 7).shuffle("key", npartitions=4)
        dataset = Dataset.from_dataframe(frame, target="t", columns=NAMES)
        model = LogisticRegression(solver="newton", tol=1e-10).fit(dataset)
    assert dataset.schema.n_rows == 600
    expected = LogisticRegression(solver="newton", tol=1e-10).fit(X, Y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6)


def test_no_warning_for_rows_from_the_client(client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(400_000, 5))
    model = LinearRegression().fit(rows, rows[:, 0])  # warnings are errors
    np.testing.assert_allclose(model.coef_, [1, 0, 0, 0, 0], atol=1e-12)


def test_the_callers_rows_are_left_alone() -> None:
    data, columns, starts = np.ones(4), np.array([1, 0, 2, 2]), np.array([0, 2, 4])
    matrix = sp.csr_array((data, columns, starts), shape=(2, 4))
    dataset = Dataset.from_arrays(matrix, [0.0, 1.0])
    assert matrix.indices.tolist() == [1, 0, 2, 2]
    assert dataset.X.compute().toarray().tolist() == [[1, 1, 0, 0], [0, 0, 2, 0]]


def test_memory_addresses() -> None:
    address = "memory://dask-descent/rows.csv"
    FRAME.to_csv(address, index=False)
    for name, rows in (("X", X), ("y", Y)):
        with fsspec.open(f"memory://dask-descent/{name}.npy", "wb") as file:
            np.save(file, rows)
    FRAME.to_parquet("memory://dask-descent/rows.parquet")
    expected = LogisticRegression(solver="newton").fit(X, Y)
    for dataset in (
        Dataset.read_csv("memory://dask-descent/*.csv", target="t"),
        Dataset.read_npy("memory://dask-descent/X.npy", "memory://dask-descent/y.npy"),
        Dataset.read_parquet("memory://dask-descent/rows.parquet", target="t"),
    ):
        assert LogisticRegression(solver="newton").fit(dataset).parameters_sha256_ == expected.parameters_sha256_


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_split(where: str, request: pytest.FixtureRequest) -> None:
    marked = np.column_stack([np.arange(600.0), X])
    whole, again = (Dataset.from_arrays(marked, Y, partition_rows=ROWS).split(0.25, seed=3) for _ in range(2))
    expected = [part.X.compute() for part in again]
    if where == "cluster":
        request.getfixturevalue("client")
    train, test = whole
    lazily = Dataset.from_dask(da.from_array(marked, chunks=(ROWS, -1)), dask_y()).split(0.25, seed=3)
    other = Dataset.from_arrays(marked, Y, partition_rows=ROWS).split(0.25, seed=4)
    for part, reference, lazy in zip(whole, expected, lazily, strict=True):
        np.testing.assert_array_equal(part.X.compute(), reference)
        np.testing.assert_array_equal(lazy.X.compute(), reference)
        assert part.schema.n_rows == len(reference)
    assert test.schema.partition_rows.tolist() == [25, 50, 75]
    found = np.concatenate([train.X.compute()[:, 0], test.X.compute()[:, 0]])
    assert sorted(found) == list(range(600))
    np.testing.assert_array_equal(train.y.compute(), Y[train.X.compute()[:, 0].astype(int)])
    assert set(other[1].X.compute()[:, 0]) != set(test.X.compute()[:, 0])
    assert train.source is test.source


def test_describe() -> None:
    dataset = Dataset.from_dataframe(dask_frame(), target="t")
    found = dataset.describe()
    pd.testing.assert_series_equal(found.mean, FRAME[NAMES].mean())
    pd.testing.assert_series_equal(found.variance, FRAME[NAMES].var())
    pd.testing.assert_frame_equal(found.covariance, FRAME[NAMES].cov())
    assert found.n_rows == 600
    assert found.class_balance is not None
    assert found.class_balance["rows"].tolist() == np.bincount(Y).tolist()
    assert found.class_balance["share"].sum() == 1
    assert Dataset.from_arrays(X, X[:, 0]).describe().class_balance is None
