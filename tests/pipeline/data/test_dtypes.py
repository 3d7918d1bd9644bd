"""Rows live in float32 where that holds every value exactly, and nothing that is fitted to them shows it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from pipeline import Dataset, LinearRegression, LogisticRegression, MLPClassifier, MLPRegressor, Ridge, SGDClassifier, SGDRegressor

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.integers(0, 100, size=(200, 3))
Y = COUNTS @ [1.0, 2.0, 3.0] + RANDOM.normal(size=200)
LABELS = (np.median(Y) < Y).astype(int)
EXACT = ["bool", "uint8", "int8", "uint16", "int16", "float16", ">i2"]
OTHERS = ["int32", "uint32", "int64", "uint64", "float64"]
FOUR = {"n_partitions": 4}


def rows(dtype: str) -> Any:
    return COUNTS > 50 if dtype == "bool" else COUNTS.astype(dtype)


def resident_bytes(dataset: Dataset) -> int:
    """Of X where it is resident."""
    groups = dataset.source.load_local(1).all_groups
    assert sum(group.X.nbytes for group in groups) == dataset.schema.n_bytes
    return dataset.schema.n_bytes


def lazy_frame(X: Any, y: Any = Y) -> Any:
    return dd.from_pandas(pd.DataFrame(X, columns=list("abc")).assign(t=y), npartitions=4)


def npy(X: Any, directory: Path) -> Dataset:
    np.save(directory / "X.npy", X)
    np.save(directory / "y.npy", Y)
    return Dataset.read_npy(directory / "X.npy", directory / "y.npy", **FOUR)


def zarr(X: Any, directory: Path) -> Dataset:
    da.from_array(X.astype(X.dtype.newbyteorder("="))).to_zarr(str(directory / "X"))
    da.from_array(Y).to_zarr(str(directory / "y"))
    return Dataset.read_zarr(directory / "X", directory / "y", **FOUR)


def hdf5(X: Any, directory: Path) -> Dataset:
    with h5py.File(directory / "rows.h5", "w") as file:
        file["X"], file["y"] = X, Y
    return Dataset.read_hdf5(directory / "rows.h5", X="X", y="y", **FOUR)


def parquet(X: Any, directory: Path) -> Dataset:
    frame = pd.DataFrame(X.astype(X.dtype.newbyteorder("=")), columns=list("abc")).assign(t=Y)
    frame.to_parquet(directory / "rows.parquet", row_group_size=50)
    return Dataset.read_parquet(directory / "rows.parquet", target="t")


CONSTRUCTORS: dict[str, Callable[[Any, Path], Dataset]] = {
    "array": lambda X, path: Dataset.from_arrays(X, Y, **FOUR),
    "frame": lambda X, path: Dataset.from_arrays(pd.DataFrame(X), Y, **FOUR),
    "one frame": lambda X, path: Dataset.from_dataframe(pd.DataFrame(X).assign(t=Y), target="t", columns=[0, 1, 2], **FOUR),
    "Dask array": lambda X, path: Dataset.from_dask(da.from_array(X, chunks=(50, 2)), da.from_array(Y, chunks=50)),
    "Dask frame": lambda X, path: Dataset.from_dask(lazy_frame(X)[list("abc")], lazy_frame(X)["t"]),
    "one Dask frame": lambda X, path: Dataset.from_dataframe(lazy_frame(X), target="t"),
    "function": lambda X, path: Dataset.from_function(
        lambda i: (X[50 * i : 50 * i + 50], Y[50 * i : 50 * i + 50]), n_partitions=4, n_columns=3, dtype=X.dtype.str
    ),
    "npy": npy,
    "zarr": zarr,
    "hdf5": hdf5,
    "parquet": parquet,
}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [*EXACT, *OTHERS])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_rows_take_four_bytes_where_that_is_exact(name: str, dtype: str, tmp_path: Path) -> None:
    """The fit is that of the same numbers in float64, to the bit, and coef_ is float64."""
    dataset = CONSTRUCTORS[name](rows(dtype), tmp_path)
    assert dataset.dtype == ("float32" if dtype in EXACT else "float64")
    assert resident_bytes(dataset) == COUNTS.size * (4 if dtype in EXACT else 8)
    model = Ridge(solver="lbfgs").fit(dataset)
    same = Ridge(solver="lbfgs").fit(Dataset.from_arrays(rows(dtype).astype(float), Y, **FOUR))
    assert model.coef_.dtype == np.float64
    assert model.parameters_sha256_ == same.parameters_sha256_
    np.testing.assert_array_equal(model.predict(dataset).compute(), same.predict(rows(dtype).astype(float)))
    assert dataset.X.dtype == np.float64


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "LinearRegression": (LinearRegression, Y),
    "Ridge": (lambda: Ridge(solver="newton"), Y),
    "LogisticRegression": (LogisticRegression, LABELS),
    "SGDRegressor": (lambda: SGDRegressor(max_iter=3, random_state=0), Y / 100),
    "SGDClassifier": (lambda: SGDClassifier(max_iter=3, random_state=0), LABELS),
    "MLPRegressor": (lambda: MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0), Y / 100),
    "MLPClassifier": (lambda: MLPClassifier((4,), max_iter=3, random_state=0, dtype="float64"), np.digitize(Y, [200, 300])),
}


def in_memory(X: Any) -> dict[str, Any]:
    """X in all the forms that a fit takes."""
    frame = pd.DataFrame(X)
    found = {"array": X, "Fortran": np.asfortranarray(X), "frame": frame, "Dask array": da.from_array(X, chunks=(50, 3))}
    if X.dtype != np.float16:
        found["Arrow frame"] = frame.astype("bool[pyarrow]" if X.dtype == bool else f"{X.dtype.name}[pyarrow]")
        found["nullable frame"] = (
            frame.convert_dtypes() if X.dtype == bool else frame.astype(X.dtype.name.replace("i", "I").replace("u", "U"))
        )
    return found


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_them(name: str, dtype: str) -> None:
    """Parameters and predictions are those of float64, to the bit, in memory and lazily."""
    make, y = MODELS[name]
    narrow, wide = rows(dtype), rows(dtype).astype(float)
    same = make().fit(wide, y)
    for form, X in in_memory(narrow).items():
        model = make().fit(X, y)
        if form != "Dask array":  # which is cut elsewhere
            assert model.parameters_sha256_ == same.parameters_sha256_, form
        np.testing.assert_array_equal(np.asarray(same.predict(X)), same.predict(wide), err_msg=form)
        kinds = [array.dtype for array in (model.coefs_ if "coefs_" in vars(model) else [model.coef_])]
        assert kinds == [array.dtype for array in (same.coefs_ if "coefs_" in vars(same) else [same.coef_])], form
    dataset = Dataset.from_arrays(narrow, y)
    np.testing.assert_array_equal(same.predict(dataset).compute(), same.predict(wide))
    assert same.score(dataset) == pytest.approx(same.score(wide, y))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16"])
def test_sparse_rows(dtype: str) -> None:
    narrow, wide = sp.csr_array(rows(dtype)), sp.csr_array(rows(dtype).astype(float))
    model, same = Ridge(solver="lbfgs").fit(narrow, Y), Ridge(solver="lbfgs").fit(wide, Y)
    assert model.parameters_sha256_ == same.parameters_sha256_
    assert model.coef_.dtype == np.float64
    np.testing.assert_array_equal(model.predict(narrow), same.predict(wide))
    saved = Dataset.from_arrays(wide, Y).schema.n_bytes - Dataset.from_arrays(narrow, Y).schema.n_bytes
    assert saved == 4 * wide.nnz


def decimals(values: Any) -> Any:
    return pd.Series([Decimal(int(value)) for value in values], dtype=pd.ArrowDtype(pa.decimal128(10, 2)))


FRAME = pd.DataFrame(COUNTS, columns=list("abc"))
FRAMES: dict[str, tuple[pd.DataFrame, str, str]] = {
    "narrow of several kinds": (FRAME.assign(a=FRAME["a"] > 50).astype({"b": "uint16", "c": "Int16"}), "float32", "float64"),
    "Arrow's booleans": (
        FRAME.assign(a=(FRAME["a"] > 50).astype("bool[pyarrow]")).astype({"b": "int8", "c": "int8"}),
        "float32",
        "float64",
    ),
    "one wide column": (FRAME.astype({"a": "uint8", "b": "bool"}), "float64", "float64"),
    "one column of float64": (FRAME.astype({"a": "float32", "b": "float32", "c": "float64"}), "float64", "float64"),
    "float32 beside narrow": (FRAME.astype({"a": "float32", "b": "uint8", "c": "bool"}), "float32", "float64"),
    "float32": (FRAME.astype("float32"), "float32", "float32"),
    "nullable float32": (FRAME.astype("Float32"), "float32", "float32"),
    "Arrow's float32": (FRAME.astype("float[pyarrow]"), "float32", "float32"),
    "Arrow's float16": (FRAME.astype("halffloat[pyarrow]"), "float32", "float64"),
    "Arrow's decimals": (FRAME.assign(a=decimals(COUNTS[:, 0])), "float64", "float64"),
    "objects": (FRAME.assign(a=FRAME["a"].astype(object)), "float64", "float64"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_columns_of_frames(name: str) -> None:
    """Rows as narrow as the widest column allows; coef_ is float32 when all columns are."""
    frame, dtype, of_coef = FRAMES[name]
    dataset = Dataset.from_arrays(frame, Y)
    assert (dataset.dtype, dataset.parameter_dtype) == (dtype, of_coef)
    same = Ridge().fit(frame.astype(float).to_numpy(), Y)
    model = Ridge().fit(frame, Y)
    assert model.coef_.dtype == of_coef
    assert model.parameters_sha256_ == same.parameters_sha256_
    if name != "objects":  # Dask makes text of them
        lazy = Ridge().fit(dd.from_pandas(frame, npartitions=3), Y)
        assert lazy.coef_.dtype == of_coef
        np.testing.assert_allclose(lazy.coef_, same.coef_, rtol=1e-5)


def test_missing_values_are_found() -> None:
    for dtype in ("boolean", "bool[pyarrow]", "UInt8", "uint8[pyarrow]"):
        frame = FRAME.astype("uint8").assign(b=pd.array([1, 0, 1, None] * 50, dtype=dtype))
        for fit in (
            lambda frame=frame: Ridge().fit(frame, Y),
            lambda frame=frame: Dataset.from_arrays(frame, Y).schema,
            lambda frame=frame: Ridge().fit(dd.from_pandas(frame, npartitions=2), Y),
        ):
            with pytest.raises(ValueError, match="Input X contains NaN: column 'b' of X, row 3 of partition 0"):
                fit()


def test_dtypes_of_functions_are_checked() -> None:
    for dtype in ("complex64", "datetime64[s]", "str", "object"):
        with pytest.raises(ValueError, match="dtype must be one of real numbers or booleans, got"):
            Dataset.from_function(lambda i: (COUNTS, Y), n_partitions=1, n_columns=3, dtype=dtype)


def declared(X: Any, dtype: str) -> Dataset:
    """Dask arrays of X that say they are of that dtype."""
    return Dataset.from_dask(da.from_array(X, chunks=(50, 3)).map_blocks(lambda a: a, dtype=dtype), da.from_array(Y, 50))


LYING: dict[str, Callable[[Any], Dataset]] = {
    "Dask array": lambda X: Dataset.from_dask(
        da.from_array(X, chunks=(50, 3)).map_blocks(lambda a: a, dtype="int16"), da.from_array(Y, 50)
    ),
    "float32": lambda X: declared(X, "float32"),
    "Dask frame": lambda X: Dataset.from_dataframe(
        lazy_frame(COUNTS).map_partitions(
            lambda frame: frame.assign(a=X[frame.index, 0]),
            meta=lazy_frame(COUNTS.astype("int16"))._meta,
            enforce_metadata=False,
        ),
        target="t",
    ),
    "function": lambda X: Dataset.from_function(
        lambda i: (X[50 * i : 50 * i + 50], Y[50 * i : 50 * i + 50]), n_partitions=4, n_columns=3, dtype="uint8"
    ),
    "sparse": lambda X: Dataset.from_function(
        lambda i: (sp.csr_array(X[50 * i : 50 * i + 50]), Y[50 * i : 50 * i + 50]), n_partitions=4, n_columns=3, dtype="bool"
    ),
    "objects": lambda X: Dataset.from_function(
        lambda i: (X[50 * i : 50 * i + 50].astype(object), Y[50 * i : 50 * i + 50]), n_partitions=4, n_columns=3, dtype="uint8"
    ),
}


@pytest.mark.parametrize("name", LYING)
def test_rows_that_are_not_what_was_declared(name: str) -> None:
    """Values that the declared dtype holds are taken as they are; others would be rounded without a word."""
    same = Ridge().fit(Dataset.from_arrays(COUNTS, Y, n_partitions=4))
    np.testing.assert_allclose(Ridge().fit(LYING[name](COUNTS.astype(float))).coef_, same.coef_, rtol=1e-6)
    with pytest.raises(ValueError, match=r"partition \d .*X holds float64 values, which float32 would round, but is declared in a dtype"):
        Ridge().fit(LYING[name](COUNTS + 0.1))


def test_labels_beyond_64_bits_are_refused() -> None:
    """Two of them could become one."""
    ids = [2**70 + int(label) for label in LABELS]
    fits: list[Callable[[], Any]] = [
        lambda: LogisticRegression().fit(COUNTS, ids),
        lambda: LogisticRegression().fit(COUNTS, np.array(ids, dtype=object)),
        lambda: Dataset.from_arrays(COUNTS, ids),
    ]
    for fit in fits:
        with pytest.raises(ValueError, match="that neither 64 bits nor float64 tell from others; pass labels as text"):
            fit()
    exact = LogisticRegression().fit(COUNTS, [2**63 + int(label) for label in LABELS])
    assert exact.classes_.tolist() == [2**63, 2**63 + 1]
    assert Ridge().fit(COUNTS, [2**70 * int(label) for label in LABELS]).coef_.shape == (3,)  # float64 holds these


def test_labels_that_partitions_hold_in_dtypes_of_no_common_one() -> None:
    """int64 and uint64 meet in float64 alone, which holds whole numbers up to 2^53."""

    def dataset(first: Any, second: Any) -> Dataset:
        half = np.arange(100) % 2
        return Dataset.from_function(
            lambda i: (COUNTS[:100], [first, second][i] + half.astype([first, second][i].dtype)), n_partitions=2, n_columns=3
        )

    small = LogisticRegression().fit(dataset(np.int64(1), np.uint64(1)))
    assert small.classes_.tolist() == [1, 2]
    with pytest.raises(ValueError, match="y holds 9007199254740993 as int64 in some partitions and uint64 labels in others"):
        LogisticRegression().fit(dataset(np.int64(2**53), np.uint64(1)))
