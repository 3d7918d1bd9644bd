"""Rounds that the workers run by themselves: the same bits, and another way of running them whenever a session fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from pipeline import Dataset, LogisticRegression
from pipeline.cluster.connect import connect
from pipeline.cluster.security import make_certificates, read_certificates
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import Result, train
from pipeline.training.observers import Calling, OnRound
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss, SquaredLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rows.batches import Sampling
from tasks.strategies.admm import ADMM
from tasks.strategies.base import Strategy, Subtrees
from tasks.strategies.compressed import COMPRESSIONS, Compressed
from tasks.strategies.steps import Steps
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.workers import participants
from tasks.workers.messages import packed, unpacked
from tasks.workers.participants import Duty, Plan, children
from tests.data import breast_cancer
from tests.pipeline.cluster.bare import command_line_cluster, make_bare_python

SOLVERS = ("gradient-descent", "lbfgs", "newton", "newton-cg", "sampled-newton", "sampled-lbfgs")
LONG = 5000


def dataset(n_partitions: int = 24) -> Dataset:
    X, y = breast_cancer()
    return Dataset.from_arrays(X, y, n_partitions=n_partitions)


def digest(rows: Dataset, solver: str = "lbfgs") -> str:
    return str(LogisticRegression(solver=solver, tol=1e-4, max_iter=1000).fit(rows).parameters_sha256_)


def in_process(solver: str) -> str:
    with dask.config.set(scheduler="threads"):
        return digest(dataset(), solver)


def walk(
    executor: Executor,
    rows: Dataset,
    n_rounds: int = LONG,
    objective: type[LinearObjective] = LinearObjective,
    on_round: OnRound = lambda row: False,
) -> Result:
    """So many gradient steps of two models."""
    loss = objective(LogisticLoss(), rows.n_columns, 1, fit_intercept=True, classes=rows.schema.classes)
    start = np.zeros((2, loss.layout.size))
    fit = Fit(loss, (L2(1e-3), L2(1e-2)), Steps(n_rounds))
    return train(executor, rows, fit, fit.init(start), [Calling(on_round)])


def live(client: Client) -> dict[str, list[int]]:
    """The ranks of the participants on each worker."""
    return client.run(lambda: [each.rank for each in participants.live])


def rounds_led(client: Client) -> int:
    return sum(client.run(lambda: participants.counted["rounds"]).values())


def nobody_is_left(client: Client, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(live(client).values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(live(client).values())


@pytest.fixture(scope="module")
def expected() -> np.ndarray[Any, Any]:
    return walk(ThreadExecutor(2), dataset()).parameters


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    return {solver: in_process(solver) for solver in SOLVERS}


@pytest.fixture
def own_client() -> Iterator[Client]:
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


# -- the same bits -------------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("n_workers", "n_threads"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)])
@pytest.mark.long
def test_the_bits_of_every_solver(n_workers: int, n_threads: int, digests: dict[str, str]) -> None:
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=n_threads, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rows = dataset()
        digest(rows)  # what must be compiled takes long, and long rounds are tasks
        for solver in SOLVERS:
            before = rounds_led(client)
            assert digest(rows, solver) == digests[solver]
            assert rounds_led(client) >= before + 2
        assert nobody_is_left(client)


@pytest.mark.timeout(60)
@pytest.mark.long
def test_the_bits_of_the_graph(cluster: LocalCluster, digests: dict[str, str]) -> None:
    with Client(cluster, direct_to_workers=False) as client:
        rows, before = dataset(), rounds_led(client)
        assert {solver: digest(rows, solver) for solver in SOLVERS} == digests
        assert rounds_led(client) == before


@pytest.mark.timeout(60)
@pytest.mark.long
def test_over_tls(tmp_path: Path, expected: Any) -> None:
    security: Any = read_certificates(make_certificates(tmp_path / "tls"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", security=security) as cluster,
        Client(cluster, security=security) as client,
    ):
        rows = dataset()
        executor = ClusterExecutor(client)
        assert np.array_equal(walk(executor, rows).parameters, expected)
        assert executor.sessions.rounds > 0


@pytest.mark.timeout(120)
@pytest.mark.long
def test_workers_without_this_library(tmp_path: Path, digests: dict[str, str]) -> None:
    python = make_bare_python(tmp_path / "venv")
    with command_line_cluster(python, directory=tmp_path) as file, connect(scheduler_file=file, tls=False) as connection:
        client = connection.client
        assert client is not None
        client.wait_for_workers(2, timeout=30)
        rows = dataset()
        assert [digest(rows), digest(rows)] == [digests["lbfgs"]] * 2
        assert client.run_on_scheduler(lambda: 0) == 0

        def led() -> int:
            from tasks.workers.participants import counted

            return int(counted["rounds"])

        assert sum(client.run(led).values()) > 10


@pytest.mark.timeout(60)
@pytest.mark.long
def test_what_a_round_takes(own_client: Client, expected: Any) -> None:
    executor = ClusterExecutor(own_client)
    assert np.array_equal(walk(executor, dataset()).parameters, expected)
    assert (executor.sessions.messages_per_round, executor.sessions.hops_per_round) == (4, 2)
    assert executor.tasks_per_round == 3
    assert executor.sessions.rounds > 0


@pytest.mark.timeout(60)
@pytest.mark.long
def test_two_fits_at_once(client: Client, expected: Any) -> None:
    rows = dataset()
    executors = [ClusterExecutor(client) for _ in range(2)]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda e=e: found.append(walk(e, rows).parameters)) for e in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(np.array_equal(each, expected) for each in found)
    assert all(executor.sessions.rounds > 0 for executor in executors)


# -- ends ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_a_callback_that_ends_the_fit(client: Client) -> None:
    rows = dataset()
    executor = ClusterExecutor(client)
    with executor.span("walk"):
        walk(executor, rows, 20)
        found = walk(executor, rows, on_round=lambda row: row["round"] == 5)
    assert executor.sessions.rounds > 5
    assert found.iterations == (5, 5) and len(found.history) == 5
    assert np.array_equal(found.parameters, walk(ThreadExecutor(1), dataset(), 5).parameters)
    assert nobody_is_left(client)


@pytest.mark.timeout(60)
def test_an_interrupt_leaves_nothing_running(client: Client) -> None:
    rows = dataset()
    executor = ClusterExecutor(client)
    walk(executor, rows, 20)
    interrupt = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        walk(executor, rows, 10**9)
    assert time.monotonic() - start < 4
    assert executor.sessions.rounds > 100
    assert nobody_is_left(client)


@pytest.mark.timeout(60)
def test_a_client_that_hangs_holds_no_rows(client: Client) -> None:
    def patience(seconds: float) -> None:
        participants.SILENCE = seconds  # type: ignore[misc]

    executor = ClusterExecutor(client)
    client.run(patience, 0.5)
    try:
        walk(executor, dataset(), 100)
        assert executor.sessions.rounds > 0
        assert nobody_is_left(client)  # and nobody has closed anything
    finally:
        client.run(patience, participants.SILENCE)


class Broken(LinearObjective):
    """Fails where the rows are, after some rounds."""

    def loss_and_gradient(self, group: Any, parameters: Any) -> Any:
        if np.max(np.abs(parameters)) > 0.05:
            raise ZeroDivisionError("what the user's model does")
        return super().loss_and_gradient(group, parameters)


@pytest.mark.timeout(60)
@pytest.mark.long
def test_an_error_is_raised_as_itself(client: Client) -> None:
    rows = dataset()
    executor = ClusterExecutor(client)
    walk(executor, rows, 20)
    before = executor.sessions.rounds
    with pytest.raises(ZeroDivisionError, match="what the user's model does"):
        walk(executor, rows, objective=Broken)
    assert before > 0
    assert nobody_is_left(client)
    walk(executor, rows, 200)
    assert executor.sessions.rounds > before + 100


# -- losses --------------------------------------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """A fit in the middle of which something happened; before: rounds of sessions until then; seconds: until there were more."""

    found: Result
    executor: ClusterExecutor
    before: int
    seconds: float


def while_walking(client: Client, action: Callable[[int], None], *, of_root: bool) -> Walk:
    """action: what happens to a participant, given its process."""
    rows = dataset()
    executor = ClusterExecutor(client)
    walk(executor, rows, 50)
    pids = client.run(os.getpid)
    before: list[int] = []
    seconds: list[float] = []
    over = threading.Event()

    def act() -> None:
        while not before and not over.is_set():
            ranks = live(client)
            if executor.sessions.rounds > 300 and any(ranks.values()):
                target = next(worker for worker, found in ranks.items() if found and (found[0] == 0) == of_root)
                before.append(executor.sessions.rounds)
                action(pids[target])
            time.sleep(0.02)
        start = time.monotonic()
        while executor.sessions.rounds == before[0] and not over.is_set() and time.monotonic() < start + 40:
            time.sleep(0.02)
        seconds.append(time.monotonic() - start)

    thread = threading.Thread(target=act)
    thread.start()
    with executor.span("walk"):
        found = walk(executor, rows)
    over.set()
    thread.join()
    return Walk(found, executor, before[0], seconds[0])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("of_root", [True, False], ids=["root", "another"])
@pytest.mark.long
def test_a_participant_is_killed(own_client: Client, of_root: bool, expected: Any) -> None:
    found, executor, before, seconds = while_walking(own_client, lambda pid: os.kill(pid, signal.SIGKILL), of_root=of_root)
    assert np.array_equal(found.parameters, expected)
    assert executor.sessions.rounds > before + LONG / 4  # it has returned to sessions
    assert seconds < 20
    assert nobody_is_left(own_client)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("of_root", [True, False], ids=["root", "another"])
@pytest.mark.long
def test_a_participant_is_stopped_for_a_while(own_client: Client, of_root: bool, expected: Any) -> None:
    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(4.0, os.kill, (pid, signal.SIGCONT)).start()

    found, executor, before, _ = while_walking(own_client, stop, of_root=of_root)
    assert np.array_equal(found.parameters, expected)
    assert executor.sessions.rounds > before + LONG / 4
    assert nobody_is_left(own_client)


@pytest.mark.timeout(60)
@pytest.mark.long
def test_a_participant_retires(own_client: Client, expected: Any) -> None:
    rows = dataset()
    executor = ClusterExecutor(own_client)
    walk(executor, rows, 50)
    leave = threading.Timer(0.5, lambda: own_client.retire_workers([min(own_client.scheduler_info()["workers"])]))
    leave.start()
    assert np.array_equal(walk(executor, rows).parameters, expected)
    leave.join()
    assert executor.sessions.rounds > LONG / 4


# -- parts ---------------------------------------------------------------------------------------------------------------------------


def test_the_tree_over_participants() -> None:
    for n in (1, 2, 3, 7, 8, 9, 64, 100):
        below = {rank: children(rank, n) for rank in range(n)}
        assert {child: rank for rank, found in below.items() for child in found} == {rank: rank & (rank - 1) for rank in range(1, n)}
        depth = max(bin(rank).count("1") for rank in range(n))
        assert depth <= np.ceil(np.log2(n))


def test_what_does_not_add_up_goes_to_the_root_at_once() -> None:
    duties = [Duty(f"worker {rank}", ()) for rank in range(9)]
    objective, turns = LinearObjective(SquaredLoss(), 40, 1, False), Sampling(0, 4)
    compressed = Compressed(StochasticGradient(turns), COMPRESSIONS["int8"], objective.layout)
    star = [*range(1, 9)], list[int]()
    cases: list[tuple[Strategy, list[int], list[int]]] = [
        (StochasticGradient(turns), [8, 4, 2, 1], [6, 5]),
        (compressed, *star),
        (ADMM(Subtrees((0, 4), 2)), *star),
    ]
    for strategy, below_root, below_four in cases:
        plan = Plan(Fit(objective, (L2(1.0),), strategy), 0, 1, 1, 0, duties, envelope=Any)
        assert (plan.below(0), plan.below(4)) == (below_root, below_four)


def test_messages_keep_values_and_alignment() -> None:
    large, small = np.arange(30_000.0), np.arange(3, dtype=np.float32)
    message = packed({"large": large, "rest": (small, None, "a")})
    assert len(message) == 2 and len(message[0]) < 1000
    moved = memoryview(bytearray(b"x" + bytes(message[1].raw())))[1:]
    for received in (message, (message[0], moved)):
        found = unpacked(received)
        assert np.array_equal(found["large"], large) and np.array_equal(found["rest"][0], small)
        assert found["large"].flags.aligned and found["large"].flags.writeable
        assert found["large"].__array_interface__["data"][0] % 16 == 0
