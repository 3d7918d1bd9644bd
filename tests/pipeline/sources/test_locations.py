"""Where partitions come from, in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from pipeline import Dataset
from pipeline.sources.locations import RowLocations

X = np.random.default_rng(0).normal(size=(90, 3))
FRAME = pd.DataFrame(X, columns=list("abc")).assign(t=np.arange(90) % 2)


def locations(dataset: Dataset) -> list[str]:
    return [dataset.source.location(partition) for partition in range(dataset.n_partitions)]


def lazy(frame: Any) -> Dataset:
    return Dataset.from_dataframe(frame, target="t")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for i in range(3):
        rows = slice(30 * i, 30 * i + 30)
        FRAME.iloc[rows].to_parquet(tmp_path / f"{i}.parquet", row_group_size=20)
        FRAME.iloc[rows].to_csv(tmp_path / f"{i}.csv", index=False)
        np.save(tmp_path / f"X-{i}.npy", X[rows])
    np.save(tmp_path / "y.npy", FRAME["t"])
    return tmp_path


def test_rows_of_files() -> None:
    found = RowLocations([4, 0, 4, 2], [[("a", 3), ("b", 7)], [("y", 10)]])
    assert [found(i, None) for i in range(4)] == [
        "a, rows 0 to 2, and b, row 0; y, rows 0 to 3",
        "b, no rows; y, no rows",
        "b, rows 1 to 4; y, rows 4 to 7",
        "b, rows 5 to 6; y, rows 8 to 9",
    ]
    assert (found(0, 3), found(2, 1)) == ("b, row 0; y, row 3", "b, row 2; y, row 5")


def test_arrays() -> None:
    found = Dataset.from_arrays(X, partition_rows=[40, 0, 1, 49])
    assert locations(found) == ["rows 0 to 39 of X", "no rows of X", "row 40 of X", "rows 41 to 89 of X"]
    assert found.source.location(3, 4) == "row 45 of X"


def test_dask_arrays() -> None:
    array = da.from_array(X, chunks=(45, 3))
    assert locations(Dataset.from_dask(array)) == [f"chunk (0, 0) of {array.name!r}", f"chunk (1, 0) of {array.name!r}"]
    wide = da.from_array(X, chunks=(45, 2))
    assert locations(Dataset.from_dask(wide))[1] == f"chunk (1, :) of {wide.name!r}"
    assert locations(Dataset.from_dask(array, n_partitions=3))[1] == f"{array.name!r}, rows 30 to 59"
    unknown = array[array[:, 0] > -99]
    assert locations(Dataset.from_dask(unknown))[1] == f"chunk (1, 0) of {unknown.name!r}"


def test_frames_by_file(files: Path) -> None:
    parquet = dd.read_parquet(files / "*.parquet", split_row_groups=True)
    groups = [f"{files}/{i}.parquet, row group {group}" for i in range(3) for group in range(2)]
    assert locations(lazy(parquet)) == locations(lazy(parquet.assign(a=parquet["a"] * 2))) == groups
    assert locations(lazy(parquet.partitions[2:4].optimize(fuse=False))) == groups[2:4]
    assert locations(Dataset.read_parquet(files / "*.parquet", target="t", columns=["b"])) == groups
    assert locations(Dataset.read_parquet(files / "*.parquet", target="t", split_row_groups=False)) == [
        f"{files}/{i}.parquet" for i in range(3)
    ]
    assert locations(Dataset.read_csv(files / "*.csv", target="t")) == [f"{files}/{i}.csv" for i in range(3)]
    pieces = locations(Dataset.read_csv(files / "0.csv", target="t", blocksize=700))
    starts = [int(re.fullmatch(rf"{files}/0\.csv from byte (\d+) on", piece)[1]) for piece in pieces]  # type: ignore[index]
    assert starts[0] == 0 and len(starts) > 1 and starts == sorted(set(starts))


def test_frames_that_are_cut_anew(files: Path) -> None:
    """Which file a partition is from is not known any more: nothing is better than something wrong."""
    parquet = dd.read_parquet(files / "*.parquet", split_row_groups=True)
    for frame in (parquet.repartition(npartitions=6, force=True), parquet.shuffle("a"), dd.concat([parquet, parquet])):
        assert all(re.fullmatch(rf"partition {i} of '[\w-]+'", location) for i, location in enumerate(locations(lazy(frame))))
    found = Dataset.from_dataframe(parquet, target="t", n_partitions=2)
    assert re.fullmatch(r"partition 1 of 2 cut from 'read_parquet-\w+'", locations(found)[1])


def test_npy_files_and_directories(files: Path) -> None:
    found = Dataset.read_npy(files / "X-*.npy", files / "y.npy", n_partitions=2)
    assert locations(found)[1] == f"{files}/X-1.npy, rows 15 to 29, and {files}/X-2.npy, rows 0 to 29; {files}/y.npy, rows 45 to 89"
    assert found.source.location(1, 20) == f"{files}/X-2.npy, row 5; {files}/y.npy, row 65"
    da.to_npy_stack(str(files / "stack"), da.from_array(X, chunks=(30, 3)))
    assert locations(Dataset.read_npy(files / "stack"))[2] == f"{files}/stack, rows 60 to 89"


def test_an_error_names_the_row_of_the_file(files: Path) -> None:
    broken = X[30:60].copy()
    broken[7, 1] = np.nan
    np.save(files / "X-1.npy", broken)
    with pytest.raises(ValueError, match=r"column 'x1' of X, row 7 of partition 1 \(.*X-1\.npy, row 7; .*y\.npy, row 37\); drop"):
        _ = Dataset.read_npy(files / "X-*.npy", files / "y.npy", n_partitions=3).schema
    train, _ = Dataset.read_npy(files / "X-*.npy", files / "y.npy", n_partitions=3).split(0.01)
    with pytest.raises(ValueError, match=r"row \d of partition 1 \(.*X-1\.npy, rows 0 to 29; .*y\.npy, rows 30 to 59\); drop"):
        _ = train.schema
