"""Fits inside Dask tasks: on a worker's own threads, at the same time, however the task uses its thread. Each in bounded time."""

from __future__ import annotations

import asyncio
import contextvars
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster, Worker, get_client, rejoin, secede, worker_client
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LogisticRegression
from pipeline.cluster.workers import WAIT_FOR_WORKERS, ThreadHeldError
from tests.data import breast_cancer

pytestmark = pytest.mark.timeout(120)

LIMIT = 60.0
"""Seconds for the fits of one round."""


def lazy() -> tuple[Any, Any]:
    X, y = breast_cancer()
    return da.from_array(X, chunks=(100, -1)), da.from_array(y, chunks=100)


def fitted(*data: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return str(LogisticRegression(solver="lbfgs", max_iter=5).fit(*data).parameters_sha256_)


@cache
def here(kind: str) -> str:
    """The digest of this process."""
    with dask.config.set(scheduler="threads"):
        return fitted(*(lazy() if kind == "lazy" else breast_cancer()))


@contextmanager
def one_worker(n_threads: int, **settings: Any) -> Iterator[Client]:
    """Of a process of its own."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=n_threads, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(dask.config.set, settings)
        assert client.submit(fitted, *breast_cancer()).result(timeout=2 * LIMIT) == here("memory")  # it has imported what it needs
        yield client


@pytest.fixture(scope="module")
def worker() -> Iterator[Client]:
    """One thread; what would wait for ever does not."""
    with one_worker(1, **{WAIT_FOR_WORKERS: 1}) as client:
        yield client


async def forget_client(dask_worker: Worker) -> None:
    """The next task that needs a client is the first."""
    client, dask_worker._client = dask_worker._client, None
    if client is not None:
        await client._close()


# -- several at the same time --------------------------------------------------------------------------------------------------------------


def results(futures: list[Any]) -> list[Any]:
    """In LIMIT seconds all together."""
    deadline = time.monotonic() + LIMIT
    return [future.result(timeout=max(0.0, deadline - time.monotonic())) for future in futures]


def first_fits_at_once(client: Client) -> None:
    client.run(forget_client)
    assert results([client.submit(fitted, *lazy(), pure=False) for _ in range(6)]) == [here("lazy")] * 6


def lazy_beside_memory(client: Client) -> None:
    futures = [client.submit(fitted, *lazy(), pure=False), client.submit(fitted, *breast_cancer(), pure=False)]
    assert results(futures) == [here("lazy"), here("memory")]


def rounds(n_rounds: int, n_threads: int, each: Callable[[Client], None]) -> None:
    assert here("lazy")
    with one_worker(n_threads) as client:
        for _ in range(n_rounds):
            each(client)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.long
def test_first_fits_of_dask_data_at_once(n_threads: int) -> None:
    rounds(2, n_threads, first_fits_at_once)


@pytest.mark.long
def test_a_fit_of_dask_data_beside_one_of_rows_in_memory() -> None:
    rounds(2, 1, lazy_beside_memory)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("n_threads", "each"), [(1, first_fits_at_once), (3, first_fits_at_once), (1, lazy_beside_memory), (2, lazy_beside_memory)]
)
def test_200_rounds(n_threads: int, each: Callable[[Client], None]) -> None:
    rounds(200, n_threads, each)


# -- whose thread it is --------------------------------------------------------------------------------------------------------------------


def by_worker_client(*data: Any) -> str:
    with worker_client():
        return fitted(*data)


def by_worker_client_in_its_thread(*data: Any) -> str:
    with worker_client(separate_thread=False):
        return fitted(*data)


def by_get_client(*data: Any) -> str:
    get_client()
    return fitted(*data)


def seceded(*data: Any) -> str:
    secede()
    found = fitted(*data)
    rejoin()
    return found


def twice(*data: Any) -> str:
    found = fitted(*data)
    assert fitted(*data) == found
    return found


def in_threads(*data: Any) -> str:
    """Of the task's own making."""
    with ThreadPoolExecutor(2) as pool:
        (found,) = set(pool.map(lambda _: fitted(*data), range(2)))
    return found


def in_threads_of_a_seceded_task(*data: Any) -> str:
    with worker_client():
        return in_threads(*data)


def in_a_thread_with_the_context(*data: Any) -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, fitted, *data).result()


async def in_a_coroutine(*data: Any) -> str:
    return fitted(*data)


