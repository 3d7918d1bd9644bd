"""Fits that remember something beside the rows, compressed ones and local updates, on clusters: the bits of the same fit in process,
whoever dies or goes on later; and fewer bytes between processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from pipeline import Checkpoint, Dataset, MLPClassifier, SGDClassifier, SGDRegressor
from pipeline.execution import graph, remembering, sending
from pipeline.execution.sessions import Sessions
from tasks.reductions.stages.codecs import EightBit, Floats, LowRank, TopK
from tasks.strategies.asynchronous import Overlap
from tasks.strategies.compressed import Compression
from tasks.strategies.local_sgd import LocalUpdates
from tests.data import uneven
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(180)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6000, 50))
Y = (X[:, 0] + X[:, 1] + RANDOM.normal(size=6000) > 0).astype(np.int64)
SHORT: dict[str, Any] = {"max_iter": 3, "tol": None, "random_state": 1}
MODELS: dict[str, Any] = {
    "top-k": SGDClassifier("log_loss", compression="top-k", batch_size=600, **SHORT),
    "int8": SGDClassifier("log_loss", compression="int8", batch_size=600, early_stopping=True, **SHORT),
    "float16, momentum": SGDRegressor(compression="float16", optimizer="momentum", batch_size=600, **SHORT),
    "async": SGDClassifier("log_loss", solver="async", compression="top-k", staleness=3, **SHORT),
    "local": SGDClassifier("log_loss", solver="local-sgd", compression="int8", **SHORT),
    "local, control variates": SGDRegressor(
        solver=LocalUpdates(2, control_variates=True), optimizer="adam", early_stopping=True, batch_size=20, **SHORT
    ),
    "local, int8, momentum": SGDRegressor(solver="local-sgd", optimizer="momentum", compression="int8", batch_size=20, **SHORT),
    "network": MLPClassifier([16], compression=Compression(LowRank(1), EightBit(64)), batch_size=600, **SHORT),
    "served, int8": MLPClassifier([1400], solver="parameter-server", compression="int8", batch_size=600, **SHORT),
    "served, up alone": MLPClassifier([700], solver="parameter-server", compression=Compression(Floats()), batch_size=600, **SHORT),
    "network, async": MLPClassifier([16], solver="async", compression="random-k", batch_size=200, **SHORT),
}


def dataset() -> Dataset:
    return Dataset.from_arrays(X, Y, partition_rows=uneven(len(X), 24))


def digests() -> dict[str, str]:
    return {name: model.fit(dataset()).parameters_sha256_ for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def in_process() -> dict[str, str]:
    with dask.config.set(scheduler="threads"):
        found = digests()
    assert len(set(found.values())) == len(found)
    return found


def test_one_thread_and_several(in_process: dict[str, str]) -> None:
    with dask.config.set(scheduler="sync"):
        assert digests() == in_process


def test_a_cluster_gives_the_same_bits(client: Client, in_process: dict[str, str]) -> None:
    assert digests() == in_process


def test_servers_have_slices_of_what_is_coded(client: Client, in_process: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three blocks of the vectors; fewer bytes travel than whole vectors have."""
    orders, advance = [], Sessions.advance
    monkeypatch.setattr(Sessions, "advance", lambda self, *arguments: orders.append((self, advance(self, *arguments))) or orders[-1][1])
    model = MODELS["served, int8"].fit(dataset())
    assert model.parameters_sha256_ == in_process["served, int8"]
    done = [(sessions.traffic, found) for sessions, found in orders if found is not None]
    assert sum(len(found.reports) for _, found in done) > len(model.history_) / 2
    sent = sum(each.of_parameters + each.of_gradients for each in done[-1][0])
    assert sent and all(len(traffic) == 2 for traffic, _ in done)
    n_bytes = 4 * (50 * 1400 + 1400 + 1400 + 1)
    assert sent < 0.5 * n_bytes * 2 * sum(len(found.reports) for _, found in done)


@pytest.mark.usefixtures("rounds_from_here")
def test_so_do_rounds_that_the_client_runs(client: Client, in_process: dict[str, str]) -> None:
    assert digests() == in_process


@pytest.fixture
def four_workers() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster):
        yield cluster


def kill_a_worker(cluster: LocalCluster) -> None:
    """The one that has most."""
    holds = Client.current().has_what()
    nannies = [nanny for nanny in cluster.workers.values() if nanny.process is not None]
    os.kill(max(nannies, key=lambda nanny: len(holds.get(nanny.worker_address, ()))).process.pid, signal.SIGKILL)


