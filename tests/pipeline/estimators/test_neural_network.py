"""MLPClassifier and MLPRegressor: against scikit-learn's, against themselves elsewhere, and what users do around a fit."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from distributed import Client
from rich.console import Console
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn import neural_network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from pipeline import Dataset, MLPClassifier, MLPRegressor, SGDClassifier, mini_batches
from pipeline.estimators.networks import Epochs
from pipeline.execution.pump import Pump
from pipeline.jobs.job import ConfigError, Job
from pipeline.models.model_files import load_model, save_model
from pipeline.runs.run import run_job
from pipeline.training.history import digest
from pipeline.training.progress import RoundProgress
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.newton import Newton
from tasks.strategies.optimizers import RMSProp
from tasks.strategies.schedules import Constant
from tests.data import breast_cancer, diabetes, digits, largest_relative, uneven, weights, wine
from tests.rounds import AfterRounds

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def flat(model: Any) -> Any:
    return np.concatenate([np.ravel(array) for array in [*model.coefs_, *model.intercepts_]])


def regression() -> tuple[Any, Any]:
    X, y = diabetes()
    return X * 20, (y - y.mean()) / y.std()


# -- against scikit-learn ------------------------------------------------------------------------------------------------------------


def from_scikit_learns_start(theirs: Any, ours: Any, X: Any, y: Any, start: int = 1) -> Any:
    """ours, with the parameters that scikit-learn's model starts from."""
    begun = clone(theirs).set_params(learning_rate_init=1e-300, max_iter=start).fit(X, y)
    ours.set_params(warm_start=True).fit(X, y)
    ours.coefs_, ours.intercepts_ = [coef.copy() for coef in begun.coefs_], [b.copy() for b in begun.intercepts_]
    return ours


@pytest.mark.parametrize("kind", ["binary", "multinomial", "regression", "two targets"])
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "sgd", "momentum": 0.0},
        {"solver": "sgd", "max_iter": 6},
        {"solver": "sgd", "nesterovs_momentum": False, "max_iter": 6},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "max_iter": 5},
        {"solver": "adam", "epsilon": 1e-30, "max_iter": 6},
        {"solver": "adam", "learning_rate": "invscaling", "epsilon": 1e-30, "max_iter": 5},
    ],
    ids=["sgd", "nesterov", "momentum", "invscaling", "adam", "adam-invscaling"],
)
def test_steps_on_full_batches_are_scikit_learns(kind: str, options: dict[str, Any]) -> None:
    X, y = {"binary": breast_cancer, "multinomial": wine}.get(kind, regression)()
    y = np.stack([y, -y * X[:, 0]], axis=1) if kind == "two targets" else y
    name = "MLPClassifier" if kind in ("binary", "multinomial") else "MLPRegressor"
    common = {"hidden_layer_sizes": (7, 5), "activation": "tanh", "alpha": 3.0, "learning_rate_init": 0.02, "max_iter": 1} | options
    theirs = getattr(neural_network, name)(random_state=0, batch_size=len(X), **common)
    ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name](batch_size=len(X), dtype="float64", **common)
    ours = from_scikit_learns_start(theirs, ours, X, y).fit(X, y)
    theirs.fit(X, y)
    assert largest_relative(flat(ours), flat(theirs)) < 1e-9
    if kind == "two targets":  # scikit-learn's gradient is that of the sum over targets, its loss_ that of their mean
        begun = from_scikit_learns_start(theirs, clone(ours), X, y)
        square = 0.5 * np.mean(np.sum((begun.predict(X) - y) ** 2, axis=1))
        assert ours.loss_curve_[0] == pytest.approx(square + 1.5 * sum(np.sum(c**2) for c in begun.coefs_) / len(X), rel=1e-10)
    else:
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-10)
        assert ours.best_loss_ == pytest.approx(theirs.best_loss_, rel=1e-10)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7, atol=1e-9)
    assert (ours.n_iter_, ours.t_, ours.n_layers_) == (theirs.n_iter_, theirs.t_, theirs.n_layers_)
    assert (ours.n_outputs_, ours.out_activation_) == (theirs.n_outputs_, theirs.out_activation_)
    assert [coef.shape for coef in ours.coefs_] == [coef.shape for coef in theirs.coefs_]
    if name == "MLPClassifier":
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)


