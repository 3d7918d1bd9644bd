"""Mini-batch fits wherever they run: the same bits, whatever the threads, the cluster, or a stop on the way."""

from __future__ import annotations

import os
import pickle
import signal
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster

from pipeline import Dataset, LogisticRegression, MLPClassifier, SGDClassifier
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.pump import Pump
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import Result, train
from pipeline.training.observers import Calling
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rows.batches import Sampling
from tasks.strategies.optimizers import OPTIMIZERS, SGD, Adam, Momentum
from tasks.strategies.schedules import Constant, InverseScaling
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.data import breast_cancer, largest_relative, uneven, weights
from tests.rounds import AfterRounds

OBJECTIVE = LinearObjective(LOSSES["logistic"], 30, 1, True, np.arange(2))


def dataset(n_partitions: int = 37, convert: Any = np.asarray, weighted: bool = True) -> Dataset:
    X, y = breast_cancer()
    weight = weights(len(X)) if weighted else None
    return Dataset.from_arrays(convert(X), y, weight, partition_rows=uneven(len(X), n_partitions))


def strategy(**options: Any) -> StochasticGradient:
    options = {"sampling": Sampling(1, 9, level=2), "schedule": InverseScaling(0.1), "max_epochs": 4, "tol": -np.inf, **options}
    return StochasticGradient(**options)


def fit(executor: Any, data: Dataset, strategy: Any, penalties: tuple[float, ...] = (1e-3,)) -> Result:
    fit = Fit(OBJECTIVE, tuple(L2(p) for p in penalties), strategy)
    return train(executor, data, fit, fit.init(np.zeros((len(penalties), 31))))


VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum, accumulated and averaged": {"optimizer": Momentum(), "accumulate": 4, "average_from": 3},
    "adam": {"optimizer": Adam()},
    "variance reduction": {"variance_reduction": True},
    "importance": {"sampling": Sampling(1, 9, 2, importance="norm")},
    "early stopping": {"sampling": Sampling(1, 9, 2, validation_fraction=0.2), "early_stopping": True},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@every_variant
@pytest.mark.parametrize("n_partitions", [1, 7, 37])
def test_threads_leave_no_trace(options: dict[str, Any], n_partitions: int) -> None:
    data = dataset(n_partitions)
    one = fit(ThreadExecutor(1), data, strategy(**options))
    three = fit(ThreadExecutor(3), dataset(n_partitions), strategy(**options))
    assert one.parameters.tobytes() == three.parameters.tobytes()
    assert one.iterations == three.iterations
    assert np.any(one.parameters)
    assert fit(ThreadExecutor(3), data, strategy(**options)).parameters.tobytes() == one.parameters.tobytes()  # again, on the same rows


@pytest.mark.parametrize(("name", "level"), [(name, level) for level, name in enumerate(OPTIMIZERS)])
def test_clusters_leave_no_trace(client: Client, name: str, level: int) -> None:
    chosen = strategy(optimizer=OPTIMIZERS[name](), sampling=Sampling(1, 5, level=level), max_epochs=2, variance_reduction=name == "sgd")
    data = dataset()
    assert fit(ClusterExecutor(client), data, chosen).parameters.tobytes() == fit(ThreadExecutor(1), data, chosen).parameters.tobytes()


def test_subtrees_change_rounding_alone() -> None:
    found = [fit(ThreadExecutor(1), dataset(), strategy(sampling=Sampling(1, 9, level=level))).parameters for level in (0, 1, 4)]
    assert largest_relative(found[0], found[1]) < 1e-10
    assert largest_relative(found[0], found[2]) < 1e-10


@every_variant
def test_models_share_passes(options: dict[str, Any]) -> None:
    together = fit(ThreadExecutor(1), dataset(), strategy(**options), (1e-3, 0.3))
    for model, penalty in enumerate((1e-3, 0.3)):
        alone = fit(ThreadExecutor(1), dataset(), strategy(**options), (penalty,))
        assert len(together.history) == len(alone.history)
        assert largest_relative(together.parameters[model], alone.parameters[0]) < 1e-9


def test_a_model_that_has_converged_leaves() -> None:
    """The first stops after two epochs without early improvement, the others go on as if alone."""
    chosen = strategy(tol=0.02, patience=1, max_epochs=30)
    together = fit(ThreadExecutor(1), dataset(), chosen, (10.0, 1e-3))
    assert together.iterations[0] != together.iterations[1]
    for model, penalty in enumerate((10.0, 1e-3)):
        alone = fit(ThreadExecutor(1), dataset(), chosen, (penalty,))
        assert together.iterations[model] == alone.iterations[0]
        assert largest_relative(together.parameters[model], alone.parameters[0]) < 1e-9


@pytest.mark.long
@every_variant
def test_dense_equals_csr(options: dict[str, Any]) -> None:
    dense, csr = (fit(ThreadExecutor(1), dataset(convert=convert), strategy(**options)) for convert in (np.asarray, sp.csr_array))
    assert largest_relative(csr.parameters, dense.parameters) < 1e-9


# -- stops on the way ------------------------------------------------------------------------------------------------------------------


