"""The scheduler dies, or stops answering, at a certain moment: an error by its name, within seconds."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import dask
import pytest

from pipeline import Checkpoint
from pipeline.cluster.pulse import SchedulerLostError
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS, only_tasks
from tests.faults.processes import processes
from tests.faults.scene import arrays, at, fitted, goes_on_here, made, model
from tests.rounds import AfterRounds

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}
LONG = 200_000
CURE = "connect again and repeat the fit: with checkpoint= it goes on where it was"


CASES = [(fault, moment) for fault in SIGNALS for moment in ("load", "check", "task", "call", "session", "tree", "scores")]
CASES.remove(("SIGSTOP", "scores"))  # which are a call of workers that needs no scheduler


@pytest.mark.parametrize(("fault", "moment"), CASES)
def test_while_workers_work(fault: str, moment: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    struck = []

    with dask.config.set({"dask-descent.scheduler-timeout": "3s"}), processes(tmp_path) as (cluster, client):

        def strike(pid: int) -> str:
            cluster.scheduler.send_signal(SIGNALS[fault])
            struck.append(time.monotonic())
            return "pass"

        address = client.scheduler.address
        with at(gate, strike), pytest.raises(SchedulerLostError, match=f"{address}; {CURE}"):
            MOMENTS[moment](gate, monkeypatch, n_rounds=LONG)
        assert time.monotonic() - struck[0] < 20  # also on a busy machine


@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
@pytest.mark.parametrize("fault", SIGNALS)
@pytest.mark.usefixtures("rounds_from_here")
def test_between_rounds(fault: str, make: object, tmp_path: Path) -> None:
    struck = []

    with dask.config.set({"dask-descent.scheduler-timeout": "3s"}), processes(tmp_path) as (cluster, _):

        def strike() -> None:
            cluster.scheduler.send_signal(SIGNALS[fault])
            struck.append(time.monotonic())

        found = model(n_rounds=LONG).set_callbacks(AfterRounds((7,), strike))
        with pytest.raises(SchedulerLostError, match=CURE):
            fitted(found, make())  # type: ignore[operator]
        assert time.monotonic() - struck[0] < 20  # also on a busy machine


@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
def test_the_fit_goes_on_from_its_checkpoint(make: Any, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_tasks(monkeypatch)  # calls of workers would go on without it
    kept = Checkpoint(directory=tmp_path / "kept", every_rounds=1)
    rows = make()
    with processes(tmp_path) as (cluster, _):
        found = model().set_params(checkpoint=kept).set_callbacks(AfterRounds((7,), cluster.scheduler.kill))
        with pytest.raises(SchedulerLostError, match=CURE):
            fitted(found, rows)
    assert goes_on_here(rows, kept) == (7, expected)


def test_one_that_is_stopped_for_a_while_is_waited_for(tmp_path: Path, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with processes(tmp_path) as (cluster, _):

        def strike(pid: int) -> str:
            cluster.scheduler.send_signal(signal.SIGSTOP)
            time.sleep(4.0)
            cluster.scheduler.send_signal(signal.SIGCONT)
            return "pass"

        with at(gate, strike):
            assert MOMENTS["task"](gate, monkeypatch) == expected
