"""Rounds that are submitted and given up, and functions of partitions, on threads and on a cluster."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait
from distributed.diagnostics.plugin import SchedulerPlugin

from pipeline import Dataset, LogisticRegression, OutOfMemoryError, Ridge
from pipeline.execution import calls, sending
from pipeline.execution.base import Executor, Pending
from pipeline.execution.calls import Calls
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.pump import Pump
from pipeline.execution.threads import ThreadExecutor
from tasks.loading.checking import CHECK
from tasks.loading.mapping import PartitionMap
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.reductions.reduction import Reduction, of_group
from tasks.rounds.fitting import Fit
from tasks.rows.partition import Group
from tasks.strategies.steps import Steps
from tests.on_workers import total

N_ROWS = 600
SIZES = (37, 3, 80, 0, 100, 180, 150, 50)


def arrays() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    X = random.normal(size=(N_ROWS, 4))
    return X, (X[:, 0] + random.normal(size=N_ROWS) > 0).astype(int)


def lazy() -> tuple[da.Array, da.Array]:
    X, y = arrays()
    return da.from_array(X, chunks=(SIZES, -1)), da.from_array(y, chunks=(SIZES,))


@pytest.fixture(params=["one thread", "threads", "cluster"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "cluster":
        client: Client = request.getfixturevalue("client")
        yield ClusterExecutor(client)
    else:
        yield ThreadExecutor(1 if request.param == "one thread" else 3)


# -- the pump ------------------------------------------------------------------------------------------------------------------------


class Given(Pending):
    """A round whose end is given."""

    def __init__(self, end: Callable[[], Any]) -> None:
        self.end = end
        self.cancelled = False

    def result(self) -> Any:
        return self.end()

    def cancel(self) -> None:
        self.cancelled = True


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_a_round_is_under_way_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, pending = ThreadExecutor(1), Given(interrupt)
    monkeypatch.setattr(ThreadExecutor, "submit", lambda *_: pending)
    X, y = arrays()
    rows = Dataset.from_arrays(X, y, n_partitions=3)
    fit = Fit(LinearObjective(LogisticLoss(), 4, 1, fit_intercept=True, classes=np.arange(2)), (L2(1e-3),), Steps(3, step_size=0.1))
    with pytest.raises(KeyboardInterrupt):
        Pump(executor, rows.rows, fit).advance(fit.init(np.zeros((1, 5))), 1)
    assert pending.cancelled


def test_rounds_on_workers_come_first_where_several_may_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, limits = ThreadExecutor(1), []
    monkeypatch.setattr(ThreadExecutor, "on_workers", lambda *arguments: limits.append(arguments[-1]))
    X, y = arrays()
    rows = Dataset.from_arrays(X, y, n_partitions=3)
    fit = Fit(LinearObjective(LogisticLoss(), 4, 1, fit_intercept=True, classes=np.arange(2)), (L2(1e-3),), Steps(3, step_size=0.1))
    states = fit.init(np.zeros((1, 5)))
    pump = Pump(executor, rows.rows, fit)
    for limit in (1, 7):
        advance = pump.advance(states, limit)
        assert len(advance.reports) == 1
    assert limits == [7]


# -- rounds that are given up --------------------------------------------------------------------------------------------------------


def test_two_rounds_may_be_under_way(executor: Executor) -> None:
    X, y = arrays()
    data = Dataset.from_arrays(X, y, n_partitions=8)
    first, second = (executor.submit(data.rows, CHECK, data.n_partitions) for _ in range(2))
    found = second.result(), first.result()
    assert found[0].weight_sum == found[1].weight_sum == N_ROWS


def test_threads_stop_when_a_round_is_given_up() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def wait(group: Group, broadcast: Any) -> int:
        begun.set()
        assert go_on.wait(20)
        done.append(group.first_partition)
        return 1

    X, y = arrays()
    reduction = Reduction("wait", of_group(wait), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    pending = ThreadExecutor(2).submit(Dataset.from_arrays(X, y, n_partitions=16).rows, reduction, None)
    assert begun.wait(20)  # the helper, though nobody waits for the round
    threading.Timer(0.2, go_on.set).start()
    pending.cancel()
    assert len(done) == 1
    time.sleep(0.1)
    assert len(done) == 1


def test_rows_that_a_task_does_not_find_any_more_are_no_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another round may just have moved them. What is no key of theirs is one."""
    X, y = arrays()
    data, executor, sums = Dataset.from_arrays(X, y, n_partitions=8), ClusterExecutor(client), sending.Sent.sums
    keys: list[Any] = []

    def lacking(sent: sending.Sent) -> Any:
        found = sums(sent)
        if keys:
            raise KeyError(keys.pop() or sent.work[0].keys[0])
        return found

    monkeypatch.setattr(sending.Sent, "sums", lacking)
    keys = [None]
    assert executor.map_reduce(data.rows, CHECK, data.n_partitions).weight_sum == N_ROWS
    assert not keys
    keys = ["a key of the user's"]
    with pytest.raises(KeyError, match="a key of the user's"):
        executor.map_reduce(data.rows, CHECK, data.n_partitions)


