"""Short rounds by calls of the workers: no tasks, the same bits, and tasks again where a call does not come through."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin

from pipeline import Dataset, LogisticRegression
from pipeline.execution import calls as direct
from tasks.objectives.linear import LinearObjective
from tasks.workers.calls import OPERATION, prepare_worker
from tests.data import breast_cancer
from tests.rounds import AfterRounds

pytestmark = pytest.mark.usefixtures("rounds_from_here")  # calls are what is left when workers cannot run rounds by themselves


class Finished(SchedulerPlugin):
    """Names of the tasks that ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            self.names.append(str(key[0]).rsplit("-", 1)[0])


def fit(dataset: Dataset) -> LogisticRegression:
    return LogisticRegression(solver="lbfgs", tol=1e-8).fit(dataset)


def resident() -> Dataset:
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y, n_partitions=12)
    dataset.schema  # noqa: B018
    return dataset


@pytest.fixture(scope="module")
def expected() -> str:
    with dask.config.set(scheduler="threads"):
        return fit(resident()).parameters_sha256_


def handlers_on_workers(client: Client, change: Any) -> None:
    def run(dask_worker: Any) -> None:
        change(dask_worker.handlers)

    client.run(run)


@pytest.mark.long
def test_rounds_after_a_short_one_are_no_tasks(cluster: LocalCluster, client: Client, expected: str) -> None:
    dataset, finished = resident(), Finished()
    fit(dataset)  # the first rounds of all compile, and are not short
    scheduler: Any = cluster.scheduler
    scheduler.add_plugin(finished, name="finished")
    try:
        model = fit(dataset)
    finally:
        scheduler.remove_plugin("finished")
    assert finished.names == []
    assert model.n_rounds_ > 10
    assert model.tasks_per_round_ == 2
    assert model.parameters_sha256_ == expected


@pytest.mark.timeout(60)
@pytest.mark.long
def test_workers_that_cannot_be_called_get_tasks(client: Client, expected: str) -> None:
    dataset = resident()
    try:
        handlers_on_workers(client, lambda handlers: handlers.pop(OPERATION))
        assert fit(dataset).parameters_sha256_ == expected
    finally:
        client.run(prepare_worker)


@pytest.mark.timeout(20)
@pytest.mark.long
def test_calls_that_nobody_answers(client: Client, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds go on as tasks, and nothing is logged as an error."""
    monkeypatch.setattr(direct, "PATIENCE", 0.3)
    dataset, logged = resident(), list[logging.LogRecord]()
    monkeypatch.setattr(logging.getLogger("tornado.application"), "handle", logged.append)

    async def silence(**_: Any) -> None:
        await asyncio.sleep(30)

    def mute(handlers: dict[str, Any]) -> None:
        handlers["kept"], handlers[OPERATION] = handlers[OPERATION], silence

    def unmute(handlers: dict[str, Any]) -> None:
        handlers[OPERATION] = handlers.pop("kept")

    handlers_on_workers(client, mute)
    try:
        assert fit(dataset).parameters_sha256_ == expected
    finally:
        handlers_on_workers(client, unmute)
    assert logged == []


@pytest.mark.timeout(60)
@pytest.mark.long
def test_shards_that_move_between_calls(expected: str) -> None:
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        dataset = resident()
        leave = AfterRounds((5,), lambda: client.retire_workers([min(client.scheduler_info()["workers"])]))
        model = LogisticRegression(solver="lbfgs", tol=1e-8).set_callbacks(leave).fit(dataset)
        assert model.n_rounds_ > 10
        assert model.parameters_sha256_ == expected
        assert len(client.scheduler_info()["workers"]) == 2


class Broken(LinearObjective):
    """Fails where the rows are, after the first round."""

    def loss_and_gradient(self, group: Any, parameters: Any) -> Any:
        if np.any(parameters != 0):
            raise ZeroDivisionError("what the user's model does")
        return super().loss_and_gradient(group, parameters)


class BrokenRegression(LogisticRegression):
    """Fits it."""

    def _objective(self, schema: Any) -> Broken:
        found = super()._objective(schema)
        return Broken(found.loss, found.n_columns, found.n_outputs, found.fit_intercept, found.classes, found.class_weight)


@pytest.mark.long
def test_an_error_in_a_call_is_raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError, match="what the user's model does"):
        BrokenRegression(solver="lbfgs").fit(resident())