def as_they_come(**options: Any) -> SGDClassifier:
    """An asynchronous fit of some thousand short rounds."""
    return SGDClassifier("log_loss", compression="int8", batch_size=20, max_iter=6, tol=None, random_state=0, **options)


def repeated_here(model: SGDClassifier, *callbacks: Any) -> str:
    """The digest of the fit that takes results in the order of this one's history."""
    arrivals = [row["subtree"] for row in model.history_ if row["subtree"] >= 0]
    with dask.config.set(scheduler="threads"):
        again = as_they_come(solver=Overlap(order="as-they-come", arrivals=arrivals)).set_callbacks(*callbacks)
        return str(again.fit(dataset()).parameters_sha256_)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*a callback ended the fit")
@pytest.mark.parametrize("at", [777, 1111])
@pytest.mark.usefixtures("four_workers")
def test_servers_that_are_stopped_have_the_parameters_of_their_history(at: int) -> None:
    """In the middle of what workers do by themselves, as results come: they go back, and take these in the same order again."""
    stop = AfterRounds((at,), lambda: True)
    model = as_they_come(solver="parameter-server", order="as-they-come").set_callbacks(stop).fit(dataset())
    assert model.n_rounds_ == at
    assert repeated_here(model, AfterRounds((at,), lambda: True)) == model.parameters_sha256_


@pytest.mark.long
@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_servers_with_memory_outlast_a_death(four_workers: LocalCluster, order: str) -> None:
    """While workers run rounds by themselves: what is repeated is what the history has."""
    killed: list[int] = []

    def kill() -> bool:
        killed.append(1)
        kill_a_worker(four_workers)
        return False

    model = as_they_come(solver="parameter-server", order=order)
    model.set_callbacks(AfterRounds((300, 900), kill)).fit(dataset())
    assert len(killed) == 2 and model.n_rounds_ > 1500
    if order == "as-they-come":
        assert repeated_here(model) == model.parameters_sha256_
        return
    with dask.config.set(scheduler="threads"):
        assert as_they_come(solver="async").fit(dataset()).parameters_sha256_ == model.parameters_sha256_


