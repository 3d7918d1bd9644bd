"""What a connection makes current, and that all that it opened is closed."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import permutations
from typing import Any

import dask
import pytest
from dask.diagnostics import ProgressBar
from distributed import Client, LocalCluster, default_client

import pipeline.cluster.connect as module
from pipeline import connect
from pipeline.cluster.connection import tunnel
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.current import current_executor, executor_in_place_of_dask
from pipeline.execution.threads import ThreadExecutor


@pytest.mark.long
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


def test_objects_of_dask_are_used_and_left_open(client: Client, cluster: LocalCluster) -> None:
    with connect(cluster) as connection:
        assert connection.cluster is cluster
        assert connection.client is not client
        assert default_client() is connection.client
        assert connection.dashboard_link == cluster.dashboard_link
    assert connection.client.status == "closed" and cluster.status.name == "running"
    with Client(cluster.scheduler_address) as other:
        with connect(other) as connection:
            assert connection.client is other is default_client()
            with pytest.raises(ValueError, match="has no cluster object to scale"):
                connection.scale(3)
        assert other.status == "running"
    for wrong in (5, ["tcp://127.0.0.1:1"]):
        with pytest.raises(TypeError, match=r"address of a scheduler, a distributed\.Client or a Dask Cluster, got"):
            connect(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        *(({"n_workers": n}, TypeError, f"n_workers must be a whole number of at least 1, got {n!r}") for n in (True, "2", 2.0)),
        *(({"n_workers": n}, ValueError, f"n_workers must be a whole number of at least 1, got {n}") for n in (0, -1)),
        ({"n_workers": 1, "threads_per_worker": 0}, ValueError, "threads_per_worker must be a whole number of at least 1, got 0"),
        ({"n_workers": 1, "threads_per_worker": "1"}, TypeError, "threads_per_worker must be a whole number"),
        ({"threads_per_worker": 2}, ValueError, "threads_per_worker is for workers that are started here: give n_workers=, queue= or"),
        ({"to": "tcp://127.0.0.1:1", "threads_per_worker": 2}, ValueError, "threads_per_worker is for workers that are started here"),
        *(({"timeout": t}, ValueError, "timeout must be a number of seconds above 0, got") for t in (0, -1.5, float("nan"))),
        *(({"timeout": t}, TypeError, "timeout must be a number of seconds above 0, got") for t in ("5", True)),
        ({"queue": "slurm", "timeout": 0}, ValueError, "timeout must be a number of seconds above 0, got 0"),
        ({"scheduler_file": ""}, ValueError, "scheduler_file must be a file that a scheduler writes, got ''"),
        ({"scheduler_file": "/"}, ValueError, "scheduler_file must be a file that a scheduler writes, got a directory, '/'"),
        ({"scheduler_file": 5}, TypeError, "scheduler_file must be the path of a file that a scheduler writes, got 5"),
        *(
            ({"to": address}, ValueError, f"to={address!r} is no address of a scheduler: it needs a host and a port")
            for address in (
                "",
                "localhost",
                "tcp://10.0.0.1",
                "tls://:8786",
                ":8786",
                "tcp://host:port",
                "tcp://host:0",
                "tcp://host:70000",
            )
        ),
    ],
)
def test_arguments_are_refused_by_their_names(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        connect(**arguments)


@pytest.mark.timeout(60)
@pytest.mark.long
def test_scale() -> None:
    with connect(n_workers=1) as connection:
        assert connection.client is not None
        connection.scale(2)
        connection.client.wait_for_workers(2, timeout=30)


def test_the_scheduler_of_the_configuration_comes_back(cluster: LocalCluster) -> None:
    with dask.config.set(scheduler="synchronous"):
        for address in (None, cluster.scheduler_address):
            with connect(address):
                assert dask.config.get("scheduler") != "synchronous"
            assert dask.config.get("scheduler") == "synchronous"


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("before", [None, "synchronous"])
def test_connections_in_this_process_close_in_any_order(before: str | None, order: tuple[int, ...]) -> None:
    with dask.config.set({} if before is None else {"scheduler": before}):
        connections = [connect() for _ in order]
        for i in order:
            assert dask.config.get("scheduler") == "threads"
            connections[i].close()
            connections[i].close()
        assert dask.config.get("scheduler", None) == before


def test_a_connection_in_this_process_inside_one_of_a_cluster_inside_another(cluster: LocalCluster) -> None:
    before = dask.config.get("scheduler", None)
    with connect():
        with connect(cluster.scheduler_address):
            assert isinstance(current_executor(), ClusterExecutor)
            with connect(), connect():
                assert isinstance(current_executor(), ThreadExecutor)
            assert isinstance(current_executor(), ClusterExecutor)
        assert isinstance(current_executor(), ThreadExecutor)
    assert dask.config.get("scheduler", None) == before


@pytest.mark.parametrize("name", ["threads", "Threading", "sync", None])
def test_threads_stand_in_for_dasks(name: str | None) -> None:
    with dask.config.set(scheduler=name):
        assert isinstance(executor_in_place_of_dask(), ThreadExecutor)
        with ProgressBar():  # which would see none of it
            assert executor_in_place_of_dask() is None


def test_nobody_stands_in_where_dask_is_to_compute_otherwise() -> None:
    with ProcessPoolExecutor(1) as pool:
        for scheduler in ("processes", "Processes", "multiprocessing", "nonsense", dask.get, pool):
            with dask.config.set(scheduler=scheduler):
                assert executor_in_place_of_dask() is None


def test_connections_in_this_process_of_several_threads() -> None:
    before = dask.config.get("scheduler", None)

    def work(_: int) -> bool:
        with connect(), connect():
            return all(dask.config.get("scheduler", None) == "threads" for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
    assert dask.config.get("scheduler", None) == before


def test_a_cluster_whose_client_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Cluster:
        def __init__(self, **options: Any) -> None: ...

        def close(self) -> None:
            closed.append(self)

    class Refusing(Client):
        def __init__(self, cluster: Cluster) -> None:
            raise OSError("no answer")

    monkeypatch.setattr(module, "LocalCluster", Cluster)
    monkeypatch.setattr(module, "ClosingClient", Refusing)
    with pytest.raises(OSError, match="no answer"):
        connect(n_workers=2)
    assert len(closed) == 1


def test_a_connection_waits_for_workers_within_bounds(cluster: LocalCluster) -> None:
    with connect(cluster) as connection:
        connection.await_workers(2, timeout=30)
        with pytest.warns(UserWarning, match=r"2 of 3 workers came in 0\.2 s; going on with them"):
            connection.await_workers(3, timeout=0.2)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        connect(empty) as connection,
        pytest.raises(TimeoutError, match=r"no worker has come to the scheduler in 0\.2 s"),
    ):
        connection.await_workers(1, timeout=0.2)


@pytest.mark.long
def test_what_a_connection_shows(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    with connect(n_workers=1) as connection:
        link = str(connection.dashboard_link)
        assert link.startswith("http://127.0.0.1:") and connection.tunnel_command is None
        assert repr(connection).startswith("Connection(processes on this machine, <") and f"plain, {link})" in repr(connection)
        page = connection._repr_html_()
        assert "<Client" not in page and "&lt;" in page and f'<a href="{link}"' in page
    assert "No scheduler connected" in repr(connection) and link not in repr(connection) and "<table" in connection._repr_html_()
    with connect() as connection:
        assert "this process" in connection._repr_html_()
    monkeypatch.setenv("SSH_CONNECTION", "10.1.1.1 5000 10.0.0.1 22")
    with connect(cluster.scheduler_address) as connection:
        port = str(connection.dashboard_link).split(":")[2].split("/")[0]
        assert str(connection.tunnel_command).startswith(f"ssh -N -L {port}:localhost:{port} ")
        assert str(connection.tunnel_command) in repr(connection)
    assert tunnel("tls://203.0.113.9:8786", "http://203.0.113.9:8787/status") == "ssh -N -L 8787:localhost:8787 203.0.113.9"
    assert tunnel("tls://203.0.113.9:8786", None) is None
