"""Rows, or a model, at which worker after worker dies: an error that says which partitions they had, in bounded time."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster

from pipeline.execution.failures import WorkersKilledError
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS
from tests.faults.scene import at

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


@pytest.mark.parametrize("moment", ["task", "task, rows sent"])
def test_a_round_that_kills_every_worker(moment: str, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.tell_all("exit")
    with pytest.raises(WorkersKilledError, match=r"round 'gradient'.* workers died with partitions \d.* \(\d+ rows\)\. The logs"):
        MOMENTS[moment](gate, monkeypatch)


def test_a_worker_that_its_nanny_kills_for_its_memory(gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": "700MB", "dashboard_address": ":0"}
    with LocalCluster(**limits) as cluster, Client(cluster), at(gate, lambda pid: "fill memory"):
        assert MOMENTS["task"](gate, monkeypatch) == expected