@pytest.mark.usefixtures("rounds_from_here")
def test_large_vectors_travel_once_and_meet_on_the_cluster(
    client: Client, in_process: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks stay where subtrees remember something; what they are sent, and sums that add up, do not."""
    monkeypatch.setattr(sending, "CALLED_ROUND", -1.0)
    for name in ("INLINE_BYTES", "CLIENT_COMBINE_BYTES"):
        monkeypatch.setattr(graph, name, 0)
    graphs, make = [], sending.round_graph
    monkeypatch.setattr(sending, "round_graph", lambda *arguments: graphs.append(make(*arguments)) or graphs[-1])
    for name, meet in (("local, control variates", True), ("local, int8, momentum", False)):
        graphs.clear()
        assert MODELS[name].fit(dataset()).parameters_sha256_ == in_process[name]
        rounds = [each for each in graphs if each.shared and len(each.places) > 1 and "local-steps" in str(list(each.places))]
        assert rounds
        assert all((len(each.keys) == 1) == meet for each in rounds)


@pytest.mark.parametrize(
    "n_workers", [pytest.param(1, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long), pytest.param(8, marks=pytest.mark.slow)]
)
def test_any_cluster_gives_the_same_bits(n_workers: int, in_process: dict[str, str]) -> None:
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster):
        assert digests() == in_process


@pytest.mark.long
@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.parametrize("copies", ["at first", "always"])
@pytest.mark.parametrize("name", ["top-k", "async", "local, control variates", "local, int8, momentum", "served, int8"])
def test_killed_workers_change_no_bit(
    four_workers: LocalCluster, in_process: dict[str, str], name: str, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was remembered with their rows is put back from the last copy, and the rounds since are repeated."""
    if copies == "always":
        monkeypatch.setattr(remembering, "COPY_EVERY", 0.0)
        monkeypatch.setattr(remembering, "SHARE", 0.0)
    killed = []

    def kill() -> bool:
        killed.append(1)
        kill_a_worker(four_workers)
        return False

    repeats, repeat = [], remembering.RememberingPump._repeat
    monkeypatch.setattr(remembering.RememberingPump, "_repeat", lambda self, states: repeats.append(1) or repeat(self, states))
    model = MODELS[name].set_callbacks(AfterRounds((6, 17), kill))
    try:
        assert model.fit(dataset()).parameters_sha256_ == in_process[name]
    finally:
        model.set_callbacks()
    assert len(killed) == 2
    assert repeats


def test_a_fit_that_is_done_outlasts_what_cannot_be_forgotten(monkeypatch: pytest.MonkeyPatch, in_process: dict[str, str]) -> None:
    def fail(self: Any, reduction: Any, *arguments: Any, **more: Any) -> Any:
        if reduction is remembering.FORGET:
            raise ConnectionError("gone")
        return ask(self, reduction, *arguments, **more)

    ask = remembering.RememberingPump._ask
    monkeypatch.setattr(remembering.RememberingPump, "_ask", fail)
    with dask.config.set(scheduler="threads"):
        assert MODELS["top-k"].fit(dataset()).parameters_sha256_ == in_process["top-k"]


@pytest.mark.parametrize("name", ["top-k", "int8", "async", "local, control variates", "local, int8, momentum", "network", "served, int8"])
def test_a_fit_that_was_ended_goes_on(client: Client, in_process: dict[str, str], name: str, tmp_path: Path) -> None:
    """On a cluster, then here; at a round in the middle of those that workers do by themselves."""
    options = Checkpoint(directory=tmp_path, every_seconds=1000.0, remove=False)
    model = MODELS[name].set_params(checkpoint=options)
    try:
        with pytest.warns(match="a callback ended the fit"):
            model.set_callbacks(AfterRounds((7,), lambda: True)).fit(dataset())
        assert model.n_rounds_ == 7
        with dask.config.set(scheduler="threads"):
            found = model.set_callbacks().fit(dataset())
        assert found.resumed_from_ == 7
        assert found.parameters_sha256_ == in_process[name]
    finally:
        model.set_params(checkpoint=None)
        model.set_callbacks()


@pytest.mark.parametrize("options", [{"compression": "top-k"}, {"solver": "local-sgd", "optimizer": "momentum"}])
def test_partial_fits_begin_with_nothing_remembered(options: dict[str, Any]) -> None:
    classes = np.arange(2)
    model = SGDClassifier("log_loss", random_state=0, **options)
    for _ in range(3):
        model.partial_fit(dataset(), classes=classes)
    assert model.n_iter_ == 3
    assert model.score(X, Y) > 0.7


def test_bytes_are_those_between_processes(client: Client) -> None:
    """Whole vectors of float64 there and back; of top-k an eighth of 1 % and 3 % of the numbers, with their places."""
    random = np.random.default_rng(1)
    wide = random.normal(size=(2000, 20_000))
    data = Dataset.from_arrays(wide, (wide[:, 0] > 0).astype(np.int64), n_partitions=4)
    found = {}
    for compression in (None, Compression(TopK(0.01), TopK(0.01), n_subtrees=2)):
        model = SGDClassifier("log_loss", compression=compression, batch_size=1024, max_iter=4, tol=None, random_state=0).fit(data)
        rows = model.history_[3:]
        found[compression is None] = [np.mean([row[name] for row in rows]) for name in ("bytes_sent", "bytes_received")]  # type: ignore[literal-required]
    n_bytes = 8 * 20_001
    for whole, small in zip(found[True], found[False], strict=True):
        assert 0.9 * n_bytes <= whole <= 2.2 * n_bytes
        assert small < whole / 20
    with dask.config.set(scheduler="threads"):
        model.fit(data)
    assert not any(row["bytes_sent"] or row["bytes_received"] for row in model.history_)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (SGDClassifier(compression="gzip"), "compression"),
        (SGDClassifier(compression="top-k", variance_reduction="svrg"), "variance_reduction='svrg'.* is not for compressed rounds; set"),
        (
            SGDClassifier(compression="top-k", solver=LocalUpdates(control_variates=True)),
            "is not for compressed rounds; set control_variates=False",
        ),
        (MLPClassifier(solver="lbfgs", compression="top-k"), "compression='top-k' needs mini-batches"),
        (SGDClassifier(solver="parameter-server", compression="top-k"), r"TopK\(share=0.01\) needs whole ones; take compression='int8'"),
        (
            SGDClassifier(solver="parameter-server", compression=Compression(EightBit(1000))),
            "whole blocks of 32768 numbers, and block=1000 does not divide that; take a power of two",
        ),
        (
            SGDClassifier(solver="parameter-server", compression=Compression(EightBit(), EightBit(1 << 16))),
            "block=65536 does not divide that",
        ),
        (SGDClassifier(compression="low-rank"), r"makes none of the parameters' arrays smaller.*\(1, 50\)"),
    ],
)
def test_what_makes_no_sense_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