def test_a_weighted_step_is_scikit_learns() -> None:
    X, y = wine()
    common: dict[str, Any] = {"hidden_layer_sizes": (6,), "solver": "sgd", "alpha": 2.0, "learning_rate_init": 0.1, "max_iter": 1}
    theirs = neural_network.MLPClassifier(random_state=0, batch_size=len(X), **common)
    ours = from_scikit_learns_start(theirs, MLPClassifier(batch_size=len(X), dtype="float64", **common), X, y)
    weight = weights(len(X))
    assert largest_relative(flat(ours.fit(X, y, weight)), flat(theirs.fit(X, y, weight))) < 1e-10


def test_step_sizes_are_scikit_learns() -> None:
    """Its sizes by epoch, from an optimizer of its own."""
    from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

    n, per_epoch = 37, 4
    schedule = MLPRegressor(learning_rate_init=0.3, power_t=0.7)._schedule("invscaling", Epochs(per_epoch, n, 10))
    optimizer = SGDOptimizer([], 0.3, "invscaling", power_t=0.7)
    for epoch in range(5):
        assert [schedule(epoch * per_epoch + i) for i in range(per_epoch)] == pytest.approx([optimizer.learning_rate] * per_epoch)
        optimizer.iteration_ends((epoch + 1) * n)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_lbfgs_reaches_scikit_learns_loss(kind: str) -> None:
    X, y = wine() if kind == "classes" else regression()
    names: Any = (neural_network.MLPClassifier, MLPClassifier) if kind == "classes" else (neural_network.MLPRegressor, MLPRegressor)
    common: dict[str, Any] = {"hidden_layer_sizes": (8,), "activation": "tanh", "solver": "lbfgs", "alpha": 20.0, "tol": 1e-6}
    theirs = [names[0](random_state=seed, max_iter=3000, max_fun=10**5, **common).fit(X, y).loss_ for seed in range(3)]
    models = [names[1](random_state=seed, max_iter=3000, **common).fit(X, y) for seed in range(3)]
    assert min(model.loss_ for model in models) <= min(theirs) * (1 + 1e-6)
    for model in models:
        assert model.status_.kind == "converged"
        assert model.coefs_[0].dtype == np.float64
        assert model.loss_curve_[-1] == model.loss_ == model.best_loss_
        assert model.solver_.name == "lbfgs" and model.n_iter_ > 5


def mean_accuracies(seeds: int, **options: Any) -> tuple[float, float]:
    """Over seeds, on the same test rows: ours and scikit-learn's."""
    X, y = digits()
    split = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    found = [
        [cls(random_state=seed, **options).fit(split[0], split[2]).score(split[1], split[3]) for seed in range(seeds)]
        for cls in (MLPClassifier, neural_network.MLPClassifier)
    ]
    return float(np.mean(found[0])), float(np.mean(found[1]))


@pytest.mark.long
def test_accuracy_on_digits() -> None:
    ours, theirs = mean_accuracies(2, max_iter=40, hidden_layer_sizes=(64,), batch_size=64)
    assert ours > 0.95
    assert ours >= theirs - 0.006  # of 719 rows, four


@pytest.mark.slow
def test_accuracy_on_digits_is_at_least_scikit_learns() -> None:
    ours, theirs = mean_accuracies(5)
    assert ours >= theirs


