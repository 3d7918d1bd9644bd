"""Asynchronous and local updates: one digest wherever they run, in order; and a record that repeats them, as they come."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from pipeline import (
    Checkpoint,
    Dataset,
    LogisticRegression,
    Minimum,
    MLPClassifier,
    SGDClassifier,
    SGDRegressor,
    mini_batches,
    minimise,
    subtrees,
)
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2, ElasticNet
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.base import Subtrees
from tasks.strategies.local_sgd import LocalUpdates
from tasks.strategies.optimizers import Adam, Momentum, Nesterov
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.data import breast_cancer, diabetes, uneven
from tests.on_workers import Paced, pace
from tests.rounds import AfterRounds

pytestmark = pytest.mark.timeout(120)
STALENESS = (0, 1, 4, 16)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4000, 6))
Y = (X[:, 0] + RANDOM.normal(size=4000) > 0).astype(np.int64)


def dataset(n_partitions: int = 37) -> Dataset:
    return Dataset.from_arrays(X, Y, partition_rows=uneven(len(X), n_partitions))


def own(overlap: Overlap | None, *, data: Dataset | None = None, epochs: int = 3, **more: Any) -> Minimum:
    """A fit of one's own objective; without an overlap the synchronous one, over the same batches."""
    data = dataset() if data is None else data
    sampling = mini_batches(data, 60, seed=3, take_turns=True)
    one = StochasticGradient(sampling, Momentum(0.5), Constant(0.02), max_epochs=epochs, tol=-np.inf)
    strategy = one if overlap is None else Asynchronous(one, overlap)
    objective = Paced(LOSSES["logistic"], 6, 1, True, np.arange(2))
    return minimise(objective, data, strategy, np.zeros(7), penalty=L2(1e-3), **more)


def digests() -> dict[str, str]:
    """Of every kind of fit."""
    found = {f"own {staleness}": own(Overlap(staleness)).parameters_sha256 for staleness in STALENESS}
    cancer = Dataset.from_arrays(*breast_cancer(), n_partitions=20)
    for staleness in STALENESS:
        model = SGDClassifier(loss="log_loss", solver="async", staleness=staleness, max_iter=3, tol=None, random_state=1)
        found[f"classifier {staleness}"] = model.fit(cancer).parameters_sha256_
    numbers = Dataset.from_arrays(*diabetes(), n_partitions=11)
    found["regressor"] = (
        SGDRegressor(solver=Overlap(3, damped=True), penalty="l1", max_iter=3, tol=None, random_state=1).fit(numbers).parameters_sha256_
    )
    network = MLPClassifier([8], solver="async", max_iter=3, tol=None, batch_size=64, early_stopping=True, random_state=1)
    found["network"] = network.fit(cancer).parameters_sha256_
    for n_steps in (1, 8, None):
        model = SGDClassifier(loss="log_loss", solver="local-sgd", local_steps=n_steps, max_iter=3, tol=None, random_state=1)
        found[f"local {n_steps}"] = model.fit(cancer).parameters_sha256_
    model = SGDClassifier(loss="log_loss", solver="local-sgd", local_epochs=1, max_iter=3, tol=None, random_state=1)
    found["local epochs"] = model.fit(cancer).parameters_sha256_
    diloco = LocalUpdates(4, growth=1.5, outer=Nesterov(), outer_step=0.7, proximal=0.1)
    found["local regressor"] = SGDRegressor(solver=diloco, max_iter=3, tol=None, random_state=1).fit(numbers).parameters_sha256_
    objective = LinearObjective(LOSSES["squared"], numbers.n_columns, 1, True)
    admm, penalty = ADMM(subtrees(numbers, 4), tol=1e-3, max_iter=40), ElasticNet(0.05, 0.01)
    found["admm, kinks"] = minimise(objective, numbers, admm, np.zeros(objective.layout.size), penalty=penalty).parameters_sha256
    network = MLPClassifier([8], solver="local-sgd", max_iter=3, tol=None, batch_size=8, random_state=1)
    found["local network"] = network.fit(cancer).parameters_sha256_
    return found


@pytest.fixture(scope="module")
def in_process() -> dict[str, str]:
    with dask.config.set(scheduler="threads"):
        return digests()


def test_other_staleness_gives_other_bits(in_process: dict[str, str]) -> None:
    """Otherwise equality below would show nothing."""
    assert len(set(in_process.values())) == len(in_process)


