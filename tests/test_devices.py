"""Fits on devices, from the rows to the predictions.

The second device of array-api-strict stands for one: it is mixed with nothing else, and NumPy cannot take its arrays by itself. PyTorch's
CPU tensors are a second namespace. What is fitted there is what NumPy fits, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_strict
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from dask import delayed
from distributed import Client, LocalCluster
from sklearn.base import clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score

from pipeline import (
    Checkpoint,
    Dataset,
    LinearRegression,
    LogisticRegression,
    MLPClassifier,
    MLPRegressor,
    OutOfMemoryError,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from pipeline.execution.residency.moving import move
from pipeline.jobs.data import DATA
from tasks.loading.residence import example, home_of
from tasks.machine.namespaces import beside, is_elsewhere, on_host
from tasks.objectives.base import GramSums
from tasks.objectives.losses import Loss
from tasks.objectives.penalties import L2
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.rows.batches import HELD_OUT, Batch, Sampling
from tasks.rows.partition import Group
from tasks.strategies.base import Consensus, LocalSteps, Subtrees
from tasks.strategies.optimizers import Momentum
from tests.data import largest_relative, weights
from tests.golden.fits import ESTIMATORS, rows
from tests.on_workers import homes
from tests.rounds import AfterRounds
from tests.test_conformance import CASES, objective
from tests.test_conformance import rows as rows_of

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

STRICT = "array_api_strict:device1"
TORCH = pytest.param("torch:cpu", marks=(pytest.mark.torch, pytest.mark.slow))  # a second library: as many fits again
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
every_place = pytest.mark.parametrize("place", [STRICT, TORCH, CUDA])
N = 900
PIECES = [280, 0, 340, 280]
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(N, 4))
Y = X @ [1.0, -2.0, 0.5, 0.0] + RANDOM.normal(size=N)
CODES = np.digitize(Y, [-1.0, 1.0])
LABELS = np.array(["low", "middle", "high"])[CODES]
WEIGHT = weights(N)
CLOSE = 1e-10


@pytest.fixture
def threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads"):
        yield


def there(array: Any, place: str = STRICT) -> Any:
    return beside(example(place), np.asarray(array))


def dataset(y: Any, device: str | None, weight: Any = None) -> Dataset:
    return Dataset.from_arrays(X, y, weight, partition_rows=PIECES, device=device)


def parameters(model: Any) -> Any:
    arrays = [*model.coefs_, *model.intercepts_] if "coefs_" in vars(model) else [model.coef_, np.atleast_1d(model.intercept_)]
    return np.concatenate([np.ravel(array) for array in arrays])


def assert_close(found: Any, expected: Any, tolerance: float = CLOSE) -> None:
    assert largest_relative(on_host(found), expected) < tolerance


# -- from rows to predictions --------------------------------------------------------------------------------------------------------------


@every_place
@pytest.mark.usefixtures("threads")
def test_the_whole_way(place: str) -> None:
    """Text stays here, X goes there once, predictions come where the rows are."""
    data, expected = dataset(LABELS, place, WEIGHT), LogisticRegression(C=0.5).fit(dataset(LABELS, None, WEIGHT))
    model = LogisticRegression(C=0.5).fit(data)
    groups = data.source.resident["threads"].groups(0)
    assert {home_of(group.X) for group in groups} == {place}
    assert all(isinstance(group.y, np.ndarray) and isinstance(group.sample_weight, np.ndarray) for group in groups)
    assert_close(parameters(model), parameters(expected))
    np.testing.assert_array_equal(data.contents, dataset(LABELS, None, WEIGHT).contents)
    assert model.score(data) == pytest.approx(expected.score(dataset(LABELS, None, WEIGHT)))
    np.testing.assert_array_equal(model.predict(data).compute(), expected.predict(X))
    assert data.describe().mean.tolist() == dataset(LABELS, None).describe().mean.tolist()
    elsewhere = there(X, place)
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(model, method)(elsewhere)
        assert home_of(found) == place
        assert_close(found, getattr(expected, method)(X))
    np.testing.assert_array_equal(model.predict(elsewhere), expected.predict(X))
    assert model.score(elsewhere, LABELS, WEIGHT) == pytest.approx(accuracy_score(LABELS, expected.predict(X), sample_weight=WEIGHT))
    assert model.score(elsewhere, ["none"] * N) == 0.0


@every_place
@pytest.mark.usefixtures("threads")
def test_arrays_on_a_device_are_taken_as_they_are(place: str) -> None:
    """By estimators and datasets: they come here to be checked, and go back; labels that are numbers are predicted there."""
    elsewhere, y, weight = (there(array, place) for array in (X, Y, WEIGHT))
    expected = Ridge().fit(X, Y, WEIGHT)
    model = Ridge().fit(elsewhere, y, weight)
    assert_close(parameters(model), parameters(expected))
    assert home_of(model.predict(elsewhere)) == place
    assert_close(model.predict(elsewhere), expected.predict(X))
    assert model.score(elsewhere, y, weight) == pytest.approx(r2_score(Y, expected.predict(X), sample_weight=WEIGHT))
    data = Dataset.from_arrays(elsewhere, y, weight, n_partitions=3)
    assert_close(parameters(Ridge().fit(data)), parameters(expected))
    assert {home_of(group.X) for group in data.source.resident["threads"].groups(0)} == {place}
    kept = Dataset.from_arrays(elsewhere, y, n_partitions=3, device="numpy")
    Ridge().fit(kept)
    assert not any(is_elsewhere(group.X) for group in kept.source.resident["threads"].groups(0))
    classifier = SGDClassifier(max_iter=2, random_state=0).partial_fit(elsewhere, there(CODES, place), there([0, 1, 2], place))
    found = classifier.predict(elsewhere)
    assert home_of(found) == place
    here = SGDClassifier(max_iter=2, random_state=0).partial_fit(X, CODES, [0, 1, 2])
    np.testing.assert_array_equal(on_host(found), here.predict(X))
    assert classifier.score(elsewhere, CODES) == here.score(X, CODES)
    network = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0, dtype="float64").fit(elsewhere, y)
    same = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0, dtype="float64").fit(X, Y)
    assert home_of(network.predict(elsewhere)) == place
    assert_close(network.predict(elsewhere), same.predict(X))


def test_rows_on_a_device_that_cannot_be_predicted() -> None:
    model = LogisticRegression().fit(X, LABELS)
    bad = X.copy()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN: column 'x2' of X, row 7"):
        model.predict(there(bad))
    with pytest.raises(ValueError, match="X has 3 features, but LogisticRegression is expecting 4"):
        model.predict(there(X[:, :3]))
    with pytest.raises(ValueError, match="X must be 2-D"):
        model.predict(there(X[0]))
    with pytest.raises(ValueError, match="a score needs y"):
        model.score(there(X))
    with pytest.raises(ValueError, match="X has 900 rows but y has 3"):
        model.score(there(X), LABELS[:3])


def chunks(place: str = STRICT) -> Any:
    """A Dask array whose chunks are on a device."""
    move = delayed(there)
    return da.concatenate([da.from_delayed(move(piece, place), piece.shape, float) for piece in np.array_split(X, 3)])


@pytest.mark.usefixtures("threads")
def test_chunks_on_a_device() -> None:
    y = da.from_array(Y, chunks=300)
    expected = Ridge().fit(da.from_array(X, chunks=(300, 4)), y)
    data = Dataset.from_dask(chunks(), y)
    for model in (Ridge().fit(chunks(), y), Ridge().fit(data)):
        assert_close(parameters(model), parameters(expected))
    assert {home_of(group.X) for group in data.source.resident["threads"].groups(0)} == {STRICT}
    assert_close(model.predict(chunks()).compute(), expected.predict(X))
    made = Dataset.from_function(lambda i: (there(X[i::3]), Y[i::3]), n_partitions=3, n_columns=4)
    train, test = made.split(0.3)
    Ridge().fit(train).score(test)
    assert {home_of(group.X) for group in made.source.with_split(train.source.split).load_local(1).all_groups} == {None}  # until a round
    assert {home_of(group.X) for group in train.source.resident["threads"].all_groups} == {STRICT}


# -- on a cluster --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@every_place
def test_on_a_cluster(client: Client, tmp_path: Path, place: str) -> None:
    """The parameters and the checkpoints of this process; rows from the client, and rows that workers read."""

    def assert_same(one: Any, other: Any) -> None:
        """To the bit where NumPy computes; PyTorch has other numbers of threads in workers."""
        assert place != STRICT or one.parameters_sha256_ == other.parameters_sha256_
        assert_close(parameters(one), parameters(other), 1e-8)

    made = da.from_array(X, chunks=(100, 4)), da.from_array(Y, chunks=100)
    with dask.config.set(scheduler="threads"):
        here = Ridge(solver="lbfgs").fit(Dataset.from_dask(*made, device=place))
        batches = SGDRegressor(max_iter=3, random_state=0).fit(Dataset.from_arrays(X, Y, n_partitions=7, device=place))
    data = Dataset.from_dask(*made, device=place)
    stopped = Ridge(solver="lbfgs", checkpoint=Checkpoint(directory=tmp_path, every_rounds=1))
    stopped.set_callbacks(AfterRounds((3,), lambda: True)).fit(data)
    assert set().union(*client.run(homes).values()) == {place}
    resumed = Ridge(solver="lbfgs", checkpoint=Checkpoint(directory=tmp_path, every_rounds=1)).fit(data)
    assert resumed.resumed_from_ == 3
    assert_same(resumed, here)
    assert resumed.score(data) == pytest.approx(here.score(X, Y))
    assert_close(resumed.predict(data).compute(), here.predict(X))
    sent = SGDRegressor(max_iter=3, random_state=0).fit(Dataset.from_arrays(X, Y, n_partitions=7, device=place))
    assert_same(sent, batches)


@pytest.mark.long
def test_a_device_that_workers_lack(client: Client) -> None:
    data = Dataset.from_dask(da.from_array(X, chunks=(100, 4)), da.from_array(Y, chunks=100), device="array_api_strict:device9")
    with pytest.raises(ValueError, match="there is no device='array_api_strict:device9'"):
        Ridge().fit(data)


@pytest.mark.long
def test_rows_that_move_or_are_made_again_end_on_the_device() -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        data = Dataset.from_dask(da.from_array(X, chunks=(100, 4)), da.from_array(Y, chunks=100), device=STRICT)
        first = Ridge(solver="lbfgs").fit(data)
        resident = data.source.resident[client.id]
        addresses = list(client.scheduler_info()["workers"])
        holders = client.who_has(resident.futures)
        move(client, [(key, own, next(each for each in addresses if each != own)) for key, (own, *_) in holders.items()])
        assert client.who_has(resident.futures) != holders
        assert Ridge(solver="lbfgs").fit(data).parameters_sha256_ == first.parameters_sha256_
        assert set().union(*client.run(homes).values()) == {STRICT}
        client.restart_workers([next(iter(client.scheduler_info()["workers"]))])
        assert Ridge(solver="lbfgs").fit(data).parameters_sha256_ == first.parameters_sha256_
        assert set().union(*client.run(homes).values()) - {None} == {STRICT}


# -- rounds --------------------------------------------------------------------------------------------------------------------------------


def both(loss: Loss, c: int, place: str) -> tuple[Group, Group]:
    """The same rows on a device and here."""
    own, here = rows_of(loss, c), rows_of(loss, c)
    own.home = place
    return own, here


def flat(sums: Any) -> Iterator[Any]:
    """The numbers in sums, one array after the other."""
    if isinstance(sums, tuple):
        for each in sums:
            yield from flat(each)
    elif sums is not None:
        yield np.ravel(np.asarray(sums, dtype=float))


@pytest.mark.long
@every_place
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("case", ["squared", "multinomial", "logistic one-vs-rest", "hinge", "poisson", "huber"])
def test_oracles(case: str, oracle: str, place: str) -> None:
    """Each quantity that a strategy asks for, from rows on a device."""
    loss, c = CASES[case]
    model, random = replace(objective(loss, c), compiled=False), np.random.default_rng(0)
    if ORACLES[oracle].needs is GramSums and not loss.constant_curvature:
        return
    n, p = model.layout.size, model.n_columns
    at, direction = 0.3 * random.normal(size=(2, 1, n))
    along = {"hessian_vector": direction, "gradient_difference": direction, "gram_in_basis": random.normal(size=(1, p, p))}
    broadcast = Broadcast(model, oracle, at, along.get(oracle), 1, (L2(0.1),))
    if oracle == "local_steps":
        broadcast = broadcast._replace(batch=Batch(Sampling(1, 3), 0, 1), local=LocalSteps((0.02, 0.01), Momentum()))
    if oracle == "consensus":
        broadcast = broadcast._replace(direction=random.normal(size=(1, 1, n)), local=Consensus(Subtrees((0,)), 0.3))
    kinds = [broadcast]
    if oracle == "loss_and_gradient":
        batch = Batch(Sampling(1, 3, validation_fraction=0.2, importance="norm"), 0, 1)
        kinds += [broadcast._replace(row_step=3), broadcast._replace(batch=batch), broadcast._replace(batch=batch._replace(number=-1))]
    if oracle == "score":
        kinds = [broadcast._replace(batch=Batch(Sampling(1, 3, validation_fraction=0.3), 0, HELD_OUT))]
    for each in kinds:
        found, expected = (reduction_of(each).map([group], each) for group in both(loss, c, place))
        for own, theirs in zip(flat(found), flat(expected), strict=True):
            np.testing.assert_allclose(own, theirs, rtol=CLOSE, atol=1e-11)


@pytest.mark.long
@every_place
@pytest.mark.parametrize(("loss", "c"), CASES.values(), ids=CASES)
def test_every_loss(loss: Loss, c: int, place: str) -> None:
    """Its sums, curvature and predictions, with class weights."""
    model = replace(objective(loss, c), compiled=False)
    at = np.random.default_rng(2).normal(size=(2, model.layout.size))
    own, here = both(loss, c, place)
    own.move(there(own.X, place))
    for name in ("loss_and_gradient", "hessian", *(["hessian_blocks"] if c > 1 else [])):
        found, expected = (getattr(model, name)(group, at) for group in (own, here))
        for one, other in zip(flat(found), flat(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=CLOSE, atol=1e-12)
    raw = model.predict(at[0], own.X)
    assert home_of(raw) == place
    if loss.probabilistic or not loss.classification:
        mean = loss.mean(raw)
        assert home_of(mean) == place
        np.testing.assert_allclose(on_host(mean), loss.mean(model.predict(at[0], here.X)), rtol=CLOSE)


# -- what goes to and fro ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what has come from the device."""
    kind: Any = type(example(STRICT))
    found: list[tuple[int, ...]] = []
    original = kind.__dlpack__

    def noted(self: Any, **options: Any) -> Any:
        found.append(self.shape)
        return original(self, **options)

    monkeypatch.setattr(kind, "__dlpack__", noted)
    return found