@pytest.mark.long
def test_regression_on_diabetes() -> None:
    X, y = regression()
    split = train_test_split(X, y, random_state=0)
    options: dict[str, Any] = {"hidden_layer_sizes": (20,), "max_iter": 60, "alpha": 10.0, "batch_size": 32, "learning_rate_init": 0.003}
    ours, theirs = (
        np.mean([cls(random_state=seed, **options).fit(split[0], split[2]).score(split[1], split[3]) for seed in range(3)])
        for cls in (MLPRegressor, neural_network.MLPRegressor)
    )
    assert ours > theirs - 0.05 > 0.2


# -- the same bits, the same numbers -------------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"solver": "adam", "dropout": 0.3},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05, "accumulate": 2, "clip_norm": 1.0},
    "rmsprop": {"solver": "rmsprop", "average": True, "warm_up": 5, "dtype": "float64"},
    "adagrad": {"solver": "adagrad", "learning_rate": "step", "early_stopping": True},
    "adamw": {"solver": "adamw", "learning_rate": "cosine", "weight_decay": 0.1},
    "optimizer": {"solver": RMSProp(decay=0.8), "learning_rate": Constant(0.003), "shuffle": False},
    "lbfgs": {"solver": "lbfgs"},
    "strategy": {"solver": GradientDescent(max_iter=4)},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_cluster_gives_the_bits_of_one_process(settings: dict[str, Any], client: Client) -> None:
    X, y = wine()
    pieces = uneven(len(X), 7)
    model = MLPClassifier((9,), max_iter=4, batch_size=40, random_state=3, **settings)
    there = model.fit(Dataset.from_arrays(X, y, partition_rows=pieces)).parameters_sha256_
    with dask.config.set(scheduler="threads"):
        here = clone(model).fit(Dataset.from_arrays(X, y, partition_rows=pieces))
    assert here.parameters_sha256_ == there == digest(flat(here))
    assert here.loss_curve_[-1] < here.loss_curve_[0]
    with dask.config.set(scheduler="threads"):
        assert clone(model).set_params(random_state=4).fit(X, y).parameters_sha256_ != there


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array], ids=["dense", "csr"])
def test_full_batches_do_not_depend_on_partitions(solver: str, convert: Any) -> None:
    X, y = digits()
    X, y = X[:300], y[:300]
    model = MLPClassifier((8,), solver=solver, batch_size=len(X), max_iter=5, random_state=0, dtype="float64")
    one = clone(model).fit(Dataset.from_arrays(X, y, n_partitions=1))
    many = clone(model).fit(Dataset.from_arrays(convert(X), y, partition_rows=uneven(len(X), 13)))
    assert largest_relative(flat(many), flat(one)) < 1e-8


def test_sparse_equals_dense() -> None:
    X, y = digits()
    X, y = X[:500], y[:500]
    dense, sparse = (MLPClassifier((8,), max_iter=3, random_state=0).fit(rows, y) for rows in (X, sp.csr_array(X)))
    assert largest_relative(flat(sparse), flat(dense)) < 1e-4
    np.testing.assert_allclose(sparse.predict_proba(sp.csr_matrix(X)), dense.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"solver": "sgd", "dropout": 0.2, "average": True}, {"solver": "nesterov", "accumulate": 3}], ids=str
)
def test_partial_fits_are_a_fit_of_as_many_epochs(options: dict[str, Any]) -> None:
    X, y = wine()
    model = MLPClassifier((6,), batch_size=25, max_iter=4, random_state=1, n_iter_no_change=np.inf, **options)
    whole = clone(model).fit(X, y)
    parts = clone(model)
    for epoch in range(4):
        parts.partial_fit(X, y, classes=np.unique(y) if not epoch else None)
    assert parts.parameters_sha256_ == whole.parameters_sha256_
    assert (parts.loss_curve_, parts.n_iter_, parts.t_) == (whole.loss_curve_, 4, 4 * len(X))
    whole.partial_fit(X, y)
    assert whole.n_iter_ == 5 and whole.parameters_sha256_ == parts.partial_fit(X, y).parameters_sha256_


