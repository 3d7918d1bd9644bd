"""Silence of workers by this process's clock, and the limits of stalls."""

from __future__ import annotations

from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from pipeline.cluster.pulse import Silence, pulse, pulse_of, seconds_of, worker_ttl
from pipeline.cluster.workers import Workers


def workers(**seen: float) -> dict[str, Any]:
    """Busy ones, and when the scheduler heard of them."""
    return {name: {"last_seen": time, "metrics": {"managed_bytes": 8, "task_counts": {}}} for name, time in seen.items()}


def test_one_that_stops() -> None:
    silence = Silence()
    found = [silence.update(workers(a=1e9 + now, b=1e9 + min(now, 3)), now) for now in range(12)]
    assert found[:9] == [{}] * 9
    assert found[9:] == [{"b": 6}, {"b": 7}, {"b": 8}]


def test_one_that_comes_back() -> None:
    silence = Silence()
    for now in range(12):
        found = silence.update(workers(a=min(now, 3)), now)
    assert found == {"a": 8}
    assert silence.update(workers(a=12), 12) == {}
    assert silence.update(workers(a=12), 17) == {}


def test_a_client_that_was_stopped_itself() -> None:
    silence = Silence()
    for now in range(4):
        silence.update(workers(a=now), now)
    assert silence.update(workers(a=3), 600) == {}  # the answer may be from before
    assert silence.update(workers(a=601), 601) == {}


def test_one_that_has_nothing() -> None:
    silence = Silence()
    idle = {"a": {"last_seen": 0.0, "metrics": {"managed_bytes": 0, "task_counts": {"executing": 0}}}, "b": {"last_seen": 0.0}}
    assert [silence.update(idle, now) for now in range(20)] == [{}] * 20
    idle["a"]["metrics"] = {"managed_bytes": 0, "task_counts": {"executing": 1}}
    assert silence.update(idle, 20) == {"a": 20}


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        ({}, 15),
        ({"dask-descent.stall-limit": "8s"}, 4),
        ({"dask-descent.stall-limit": 100}, 50),
        ({"distributed.scheduler.worker-ttl": "6s"}, 6),
        ({"distributed.scheduler.worker-ttl": None}, 15),
    ],
)
def test_the_limit_of_a_stall(keys: dict[str, Any], seconds: float) -> None:
    with dask.config.set(keys):
        assert worker_ttl() == seconds


KEYS = ("dask-descent.scheduler-timeout", "dask-descent.stall-limit", "dask-descent.wait-for-workers")


@pytest.mark.parametrize(("given", "seconds"), [("60s", 60), ("5 minutes", 300), (7, 7), ("2.5", 2.5)])
@pytest.mark.parametrize("key", KEYS)
def test_a_limit_is_a_time(key: str, given: Any, seconds: float) -> None:
    assert seconds_of(key) == 30
    with dask.config.set({key: given}):
        assert seconds_of(key) == seconds


@pytest.mark.parametrize("given", ["soon", "", None, [], 0, -1, "nan", "1e999s"])
@pytest.mark.parametrize("key", KEYS)
def test_a_limit_that_is_none(key: str, given: Any) -> None:
    with dask.config.set({key: given}), pytest.raises(ValueError, match=f"^{key} in Dask's configuration must be a time above 0, such as"):
        seconds_of(key)


def test_a_limit_that_is_put_right() -> None:
    """Nobody has entered in vain: the scheduler is watched as soon as the limit is one."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster, Client(cluster) as client:
        with dask.config.set({"dask-descent.scheduler-timeout": "soon"}), pytest.raises(ValueError, match="got 'soon'"), pulse(client):
            pass
        with dask.config.set({"dask-descent.scheduler-timeout": "3s"}), pulse(client):
            assert (pulse_of(client)._users, pulse_of(client).limit) == (1, 3)
        assert pulse_of(client)._users == 0
        with dask.config.set({"dask-descent.wait-for-workers": "60s"}):
            assert Workers(client).patience == 60
