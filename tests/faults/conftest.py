"""Fixtures of tests in which processes die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client

from tests.faults.gate import Gate
from tests.faults.scene import N_WORKERS, nothing_stays, own_cluster, undisturbed


@pytest.fixture(scope="module", autouse=True)
def usual_starts() -> Iterator[None]:
    """Workers of these tests start as they do for users: what they import, and how long it takes, is a part of what is tested."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        yield


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate.new(tmp_path / "gate")


@pytest.fixture(scope="module")
def shared_client() -> Iterator[Client]:
    """Of a cluster whose workers are killed, and come back."""
    with own_cluster() as client:
        yield client


@pytest.fixture
def client(shared_client: Client) -> Iterator[Client]:
    shared_client.wait_for_workers(N_WORKERS - 1, timeout=30)  # one that was killed before may still be starting
    with shared_client.as_current(), nothing_stays(shared_client):
        yield shared_client


@pytest.fixture(scope="session")
def expected() -> str:
    return undisturbed()