# -- what parameters do --------------------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best_epoch() -> None:
    X, y = digits()
    model = MLPClassifier(
        (30,), early_stopping=True, learning_rate_init=0.03, n_iter_no_change=3, max_iter=60, random_state=0, batch_size=50
    )
    dataset = Dataset.from_arrays(X[:900], y[:900], n_partitions=3)
    model.fit(dataset)
    assert model.status_.kind == "converged"
    scores = model.validation_scores_
    best = int(np.argmax(scores))
    assert best == len(scores) - 5 and model.best_validation_score_ == scores[best] and model.best_loss_ is None
    again = clone(model).set_params(max_iter=best + 1).fit(dataset)
    assert again.parameters_sha256_ == model.parameters_sha256_
    assert clone(model).set_params(max_iter=best + 2).fit(dataset).parameters_sha256_ == model.parameters_sha256_
    assert np.mean(model.predict(X[900:]) == y[900:]) > 0.85


def test_dropout_regularises_and_is_off_in_predictions() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 20))
    y = (X[:, 0] + 1.5 * random.normal(size=400) > 0).astype(int)  # mostly noise: a network that learns it all has overfitted
    model = MLPClassifier((100,), learning_rate_init=0.01, batch_size=50, max_iter=60, random_state=0, n_iter_no_change=np.inf)
    plain, dropped = (clone(model).set_params(dropout=share).fit(X[:200], y[:200]) for share in (0.0, 0.7))
    assert log_loss(y[200:], dropped.predict_proba(X[200:])) < 0.8 * log_loss(y[200:], plain.predict_proba(X[200:]))
    hidden = np.maximum(X @ dropped.coefs_[0].astype(np.float64) + dropped.intercepts_[0], 0.0)
    raw = (hidden @ dropped.coefs_[1].astype(np.float64) + dropped.intercepts_[1])[:, 0]
    np.testing.assert_allclose(dropped.predict_proba(X)[:, 1], 1 / (1 + np.exp(-raw)), rtol=1e-9)


def test_predictions_follow_the_formula() -> None:
    X, y = wine()
    model = MLPClassifier((5, 4), activation="logistic", max_iter=3, random_state=0).fit(X, y)
    h = X
    for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        h = 1 / (1 + np.exp(-(h @ coef.astype(np.float64) + intercept)))
    raw = h @ model.coefs_[-1].astype(np.float64) + model.intercepts_[-1]
    np.testing.assert_allclose(model.predict_proba(X), softmax(raw, axis=1), rtol=1e-10)
    assert np.array_equal(model.predict(X), model.classes_[raw.argmax(axis=1)])
    assert model.predict_proba(X.astype(np.float32)).dtype == np.float32
    lazy = model.predict_proba(da.from_array(X.astype(np.float32), chunks=(50, -1)))
    assert isinstance(lazy, da.Array) and lazy.dtype == np.float32
    assert np.array_equal(lazy.compute(scheduler="sync"), model.predict_proba(X.astype(np.float32)))


def test_lazy_predictions_tell_networks_apart() -> None:
    """Equal parameters, another activation: Dask must not take one for the other."""
    X, y = wine()
    relu = MLPClassifier((4,), max_iter=2, random_state=0).fit(X, y)
    tanh = pickle.loads(pickle.dumps(relu)).set_params(activation="tanh")
    lazy = da.from_array(X, chunks=(60, -1))
    a, b = dask.compute(relu.predict_proba(lazy), tanh.predict_proba(lazy))
    assert np.array_equal(a, relu.predict_proba(X)) and np.array_equal(b, tanh.predict_proba(X)) and not np.array_equal(a, b)


