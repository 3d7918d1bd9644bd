"""No worker is there, or none is left: bounded time, and an error by its name in every phase; or the fit goes on with those that join."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster

from pipeline import Checkpoint, Dataset, LogisticRegression
from pipeline.cluster.workers import WAIT_FOR_WORKERS, WorkersUnavailableError
from tests.data import breast_cancer
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS
from tests.faults.processes import processes
from tests.faults.scene import arrays, at, fitted, goes_on_here, made, model
from tests.rounds import AfterRounds

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


def lazy() -> tuple[Any, Any]:
    X, y = breast_cancer()
    return da.from_array(X, chunks=(100, -1)), da.from_array(y, chunks=100)


def uncounted(a: Any) -> Any:
    return a[da.from_array([True] * len(a), chunks=100)]


def fitted_here() -> LogisticRegression:
    with dask.config.set(scheduler="threads"):
        return LogisticRegression(solver="newton").fit(*breast_cancer())


PHASES: Final[dict[str, Callable[[], Any]]] = {
    "fit of rows sent": lambda: fitted(model(), arrays()),
    "fit of rows made": lambda: fitted(model(), made()),
    "fit of Dask arrays": lambda: LogisticRegression().fit(*lazy()),
    "schema": lambda: made().schema,
    "describe": lambda: arrays().describe(),
    "score of a dataset": lambda: fitted_here().score(arrays()),
    "score of Dask arrays": lambda: fitted_here().score(*lazy()),
    "counting rows": lambda: Dataset.from_dask(*map(uncounted, lazy()), n_partitions=4),
}


@pytest.fixture(scope="module")
def empty() -> Any:
    with LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("phase", PHASES)
def test_none_from_the_beginning(phase: str, empty: Client) -> None:
    with (
        empty.as_current(),
        dask.config.set({WAIT_FOR_WORKERS: 1}),
        pytest.raises(WorkersUnavailableError, match="no worker joined tcp://"),
    ):
        PHASES[phase]()


@pytest.mark.parametrize("moment", MOMENTS)
def test_all_killed(moment: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with dask.config.set({WAIT_FOR_WORKERS: 2}), processes(tmp_path) as (cluster, _):

        def strike(pid: int) -> str:
            for worker in cluster.workers:
                worker.kill()
            return "pass"

        with at(gate, strike), pytest.raises(WorkersUnavailableError, match="no worker joined tcp://"):
            MOMENTS[moment](gate, monkeypatch)


@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
@pytest.mark.usefixtures("rounds_from_here")
def test_the_fit_goes_on_from_its_checkpoint(make: Any, tmp_path: Path, expected: str) -> None:
    kept = Checkpoint(directory=tmp_path / "kept", every_rounds=1)
    rows = make()
    with dask.config.set({WAIT_FOR_WORKERS: "2s"}), processes(tmp_path) as (cluster, _):

        def strike() -> None:
            for worker in cluster.workers:
                worker.kill()

        found = model().set_params(checkpoint=kept).set_callbacks(AfterRounds((7,), strike))
        with pytest.raises(WorkersUnavailableError, match="no worker joined tcp://"):
            fitted(found, rows)
    assert goes_on_here(rows, kept) == (7, expected)


@pytest.mark.parametrize("moment", ["load", "task", "task, rows sent", "session"])
def test_all_killed_and_another_joins(moment: str, tmp_path: Path, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with processes(tmp_path) as (cluster, _):

        def strike(pid: int) -> str:
            for worker in cluster.workers:
                os.kill(worker.pid, signal.SIGKILL)
            cluster.start_worker()
            return "pass"

        with at(gate, strike):
            assert MOMENTS[moment](gate, monkeypatch) == expected