WAYS: list[Callable[..., Any]] = [
    fitted,
    by_worker_client,
    by_worker_client_in_its_thread,
    by_get_client,
    seceded,
    twice,
    in_threads_of_a_seceded_task,
]
HELD_UP: list[Callable[..., Any]] = [in_threads, in_a_thread_with_the_context]


class Actor:
    def fit(self, *data: Any) -> str:
        return fitted(*data)

    async def fit_in_a_thread(self, *data: Any) -> str:
        return await asyncio.to_thread(fitted, *data)

    async def fit_in_a_coroutine(self, *data: Any) -> str:
        return fitted(*data)


@pytest.fixture(scope="module")
def actor(worker: Client) -> Any:
    return worker.submit(Actor, actor=True).result(timeout=LIMIT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.long
def test_the_thread_is_given_back_once(way: Callable[..., Any], worker: Client) -> None:
    for data in (lazy(), worker.persist(lazy())):
        assert worker.submit(way, *data, pure=False).result(timeout=LIMIT) == here("lazy")


@pytest.mark.parametrize("way", [*WAYS, *HELD_UP, in_a_coroutine])
def test_rows_in_memory_need_no_other_thread(way: Callable[..., Any], worker: Client) -> None:
    assert worker.submit(way, *breast_cancer(), pure=False).result(timeout=LIMIT) == here("memory")


@pytest.mark.parametrize("way", HELD_UP)
@pytest.mark.long
def test_a_thread_that_cannot_be_given_back(way: Callable[..., Any], worker: Client) -> None:
    assert worker.submit(by_get_client, *lazy(), pure=False).result(timeout=LIMIT) == here("lazy")  # so that there is a client
    with pytest.raises(ThreadHeldError, match=rf"{way.__name__}-.* held all threads of this worker for 1 s, .* distributed.secede\(\)"):
        worker.submit(way, *lazy(), pure=False).result(timeout=LIMIT)
    with one_worker(2) as client:  # and another thread makes it unnecessary
        assert client.submit(way, *lazy(), pure=False).result(timeout=LIMIT) == here("lazy")


def test_a_coroutine(worker: Client) -> None:
    with pytest.raises(ValueError, match=r"event loop of a Dask worker, .* a plain function \(def instead of async def\)"):
        worker.submit(in_a_coroutine, *lazy(), pure=False).result(timeout=LIMIT)


def test_an_actor(actor: Any) -> None:
    for method in (actor.fit, actor.fit_in_a_thread):
        assert method(*lazy()).result(timeout=LIMIT) == here("lazy")
        assert method(*breast_cancer()).result(timeout=LIMIT) == here("memory")
    with pytest.raises(ValueError, match="event loop of a Dask worker"):
        actor.fit_in_a_coroutine(*lazy()).result(timeout=LIMIT)


class Fitting:
    """Partitions whose maker fits a model itself; counts its calls in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, i: int) -> tuple[Any, Any]:
        with self.path.open("a") as file:
            file.write(f"{i} ")
        assert fitted(*lazy()) == here("lazy")
        X, y = breast_cancer()
        return X[100 * i : 100 * (i + 1)], y[100 * i : 100 * (i + 1)]


def n_rows(dataset: Dataset) -> int:
    return dataset.schema.n_rows


@pytest.mark.long
def test_tasks_share_a_dataset_whose_maker_fits(worker: Client, tmp_path: Path) -> None:
    """One object on the worker: it is loaded and checked once, by fits and by its schema at the same time."""
    path = tmp_path / "made"
    dataset = Dataset.from_function(Fitting(path), n_partitions=6, n_columns=30)
    held = worker.scatter(dataset)
    futures = [worker.submit(function, held, pure=False) for function in (n_rows, n_rows, fitted, fitted)]
    assert results(futures) == [569, 569, here("lazy"), here("lazy")]
    assert sorted(path.read_text().split()) == [str(i) for i in range(6)]


@pytest.mark.long
def test_a_dataset_that_is_resident_here_can_be_sent_to_a_task(worker: Client) -> None:
    for dataset, kind in ((Dataset.from_dask(*lazy()), "lazy"), (Dataset.from_arrays(*breast_cancer()), "memory")):
        assert fitted(dataset) == here(kind)
        assert worker.submit(fitted, dataset, pure=False).result(timeout=LIMIT) == here(kind)
        dataset.release()