def test_a_penalty_decay_and_averaging_change_a_fit() -> None:
    X, y = wine()
    base = MLPClassifier((6,), max_iter=30, random_state=0, batch_size=30)
    plain = clone(base).fit(X, y)
    for options in ({"alpha": 30.0}, {"weight_decay": 5.0}):
        assert np.linalg.norm(clone(base).set_params(**options).fit(X, y).coefs_[0]) < 0.9 * np.linalg.norm(plain.coefs_[0])
    steps = [clone(base).set_params(max_iter=1, shuffle=False, batch_size=60).fit(X, y)]
    iterates = []
    for n in (1, 2, 3):  # the first n updates of an epoch, as fits that a callback ends
        model = clone(steps[0]).set_callbacks(AfterRounds((n,), lambda: True))
        iterates.append(flat(model.fit(X, y)))
    mean = flat(clone(steps[0]).set_params(average=True).fit(X, y))
    np.testing.assert_allclose(mean, np.mean(iterates, axis=0), rtol=1e-4, atol=1e-6)
    mean = flat(clone(steps[0]).set_params(average=2).fit(X, y))
    np.testing.assert_allclose(mean, np.mean(iterates[1:], axis=0), rtol=1e-4, atol=1e-6)


def test_warm_start_goes_on_where_it_stopped() -> None:
    X, y = wine()
    model = MLPClassifier((6,), solver="lbfgs", warm_start=True, random_state=0, max_iter=500).fit(X, y)
    first = model.n_rounds_
    assert model.fit(X, y).n_rounds_ < first / 4
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        model.fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="fit with warm_start=False"):
        model.set_params(hidden_layer_sizes=(3,)).fit(X, y)


def test_partial_fit_rules() -> None:
    X, y = wine()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(X, y)
    model = MLPClassifier((4,), random_state=0).partial_fit(X[y == 1], y[y == 1], classes=[0, 1, 2])  # one class is enough here
    assert model.classes_.tolist() == [0, 1, 2] and model.predict_proba(X).shape == (len(X), 3)
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"labels \[7\] that are not among the classes of the first call to partial_fit: \[0, 1, 2\]"):
        model.partial_fit(X, np.where(y == 0, 7, y))
    with pytest.raises(ValueError, match="expecting 13 features"):
        model.partial_fit(X[:, :5], y)
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPClassifier(solver="lbfgs").partial_fit(X, y)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping"):
        MLPClassifier(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one epoch is what was asked for
        MLPRegressor(hidden_layer_sizes=(4,)).partial_fit(X, y).partial_fit(X, y)


@pytest.mark.parametrize("model", [MLPClassifier((4,), random_state=0), SGDClassifier(random_state=0)], ids=lambda m: type(m).__name__)
def test_a_first_partial_fit_that_fails_leaves_no_classes(model: Any) -> None:
    X, y = wine()
    with pytest.raises(ValueError, match=r"labels \[2\] that are not among the classes of the first call"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least 2 classes, got one class: 1"):
        model.partial_fit(X[y == 1], y[y == 1], classes=[1])
    assert not hasattr(model, "classes_")
    model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"labels \[7\]"):
        model.partial_fit(X, np.where(y == 0, 7, y))
    assert model.classes_.tolist() == [0, 1, 2]


CHANGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "layers": (MLPClassifier((4,)), {"hidden_layer_sizes": (5,)}, r"hidden_layer_sizes was \(4,\) and is \(5,\) now; put .* or call fit"),
    "dtype": (MLPClassifier((4,)), {"dtype": "float64"}, "dtype was 'float32' and is 'float64' now; put dtype back, or call fit"),
    "solver": (MLPClassifier((4,)), {"solver": "rmsprop"}, "solver was 'Adam' and is 'RMSProp' now; put solver back"),
    "momentum": (MLPClassifier((4,), solver="sgd"), {"nesterovs_momentum": False}, "solver was 'Nesterov' and is 'Momentum' now"),
    "optimizer": (SGDClassifier(), {"optimizer": "adam"}, "optimizer was 'SGD' and is 'Adam' now; put optimizer back, or call fit"),
    "intercept": (SGDClassifier(), {"fit_intercept": False}, "fit_intercept was True and is False now"),
}


