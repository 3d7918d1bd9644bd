"""Silence of workers by this process's clock, and the limits of stalls."""

from __future__ import annotations

from typing import Any

import dask
import pytest

from pipeline.cluster.pulse import Silence, worker_ttl


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
