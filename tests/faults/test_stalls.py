"""A worker that is stopped on a scheduler that is not ours: a warning says what bounds the wait. Continued, it is waited for."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.cluster.pulse import SilentWorkerWarning
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS
from tests.faults.processes import processes
from tests.faults.scene import Victim, at, resume

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


@pytest.mark.parametrize("moment", ["load", "check", "task", "session", "tree"])
def test_a_warning_on_a_foreign_scheduler(moment: str, tmp_path: Path, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = 11.0
    with processes(tmp_path) as (_, client):
        addresses = []

        def strike(pid: int) -> str:
            victim = Victim(client, pid)
            addresses.append(victim.address)
            time.sleep(1.0)  # a heartbeat tells that the worker is at work
            victim.signal(signal.SIGSTOP)
            threading.Timer(stopped, resume, (pid,)).start()
            return "pass"

        with pytest.warns(SilentWorkerWarning) as warned, at(gate, strike):
            assert MOMENTS[moment](gate, monkeypatch) == expected
    (text,) = {str(each.message) for each in warned}
    assert text.startswith(f"worker {addresses[0]} has not been heard of since ")
    assert "distributed.scheduler.worker-ttl (300 s)" in text


def test_a_foreign_scheduler_that_gives_up_soon(tmp_path: Path, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning is due."""
    with processes(tmp_path, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="6s") as (_, client):

        def strike(pid: int) -> str:
            Victim(client, pid).signal(signal.SIGSTOP)
            return "pass"

        with at(gate, strike):
            assert MOMENTS["task"](gate, monkeypatch) == expected