@pytest.mark.parametrize(("model", "change", "message"), CHANGES.values(), ids=CHANGES)
def test_partial_fits_do_not_go_on_from_the_state_of_another_model(
    model: Any, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = wine()
    model = clone(model).set_params(random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    before = {name: model.get_params()[name] for name in change}
    model.set_params(**change)
    with monkeypatch.context() as patch:
        patch.setattr(Pump, "advance", lambda *_: pytest.fail("a round was made"))
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X, y)
    model.set_params(**before, alpha=0.1, batch_size=50).partial_fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(**change, max_iter=1).fit(X, y).partial_fit(X, y)


def test_partial_fits_have_as_many_targets_as_the_first() -> None:
    X, y = wine()
    model = MLPRegressor(hidden_layer_sizes=(4,)).partial_fit(X, y)
    with pytest.raises(ValueError, match="y has another number of targets than in the last fit; call fit"):
        model.partial_fit(X, np.stack([y, y], axis=1))


def test_partial_fit_goes_on_from_a_model_that_was_read(tmp_path: Path) -> None:
    X, y = wine()
    model = MLPClassifier((4,), learning_rate_init=1e-9, random_state=0, max_iter=2).fit(X, y)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").partial_fit(X, y)  # type: ignore[attr-defined]
    assert largest_relative(flat(again), flat(model)) < 1e-6


def test_a_callback_and_the_user_can_end_a_fit() -> None:
    X, y = wine()

    def interrupt() -> None:
        raise KeyboardInterrupt

    model = MLPClassifier((4,), max_iter=50, batch_size=50, random_state=0)
    with pytest.warns(ConvergenceWarning, match="interrupted by the user"):
        stopped = clone(model).set_callbacks(AfterRounds((10,), interrupt)).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="a callback ended the fit"):
        ended = clone(model).set_callbacks(AfterRounds((10,), lambda: True)).fit(X, y)
    assert stopped.parameters_sha256_ == ended.parameters_sha256_
    assert ended.n_rounds_ == 10 and ended.n_iter_ == 2 and stopped.score(X, y) > 0.0
    begun = clone(model).set_callbacks(AfterRounds((1,), lambda: True)).fit(X, y)  # before any epoch is over
    assert begun.loss_curve_ == [] and np.isnan(begun.loss_)


def test_a_fitted_model_can_be_cloned_and_pickled() -> None:
    X, y = wine()
    model = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert clone(model).fit(X, y).parameters_sha256_ == model.parameters_sha256_
    assert again.partial_fit(X, y).parameters_sha256_ == model.partial_fit(X, y).parameters_sha256_


