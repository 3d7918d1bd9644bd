"""Rows, or a model, at which worker after worker dies: an error that says which partitions they had, in bounded time."""

from __future__ import annotations

import re
from typing import Any

import pytest
from distributed import Client, LocalCluster

from pipeline.execution.residency.failures import WorkersKilledError
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS, only_tasks
from tests.faults.scene import arrays, at, fitted, made, model

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


@pytest.mark.parametrize("make", [made, arrays], ids=["rows made", "rows sent"])
def test_a_group_that_kills_every_worker(make: Any, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    only_tasks(monkeypatch)
    gate.tell_all("exit")
    rows = make()
    found: Any = model(gate)
    found.fatal = rows.source.group_starts[3]
    with pytest.raises(WorkersKilledError, match=r"round 'gradient'.* workers died with partitions .* The logs") as raised:
        fitted(found, rows)
    named = re.search(r"with partitions ([\d to,]*)", str(raised.value))
    assert named is not None
    spans = [span.split(" to ") for span in named[1].strip().split(", ")]
    assert any(int(span[0]) <= found.fatal <= int(span[-1]) for span in spans)
    rows.release()


def test_sums_that_kill_every_worker(client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.tell_all("exit")
    with pytest.raises(WorkersKilledError, match=r"task of the round 'check' .*, and 4 workers died\. The logs"):
        MOMENTS["tree"](gate, monkeypatch)


def test_a_worker_that_its_nanny_kills_for_its_memory(gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": "700MB", "dashboard_address": ":0"}
    with LocalCluster(**limits) as cluster, Client(cluster), at(gate, lambda pid: "fill memory"):
        assert MOMENTS["task"](gate, monkeypatch) == expected
