"""Rows that a cluster holds already, whoever had them put there; and what is said of those that are gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
import pytest
from dask.delayed import delayed
from distributed import Client, LocalCluster

from pipeline import Dataset, LinearRegression
from pipeline.cluster import workers
from pipeline.execution.residency import held

pytestmark = pytest.mark.timeout(60)

CHUNKS = (50, 50, 20, 80)
ROWS = np.random.default_rng(0).normal(size=(200, 3))
TARGET = ROWS @ [1.0, -2.0, 0.5] + np.random.default_rng(1).normal(size=200)
FRAME = pd.DataFrame(ROWS, columns=["a", "b", "c"]).assign(t=TARGET)


@pytest.fixture
def other(cluster: LocalCluster) -> Iterator[Client]:
    """A client beside the current one, of the same cluster."""
    with Client(cluster, set_as_default=False) as other:
        yield other


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known at once is not waited for."""
    monkeypatch.setattr(workers, "STUCK_AFTER", 1000.0)
    monkeypatch.setattr(held, "STUCK_AFTER", 1000.0)


def fit(X: Any, y: Any = None) -> str:
    return str(LinearRegression().fit(X, y).parameters_sha256_)


def here() -> str:
    with dask.config.set(scheduler="threads"):
        return fit(Dataset.from_arrays(ROWS, TARGET, partition_rows=CHUNKS))


def lazy_X() -> da.Array:
    return da.from_array(ROWS, chunks=(CHUNKS, 3))


def lazy_y() -> da.Array:
    return da.from_array(TARGET, chunks=(CHUNKS,))


def lazy_frame() -> dd.DataFrame:
    ends = np.cumsum(CHUNKS)
    return dd.from_map(FRAME.__getitem__, [slice(int(end - n), int(end)) for n, end in zip(CHUNKS, ends, strict=True)], meta=FRAME[:0])


def of_futures(client: Client, change: Any = None) -> da.Array:
    pieces = [ROWS[end - n : end] for n, end in zip(CHUNKS, np.cumsum(CHUNKS), strict=True)]
    futures = client.scatter(pieces, hash=False)  # keys of their own: Dask may lose rows that another client let go just before
    blocks = futures if change is None else [delayed(change)(future) for future in futures]
    return da.concatenate([da.from_delayed(block, (n, 3), float) for block, n in zip(blocks, CHUNKS, strict=True)])


def given(how: str, client: Client, other: Client) -> tuple[Any, Any]:
    """X and y by both clients in some way."""
    if how == "both by the other":
        return tuple(other.persist([lazy_X(), lazy_y()]))
    if how == "y by the other":
        return client.persist(lazy_X()), other.persist(lazy_y())
    if how == "X by the other":
        return other.persist(lazy_X()), lazy_y()
    if how == "futures":
        return of_futures(other), client.persist(lazy_y())
    if how == "delayed futures":
        return of_futures(other, np.array), lazy_y()
    if how == "frame":
        frame = other.persist(lazy_frame())
        return frame[["a", "b", "c"]], frame["t"]
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["both by the other", "y by the other", "X by the other", "futures", "delayed futures", "frame"])
def test_rows_of_another_client(client: Client, other: Client, how: str) -> None:
    X, y = given(how, client, other)
    assert fit(X, y) == here()
    with other.as_current():
        assert fit(X, y) == here()


def test_rows_of_futures_that_are_bound_to_no_client(client: Client, other: Client) -> None:
    arrays = other.persist([lazy_X(), lazy_y()])
    assert fit(*cloudpickle.loads(cloudpickle.dumps(arrays))) == here()


def test_one_frame_of_another_client(client: Client, other: Client) -> None:
    assert fit(Dataset.from_dataframe(other.persist(lazy_frame()), target="t")) == here()


def test_scores_and_predictions_of_rows_of_another_client(client: Client, other: Client) -> None:
    X, y = other.persist([lazy_X(), lazy_y()])
    model = LinearRegression().fit(X, y)
    assert model.score(X, y) == pytest.approx(model.score(ROWS, TARGET), rel=1e-12)
    np.testing.assert_array_equal(model.predict(X).compute(), model.predict(ROWS))


def test_rows_that_another_client_is_still_making(client: Client, other: Client) -> None:
    def slowly(rows: Any) -> Any:
        time.sleep(0.2)
        return rows

    X = other.persist(lazy_X().map_blocks(slowly, dtype=float))
    assert fit(X, lazy_y()) == here()  # the scheduler has not even heard of them


def test_rows_of_another_client_that_need_counting(client: Client, other: Client) -> None:
    frame = other.persist(lazy_frame())
    assert fit(frame[["a", "b", "c"]].to_dask_array().rechunk({1: -1}), lazy_y()) == here()


def test_published_rows_outlive_their_clients(cluster: LocalCluster, client: Client) -> None:
    name = "rows for a test"
    with Client(cluster, set_as_default=False) as publisher:
        publisher.publish_dataset(publisher.persist([lazy_X(), lazy_y()]), name=name)
    try:
        with Client(cluster, set_as_default=False) as reader:
            X, y = reader.get_dataset(name)
            assert fit(X, y) == here()
        assert fit(X, y) == here()  # though the client that they were read with is closed
        assert fit(*client.get_dataset(name)) == here()
    finally:
        client.unpublish_dataset(name)


