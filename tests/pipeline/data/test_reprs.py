"""What notebooks and terminals show of a dataset and of its description; nothing is read for it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NoReturn

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from pipeline import Dataset, PartitionError, Ridge
from tests.markup import Page

HOSTILE = "<script>alert('a & b')</script>"
X = np.random.default_rng(0).normal(size=(120, 3))
Y = (X[:, 0] > 0).astype(np.int64)


def facts(dataset: Dataset) -> dict[str, str]:
    return Page(dataset._repr_html_()).facts


def never(partition: int) -> NoReturn:
    raise AssertionError("was read")


def test_rows_in_memory() -> None:
    dataset = Dataset.from_arrays(X.astype(np.float32), Y, columns=["a", "b", "c"], partition_rows=[50, 70])
    assert repr(dataset) == "Dataset(120 rows, 3 columns, 2 partitions, float32)"
    assert facts(dataset) == {
        "rows": "120",
        "columns": "3: a, b, c",
        "dtype": "float32",
        "bytes": "1.41 kiB",
        "partitions": "2, in 2 groups",
        "rows are": "in this process's memory",
        "first partition": "rows 0 to 49 of X",
        "last partition": "rows 50 to 119 of X",
    }


def test_booleans_have_a_dtype_of_their_own_for_parameters() -> None:
    assert facts(Dataset.from_arrays(X > 0, Y))["dtype"] == "float32, parameters float64"


def test_lazy_rows_are_not_read_counted_or_waited_for() -> None:
    dataset = Dataset.from_function(never, n_partitions=600, n_columns=4)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with dataset.source.lock:
            locked.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(10)
        found = facts(dataset)
        assert "\n" not in repr(dataset)
    finally:
        done.set()
        holder.join()
    assert found["rows"] == found["bytes"] == "not counted yet"
    assert found["rows are"] == "not read yet"
    assert (found["first partition"], found["last partition"]) == ("make(0)", "make(599)")
    assert found["partitions"] == "600, in 150 groups"
    with pytest.raises(PartitionError, match="was read"):
        _ = dataset.schema


def test_rows_that_threads_have_read_and_parts_of_a_split() -> None:
    dataset = Dataset.from_function(lambda i: (X[i::4], Y[i::4]), n_partitions=4, n_columns=3)
    train, test = dataset.split(test_size=0.25, seed=7)
    assert facts(train)["rows"] == "not counted yet"
    assert facts(train)["part"] == "train, of a split with test_size=0.25, seed=7"
    assert facts(test)["part"].startswith("test, ")
    assert train.schema.n_rows + test.schema.n_rows == 120
    for part in (train, test):
        assert facts(part)["rows"] == str(part.schema.n_rows)
        assert facts(part)["rows are"] == "in this process's memory"
    train.release()
    assert facts(train)["rows are"] == "not read yet"
    assert facts(train)["rows"] == str(train.schema.n_rows)


def test_rows_on_workers(client: Client) -> None:
    n_workers = len(client.scheduler_info()["workers"])
    lazy, sent = Dataset.from_function(lambda i: (X[i::4], Y[i::4]), n_partitions=4, n_columns=3), Dataset.from_arrays(X, Y, n_partitions=4)
    for dataset in (lazy, sent):
        Ridge().fit(dataset)
    assert facts(lazy)["rows are"] == f"on {n_workers} workers, {n_workers} threads"
    assert facts(sent)["rows are"] == f"in this process's memory; on {n_workers} workers, {n_workers} threads"
    lazy.release()
    assert facts(lazy)["rows are"] == "not read yet"


def test_rows_of_a_cluster_that_is_gone(cluster: LocalCluster) -> None:
    dataset = Dataset.from_function(lambda i: (X[i::4], Y[i::4]), n_partitions=4, n_columns=3)
    with Client(cluster, set_as_default=False) as client, client.as_current():
        Ridge().fit(dataset)
    assert facts(dataset)["rows are"].startswith("gone")


def test_partitions_that_are_left_out() -> None:
    def some(partition: int) -> Any:
        if partition == 1:
            raise ValueError("broken")
        return X[partition::4], Y[partition::4]

    dataset = Dataset.from_function(some, n_partitions=4, n_columns=3, on_error="quarantine")
    assert "left out" not in facts(dataset)
    with pytest.warns(UserWarning, match="broken"):
        _ = dataset.schema
    assert facts(dataset)["left out"] == "1 of 4 partitions (see quarantined)"
    assert facts(dataset)["rows"] == "90"


def test_many_columns_are_some_columns() -> None:
    names = [f"name{i}" for i in range(300)]
    assert (
        facts(Dataset.from_arrays(np.zeros((4, 300)), columns=names))["columns"] == "300: name0, name1, name2, name3, name4, ..., name299"
    )


def test_names_and_places_are_text_and_no_markup(tmp_path: Path) -> None:
    frame = pd.DataFrame({HOSTILE: X[:, 0], "b": X[:, 1], "y": [HOSTILE if one else "<b>" for one in Y]})
    directory = tmp_path / "<i>&"
    directory.mkdir()
    frame.to_parquet(directory / "rows.parquet")
    for dataset in (
        Dataset.from_dataframe(frame, target="y"),
        Dataset.from_dataframe(dd.from_pandas(frame, npartitions=2), target="y"),
        Dataset.read_parquet(str(directory / "*.parquet"), target="y"),
    ):
        shown = Page(dataset._repr_html_())
        assert shown.facts["columns"] == f"2: {HOSTILE}, b"
        described = Page(dataset.describe()._repr_html_())
        assert described.rows[1][0] == HOSTILE and {row[0] for row in described.rows[-2:]} == {HOSTILE, "<b>"}
        assert not {"script", "i", "b"} & {*shown.tags, *described.tags}
    assert str(directory) in shown.facts["first partition"]


def test_a_description_is_a_table() -> None:
    wide = np.random.default_rng(0).normal(3.0, 2.0, size=(400, 26))
    found = Dataset.from_arrays(wide, np.repeat(["no", "yes", "yes", "yes"], 100), columns=[f"name{i}" for i in range(26)]).describe()
    text, page = repr(found), Page(found._repr_html_())
    assert len(text.splitlines()) < 32 and "name19" in text and "name20" not in text
    assert "... 6 more columns" in text and "... 6 more columns" in page.text
    assert "400 rows of 26 columns" in text and "400 rows of 26 columns" in page.text
    lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    for shown in (lines["name7"], page.rows[8][1:]):
        np.testing.assert_allclose([float(value) for value in shown], [wide[:, 7].mean(), wide[:, 7].std(ddof=1)], rtol=1e-5)
    assert lines["yes"] == page.rows[-1][1:] == ["300", "0.75", "300.0"]


def test_a_description_without_classes_has_one_table() -> None:
    assert Page(Dataset.from_arrays(X, X[:, 0]).describe()._repr_html_()).tags.count("table") == 1
