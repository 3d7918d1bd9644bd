"""A few of the faults that `pytest -m faults` has, for every run of the tests."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import Client

from pipeline.cluster.pulse import SchedulerLostError
from tasks.loading.checking import CHECK
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS
from tests.faults.processes import processes
from tests.faults.scene import SIGNALS, Victim, arrays, at, fitted, made, model, n_tasks

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("fault", "moment"), [("SIGKILL", "session"), ("SIGTERM", "load"), ("SIGKILL", "tree")])
@pytest.mark.long
def test_a_signal(fault: str, moment: str, client: Client, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def inject(pid: int) -> str:
        SIGNALS[fault](Victim(client, pid))
        return "pass"

    with at(gate, inject):
        assert MOMENTS[moment](gate, monkeypatch) == expected


@pytest.mark.long
def test_a_segfault_in_a_call(client: Client, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with at(gate, lambda pid: "segfault"):
        assert MOMENTS["call"](gate, monkeypatch) == expected


@pytest.mark.long
def test_out_of_memory_in_a_task(client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.tell_all("out of memory")
    with pytest.raises(MemoryError, match=r"ran out of memory at partition.*: Unable to allocate .* rows would fit \(n_partitions="):
        MOMENTS["task"](gate, monkeypatch)


@pytest.mark.long
def test_the_scheduler_dies(tmp_path: Path, gate: Gate) -> None:
    rows = made()
    with processes(tmp_path, n_workers=1) as (cluster, _):

        def strike(pid: int) -> str:
            cluster.scheduler.send_signal(signal.SIGKILL)
            return "pass"

        with at(gate, strike), pytest.raises(SchedulerLostError, match="connect again"):
            fitted(model(gate, "session", n_rounds=200_000), rows)
    assert not rows.source.resident  # what stands for them would keep the client


@pytest.mark.long
def test_workers_import_what_they_need_alone(client: Client, expected: str) -> None:
    """A worker that imports half of the world is silent for seconds, and its scheduler may give it up."""
    rows = made()
    assert fitted(model(), rows) == expected
    rows.release()
    assert not any(client.run(lambda: {"pipeline", "sklearn"} & sys.modules.keys()).values())


@pytest.mark.long
def test_a_round_outside_of_fits_leaves_no_tasks(client: Client) -> None:
    """Even if an exception that was caught keeps its executor alive."""
    rows = arrays()
    executor = rows.executor()
    executor.map_reduce(rows.rows, CHECK, rows.n_partitions)
    n_pieces = len(rows.source.resident[client.id].futures)
    deadline = time.monotonic() + 5
    while n_tasks(client) > n_pieces and time.monotonic() < deadline:
        time.sleep(0.05)
    assert n_tasks(client) == n_pieces
    rows.release()
    assert executor.tasks_per_round > 0