def slow(group: Group, broadcast: Any) -> int:
    time.sleep(0.5)  # tasks that run go on for a while, whoever has given them up
    return 1


@pytest.mark.timeout(60)
def test_rounds_that_wait_for_a_worker_are_done_in_the_order_in_which_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = arrays()
    data = Dataset.from_arrays(X, y, n_partitions=1)
    monkeypatch.setattr(sending, "CALLED_ROUND", -1.0)
    reduction = Reduction("slow", of_group(slow), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        executor = ClusterExecutor(client)
        assert executor.map_reduce(data.rows, reduction, None) == 1
        under_way = {number: executor.submit(data.rows, reduction, None) for number in range(4)}
        order = []
        while under_way:
            numbers = sorted(under_way, reverse=True)
            order.append(numbers[executor.first_done(data.rows, [under_way[number] for number in numbers])])
            assert under_way.pop(order[-1]).result() == 1
    assert order == [0, 1, 2, 3]


@pytest.mark.timeout(60)
@pytest.mark.long
def test_calls_that_were_lost_together_are_one_failure(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds under way compile, or take long, all at once: after them calls go on."""
    monkeypatch.setattr(calls, "PATIENCE", 0.2)
    X, y = arrays()
    data = Dataset.from_arrays(X, y, n_partitions=2)
    reduction = Reduction("slow", of_group(slow), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    executor = ClusterExecutor(client)
    assert executor.map_reduce(data.rows, reduction._replace(reads=False), None) == 2
    assert calls.failures(client) == 0
    resident = data.source.resident[client.id]
    resident.last_round, resident.located = 0.0, True
    under_way = [executor.submit(data.rows, reduction, None) for _ in range(4)]
    assert [pending.result() for pending in under_way] == [2] * 4
    assert calls.failures(client) == 1
    assert calls.can_call(client)


def test_calls_are_tried_again_after_a_while(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that died come back; behind a gateway calls are tried more and more seldom."""
    now = 100.0
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: now))
    waited = []
    for _ in range(calls.MAX_FAILURES + 2):
        assert calls.can_call(client)
        calls.count_call(client, calls.failures(client))
        began = now
        while not calls.can_call(client):
            now += 1.0
        waited.append(now - began)
    assert waited == [0.0] * (calls.MAX_FAILURES - 1) + [calls.AGAIN * factor for factor in (1, 2, 4)]
    calls.count_call(client)
    assert calls.failures(client) == 0
    assert calls.can_call(client)