def test_without_staleness_it_is_the_synchronous_fit(in_process: dict[str, str]) -> None:
    assert own(None).parameters_sha256 == in_process["own 0"]


def test_one_thread_and_several() -> None:
    with dask.config.set(scheduler="sync"):
        found = [own(Overlap(staleness)).parameters_sha256 for staleness in (1, 16)]
    with dask.config.set(scheduler="threads", num_workers=4):
        assert [own(Overlap(staleness)).parameters_sha256 for staleness in (1, 16)] == found


def test_in_order_a_cluster_gives_the_same_bits(client: Client, in_process: dict[str, str]) -> None:
    assert digests() == in_process


@pytest.mark.parametrize("n_workers", [pytest.param(n, marks=pytest.mark.slow if n == 8 else pytest.mark.long) for n in (1, 4, 8)])
def test_in_order_any_cluster_gives_the_same_bits(n_workers: int, in_process: dict[str, str]) -> None:
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster):
        assert digests() == in_process


@pytest.mark.parametrize(
    "overlap", [Overlap(4, "as-they-come"), Overlap(None, "as-they-come"), Overlap(None, "as-they-come", balanced=False)]
)
def test_as_they_come_the_record_repeats_the_fit(client: Client, overlap: Overlap) -> None:
    run = own(overlap)
    staleness = [row["staleness"] for row in run.history]
    assert overlap.staleness is None or max(staleness) <= overlap.staleness
    assert own(repeated(overlap, run)).parameters_sha256 == run.parameters_sha256
    with dask.config.set(scheduler="threads"):
        assert own(repeated(overlap, run)).parameters_sha256 == run.parameters_sha256


def repeated(overlap: Overlap, run: Minimum) -> Overlap:
    arrivals = tuple(row["subtree"] for row in run.history if row["subtree"] >= 0)
    return Overlap(overlap.staleness, "as-they-come", overlap.damped, overlap.balanced, arrivals)


