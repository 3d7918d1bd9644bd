"""Partitions that cannot be used: named with their place, or left out, as if they had no rows, with the same bits everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from dask import delayed
from distributed import Client

from pipeline import Dataset, LogisticRegression, MLPRegressor, PartitionError, QuarantineWarning, Ridge
from pipeline.estimators.base import GradientModel
from pipeline.jobs.job import Job
from pipeline.runs.run import run_job
from pipeline.sources.errors import PartitionTypeError, Quarantined
from tasks.loading.shards import LoadError, load_error

pytestmark = pytest.mark.timeout(60)

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(240, 3))
Y = (X @ [1.0, -1.0, 0.5] + DRAW.normal(size=240) > 0).astype(np.int64)
N, ROWS = 24, 10


class BrokenError(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def rows(i: int) -> tuple[Any, Any]:
    return X[i * ROWS : (i + 1) * ROWS].copy(), Y[i * ROWS : (i + 1) * ROWS]


def poisoned(i: int) -> Any:
    """Three partitions that cannot be used, each in its own way."""
    x, y = rows(i)
    if i == 2:
        raise BrokenError(1, 2)
    if i == 7:
        x[3, 1] = np.nan
    if i == 19:
        return x, y, np.full(ROWS, -1.0)
    return x, y, np.ones(ROWS)


def without(*left_out: int) -> Callable[[int], Any]:
    """Those partitions as empty ones."""

    def make(i: int) -> Any:
        x, y = rows(i)
        return (x[:0], y[:0], np.ones(0)) if i in left_out else (x, y, np.ones(ROWS))

    return make


def made(make: Callable[[int], Any], **more: Any) -> Dataset:
    return Dataset.from_function(make, n_partitions=N, n_columns=3, **more)


def digest(dataset: Dataset, model: Any = None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuarantineWarning)
        return str((model or LogisticRegression(tol=1e-8)).fit(dataset).parameters_sha256_)


LEFT_OUT = (
    Quarantined(2, "make(2)", "make(2) raised BrokenError: 1 and 2; it must return a tuple (X, y) or (X, y, sample_weight)"),
    Quarantined(7, "make(7)", "Input X contains NaN: column 'x1' of X, row 3"),
    Quarantined(19, "make(19)", "sample_weight is -1.0 in row 0"),
)


def test_what_is_left_out_is_said() -> None:
    dataset = made(poisoned, on_error="quarantine")
    with pytest.warns(QuarantineWarning, match=r"3 of 24 partitions are left out .*: partition 2 \(make\(2\)\): make\(2\) raised Bro"):
        schema = dataset.schema
    assert dataset.quarantined == LEFT_OUT
    assert schema.n_rows == 210 and schema.partition_rows[[2, 7, 19]].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(dataset.X.compute(), np.delete(X, np.r_[20:30, 70:80, 190:200], axis=0))
    np.testing.assert_array_equal(dataset.y.compute(), np.delete(Y, np.r_[20:30, 70:80, 190:200]))


@pytest.mark.long
def test_the_bits_are_those_of_empty_partitions(client: Client) -> None:
    expected = digest(made(without(2, 7, 19)))
    assert digest(made(poisoned, on_error="quarantine")) == expected
    for scheduler in ("threads", "synchronous"):
        with dask.config.set(scheduler=scheduler):
            assert digest(made(poisoned, on_error="quarantine")) == expected
            assert digest(made(without(2, 7, 19), on_error="quarantine")) == expected


def test_parts_of_a_split_leave_out_the_same() -> None:
    train, test = made(poisoned, on_error="quarantine").split(0.3)
    with pytest.warns(QuarantineWarning):
        n_rows = train.schema.n_rows + test.schema.n_rows
    assert n_rows == 210
    assert train.quarantined == test.quarantined == LEFT_OUT


GONE = "part of it is gone"


@delayed  # type: ignore[untyped-decorator]
def shared(whole: Any, a: int, b: int) -> Any:
    return whole[a:b]


@delayed  # type: ignore[untyped-decorator]
def fails(whole: Any) -> Any:
    raise OSError(GONE)


def of_shared_chunks() -> Dataset:
    """Partitions of 50 rows from chunks of 60: chunk 1, which cannot be read, is needed by partitions 1 and 2."""
    whole = delayed(X)
    parts = [
        da.from_delayed((fails if i == 1 else shared)(whole, *[i * 60, i * 60 + 60][: 2 * (i != 1)]), (60, 3), float) for i in range(4)
    ]
    y = da.from_array(Y, chunks=60)
    return Dataset.from_dask(da.concatenate(parts), y, n_partitions=8, on_error="quarantine")


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", None])
def test_what_several_partitions_need(client: Client, scheduler: str | None) -> None:
    """Whichever of them are made together: it depends on the executor what is made once for all."""
    with dask.config.set(scheduler=scheduler), pytest.warns(QuarantineWarning):
        found = of_shared_chunks().quarantined
    assert [(each.partition, each.reason) for each in found] == [(2, f"OSError: {GONE}"), (3, f"OSError: {GONE}")]


@pytest.mark.parametrize(
    "model", [Ridge(), Ridge(solver="newton"), MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, tol=0.0)], ids=["ridge", "newton", "mlp"]
)
@pytest.mark.filterwarnings("ignore:MLPRegressor ended out of rounds")
@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_a_group_without_any_rows(model: GradientModel, kind: str) -> None:
    """It does not know what its rows would look like: sparse, weighted, of several targets."""
    targets = X @ DRAW.normal(size=(3, 2))
    form: Any = sp.csr_array if kind == "csr" else np.asarray

    def make(i: int) -> Any:
        if i in (0, 5):
            raise OSError(GONE)
        own = slice(i * ROWS, (i + 1) * ROWS)
        return form(X[own]), targets[own], np.ones(ROWS)

    dataset = Dataset.from_function(make, n_partitions=8, n_columns=3, on_error="quarantine")
    assert dataset.source.n_groups == 8
    with pytest.warns(QuarantineWarning):
        found = model.fit(dataset)
    assert np.isfinite(found.score(dataset))
    if isinstance(model, Ridge):
        kept = np.r_[10:50, 60:80]
        np.testing.assert_allclose(found.coef_, Ridge().fit(X[kept], targets[kept]).coef_, rtol=1e-6)


def test_nothing_is_left() -> None:
    def make(i: int) -> Any:
        raise OSError(GONE)

    with (
        pytest.warns(QuarantineWarning, match=r"24 of 24 .*; and 19 more$"),
        pytest.raises(ValueError, match=r"0 sample\(s\) in 24 partition\(s\), 24 of which are left out, while"),
    ):
        _ = made(make, on_error="quarantine").schema


def test_memory_is_not_the_datas_fault() -> None:
    def make(i: int) -> Any:
        if i == 3:
            raise MemoryError
        return rows(i)

    with pytest.raises(PartitionError, match=r"partition 3 \(make\(3\)\)"):
        _ = made(make, on_error="quarantine").schema


@pytest.mark.parametrize("on_error", ["ignore", None])
def test_other_names_are_refused(on_error: Any) -> None:
    with pytest.raises(ValueError, match=r"on_error must be one of 'raise', 'quarantine', got"):
        made(rows, on_error=on_error)


def test_a_pandas_frame_is_not_read_by_partitions() -> None:
    frame = pd.DataFrame(X, columns=list("abc")).assign(t=Y)
    with pytest.raises(ValueError, match="drop bad rows of a pandas frame before"):
        Dataset.from_dataframe(frame, target="t", on_error="quarantine")


def test_errors_of_a_users_graph(client: Client) -> None:
    def chunk(i: int) -> Any:
        if i == 3:
            raise BrokenError(3, 4)
        if i == 5:
            raise TypeError("no such thing")
        return X[i * ROWS : (i + 1) * ROWS]

    def dataset(n: int) -> Dataset:
        parts = [da.from_delayed(delayed(chunk)(i), (ROWS, 3), float) for i in range(n, n + 2)]
        return Dataset.from_dask(da.concatenate(parts), da.from_array(Y[: 2 * ROWS], chunks=ROWS))

    for scheduler in ("synchronous", "threads", None):
        with dask.config.set(scheduler=scheduler):
            with pytest.raises(
                PartitionError, match=r"^partition 1 \(chunk \(1, 0\) of 'concatenate-.*'\): BrokenError: 3 and 4$"
            ) as raised:
                _ = dataset(2).schema
            assert raised.value.partition == 1 and raised.value.location.startswith("chunk (1, 0)")
            assert "3 and 4" in str(raised.value.__cause__)
            with pytest.raises(PartitionTypeError, match=r"^partition 0 \(chunk .*: no such thing$"):
                _ = dataset(5).schema


def test_an_error_that_cannot_be_sent() -> None:
    found = load_error(4, BrokenError(1, 2))
    assert isinstance(found, LoadError) and isinstance(found.original, RuntimeError)
    assert str(found.original) == "BrokenError: 1 and 2"


def test_job_files(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abc")).assign(t=Y)
    for i, piece in enumerate(np.array_split(np.arange(len(X)), 4)):
        frame.iloc[piece].to_parquet(tmp_path / f"{i}.parquet")
    file = tmp_path / "2.parquet"
    file.write_bytes(file.read_bytes()[:4] + bytes(300) + file.read_bytes()[304:])
    data = {"kind": "parquet", "path": str(tmp_path / "*.parquet"), "target": "t"}
    sections = {
        "estimator": {"name": "LogisticRegression"},
        "cluster": {"kind": "in-process"},
        "output": {"directory": str(tmp_path / "run")},
    }

    def job(on_error: str) -> Job:
        return Job.read({"data": {**data, "on_error": on_error}, **sections}, "mine")

    with pytest.raises(PartitionError, match=r"partition 2 \(.*2\.parquet, row group 0\): OSError: "):
        run_job(job("raise"))
    with pytest.warns(QuarantineWarning, match=r"1 of 4 .*partition 2 \(.*2\.parquet, row group 0\): OSError: "):
        metrics = run_job(job("quarantine")).metrics
    assert [(each["partition"], each["location"]) for each in metrics["quarantined"]] == [(2, f"{file}, row group 0")]
    assert metrics["n_train_rows"] + metrics["n_test_rows"] == 180
    with pytest.raises(ValueError, match=r"\[data\] on_error must be one of 'raise', 'quarantine'"):
        job("skip")


def test_frames(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abc")).assign(t=Y)
    frame.loc[100, "b"] = np.inf
    with pytest.warns(QuarantineWarning, match=r"partition 1 \(partition 1 of 'frompandas-.*'\): Input X contains infinity: column 'b'"):
        _ = Dataset.from_dataframe(dd.from_pandas(frame, npartitions=4), target="t", on_error="quarantine").schema