@pytest.fixture
def into(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what NumPy has sent to the device."""
    found: list[tuple[int, ...]] = []
    original = array_api_strict.asarray

    def noted(array: Any, **options: Any) -> Any:
        if isinstance(array, np.ndarray):
            found.append(array.shape)
        return original(array, **options)

    monkeypatch.setattr(array_api_strict, "asarray", noted)
    return found


PASSES = [LogisticRegression(solver=solver, max_iter=4) for solver in ("lbfgs", "newton", "newton-cg", "admm")]
BATCHES = [
    SGDClassifier(max_iter=2, early_stopping=True, validation_fraction=0.5, random_state=0, batch_size=50),
    MLPClassifier((5,), max_iter=2, early_stopping=True, validation_fraction=0.5, random_state=0, batch_size=50),
]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("model", [*PASSES, *BATCHES], ids=str)
def test_sums_alone_come_from_a_device(model: Any, out: list[tuple[int, ...]], into: list[tuple[int, ...]]) -> None:
    """Nothing that is as long as a partition, nor does the check of the rows copy anything back; in full passes parameters alone go in."""
    data = dataset(LABELS, STRICT, WEIGHT)
    assert data.schema.n_rows == N
    assert out == []
    model.fit(data)
    least = min(n for n in PIECES if n)
    assert out
    assert max(map(math.prod, out)) < least
    into.clear()
    clone(model).fit(data)  # the rows and what the loss makes of labels and weights are there now
    if model in PASSES:
        assert max(map(math.prod, into)) < least


# -- tables --------------------------------------------------------------------------------------------------------------------------------


def of_few(name: str) -> tuple[Any, Any, Any]:
    """Rows and the estimator of one of the fits of tests.golden."""
    kind, estimator = ESTIMATORS[name]
    few, y = (array[:400] for array in rows(kind))
    model = clone(estimator)
    if "dtype" in model.get_params():
        model.set_params(dtype="float64")
    return few.toarray() if sp.issparse(few) else few, y, model


@pytest.mark.long
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_fit(name: str) -> None:
    """Every estimator, solver, loss, penalty, optimizer and schedule, with weights, on a device and here."""
    few, y, model = of_few(name)
    data = [Dataset.from_arrays(few, y, weights(400), n_partitions=5, device=device) for device in (STRICT, None)]
    fitted = [clone(model).fit(each) for each in data]
    assert [home_of(each.source.resident["threads"].groups(0)[0].X) for each in data] == [STRICT, None]
    assert_close(*map(parameters, fitted))
    assert fitted[0].n_rounds_ == fitted[1].n_rounds_
    found, expected = ([row["objective"] for row in each.history_] for each in fitted)
    np.testing.assert_allclose(found, expected, rtol=CLOSE)


CONVEX = [name for name in ESTIMATORS if name.startswith(("LinearRegression", "Ridge", "LogisticRegression")) and "float32" not in name]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", CONVEX)
def test_every_solver_of_full_passes_in_pytorch(name: str) -> None:
    """The sums are NumPy's to 1e-10 (test_oracles); a path of steps makes more of what rounding does."""
    few, y, model = of_few(name)
    on_torch, here = (clone(model).fit(Dataset.from_arrays(few, y, n_partitions=5, device=device)) for device in ("torch:cpu", None))
    assert_close(parameters(on_torch), parameters(here), 1e-8)


@pytest.mark.torch
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "model",
    [
        SGDClassifier("log_loss", max_iter=3, random_state=0),
        SGDRegressor(max_iter=3, random_state=0, solver="local-sgd"),
        MLPClassifier((5,), max_iter=3, random_state=0, dtype="float64", dropout=0.3, early_stopping=True),
        MLPRegressor(hidden_layer_sizes=(5,), activation="tanh", max_iter=3, random_state=0, dtype="float64"),
    ],
    ids=str,
)
def test_mini_batches_in_pytorch(model: Any) -> None:
    y = LABELS if is_classifier(model) else Y
    on_torch, here = (clone(model).fit(dataset(y, device, WEIGHT)) for device in ("torch:cpu", None))
    assert_close(parameters(on_torch), parameters(here))