def test_sums_that_do_not_add_up_are_of_each_subtree(client: Client) -> None:
    """How large a round is decides on which way it goes, and how far it is added up on the cluster."""
    X, y = arrays()
    data = Dataset.from_arrays(X, y, partition_rows=[100] * 6)
    adding = Reduction("one", of_group(lambda group, broadcast: 1), lambda left, right: left + right, lambda broadcast, n_columns: 1000)
    executor = ClusterExecutor(client)
    assert executor.map_reduce(data.rows, adding, None) == 6
    resident = data.source.resident[client.id]
    found = []
    for reduction in (adding, adding._replace(adds_up=False), adding._replace(adds_up=False, subtree=lambda broadcast: 3)):
        sent = sending.Sent(executor.sender, resident, data.rows, reduction, None)
        found.append(sent.n_bytes // 1000)
        sent.cancel()
    assert found == [resident.n_sums, 6, 1]
    assert resident.n_sums < 6


def test_the_first_round_of_a_fit_is_not_known_to_be_short(client: Client) -> None:
    """A round that goes through no rows says nothing of the next ones, which may compile."""
    X, y = arrays()
    data = Dataset.from_dask(da.from_array(X, chunks=(SIZES, -1)), da.from_array(y, chunks=(SIZES,)))
    reduction = Reduction("one", of_group(lambda group, broadcast: 1), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    executor = ClusterExecutor(client)
    assert executor.map_reduce(data.rows, reduction._replace(reads=False), None) == len(SIZES)
    resident = data.source.resident[client.id]
    assert resident.last_round == np.inf
    executor.map_reduce(data.rows, reduction, None)
    assert np.isfinite(known := resident.last_round)
    executor.map_reduce(data.rows, reduction._replace(reads=False), None)
    assert resident.last_round == known


@pytest.mark.timeout(60)
def test_nobody_complains_of_calls_that_were_given_up(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = lazy()
    data = Dataset.from_dask(X, y)
    executor = ClusterExecutor(client)
    reduction = Reduction("slow", of_group(slow), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    for _ in range(2):
        assert executor.map_reduce(data.rows, CHECK, data.n_partitions).weight_sum == N_ROWS
    monkeypatch.setattr(sending, "CALLED_ROUND", 100.0)
    begun: list[Calls] = []
    monkeypatch.setattr(sending, "Calls", lambda *arguments: begun.append(Calls(*arguments)) or begun[-1])
    pending = executor.submit(data.rows, reduction, None)
    assert begun.pop()
    time.sleep(0.1)
    pending.cancel()
    del pending
    time.sleep(0.5)
    client.sync(collected)
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def collected() -> None:
    """Have the loop's own thread collect what nobody asks for any more."""
    await asyncio.sleep(0.1)
    gc.collect()


@pytest.mark.timeout(60)
def test_no_task_stays_of_a_round_that_was_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = lazy()
    data = Dataset.from_dask(X, y)
    executor = ClusterExecutor(client)
    assert executor.map_reduce(data.rows, CHECK, data.n_partitions).weight_sum == N_ROWS
    reduction = Reduction("slow", of_group(slow), lambda left, right: left + right, lambda broadcast, n_columns: 0)
    monkeypatch.setattr(sending, "CALLED_ROUND", -1.0)
    pending = executor.submit(data.rows, reduction, None)

    def under_way() -> list[str]:
        keys: list[str] = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks if "slow" in str(key)])
        return keys

    deadline = time.monotonic() + 20
    while not under_way() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert under_way()
    pending.cancel()
    while under_way() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not under_way()


# -- functions of partitions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pytest.param("lazy", marks=pytest.mark.long), "persisted", "resident", "in memory", "held out"])
def test_a_function_of_each_partition(executor: Executor, make: str) -> None:
    X, y = arrays()
    bounds = np.cumsum([0, *SIZES])
    if make == "persisted" and isinstance(executor, ThreadExecutor):
        pytest.skip("only a cluster persists")
    if make == "in memory":
        data = Dataset.from_arrays(X, y, partition_rows=SIZES)
    else:
        data = Dataset.from_dask(*(dask.persist(*lazy()) if make == "persisted" else lazy()))
    if make == "resident":
        executor.map_reduce(data.rows, CHECK, data.n_partitions)
    if make == "held out":
        data = data.split(0.25, seed=3)[1]
        held_out = Dataset.from_dask(*lazy()).split(0.25, seed=3)[1].X.compute(scheduler="threads")
    found = list(executor.map_partitions(data.rows, PartitionMap("total", total, 2.0)))
    assert [number for number, _ in found] == [first for _, (first, _) in found] == list(range(data.n_partitions))
    if make == "held out":
        assert sum(sum_ for _, (_, sum_) in found) == pytest.approx(2 * held_out.sum())
        return
    expected = [2.0 * float(X[a:b].sum()) for a, b in pairwise(bounds)]
    assert [sum_ for _, (_, sum_) in found] == pytest.approx(expected)


def test_a_few_partitions_are_made_ahead_of_whoever_asks() -> None:
    made: list[int] = []

    def make(partition: int) -> tuple[Any, Any]:
        made.append(partition)
        return np.ones((5, 2)), np.ones(5)

    data = Dataset.from_function(make, n_partitions=40, n_columns=2)
    for n_threads in (1, 3):
        made.clear()
        results = ThreadExecutor(n_threads).map_partitions(data.rows, PartitionMap("total", total, 1.0))
        assert next(results)[0] == 0
        time.sleep(0.1)
        results.close()
        assert len(made) < 20
        before = len(made)
        time.sleep(0.1)
        assert len(made) == before


def fail(group: Group, broadcast: Any) -> None:
    raise ZeroDivisionError("what the function does")


def test_a_function_that_fails(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="what the function does"):
        list(executor.map_partitions(Dataset.from_dask(*lazy()).rows, PartitionMap("fail", fail, None)))


def run_out(group: Group, broadcast: Any) -> None:
    raise MemoryError("no room")


def test_a_function_that_runs_out_of_memory(executor: Executor) -> None:
    with pytest.raises(OutOfMemoryError, match=r"'run out' ran out of memory at partition \d \(\d+ rows.*no room"):
        list(executor.map_partitions(Dataset.from_dask(*lazy()).rows, PartitionMap("run out", run_out, None)))


@pytest.mark.parametrize("resident", [False, True])
def test_a_large_model_is_sent_once(client: Client, monkeypatch: pytest.MonkeyPatch, resident: bool) -> None:
    data = Dataset.from_dask(*lazy())
    if resident:
        ClusterExecutor(client).map_reduce(data.rows, CHECK, data.n_partitions)
    sizes: list[int] = []
    get = client.get

    def measured(graph: Any, keys: list[Any], **options: Any) -> Any:
        sizes.append(len(pickle.dumps(graph)))
        return get(graph, keys, **options)

    monkeypatch.setattr(client, "get", measured)
    found = list(ClusterExecutor(client).map_partitions(data.rows, PartitionMap("total", total, np.float64(2.0) * np.ones(100_000))))
    assert len(found) == data.n_partitions > 1
    assert 800_000 < sum(sizes) < 1_200_000


def test_a_partition_that_cannot_be_read(executor: Executor) -> None:
    def make(partition: int) -> tuple[Any, Any]:
        if partition == 5:
            raise OSError("gone")
        return np.ones((5, 2)), np.ones(5)

    data = Dataset.from_function(make, n_partitions=8, n_columns=2)
    with pytest.raises(ValueError, match=r"partition 5 .*gone"):
        list(executor.map_partitions(data.rows, PartitionMap("total", total, 1.0)))


# -- predictions and scores ----------------------------------------------------------------------------------------------------------


class Counter(SchedulerPlugin):
    """A counter of the tasks that ran."""

    def __init__(self) -> None:
        self.n_tasks = 0

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        self.n_tasks += (start, finish) == ("processing", "memory")


@pytest.mark.long
def test_predictions_and_scores_take_few_tasks_and_keep_their_bits(cluster: LocalCluster, client: Client) -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(8000, 5))
    Y = np.stack([X[:, 0] + 0.1 * random.normal(size=8000), X[:, 1] - X[:, 2]], axis=1)
    ridge, logistic = Ridge().fit(X, Y), LogisticRegression().fit(X, (Y[:, 0] > 0).astype(int))
    n_chunks = 200
    size = 8000 // n_chunks
    chunked = [da.from_array(a, chunks=size if a.ndim == 1 else (size, -1)) for a in (X, Y, (Y[:, 0] > 0).astype(int))]
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    with dask.annotate(workers=lambda key: [workers[key[1] % 2]] if isinstance(key, tuple) else workers):  # neighbours do not live together
        lazy_X, lazy_Y, lazy_y = dask.persist(*chunked, optimize_graph=False)
    wait([lazy_X, lazy_Y, lazy_y])
    assert client.who_has(lazy_X)[lazy_X.name, 3, 0] == (workers[1],)
    counter = Counter()
    scheduler: Any = cluster.scheduler
    for what, expected in (
        (lambda: ridge.predict(lazy_X).compute(), ridge.predict(lazy_X).compute(optimize_graph=True)),
        (lambda: logistic.predict_proba(lazy_X).compute(), logistic.predict_proba(lazy_X).compute(optimize_graph=True)),
        (lambda: np.asarray(logistic.predict(lazy_X)), logistic.predict(lazy_X).compute(optimize_graph=True)),
        (lambda: ridge.score(lazy_X, lazy_Y), None),
        (lambda: logistic.score(lazy_X, lazy_y), None),
    ):
        counter.n_tasks = 0
        scheduler.add_plugin(counter, name="counter")
        try:
            found = what()
        finally:
            scheduler.remove_plugin("counter")
        assert 0 < counter.n_tasks <= 48
        if expected is not None:
            assert found.tobytes() == expected.tobytes() and found.dtype == expected.dtype
    with dask.config.set(scheduler="threads"):
        here = ridge.score(da.from_array(X, chunks=(size, -1)), da.from_array(Y, chunks=(size, -1)))
    assert ridge.score(lazy_X, lazy_Y) == here  # to the last bit


def test_lazy_predictions_stay_lazy_arrays_of_the_same_chunks(client: Client) -> None:
    X, y = lazy()
    model = LogisticRegression().fit(X, y)
    found = model.predict_proba(X)
    assert isinstance(found, da.Array) and found.chunks == (SIZES, (2,))
    expected = model.predict_proba(arrays()[0])
    np.testing.assert_allclose(found.compute(), expected)
    np.testing.assert_allclose(found[5:50].compute(), expected[5:50])
    np.testing.assert_allclose(dask.compute(found, found.sum(axis=0))[1], expected.sum(axis=0))
    np.testing.assert_allclose(found.persist().compute(), expected)
    with dask.config.set(scheduler="threads"):
        np.testing.assert_allclose(found.compute(), expected)
    changed = model.predict_proba(X)
    changed[changed < 0.5] = 0.0
    np.testing.assert_allclose(changed.compute(), np.where(expected < 0.5, 0.0, expected))
    np.clip(found, 0.2, 0.8, out=found)
    np.testing.assert_allclose(found.compute(), expected.clip(0.2, 0.8))
    dataset = Dataset.from_dask(X, y)
    train, test = dataset.split(0.3, seed=1)
    model.fit(train)
    assert model.predict(test).compute().tobytes() == model.predict(test).compute(optimize_graph=True).tobytes()
    assert model.predict(train).compute().tobytes() == model.predict(train).compute(optimize_graph=True).tobytes()