# -- what is refused -----------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "solver": ({"solver": "newton"}, ValueError, r"solver='newton' is not available; use one of 'sgd', .*'lbfgs'"),
    "no solver": ({"solver": 3}, TypeError, "solver must be a name, an optimizer or a strategy, got 3"),
    "hessian": ({"solver": Newton()}, TypeError, "solver=Newton is not for networks: use .* LBFGS"),
    "dropout": ({"solver": "lbfgs", "dropout": 0.5}, ValueError, "dropout=0.5 needs mini-batches; set dropout=0"),
    "dropout with a strategy": ({"solver": LBFGS(), "dropout": 0.5}, ValueError, "needs mini-batches"),
    "learning rate": ({"learning_rate": "optimal"}, ValueError, "learning_rate='optimal' is not available; use one of 'constant'"),
    "no learning rate": ({"learning_rate": 0.1}, TypeError, "learning_rate must be a name or a schedule"),
    "verbose": ({"verbose": True}, ValueError, r"verbose=True\) is not available: use set_callbacks"),
    "max_fun": ({"max_fun": 3}, ValueError, r"max_fun=3\) is not available: max_iter bounds"),
    "momentum": ({"solver": "sgd", "momentum": 1.0}, ValueError, r"momentum must lie in \[0, 1\)"),
    "decay": ({"solver": RMSProp(), "weight_decay": 0.1}, ValueError, r"give it to the optimizer, RMSProp\(weight_decay=...\)"),
    "layers": ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes must be > 0"),
    "fractional layers": ({"hidden_layer_sizes": (2.5,)}, ValueError, "hidden_layer_sizes must be > 0, whole numbers"),
    "validation": (
        {"early_stopping": True, "validation_fraction": 0.0},
        ValueError,
        "early_stopping must have rows to score: validation_fraction",
    ),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_errors_before_any_cluster_time(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    def never(block: int) -> Any:
        raise AssertionError("rows were read")

    with pytest.raises(kind, match=message):
        MLPClassifier(**options).fit(Dataset.from_function(never, n_partitions=2, n_columns=3))


def test_data_that_cannot_be_fitted() -> None:
    X, y = wine()
    with pytest.raises(ValueError, match="multioutput"):
        MLPClassifier().fit(Dataset.from_arrays(X, np.stack([y, y], axis=1)))
    with pytest.raises(ValueError, match="only one class"):
        MLPClassifier().fit(X[y == 0], y[y == 0])
    with pytest.raises(ValueError, match=r"loss='poisson'.* is not available"):
        MLPRegressor("poisson").fit(X, y)
    with pytest.raises(ValueError, match="validation set is too small"):
        MLPClassifier(early_stopping=True, validation_fraction=0.001).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="diverged.*lower the step size"):
        MLPRegressor(solver="sgd", learning_rate_init=1e6, random_state=0).fit(X, y * 1e3)


def test_estimators_and_minimise_draw_alike() -> None:
    dataset = Dataset.from_arrays(*digits(), n_partitions=40)
    for fraction in (0.0, 0.3):
        model = MLPClassifier((4,), batch_size=70, early_stopping=fraction > 0, validation_fraction=fraction)
        found: Any = model._set_up(dataset.schema, dataset.source.n_groups).strategy
        assert found.sampling == mini_batches(dataset, 70, validation_fraction=fraction)
        assert found.sampling.n_rounds == -(-round(1797 * (1 - fraction)) // 70)


# -- files and jobs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", [[0, 1, 2], ["red", "rosé", "white"]], ids=["numbers", "text"])
def test_a_network_read_back_predicts_the_same(tmp_path: Path, dtype: str, labels: Any) -> None:
    X, y = wine()
    model = MLPClassifier((5, 4), activation="tanh", max_iter=3, random_state=0, dtype=dtype).fit(X, np.array(labels)[y])
    save_model(model, tmp_path / "model.safetensors")
    arrays = load_file(tmp_path / "model.safetensors")
    assert {name for name in arrays if name != "classes"} == {f"layers.{i}.{what}" for i in range(3) for what in ("weight", "bias")}
    again = load_model(tmp_path)
    assert isinstance(again, MLPClassifier)
    assert again.coefs_[0].dtype == dtype
    assert again.get_params() == {**model.get_params(), "hidden_layer_sizes": [5, 4]}
    for rows in (X, X.astype(np.float32)):
        assert np.array_equal(again.predict_proba(rows), model.predict_proba(rows))
        assert np.array_equal(again.predict(rows), model.predict(rows))
    shown = ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "parameters_sha256_")
    assert [getattr(again, name) for name in shown] == [getattr(model, name) for name in shown]
    assert again.parameters_sha256_ == digest(flat(again))


