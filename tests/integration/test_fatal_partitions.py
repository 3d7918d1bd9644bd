"""Partitions that end the process that reads them, or computes with them: an error that names them, and what would fit."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from pipeline import Dataset, FatalPartitionError, LogisticRegression
from pipeline.execution.residency.loading_errors import loading_error, memory
from tests.data import breast_cancer

pytestmark = pytest.mark.timeout(60)

N = 40


@pytest.fixture
def fragile() -> Iterator[Client]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit="1.5GB") as cluster,
        Client(cluster) as client,
    ):
        yield client


def fatal_at(partition: int, how: str) -> Any:
    def make(i: int) -> Any:
        X, y = breast_cancer()
        if i == partition and how == "out of memory":
            return np.ones((100_000_000, 30)), np.ones(100_000_000)
        if i == partition:
            time.sleep(1.0)  # in which the scheduler hears of those before
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            ctypes.string_at(0)
        return X[10 * i : 10 * i + 10], y[10 * i : 10 * i + 10]

    return make


@pytest.mark.faults
@pytest.mark.parametrize("partition", [0, 17, 39])
@pytest.mark.parametrize("how", ["killed", "crashed"])
def test_a_partition_that_kills_whoever_reads_it(fragile: Client, how: str, partition: int) -> None:
    dataset = Dataset.from_function(fatal_at(partition, how), n_partitions=N, n_columns=30)
    with pytest.raises(FatalPartitionError, match=r"^2 workers died, one after the other, at partition") as raised:
        LogisticRegression().fit(dataset)
    found = [int(number) for number in re.findall(r"make\((\d+)\)", str(raised.value))]
    assert raised.value.partition == found[0] <= partition <= found[-1], str(raised.value)
    assert raised.value.location == f"make({found[0]})"
    assert isinstance(raised.value.__cause__, KilledWorker)


@pytest.mark.faults
@pytest.mark.parametrize("on_error", ["raise", "quarantine"])
def test_a_partition_that_takes_all_memory(fragile: Client, on_error: Any) -> None:
    """How much a worker has is not the data's fault: it is not left out for that."""
    dataset = Dataset.from_function(fatal_at(5, "out of memory"), n_partitions=N, n_columns=30, on_error=on_error)
    with pytest.raises(
        FatalPartitionError, match=r"The workers may hold \d+ MB each; how much these rows take is not known. Make the part"
    ):
        LogisticRegression().fit(dataset)


def killed(task: Any) -> KilledWorker:
    return KilledWorker(task, SimpleNamespace(address="tcp://x"), 3)  # type: ignore[arg-type]


def resident(failed: tuple[int, ...]) -> Any:
    """Of four pieces of two groups each, on two threads."""
    futures = [SimpleNamespace(status="error" if piece in failed else "finished") for piece in range(4)]
    numbers = [(0, 1), (2, 3), (4, 5), (6, 7)]
    return SimpleNamespace(futures=futures, numbers=numbers, assigned=[[0, 1], [2, 3]], workers=["tcp://a", "tcp://b"])


def test_errors_of_no_pieces() -> None:
    source = Dataset.from_arrays(*breast_cancer(), n_partitions=8).source
    for error in (killed(("gradient-1", 1)), ValueError()):
        assert loading_error(error, source, resident(()), {}) is error
        assert not hasattr(error, "__notes__")
    failed = loading_error(ValueError(), source, resident((1,)), {})
    assert failed.__notes__ == ["while loading partitions 2 to 3 (rows 142 to 212 of X to rows 213 to 283 of X)"]


def test_what_is_said_of_pieces_that_kill_workers() -> None:
    X, y = breast_cancer()
    source = Dataset.from_arrays(X, y, n_partitions=8).source
    found = loading_error(killed(("load-1", "000002")), source, resident((2, 3)), {"tcp://a": 1e6, "tcp://b": 1e6})
    assert isinstance(found, FatalPartitionError) and found.partition == 4
    assert str(found) == (
        "4 workers died, one after the other, at partitions 4 to 5 (rows 284 to 354 of X to rows 355 to 425 of X), or behind it, up"
        " to partition 7 (rows 497 to 568 of X): out of memory, or a crash of what reads it, as their logs say. The workers may hold 1 MB"
        " each; X of these rows takes 0.0341 MB, of all rows 0.137 MB. Make the partitions smaller, of at most 0.466 MB, or give the"
        " workers more memory"
    )


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (
            {},
            "have no limit of memory; X of these rows takes 8 MB, of all rows 32 MB. Make the partitions smaller, or give the workers more",
        ),
        ({"a": 12e6, "b": 12e6}, "may hold 12 MB each; .* more than all of them may hold together: 3 such workers could"),
        ({"a": 20e6, "b": 20e6}, r"smaller, of at most 2 MB, or give"),
    ],
)
def test_what_would_fit(limits: dict[str, float], expected: str) -> None:
    source = Dataset.from_arrays(np.zeros((4000, 1000)), n_partitions=4).source
    assert re.search(expected, memory(source, [2], ["a", "b"], limits))
