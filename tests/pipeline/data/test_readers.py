"""Files: globs, orders, broken files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline import Dataset
from pipeline.data.readers import expand
from tasks.loading.file_rows import read_npy_rows


def test_globs_in_natural_order(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        np.save(tmp_path / f"X-{i}.npy", np.full((2, 1), float(i)))
    assert [Path(path).name for path in expand(tmp_path / "X-*.npy")] == ["X-1.npy", "X-2.npy", "X-10.npy"]
    assert Dataset.read_npy(tmp_path / "X-*.npy").X.compute()[:, 0].tolist() == [1, 1, 2, 2, 10, 10]
    assert expand([str(tmp_path / "X-10.npy"), tmp_path / "X-2.npy"]) == [str(tmp_path / f"X-{i}.npy") for i in (10, 2)]


@pytest.mark.parametrize("pattern", ["nothing-*.npy", "nothing.npy"])
def test_no_match(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file matches .*nothing"):
        expand(tmp_path / pattern)
    with pytest.raises(FileNotFoundError):
        expand("memory://nowhere/*.csv")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 3, 2), (0, 3), (7, 0)])
@pytest.mark.parametrize("dtype", ["f8", "<f4", ">i2", "U3", "?"])
def test_rows_of_npy(tmp_path: Path, shape: tuple[int, ...], order: str, dtype: str) -> None:
    rows = np.require(np.arange(np.prod(shape)).reshape(shape).astype(dtype), requirements=order)
    np.save(tmp_path / "rows.npy", rows)
    for start, stop in ((0, shape[0]), (0, 0), (2, 5)):
        if stop <= shape[0]:
            found = read_npy_rows(str(tmp_path / "rows.npy"), start, stop)
            np.testing.assert_array_equal(found, rows[start:stop])
            assert found.dtype == rows.dtype
            assert found.flags.writeable
            assert found.flags.c_contiguous


def test_npy_of_version_2(tmp_path: Path) -> None:
    with (tmp_path / "rows.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(6.0).reshape(3, 2), version=(2, 0))
    assert Dataset.read_npy(tmp_path / "rows.npy").X.compute().tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_cut_short(tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "X.npy", np.require(np.ones((100, 2)), requirements=order))
    whole = (tmp_path / "X.npy").read_bytes()
    (tmp_path / "X.npy").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"X\.npy ends before row 100: the file is cut short"):
        _ = Dataset.read_npy(tmp_path / "X.npy").schema


def test_large_files_are_cut_and_y_with_them(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.zeros((1_100_000, 2)))
    np.save(tmp_path / "y.npy", np.zeros(1_100_000))
    dataset = Dataset.read_npy(tmp_path / "X.npy", tmp_path / "y.npy")
    assert dataset.schema.partition_rows.tolist() == [1 << 20, 1_100_000 - (1 << 20)]


def test_hdf5_text_and_numbers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as h5:
        h5["X"] = np.ones((4, 2))
        h5["labels"] = ["yes", "no", "größer", "no"]
        h5["fixed"] = np.array([b"a", b"b", b"a", b"b"])
    assert Dataset.read_hdf5(tmp_path / "d.h5", X="X", y="labels").schema.classes.tolist() == ["größer", "no", "yes"]  # type: ignore[union-attr]
    assert Dataset.read_hdf5(tmp_path / "d.h5", X="X", y="fixed").schema.classes.tolist() == ["a", "b"]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"d\.h5 has no dataset 'y'; it has 'X', 'fixed', 'labels'"):
        Dataset.read_hdf5(tmp_path / "d.h5", X="X", y="y")


def test_npy_of_different_widths(tmp_path: Path) -> None:
    np.save(tmp_path / "X-0.npy", np.ones((3, 2)))
    np.save(tmp_path / "X-1.npy", np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"X-1\.npy has rows of shape \(4,\) but .*X-0\.npy has \(2,\)"):
        Dataset.read_npy(tmp_path / "X-*.npy")


@pytest.mark.parametrize("content", [b"", b"garbage that is no file of any format at all"])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    for name in ("g.npy", "g.h5", "g.parquet"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"g\.npy is no readable \.npy file"):
        Dataset.read_npy(tmp_path / "g.npy")
    with pytest.raises(ValueError, match=r"g\.h5 is no readable HDF5 file"):
        Dataset.read_hdf5(tmp_path / "g.h5", X="X")
    with pytest.raises(ValueError, match=r"g\.parquet: no readable Parquet file"):
        Dataset.read_parquet(tmp_path / "g.parquet", target="t")
    with pytest.raises(FileNotFoundError, match=r"no Zarr array at .*nothing\.zarr"):
        Dataset.read_zarr(tmp_path / "nothing.zarr")
    with pytest.raises(FileNotFoundError, match=r"no Zarr array at .*g\.npy"):
        Dataset.read_zarr(tmp_path / "g.npy")


def test_csv_whose_files_disagree(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "t": [0, 1]}).to_csv(tmp_path / "0.csv", index=False)
    pd.DataFrame({"a": [1.5, 2], "t": [0, 1]}).to_csv(tmp_path / "1.csv", index=False)
    with pytest.raises(ValueError, match=r"1\.csv: column 'a' holds 1.5 in row 0 after the header, but whole"):
        _ = Dataset.read_csv(tmp_path / "*.csv", target="t").schema
    assert Dataset.read_csv(tmp_path / "*.csv", target="t", dtype={"a": float}).schema.n_rows == 4