def test_a_regression_network_read_back_predicts_the_same(tmp_path: Path) -> None:
    X, y = regression()
    model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0).fit(X, np.stack([y, -y], axis=1))
    save_model(model, tmp_path / "model.safetensors")
    assert np.array_equal(load_model(tmp_path).predict(X), model.predict(X))  # type: ignore[attr-defined]
    arrays = load_file(tmp_path / "model.safetensors")
    save_file({**arrays, "layers.0.bias": arrays["layers.0.bias"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no model that dask-descent wrote"):
        load_model(tmp_path)


OF_JOBS: dict[str, dict[str, Any]] = {"adam": {}, "sgd": {"early_stopping": True, "learning_rate_init": 0.1, "solver": "sgd"}}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_job_trains_a_network(tmp_path: Path, solver: str) -> None:
    options = OF_JOBS.get(solver, {"solver": solver})
    estimator = {"name": "MLPClassifier", "hidden_layer_sizes": [16], "max_iter": 4, "batch_size": 100, "random_state": 0, **options}
    table = {"data": {"kind": "bundled", "name": "digits"}, "estimator": estimator, "cluster": {"kind": "in-process"}}
    job = Job.read({**table, "output": {"directory": str(tmp_path)}}, "network")
    run = run_job(job)
    assert run.metrics["train_score"] > 0.1 and run.metrics["solver"] == solver
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    again = load_model(tmp_path)
    frame = pd.DataFrame(digits()[0] * 16.0, columns=run.model.feature_names_in_)
    assert np.array_equal(again.predict(frame), run.model.predict(frame))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="solver"):
        Job.read({**table, "estimator": {**estimator, "solver": "newton"}}, "network")
    with pytest.raises(ConfigError, match=r"dropout=0\.5 needs mini-batches"):
        Job.read({**table, "estimator": {**estimator, "solver": "lbfgs", "dropout": 0.5}}, "network")


@pytest.mark.parametrize(("solver", "share"), [("adam", 6 / (3 * 8)), ("lbfgs", 0.5)])
def test_progress_counts_epochs_of_mini_batches(solver: str, share: float) -> None:
    model = MLPClassifier(solver=solver, max_iter=8, tol=1e-4)
    progress = RoundProgress(console=Console(file=io.StringIO(), force_terminal=True))
    progress.setup(model, None)
    for number, gradient in enumerate((1.0, 1.0, 1.0, 1.0, 1.0, 1e-2), 1):  # half of the way to tol, by logarithm
        progress.on_fit_task_end(model, None, metadata=a_round(number, gradient_norm=gradient))
    assert progress.completed == pytest.approx(share)


def a_round(number: int, **more: Any) -> dict[str, Any]:
    return {"round": number, "oracle": "loss_and_gradient", "row_step": 3, "objective": 1.0, "gradient_norm": 1.0, **more}


OTHER_ROUNDS: dict[str, tuple[Any, int, str, str]] = {  # of all rows, or of those held out: where, what, and what batches are
    "scores": (MLPClassifier(early_stopping=True), 4, "score", "loss_and_gradient"),
    "svrg": (SGDClassifier(variance_reduction="svrg"), 1, "loss_and_gradient", "gradient_difference"),
    "importance": (SGDClassifier(importance="norm"), 1, "loss_and_gradient", "loss_and_gradient"),
}


@pytest.mark.parametrize("row_step", [1, 3])
@pytest.mark.parametrize(("model", "where", "other", "oracle"), OTHER_ROUNDS.values(), ids=OTHER_ROUNDS)
def test_only_batches_move_the_bar(model: Any, where: int, other: str, oracle: str, row_step: int) -> None:
    progress = RoundProgress(console=Console(file=io.StringIO(), force_terminal=True))
    progress.setup(model.set_params(max_iter=100), None)
    for number in range(1, 5):
        before = progress.completed
        what = {"oracle": other, "row_step": 1} if number == where else {"oracle": oracle, "row_step": row_step}
        progress.on_fit_task_end(model, None, metadata=a_round(number, **what))
        assert progress.completed - before == pytest.approx(0.0 if number == where else 1 / (100 * row_step))