@pytest.fixture
def four_workers() -> Iterator[tuple[LocalCluster, Client]]:
    with LocalCluster(n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield cluster, client


def kill_a_worker(cluster: LocalCluster, spared: str = "") -> None:
    """One that is not at the address `spared`."""
    others = [nanny for nanny in cluster.workers.values() if nanny.worker_address != spared]
    pid = next(nanny.process.pid for nanny in others if nanny.process is not None and nanny.process.pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_one_worker_slow_and_one_killed(four_workers: tuple[LocalCluster, Client], order: Any) -> None:
    """In order: the same bits. As they come: a run that repeats here, to which the slow worker's rows came less often."""
    cluster, client = four_workers
    data, overlap = dataset(), Overlap(None if order == "as-they-come" else 6, order)
    assert len(data.schema.partition_rows) == 37
    slow = sorted(client.scheduler_info(n_workers=-1)["workers"])[-1]
    client.run(pace, 0.02)
    client.run(pace, 0.2, workers=[slow])
    seen = []

    def on_round(row: Any) -> bool:
        seen.append(row["round"])
        if len(seen) == 40:
            kill_a_worker(cluster, spared=slow)
        return False

    run = own(overlap, data=data, on_round=on_round)
    assert len(seen) == len(run.history)
    with dask.config.set(scheduler="threads"):
        again = own(overlap if order == "in-order" else repeated(overlap, run))
    assert again.parameters_sha256 == run.parameters_sha256
    assert [row["subtree"] for row in again.history] == [row["subtree"] for row in run.history]
    if order == "as-they-come":
        counts = np.bincount([row["subtree"] for row in run.history if row["subtree"] >= 0])
        assert counts.min() < 0.6 * counts.max()


@pytest.mark.long
@pytest.mark.usefixtures("rounds_from_here")
def test_local_updates_outlast_a_killed_worker(four_workers: tuple[LocalCluster, Client]) -> None:
    cluster, _ = four_workers
    model = SGDClassifier(loss="log_loss", solver="local-sgd", max_iter=4, tol=None, random_state=1)
    with dask.config.set(scheduler="threads"):
        expected = model.fit(dataset()).parameters_sha256_
    model.set_callbacks(AfterRounds((4, 9), lambda: kill_a_worker(cluster)))
    assert model.fit(dataset()).parameters_sha256_ == expected


@pytest.mark.parametrize("order", ["in-order", "as-they-come"])
def test_a_fit_that_was_ended_goes_on(tmp_path: Path, order: Any) -> None:
    """What was under way is asked for again."""
    overlap = Overlap(5, order)
    whole = own(overlap)
    checkpoint = Checkpoint(directory=tmp_path, every_rounds=1, remove=False)
    cut = own(overlap, on_round=lambda row: row["round"] == 33, checkpoint=checkpoint)
    assert cut.status.kind == "out of rounds"
    found = own(overlap, checkpoint=checkpoint)
    assert [row["round"] for row in found.history] == list(range(1, len(whole.history) + 1))
    assert order == "as-they-come" or found.parameters_sha256 == whole.parameters_sha256


def test_partial_fits_go_on() -> None:
    classes = np.arange(2)
    together = SGDClassifier(solver="async", staleness=3, max_iter=2, tol=None, random_state=0).fit(dataset())
    model = SGDClassifier(solver="async", staleness=3, random_state=0)
    for _ in range(2):
        model.partial_fit(dataset(), classes=classes)
    assert model.n_iter_ == together.n_iter_ == 2
    assert model.t_ == together.t_ == 2 * len(X)
    np.testing.assert_allclose(model.update_shares_, 1 / len(model.update_shares_))
    assert np.abs(model.coef_ - together.coef_).max() < 0.2


def test_ctrl_c_leaves_nothing_under_way(client: Client) -> None:
    def on_round(row: Any) -> bool:
        if row["round"] == 20:
            raise KeyboardInterrupt
        return False

    run = own(Overlap(8), on_round=on_round)
    assert run.status.reason == "interrupted by the user"
    deadline = time.monotonic() + 20
    while client.run_on_scheduler(lambda dask_scheduler: [key for key in dask_scheduler.tasks if "gradient" in str(key)]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_networks_learn_with_rounds_under_way() -> None:
    X, y = breast_cancer()
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    data = Dataset.from_arrays(X, y, n_partitions=16)
    for order in ("in-order", "as-they-come"):
        model = MLPClassifier([16], solver="async", optimizer=Adam(), order=order, batch_size=32, max_iter=40, tol=None, random_state=0)
        assert model.fit(data).score(X, y) > 0.98
        assert max(row["staleness"] for row in model.history_) == 4


def test_a_callback_that_ends_the_fit() -> None:
    model = SGDClassifier(solver="async", max_iter=5, tol=None, random_state=0)
    model.set_callbacks(AfterRounds((7,), lambda: True))
    with pytest.warns(match="a callback ended the fit"):
        model.fit(dataset())
    assert model.n_rounds_ == 7


def test_full_passes_refuse_them_by_name() -> None:
    for solver in ("async", "local-sgd"):
        with pytest.raises(
            ValueError, match=rf"solver='{solver}' is of mini-batches; use SGDClassifier\(loss='log_loss', solver='{solver}'\)"
        ):
            LogisticRegression(solver=solver).fit(X, Y)


def test_what_local_updates_cannot_do_is_refused_by_name() -> None:
    for model, name in (
        (SGDClassifier(solver="local-sgd", average=True), r"SGDClassifier\(average=True\)"),
        (SGDRegressor(solver="local-sgd", variance_reduction="svrg"), "variance_reduction='svrg'"),
        (MLPClassifier(solver="local-sgd", clip_norm=1.0), "clip_norm=1.0"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.* is not for local updates; set"):
            model.fit(X, Y)
    with pytest.raises(ValueError, match=r"local_epochs=2 beside solver=.*, LocalUpdates\(n_epochs=...\)"):
        SGDClassifier(solver=LocalUpdates(4), local_epochs=2).fit(X, Y)
    with pytest.raises(ValueError, match=r"staleness=2 beside solver=.*, Overlap\(staleness=...\)"):
        SGDClassifier(solver=Overlap(4), staleness=2).fit(X, Y)
    never_read = Dataset.from_function(lambda number: 1 / 0, n_partitions=2, n_columns=2)
    with pytest.raises(ValueError, match="staleness must be a whole number of at least 0, or None for no bound, got True"):
        SGDClassifier(solver="async", staleness=True).fit(never_read)
    partly = SGDClassifier(solver="local-sgd", random_state=0).partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="whose optimizer was"):
        partly.set_params(solver=LocalUpdates(outer=Momentum())).partial_fit(X, Y)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_momentum_is_stable_by_default(optimizer: str) -> None:
    y = X @ np.arange(6.0)
    data = Dataset.from_arrays(X, y, n_partitions=8)
    for staleness in (4, 16):
        model = SGDRegressor(solver="async", optimizer=optimizer, staleness=staleness, max_iter=15, tol=None, random_state=0).fit(data)
        assert model.score(X, y) > 0.99


def test_networks_have_the_same_penalty_by_the_rows_of_an_update() -> None:
    """alpha divided by the weight of a batch, whichever solver."""
    schema = dataset(4).schema
    strengths = []
    for solver in ("adam", "async", "local-sgd"):
        penalty: Any = MLPClassifier(solver=solver, batch_size=50, alpha=1.0)._set_up(schema, 4).penalty
        strengths.append(penalty.strength)
    np.testing.assert_allclose(strengths, 1 / 50, rtol=0.05)


def test_parameters_that_change_between_partial_fits_are_named() -> None:
    for first, then in (("local-sgd", "sync"), ("sync", "local-sgd")):
        model = SGDClassifier(solver=first, optimizer="momentum", random_state=0).partial_fit(X, Y, classes=[0, 1])
        with pytest.raises(ValueError, match="goes on from the last fit, whose optimizer was"):
            model.set_params(solver=then).partial_fit(X, Y)
    model = SGDClassifier(solver="sync", random_state=0).partial_fit(X, Y, classes=[0, 1])
    model.set_params(solver="async").partial_fit(X, Y)
    assert model.n_iter_ == 2


def test_strategies_with_rounds_under_way_are_no_solvers_of_networks() -> None:
    sampling = mini_batches(dataset(), 60, take_turns=True)
    with pytest.raises(TypeError, match="solver=Asynchronous is not for networks"):
        MLPClassifier(solver=Asynchronous(StochasticGradient(sampling))).fit(X, Y)


def test_an_epoch_between_two_means() -> None:
    """As by steps, of the parameter and of the object."""
    for kind, batch in ((SGDClassifier, 10), (MLPClassifier, 20)):
        more: dict[str, Any] = {"batch_size": batch, "max_iter": 3, "tol": None, "random_state": 0}
        by_epochs = kind(solver="local-sgd", local_epochs=1, **more).fit(dataset())
        assert by_epochs.n_rounds_ == by_epochs.n_iter_ == 3
        n_steps = by_epochs.history_[-1]["iteration"] // 3
        assert n_steps > 1
        for other in (kind(solver="local-sgd", local_steps=n_steps, **more), kind(solver=LocalUpdates(n_epochs=1), **more)):
            assert other.fit(dataset()).parameters_sha256_ == by_epochs.parameters_sha256_
        with pytest.raises(ValueError, match="cannot be both of 3 steps and of 1 epochs"):
            kind(solver="local-sgd", local_epochs=1, local_steps=3).fit(X, Y)


def test_subtrees_of_other_data_are_refused_before_the_first_round() -> None:
    """Of fewer, rows would never be seen; of others, rounds be about none."""
    objective = LinearObjective(LOSSES["logistic"], 6, 1, True, np.arange(2))
    rounds: list[Any] = []
    for made_from, n_partitions in ((16, 4), (4, 16)):
        other = dataset(made_from)
        plain = StochasticGradient(mini_batches(other, 60, take_turns=True))
        for strategy, words in (
            (plain, "the sampling is of other data.*by pipeline.mini_batches"),
            (Asynchronous(plain), f"{made_from} subtrees take turns, and this dataset has {n_partitions}"),
            (ADMM(subtrees(other)), f"the {made_from} subtrees are of other data: they begin with partitions 0, .*by pipeline.subtrees"),
        ):
            with pytest.raises(ValueError, match=words):
                minimise(objective, dataset(n_partitions), strategy, np.zeros(7), penalty=L2(1e-3), on_round=rounds.append)
    shifted = Subtrees((0, 3), 1)  # as many, but not where the groups are
    with pytest.raises(ValueError, match="partitions 0, 3, those of this dataset with 0, 2"):
        LogisticRegression(solver=ADMM(shifted)).fit(dataset(4))
    assert not rounds


def test_one_mean_at_the_end_is_the_end() -> None:
    model = SGDClassifier(solver="local-sgd", local_steps=None, max_iter=5, random_state=0).fit(dataset())
    assert model.status_.kind == "converged" and model.n_rounds_ == 1 and model.n_iter_ == 5