# -- what is refused -----------------------------------------------------------------------------------------------------------------------


def test_sparse_rows() -> None:
    with pytest.raises(ValueError, match=r"X is sparse, and rows on a device are dense; make it dense \(X\.toarray\(\)\), or leave"):
        Dataset.from_arrays(sp.csr_array(X), Y, device=STRICT)
    lazy = da.from_array(X, chunks=(450, 4)).map_blocks(sp.csr_array, dtype=float)
    with dask.config.set(scheduler="threads"), pytest.raises(ValueError, match="partition 0: X is sparse, and rows on a device are dense"):
        Ridge().fit(Dataset.from_dask(lazy, da.from_array(Y, chunks=450), device=STRICT))


@pytest.mark.usefixtures("threads")
def test_a_device_that_is_not_there_before_any_round() -> None:
    rounds: list[int] = []
    model = Ridge().set_callbacks(AfterRounds((1,), lambda: rounds.append(1)))
    with pytest.raises(ValueError, match="needs no_such_library, which cannot be imported"):
        model.fit(dataset(Y, "no_such_library:gpu"))
    assert rounds == []
    with pytest.raises(ValueError, match="device='cuda 0' names none"):
        dataset(Y, "cuda 0")


@pytest.mark.usefixtures("threads")
def test_rows_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr("tasks.loading.residence.beside", full)
    with pytest.raises(
        OutOfMemoryError, match=r"X of partition 0 \(280 rows, 0\.00896 MB\) does not fit on device='array_api_strict:device1'"
    ):
        Ridge().fit(dataset(Y, STRICT))


@pytest.mark.usefixtures("threads")
def test_job_files_and_reprs_name_the_device() -> None:
    data = DATA["bundled"].read({"name": "wine", "n_partitions": 4, "device": STRICT}).dataset()
    assert data.source.home == STRICT
    assert "array_api_strict:device1" in data._repr_html_()
    assert LinearRegression().fit(data).n_rounds_ > 0