def test_rows_persisted_again_by_another_client(cluster: LocalCluster, client: Client, other: Client) -> None:
    """This client's own futures of the same keys stay cancelled."""
    X = client.persist(lazy_X())
    keys = [future.key for future in distributed.futures_of(X)]
    distributed.wait(X)
    client.cancel(X, force=True)
    while any(key in cluster.scheduler.tasks for key in keys):  # the other client's word must not come first
        time.sleep(0.01)
    again = other.persist(lazy_X())
    assert float(X.sum().compute()) == pytest.approx(ROWS.sum())
    assert fit(X, lazy_y()) == here()
    del again


def test_lazy_rows_of_a_dataset_that_nobody_holds(client: Client) -> None:
    for on_error in ("raise", "quarantine"):
        rows = Dataset.from_dask(client.persist(lazy_X()), lazy_y(), on_error=on_error).X
        time.sleep(0.1)  # so that the scheduler hears what is let go
        np.testing.assert_array_equal(rows.compute(), ROWS)


GONE = r"persisted rows of this data are gone from .*: of {}, .*; persist them again"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["cancel", "restart", "client closed"])
@pytest.mark.long
def test_persisted_rows_that_are_gone(cluster: LocalCluster, client: Client, how: str) -> None:
    owner = Client(cluster, set_as_default=False) if how == "client closed" else client
    X = owner.persist(da.random.normal(size=(100, 3), chunks=(10, -1)))
    distributed.wait(X)
    dataset = Dataset.from_dask(X, X[:, 0])
    if how == "cancel":
        client.cancel(X, force=True)
    elif how == "restart":
        client.restart()
    else:
        owner.close()
    with pytest.raises(ValueError, match=GONE.format("X and y")) as raised:
        dataset.schema  # noqa: B018
    assert " and 9 more; " in str(raised.value)


@pytest.mark.usefixtures("at_once")
@pytest.mark.long
def test_which_of_the_rows_are_gone(client: Client, other: Client) -> None:
    X, y, weight = client.persist([lazy_X(), lazy_y(), lazy_y() ** 2])
    model = LinearRegression().fit(X, y, weight)
    client.cancel(y, force=True)
    with pytest.raises(ValueError, match=GONE.format("y")):
        fit(X, y)
    with pytest.raises(ValueError, match=GONE.format("y")):
        model.score(X, y)
    client.cancel(weight, force=True)
    with pytest.raises(ValueError, match=GONE.format("y and sample_weight")):
        LinearRegression().fit(X, y, weight)
    assert fit(X, lazy_y()) == here()
    frame = client.persist(lazy_frame())
    client.cancel(frame, force=True)
    with pytest.raises(ValueError, match=GONE.format("the frame")):
        fit(Dataset.from_dataframe(frame, target="t"))
    with pytest.raises(ValueError, match=GONE.format("X")):
        fit(frame[["a", "b", "c"]].to_dask_array(), lazy_y())  # whose rows would have to be counted


@pytest.mark.usefixtures("at_once")
def test_rows_that_many_groups_need_are_gone(client: Client) -> None:
    """More pieces than are looked at for where a group should live."""
    X = client.persist(da.from_array(ROWS, chunks=(2, 3)))
    client.cancel(X, force=True)
    with pytest.raises(ValueError, match=GONE.format("X")):
        fit(X.rechunk((200, 3)), da.from_array(TARGET, chunks=200))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("resident", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_scattered_rows_that_went_down_with_their_worker(resident: bool) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        pids = client.run(os.getpid)
        address = min(pids)
        halves = client.scatter([ROWS[:100], ROWS[100:]], workers=[address])
        X = da.concatenate([da.from_delayed(half, (100, 3), float) for half in halves])
        dataset = Dataset.from_dask(X, X[:, 0])
        if resident:
            dataset.schema  # noqa: B018
        os.kill(pids[address], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while address in client.scheduler_info(n_workers=-1)["workers"] and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(ValueError, match=GONE.format("X and y")):
            fit(dataset)


@pytest.mark.usefixtures("at_once")
def test_rows_on_another_cluster(client: Client) -> None:
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**options) as elsewhere, Client(elsewhere, set_as_default=False) as owner:
        X = owner.persist(lazy_X())
        there = rf"not on the current client's cluster, tcp:.*, but on that of {elsewhere.scheduler_address}: of X, "
        with pytest.raises(ValueError, match=there):
            fit(X, lazy_y())
        with owner.as_current():
            assert fit(X, lazy_y()) == here()


@pytest.mark.long
def test_rows_on_a_cluster_that_this_process_works_without(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as owner:
        X, y = owner.persist([lazy_X(), lazy_y()])
        with owner.as_current():
            model = LinearRegression().fit(X, y)
        there = rf"on the cluster of {cluster.scheduler_address}, and this process would work without it: of X and y, .*client\.as_current"
        for configuration in ({}, {"scheduler": "threads"}, {"scheduler": "synchronous"}):
            with dask.config.set(configuration), pytest.raises(ValueError, match=there):
                fit(X, y)
        with pytest.raises(ValueError, match=there):
            model.score(X, y)
    gone = r"gone, or out of reach: of X and y, .* and 7 more; .* connect to their cluster, and persist them again"
    with pytest.raises(ValueError, match=gone):
        fit(X, y)
    with pytest.raises(ValueError, match=gone):
        model.score(X, y)
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match=gone):
        threads.submit(fit, X, y).result()


def test_rows_bound_to_a_worker_that_is_gone(cluster: LocalCluster, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "STUCK_AFTER", 0.5)
    X = client.persist(lazy_X(), workers=["tcp://127.0.0.1:1"])
    with pytest.raises(ConnectionError, match="bound to workers that are gone"):
        fit(X, lazy_y())
