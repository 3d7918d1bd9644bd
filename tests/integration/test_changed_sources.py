"""Rows that are read again must be the rows that were there: a source that changed ends the fit, by its name, before it moves anything."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster

from pipeline import Dataset, LogisticRegression, SourceChangedError
from tasks.workers import participants
from tests.data import breast_cancer
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(60)

N = 8
NAMES = [f"x{i}" for i in range(30)]


def frames(X: Any, y: Any) -> list[pd.DataFrame]:
    whole = pd.DataFrame(X, columns=NAMES).assign(t=y)
    return [whole.iloc[rows] for rows in np.array_split(np.arange(len(X)), N)]


def write_npy(root: Path, X: Any, y: Any) -> None:
    np.save(root / "X.npy", X)
    np.save(root / "y.npy", y)


def write_csv(root: Path, X: Any, y: Any) -> None:
    for i, frame in enumerate(frames(X, y)):
        frame.to_csv(root / f"{i}.csv", index=False)


def write_parquet(root: Path, X: Any, y: Any) -> None:
    for i, frame in enumerate(frames(X, y)):
        frame.to_parquet(root / f"{i}.parquet")


def write_hdf5(root: Path, X: Any, y: Any) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        file["X"], file["y"] = X, y


def write_zarr(root: Path, X: Any, y: Any) -> None:
    for name, array in (("X", X), ("y", y)):
        zarr.create_array(root / f"{name}.zarr", data=array, overwrite=True)


Kind = tuple[Callable[[Path, Any, Any], None], Callable[[Path], Dataset], str]
KINDS: dict[str, Kind] = {
    "npy": (write_npy, lambda root: Dataset.read_npy(root / "X.npy", root / "y.npy", n_partitions=N), r"X\.npy, rows {} to \d+; .*y\.npy"),
    "csv": (write_csv, lambda root: Dataset.read_csv(root / "*.csv", target="t"), r"{file}\.csv"),
    "parquet": (write_parquet, lambda root: Dataset.read_parquet(root / "*.parquet", target="t"), r"{file}\.parquet, row group 0"),
    "hdf5": (write_hdf5, lambda root: Dataset.read_hdf5(root / "rows.h5", X="X", y="y", n_partitions=N), r"rows\.h5, rows {} to \d+"),
    "zarr": (write_zarr, lambda root: Dataset.read_zarr(root / "X.zarr", root / "y.zarr", n_partitions=N), r"X\.zarr, rows {} to \d+"),
}


def place(kind: str, partition: int) -> str:
    return KINDS[kind][2].format(len(breast_cancer()[0]) * partition // N, file=partition)


def digest(dataset: Dataset) -> str:
    return str(LogisticRegression(solver="lbfgs", tol=1e-8).fit(dataset).parameters_sha256_)


def here(dataset: Dataset) -> str:
    with dask.config.set(scheduler="threads"):
        return digest(dataset)


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_changed_between_fits(tmp_path: Path, kind: str) -> None:
    write, read, _ = KINDS[kind]
    X, y = breast_cancer()
    write(tmp_path, X, y)
    dataset = read(tmp_path)
    digest(dataset)
    dataset.release()
    other = X.copy()
    other[len(X) * 5 // N + 1, 3] += 1e-9
    write(tmp_path, other, y)
    with pytest.raises(SourceChangedError, match=rf"rows than before in partition 5 \(.*{place(kind, 5)}.*\); fit again") as raised:
        digest(dataset)
    assert raised.value.partitions == (5,)
    assert digest(dataset) == digest(read(tmp_path))  # the dataset begins anew


@pytest.mark.parametrize("changed", ["order of rows", "rows of two partitions", "a label", "a weight", "fewer rows"])
def test_what_changed(changed: str) -> None:
    X, y = breast_cancer()
    rows = {"X": X, "y": np.where(y, "benign", "malignant"), "weight": np.ones(len(y))}

    def make(i: int) -> Any:
        return tuple(array[50 * i : 50 * i + 50] for array in rows.values())

    dataset = Dataset.from_function(make, n_partitions=10, n_columns=30)
    model = LogisticRegression(solver="lbfgs").fit(dataset)
    dataset.release()
    order = np.arange(len(X))
    if changed == "order of rows":
        order[[203, 204]] = 204, 203
    elif changed == "rows of two partitions":
        order[200:250], order[250:300] = np.arange(250, 300), np.arange(200, 250)
    elif changed == "fewer rows":
        order = order[:480]
    rows |= {name: array[order] for name, array in rows.items()}
    if changed == "a label":
        rows["y"][210] = "other"
    elif changed == "a weight":
        rows["weight"][210] = 0.5
    expected = {"rows of two partitions": (4, 5), "fewer rows": (9,)}.get(changed, (4,))
    with pytest.raises(SourceChangedError, match=rf"partition {expected[0]} \(make\({expected[0]}\)\)") as raised:
        model.score(dataset)
    assert raised.value.partitions == expected


@pytest.mark.filterwarnings("ignore:.* partitions are left out:pipeline.sources.errors.QuarantineWarning")
def test_a_partition_that_can_be_read_no_more_is_not_left_out_silently() -> None:
    X, y = breast_cancer()
    broken: set[int] = set()

    def make(i: int) -> Any:
        if i in broken:
            raise OSError("gone")
        return X[50 * i : 50 * i + 50], y[50 * i : 50 * i + 50]

    dataset = Dataset.from_function(make, n_partitions=10, n_columns=30, on_error="quarantine")
    digest(dataset)
    dataset.release()
    broken.add(3)
    with pytest.raises(SourceChangedError, match=r"partition 3 \(make\(3\)\)"):
        digest(dataset)
    assert dataset.quarantined[0].partition == 3
    dataset.release()
    broken.clear()
    with pytest.raises(SourceChangedError, match=r"partition 3 \(make\(3\)\)"):
        digest(dataset)
    assert not dataset.quarantined


def test_parts_of_a_split_are_known_each_by_itself() -> None:
    X, y = breast_cancer()
    X = X.copy()

    def make(i: int) -> Any:
        return X[50 * i : 50 * i + 50].copy(), y[50 * i : 50 * i + 50]

    train, test = Dataset.from_function(make, n_partitions=10, n_columns=30).split(0.3)
    model = LogisticRegression().fit(train)
    model.score(test)
    train.release()
    X[222] += 1.0  # in one of the two
    errors = []
    for part in (train, test):
        try:
            model.score(part)
        except SourceChangedError as error:
            errors.append(error.partitions)
    assert errors == [(4,)]


def test_a_fit_holds_on_to_the_check_that_it_began_with() -> None:
    """Another fit may find the change first, and a third begin anew with the rows as they are: the first one must end all the same."""
    X, y = breast_cancer()
    X = X.copy()

    def make(i: int) -> Any:
        return X[50 * i : 50 * i + 50].copy(), y[50 * i : 50 * i + 50]

    dataset = Dataset.from_function(make, n_partitions=10, n_columns=30)
    others: list[Any] = []

    def others_find_it() -> None:
        X[222] += 1.0
        dataset.release()
        for _ in range(2):
            try:
                others.append(digest(dataset))
            except SourceChangedError as error:
                others.append(error.partitions)

    model = LogisticRegression(solver="lbfgs", tol=1e-12).set_callbacks(AfterRounds((3,), others_find_it))
    with pytest.raises(SourceChangedError, match=r"partition 4 \(make\(4\)\)"):
        model.fit(dataset)
    assert others == [(4,), digest(dataset)]


def test_a_checkpoint_of_the_rows_before_is_not_gone_on_from(tmp_path: Path) -> None:
    X, y = breast_cancer()
    X = X.copy()

    def make(i: int) -> Any:
        return X[50 * i : 50 * i + 50].copy(), y[50 * i : 50 * i + 50]

    dataset = Dataset.from_function(make, n_partitions=10, n_columns=30)

    def change() -> None:
        X[222] += 1.0
        dataset.release()

    model = LogisticRegression(solver="lbfgs", tol=1e-12, checkpoint=tmp_path).set_callbacks(AfterRounds((5,), change))
    with pytest.raises(SourceChangedError, match=r"partition 4 \(make\(4\)\)"):
        model.fit(dataset)
    assert list(tmp_path.iterdir())
    model.set_callbacks()
    assert model.fit(dataset).resumed_from_ == 0
    anew = LogisticRegression(solver="lbfgs", tol=1e-12).fit(Dataset.from_function(make, n_partitions=10, n_columns=30))
    assert model.parameters_sha256_ == anew.parameters_sha256_


@pytest.fixture(scope="module")
def cluster_to_harm() -> Iterator[tuple[LocalCluster, Client]]:
    again = dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})  # else Dask gives up a worker that is killed twice
    with again, LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield cluster, client


def kill_one(client: Client) -> None:
    client.wait_for_workers(2, timeout=30)
    os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)


def changes_and_dies(client: Client, tmp_path: Path, kind: str) -> None:
    """The files are written anew, a worker dies, what it had is read again: and the fit ends."""
    write, read, _ = KINDS[kind]
    X, y = breast_cancer()
    write(tmp_path, X, y)
    dataset = read(tmp_path)
    assert digest(dataset) == here(read(tmp_path))

    def change() -> None:
        write(tmp_path, 1.01 * X, y)
        kill_one(client)

    model = LogisticRegression(solver="gradient-descent", tol=1e-14, max_iter=100_000).set_callbacks(AfterRounds((3,), change))
    with pytest.raises(SourceChangedError, match="fit again to train on the rows as they are now") as raised:
        model.fit(dataset)
    assert re.search(place(kind, raised.value.partitions[0]), str(raised.value))
    assert digest(dataset) == here(read(tmp_path)) != here(Dataset.from_arrays(X, y, n_partitions=N))


@pytest.mark.long
def test_a_file_changes_and_a_worker_dies(cluster_to_harm: tuple[LocalCluster, Client], tmp_path: Path) -> None:
    changes_and_dies(cluster_to_harm[1], tmp_path, "npy")


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_files_change_and_a_worker_dies(cluster_to_harm: tuple[LocalCluster, Client], tmp_path: Path, kind: str) -> None:
    changes_and_dies(cluster_to_harm[1], tmp_path, kind)


@pytest.mark.faults
@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.parametrize("kind", KINDS)
def test_files_change_and_a_worker_dies_between_rounds_from_here(
    cluster_to_harm: tuple[LocalCluster, Client], tmp_path: Path, kind: str
) -> None:
    changes_and_dies(cluster_to_harm[1], tmp_path, kind)


@pytest.mark.faults
@pytest.mark.usefixtures("rounds_from_here")
def test_files_that_stay_as_they_are(cluster_to_harm: tuple[LocalCluster, Client], tmp_path: Path) -> None:
    """Written anew with the same rows, and read again by another worker."""
    _, client = cluster_to_harm
    write, read, _ = KINDS["npy"]
    X, y = breast_cancer()
    write(tmp_path, X, y)
    dataset = read(tmp_path)
    expected = digest(dataset)

    def change() -> None:
        write(tmp_path, X, y)
        kill_one(client)

    model = LogisticRegression(solver="lbfgs", tol=1e-8).set_callbacks(AfterRounds((3,), change))
    assert model.fit(dataset).parameters_sha256_ == expected == here(read(tmp_path))


def rounds_led(client: Client) -> int:
    return sum(client.run(lambda: participants.counted["rounds"]).values())


@pytest.mark.long
def test_a_session_of_other_rows_moves_nothing(client: Client) -> None:
    """The root compares what the participants have with what the client knows."""
    X, y = breast_cancer()
    dataset = Dataset.from_dask(da.from_array(X, chunks=(-(-len(X) // N), -1)), da.from_array(y, chunks=-(-len(X) // N)))
    assert dataset.n_partitions == N
    before = rounds_led(client)
    digest(dataset)
    led = rounds_led(client)
    assert led > before
    content = dataset.schema.content.copy()
    content[6] += np.uint64(1)
    dataset._schema = replace(dataset.schema, content=content)
    with pytest.raises(SourceChangedError, match=r"partition 6 \(chunk") as raised:
        digest(dataset)
    assert raised.value.partitions == (6,)
    assert rounds_led(client) == led
    assert digest(dataset) == here(dataset)