def bits(value: Any) -> Any:
    """What two states must share to be equal to the bit."""
    if isinstance(value, tuple | list):
        return [bits(part) for part in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def to_the_end(fit: Fit, states: list[Any], data: Dataset, pickled: bool = False) -> list[Any]:
    executor = ThreadExecutor(1)
    while any(state.status.kind == "running" for state in states):
        if pickled:
            fit, states = pickle.loads(pickle.dumps((fit, states)))
        states = Pump(executor, data.rows, fit).advance(states, 1).states
    return states


@every_variant
def test_states_are_all_that_a_fit_remembers(options: dict[str, Any]) -> None:
    fit = Fit(OBJECTIVE, (L2(1e-3),), strategy(**options))
    plain, pickled = (to_the_end(fit, fit.init(np.zeros((1, 31))), dataset(), how) for how in (False, True))
    assert bits(plain) == bits(pickled)


@pytest.mark.parametrize("options", [VARIANTS[name] for name in VARIANTS if name != "early stopping"])
def test_resumed_fits_go_on_as_if_never_stopped(options: dict[str, Any]) -> None:
    data = dataset()
    whole, half = (Fit(OBJECTIVE, (L2(1e-3),), strategy(**options, max_epochs=epochs)) for epochs in (4, 2))
    (expected,) = to_the_end(whole, whole.init(np.zeros((1, 31))), data)
    (stopped,) = to_the_end(half, half.init(np.zeros((1, 31))), data)
    assert stopped.status.kind == "converged"
    (found,) = to_the_end(half, [half.strategy.resume(stopped)], data)  # type: ignore[attr-defined]
    assert found.epoch == expected.epoch
    assert found.iteration == expected.iteration == 2 * stopped.iteration
    assert found.iterate.parameters.tobytes() == expected.iterate.parameters.tobytes()
    assert found.losses == expected.losses[2:]


def test_resumed_fits_forget_what_belongs_to_the_rows_before() -> None:
    """On rows with labels that say nothing: from the last iterate on, with a score and a full pass of their own."""
    chosen = strategy(**VARIANTS["early stopping"], variance_reduction=True, max_epochs=1)
    first = fit(ThreadExecutor(1), dataset(), chosen).states[0]
    X, y = breast_cancer()
    noise = Dataset.from_arrays(X, np.random.default_rng(0).permutation(y), n_partitions=7)
    (second,) = to_the_end(Fit(OBJECTIVE, (L2(1e-3),), chosen), [chosen.resume(first)], noise)
    assert first.scores[0] > 0.9 > second.scores[0]
    assert (second.epoch.number, second.iteration) == (2, 18)
    np.testing.assert_array_equal(second.iterate.parameters, second.parameters)
    np.testing.assert_array_equal(second.anchor.parameters, first.parameters)


def test_a_fit_that_was_cut_off_in_an_epoch_resumes_with_the_next() -> None:
    data, chosen = dataset(), strategy(optimizer=SGD(), schedule=Constant(0.1), accumulate=4, max_epochs=1)
    whole = Fit(OBJECTIVE, (L2(1e-3),), chosen)
    cut = train(ThreadExecutor(1), data, whole, whole.init(np.zeros((1, 31))), [Calling(lambda row: row["round"] == 6)]).states[0]
    assert (cut.epoch.number, cut.epoch.rounds, cut.iteration) == (0, 6, 1)
    assert cut.accumulated is not None
    resumed = chosen.resume(cut)
    assert (resumed.epoch.number, resumed.epoch.rounds, resumed.accumulated) == (1, 0, None)
    again = Fit(OBJECTIVE, (L2(1e-3),), chosen)
    (end,) = to_the_end(again, [resumed], data)
    assert (end.iteration, len(end.losses)) == (4, 1)


def test_subtrees_end_with_their_fit(client: Client) -> None:
    """One subtree of all rows is on one worker, until a fit of full passes spreads them again."""
    X, y = breast_cancer()
    data = Dataset.from_arrays(X, y, n_partitions=16)
    SGDClassifier(batch_size=16, max_iter=2, tol=None, random_state=0).fit(data)
    resident = data.source.resident[client.id]
    assert resident.level == 0
    assert sum(map(bool, resident.assigned)) == 1
    model = LogisticRegression(solver="lbfgs").fit(data)
    shares = [len(pieces) for pieces in resident.assigned]
    assert min(shares) > 0
    assert max(shares) <= 2 * min(shares)
    with dask.config.set(scheduler="threads"):
        assert LogisticRegression(solver="lbfgs").fit(data).parameters_sha256_ == model.parameters_sha256_


@pytest.mark.timeout(120)
@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
@pytest.mark.long
def test_every_optimizer_on_any_number_of_workers(n_workers: int) -> None:
    strategies = [strategy(optimizer=make(), schedule=Constant(0.01), max_epochs=2) for make in OPTIMIZERS.values()]
    here = [bits(fit(ThreadExecutor(1), dataset(), each).parameters) for each in strategies]
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        data, executor = dataset(), ClusterExecutor(client)
        for each, expected in zip(strategies, here, strict=True):
            with executor.span("optimizer"):
                assert bits(fit(executor, data, each).parameters) == expected
        assert executor.sessions.rounds > 0 or n_workers == 1


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_participant_killed_in_an_epoch_changes_nothing() -> None:
    X, y = breast_cancer()
    model = MLPClassifier((16,), batch_size=64, dropout=0.2, max_iter=400, tol=None, random_state=0)

    def data() -> Dataset:
        return Dataset.from_arrays(X, y, n_partitions=16)

    with dask.config.set(scheduler="threads"):
        expected = model.fit(data()).parameters_sha256_
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
        model.set_callbacks(AfterRounds((100,), lambda: os.kill(pids[0], signal.SIGKILL)))
        assert model.fit(data()).parameters_sha256_ == expected
        assert pids[0] not in client.run(os.getpid).values()
