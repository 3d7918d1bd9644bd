"""What a connection makes current, and that all that it opened is closed."""

from __future__ import annotations

from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, default_client

import pipeline.cluster.connect as module
from pipeline import connect
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.executors import ThreadExecutor, current_executor


def test_work_stays_in_this_process_whatever_client_is_current(client: Client) -> None:
    with connect() as connection:
        assert connection.client is None
        assert repr(connection) == "Connection(this process)"
        assert isinstance(current_executor(), ThreadExecutor)
    assert isinstance(current_executor(), ClusterExecutor)
    connection = connect()
    assert isinstance(current_executor(), ThreadExecutor)
    connection.close()
    connection.close()
    assert isinstance(current_executor(), ClusterExecutor)


def test_its_client_is_current_inside_the_block_of_another(client: Client, cluster: LocalCluster) -> None:
    with connect(cluster.scheduler_address) as connection:
        assert connection.client is not None
        assert default_client() is connection.client is not client
        assert f"'{cluster.scheduler_address}' processes=2" in repr(connection)
    assert connection.client.status == "closed" and "No scheduler connected" in repr(connection)
    assert default_client() is client and client.status == "running"


def test_the_scheduler_of_the_configuration_comes_back(cluster: LocalCluster) -> None:
    with dask.config.set(scheduler="synchronous"):
        for address in (None, cluster.scheduler_address):
            with connect(address):
                assert dask.config.get("scheduler") != "synchronous"
            assert dask.config.get("scheduler") == "synchronous"


def test_a_cluster_whose_client_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Cluster:
        def __init__(self, **options: Any) -> None: ...

        def close(self) -> None:
            closed.append(self)

    def refuse(cluster: Cluster) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(module, "LocalCluster", Cluster)
    monkeypatch.setattr(module, "Client", refuse)
    with pytest.raises(OSError, match="no answer"):
        connect(n_workers=2)
    assert len(closed) == 1
