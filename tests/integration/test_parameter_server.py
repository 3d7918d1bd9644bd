"""Parameter servers: the digest of an asynchronous fit that goes through the client, whoever serves, is slow, or dies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster

from pipeline import Checkpoint, Dataset, LogisticRegression, Minimum, MLPClassifier, SGDClassifier, SGDRegressor, mini_batches, minimise
from pipeline.execution.residency import following
from pipeline.execution.sessions import Sessions
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2
from tasks.reductions import blocks
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.optimizers import Adam
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.workers import serving, slices, touched
from tests.data import breast_cancer, diabetes
from tests.integration.test_asynchronous import X, Y, dataset, kill_a_worker, own
from tests.on_workers import pace
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models have several, too: how vectors are cut is for the client to say."""
    monkeypatch.setattr(slices, "BLOCK", 2)


@pytest.fixture
def advances(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds of each order that the workers did by themselves."""
    done: list[int] = []
    advance = Sessions.advance

    def counted(self: Sessions, *arguments: Any) -> Any:
        found = advance(self, *arguments)
        done.append(0 if found is None else len(found.reports))
        return found

    monkeypatch.setattr(Sessions, "advance", counted)
    return done


def fits(served: bool) -> dict[str, tuple[str, Any]]:
    """The digest of every kind of fit, and what was said of each round."""
    found: dict[str, tuple[str, Any]] = {}
    for staleness in (0, 1, 4, 16):
        run = own(Overlap(staleness, served=served), epochs=2)
        found[f"own {staleness}"] = run.parameters_sha256, said(run.history)
    cancer, numbers = Dataset.from_arrays(*breast_cancer(), n_partitions=20), Dataset.from_arrays(*diabetes(), n_partitions=11)
    options: dict[str, Any] = {"solver": "parameter-server" if served else "async", "tol": None, "random_state": 1}
    models: dict[str, tuple[Any, Dataset]] = {
        "momentum": (SGDClassifier(loss="log_loss", optimizer="momentum", average=True, max_iter=2, **options), cancer),
        "l1": (SGDRegressor(penalty="l1", optimizer="adam", accumulate=3, staleness=2, max_iter=2, **options), numbers),
        "svrg": (SGDRegressor(variance_reduction="svrg", max_iter=3, **options), numbers),
        "network": (MLPClassifier([8], max_iter=3, batch_size=64, early_stopping=True, **options), cancer),
    }
    for name, (model, data) in models.items():
        model.fit(data)
        found[name] = model.parameters_sha256_, said(model.history_)
    return found


def said(history: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "bytes_sent", "bytes_received")} for row in history]


@pytest.fixture(scope="module")
def through_the_client() -> dict[str, tuple[str, Any]]:
    with dask.config.set(scheduler="threads"):
        return fits(served=False)


def test_in_this_process_it_is_the_asynchronous_fit(through_the_client: dict[str, tuple[str, Any]]) -> None:
    with dask.config.set(scheduler="threads"):
        assert own(Overlap(4, served=True), epochs=2).parameters_sha256 == through_the_client["own 4"][0]


def test_workers_that_serve_have_the_same_bits(client: Client, through_the_client: dict[str, tuple[str, Any]], advances: list[int]) -> None:
    assert fits(served=True) == through_the_client
    assert sum(advances) > 0.5 * sum(len(rounds) for _, rounds in through_the_client.values())


@pytest.mark.parametrize(
    ("n_workers", "n_threads"),
    [pytest.param(n, threads, marks=pytest.mark.slow if n == 8 else pytest.mark.long) for n, threads in ((1, 1), (4, 1), (2, 3), (8, 1))],
)
def test_any_number_of_servers_has_the_same_bits(
    n_workers: int, n_threads: int, through_the_client: dict[str, tuple[str, Any]], advances: list[int]
) -> None:
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=n_threads, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert fits(served=True) == through_the_client
    assert sum(advances) > 0.5 * sum(len(rounds) for _, rounds in through_the_client.values())


def repeated(overlap: Overlap, run: Minimum) -> Overlap:
    """In the order of that run, through the client."""
    return replace(overlap, served=False, arrivals=tuple(row["subtree"] for row in run.history if row["subtree"] >= 0))


@pytest.mark.parametrize("overlap", [Overlap(4, "as-they-come", served=True), Overlap(None, "as-they-come", damped=True, served=True)])
def test_as_they_come_the_record_repeats_the_fit(client: Client, overlap: Overlap, advances: list[int]) -> None:
    run = own(overlap)
    assert sum(advances) > 0.5 * len(run.history)
    staleness = [row["staleness"] for row in run.history]
    assert overlap.staleness is None or max(staleness) <= overlap.staleness
    assert own(replace(repeated(overlap, run), served=True)).parameters_sha256 == run.parameters_sha256
    with dask.config.set(scheduler="threads"):
        again = own(repeated(overlap, run))
    assert again.parameters_sha256 == run.parameters_sha256
    assert said(again.history) == said(run.history)


@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_a_callback_ends_a_fit_in_the_middle_of_an_order(client: Client, order: Any, advances: list[int]) -> None:
    """The rounds up to there are repeated, as they came."""
    overlap = Overlap(5, order, served=True)
    run = own(overlap, on_round=lambda row: row["round"] == 33)
    assert sum(advances) > 33
    with dask.config.set(scheduler="threads"):
        again = own(overlap if order == "in-order" else repeated(overlap, run), on_round=lambda row: row["round"] == 33)
    assert again.parameters_sha256 == run.parameters_sha256
    assert said(again.history) == said(run.history)


@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_a_fit_that_was_ended_goes_on(client: Client, tmp_path: Path, order: Any, advances: list[int]) -> None:
    overlap = Overlap(5, order, served=True)
    checkpoint = Checkpoint(directory=tmp_path, every_rounds=1, remove=False)
    cut = own(overlap, on_round=lambda row: row["round"] == 33, checkpoint=checkpoint)
    assert cut.status.kind == "out of rounds"
    run = own(overlap, checkpoint=checkpoint)
    assert sum(advances) > 33
    with dask.config.set(scheduler="threads"):
        again = own(Overlap(5) if order == "in-order" else repeated(overlap, run))
    assert again.parameters_sha256 == run.parameters_sha256
    assert said(again.history) == said(run.history)


@pytest.fixture
def four_workers() -> Iterator[tuple[LocalCluster, Client]]:
    with LocalCluster(n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield cluster, client


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_a_server_is_killed(four_workers: tuple[LocalCluster, Client], order: Any, advances: list[int]) -> None:
    """In order: the same bits. As they come: a run that repeats here. No gradient counts twice: the record would not repeat it."""
    cluster, client = four_workers
    overlap, seen = Overlap(6, order, served=True), []
    client.run(pace, 0.01)

    def on_round(row: Any) -> bool:
        seen.append(row["round"])
        if len(seen) == 60:
            kill_a_worker(cluster)
        return False

    run = own(overlap, on_round=on_round)
    assert len(seen) == len(run.history) and sum(advances) > 60
    with dask.config.set(scheduler="threads"):
        again = own(overlap if order == "in-order" else repeated(overlap, run))
    assert again.parameters_sha256 == run.parameters_sha256
    assert said(again.history) == said(run.history)


def test_a_slice_that_diverges_ends_the_fit_as_through_the_client(client: Client, advances: list[int]) -> None:
    """One slice alone is no finite number any more."""
    data = Dataset.from_arrays(np.c_[np.ones((400, 3)), np.full(400, 1e100)], np.arange(400) % 2, n_partitions=8)
    one = StochasticGradient(mini_batches(data, 20, take_turns=True), schedule=Constant(1e210), max_epochs=2, tol=-np.inf)
    objective = LinearObjective(LOSSES["squared"], 4, 1, True)

    def fit(*, served: bool) -> Minimum:
        return minimise(objective, data, Asynchronous(one, Overlap(2, served=served)), np.zeros(5))

    run = fit(served=True)
    assert advances, "workers have tried"
    with dask.config.set(scheduler="threads"):
        again = fit(served=False)
    assert run.status == again.status and run.status.kind == "diverged"
    assert run.parameters_sha256 == again.parameters_sha256


def test_partial_fits_go_on(client: Client, advances: list[int]) -> None:
    digests = []
    for solver in ("async", "parameter-server"):
        model = SGDClassifier(solver=solver, staleness=3, random_state=0)
        for _ in range(2):
            model.partial_fit(dataset(), classes=np.arange(2))
        digests.append(model.parameters_sha256_)
    assert digests[0] == digests[1]
    assert sum(advances) > 0


def test_a_callback_of_scikit_learn_ends_the_fit(client: Client, advances: list[int]) -> None:
    model = SGDClassifier(solver="parameter-server", max_iter=5, tol=None, random_state=0)
    model.set_callbacks(AfterRounds((7,), lambda: True))
    with pytest.warns(match="a callback ended the fit"):
        model.fit(dataset())
    assert model.n_rounds_ == 7
    assert sum(advances) > 7
    assert model.solver_.name == "parameter-server"


def test_what_needs_whole_gradients_is_refused_by_name() -> None:
    for model in (SGDClassifier(solver="parameter-server", clip_norm=1.0), MLPClassifier(solver=Overlap(served=True), clip_norm=1.0)):
        with pytest.raises(ValueError, match=r"clip_norm=1.0\) is not for parameter servers; set clip_norm=None"):
            model.fit(X, Y)
    sampling = mini_batches(dataset(), 60, take_turns=True)
    with pytest.raises(ValueError, match="needs the norm of a whole gradient"):
        Asynchronous(StochasticGradient(sampling, Adam(), clip_norm=1.0), Overlap(served=True))
    with pytest.raises(ValueError, match=r"parts=.* may lie across two servers' slices"):
        Asynchronous(StochasticGradient(sampling, Adam(), parts=((slice(0, 2), Constant(0.1)),)), Overlap(served=True))


def test_penalties_that_cannot_be_cut_are_refused_by_name() -> None:
    class Own:
        kinks = False
        value = gradient = curvature = prox = L2.value

    sampling = mini_batches(dataset(), 60, take_turns=True)
    objective = LinearObjective(LOSSES["logistic"], 6, 1, True, np.arange(2))
    with pytest.raises(ValueError, match="cannot cut the penalty Own"):
        minimise(objective, dataset(), Asynchronous(StochasticGradient(sampling), Overlap(served=True)), np.zeros(7), penalty=Own())


def test_full_passes_refuse_it_by_name() -> None:
    with pytest.raises(ValueError, match=r"solver='parameter-server' is of mini-batches; use SGDClassifier"):
        LogisticRegression(solver="parameter-server").fit(X, Y)


# -- sparse rows ---------------------------------------------------------------------------------------------------------------------


def sparse_rows(n_rows: int, n_columns: int, density: float, n_classes: int = 2) -> Dataset:
    random = np.random.default_rng(5)
    rows = sp.random(n_rows, n_columns, density, format="csr", random_state=random, data_rvs=random.standard_normal)
    target = np.digitize(random.normal(size=n_rows) + np.asarray(rows.sum(axis=1)).ravel(), np.linspace(-1, 1, n_classes - 1))
    return Dataset.from_arrays(sp.csr_array(rows), target, n_partitions=12)


def dense_slices(*, wanted: bool) -> None:
    """In a worker: whether CSR rows have all parameters sent, as other rows have."""
    serving.is_sparse = (lambda fit, rows: False) if wanted else touched.is_sparse


def sparse_fits(solver: str) -> list[tuple[str, Any]]:
    two, three = sparse_rows(4000, 40_000, 0.002), sparse_rows(4000, 20_000, 0.004, n_classes=3)
    options: dict[str, Any] = {"solver": solver, "tol": None, "max_iter": 1, "random_state": 0, "alpha": 1e-3}
    models = [
        (SGDClassifier(loss="log_loss", penalty="elasticnet", **options), two),
        (SGDClassifier(loss="hinge", optimizer="adam", penalty="l1", fit_intercept=False, **options), two),
        (SGDClassifier(loss="log_loss", average=True, accumulate=2, **options), three),
        (SGDRegressor(optimizer="momentum", importance="norm", **options), two),
    ]
    found = []
    for model, data in models:
        model.fit(data)
        found.append((model.parameters_sha256_, said(model.history_)))
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
def test_sparse_slices_have_the_bits_of_whole_ones(client: Client, monkeypatch: pytest.MonkeyPatch, advances: list[int]) -> None:
    monkeypatch.setattr(slices, "BLOCK", blocks.BLOCK)
    with dask.config.set(scheduler="threads"):
        expected = sparse_fits("async")
    found = sparse_fits("parameter-server")
    assert found == expected
    assert sum(advances) > 200


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Sending large graph")  # by the rounds that look at all rows first
@pytest.mark.filterwarnings("ignore:SGDClassifier. columns of X are of unlike sizes")
def test_sparse_slices_send_few_bytes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a million columns, of which a row has a hundred: 50 times fewer a round, and more."""
    monkeypatch.setattr(slices, "BLOCK", blocks.BLOCK)
    monkeypatch.setattr(following, "LOST", np.inf)  # rows stay with both workers, though one may be held up,
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)  # and come back at once from where Dask took them
    seen: list[tuple[int, int]] = []
    advance = Sessions.advance

    def noted(self: Sessions, *arguments: Any) -> Any:
        found = advance(self, *arguments)
        if found is not None and len(self.traffic) == 2:  # a worker by itself sends nothing
            seen.append((len(found.reports), sum(each.sent - each.of_states for each in self.traffic)))
        return found

    monkeypatch.setattr(Sessions, "advance", noted)
    data, bytes_a_round, digests = sparse_rows(640, 1_000_000, 1e-4), [], []
    for wanted in (True, False):
        client.run(dense_slices, wanted=wanted)
        try:
            seen[:] = [(0, 0)]
            for _ in range(5):  # until both serve: after one was held up, rounds go through the client for a while
                model = SGDClassifier(loss="log_loss", solver="parameter-server", tol=None, max_iter=1, batch_size=16, random_state=0)
                model.fit(data)
                if len(seen) > 1:
                    break
        finally:
            client.run(dense_slices, wanted=False)
        n_bytes = sum(now if now < before else now - before for (_, before), (_, now) in pairwise(seen))  # a new session begins anew
        bytes_a_round.append(n_bytes / sum(n_rounds for n_rounds, _ in seen))
        digests.append(model.parameters_sha256_)
    assert digests[0] == digests[1]
    assert bytes_a_round[0] > 50 * bytes_a_round[1]
