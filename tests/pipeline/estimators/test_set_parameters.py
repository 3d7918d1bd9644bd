"""Parameters that the user sets, to the average of several models, say: training goes on from them, by steps written out in NumPy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from sklearn import linear_model, neural_network

from pipeline import Dataset, LinearRegression, LogisticRegression, MLPClassifier, MLPRegressor, Ridge, SGDClassifier, SGDRegressor
from pipeline.models.model_files import load_model, save_model
from tasks.strategies.optimizers import Adam, Momentum
from tasks.strategies.schedules import Constant

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = X @ [1.0, 2.0, 3.0] + 1.0 + RANDOM.normal(size=60)
LABELS = (Y > 1).astype(int)
THREE = np.digitize(Y, [-1, 3])
ETA = 0.01
OTHER = np.array([5.0, -4.0, 3.0])
LAZY = da.from_array(X, chunks=(20, 3)), da.from_array(Y, chunks=20)


def regressor(**options: Any) -> SGDRegressor:
    """One update an epoch, a batch of all rows, of a known step size."""
    return SGDRegressor(**{"penalty": None, "learning_rate": Constant(ETA), "batch_size": 1000, "random_state": 0, **options})


def network(**options: Any) -> MLPRegressor:
    return MLPRegressor(
        **{"hidden_layer_sizes": (4,), "solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": 60, "dtype": "float64", **options}
    )


def stepped(coef: Any, intercept: Any, X: Any = X, y: Any = Y) -> tuple[Any, Any]:
    """One step of gradient descent on the mean of half squared errors."""
    residual = X @ coef + intercept - y
    return coef - ETA * X.T @ residual / len(X), intercept - ETA * residual.mean()


def set_to(model: Any, coef: Any, intercept: Any) -> Any:
    model.coef_, model.intercept_ = coef, intercept
    return model


# -- linear models ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [(X, Y), LAZY, (Dataset.from_arrays(X, Y, n_partitions=4),)], ids=["memory", "lazy", "dataset"])
def test_federated_averaging(data: Any) -> None:
    """Rounds of two parties, each training on its own rows from the average of both."""
    parties = [regressor().partial_fit(X[part], Y[part]) for part in (slice(25), slice(25, 60))]
    for _ in range(3):
        coef, intercept = (np.mean([getattr(party, name) for party in parties], axis=0) for name in ("coef_", "intercept_"))
        for party in parties:
            set_to(party, coef.copy(), intercept.copy()).partial_fit(*data)
            wanted = stepped(coef, intercept)
            np.testing.assert_allclose(party.coef_, wanted[0], rtol=1e-12)
            np.testing.assert_allclose(party.intercept_, wanted[1], rtol=1e-12)


def change_in_place(model: Any) -> None:
    model.coef_ *= 0.5
    model.intercept_[0] += 3.0


CHANGES: dict[str, Callable[[Any], Any]] = {
    "set": lambda model: set_to(model, OTHER, np.array([7.0])),
    "lists": lambda model: set_to(model, OTHER.tolist(), [7.0]),
    "integers": lambda model: set_to(model, OTHER.astype(int), np.array([7])),
    "intercept as a number": lambda model: set_to(model, OTHER, 7.0),
    "coef_ alone": lambda model: setattr(model, "coef_", OTHER),
    "intercept_ alone": lambda model: setattr(model, "intercept_", np.array([7.0])),
    "in place": change_in_place,
    "float32": lambda model: set_to(model, OTHER.astype(np.float32), np.float32([7.0])),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("options", [{}, {"optimizer": "momentum"}, {"average": True}, {"loss": "huber", "epsilon": 1e9}], ids=str)
def test_partial_fit_goes_on_from_what_the_attributes_say(options: dict[str, Any], change: Callable[[Any], Any], dtype: Any) -> None:
    """Momentum and the mean of the iterates begin anew, so that the next update is a plain step."""
    rows = X.astype(dtype)
    model = regressor(**options).partial_fit(rows, Y).partial_fit(rows, Y)
    change(model)
    given = np.array(model.coef_, float), float(np.ravel(model.intercept_)[0])
    np.testing.assert_allclose(model.predict(rows), rows @ given[0] + given[1], rtol=1e-5, atol=1e-5)
    coef, intercept = stepped(*given, rows)
    model.partial_fit(rows, Y)
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-6)
    np.testing.assert_allclose(model.intercept_, [intercept], rtol=1e-6)
    assert (model.n_iter_, model.t_, len(model.loss_curve_)) == (3, 180, 3)


@pytest.mark.parametrize("optimizer", [Adam(), Momentum(0.9)], ids=str)
def test_moments_begin_anew(optimizer: Any) -> None:
    model = set_to(regressor(optimizer=optimizer).partial_fit(X, Y), OTHER, np.array([7.0])).partial_fit(X, Y)
    fresh = set_to(regressor(optimizer=optimizer), OTHER, np.array([7.0])).partial_fit(X, Y)
    np.testing.assert_allclose(model.coef_, fresh.coef_, rtol=1e-12)
    np.testing.assert_allclose(model.intercept_, fresh.intercept_, rtol=1e-12)


def as_it_is(model: Any, directory: Path) -> Any:
    return model


def pickled(model: Any, directory: Path) -> Any:
    return pickle.loads(pickle.dumps(model))


def deep(model: Any, directory: Path) -> Any:
    return copy.deepcopy(model)


def set_to_the_same(model: Any, directory: Path) -> Any:
    for name in set(vars(model)) & {"coef_", "intercept_"}:
        setattr(model, name, getattr(model, name).astype(np.float64))
    for name in set(vars(model)) & {"coefs_", "intercepts_"}:
        setattr(model, name, [array.astype(np.float64) for array in getattr(model, name)])
    return model


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("between", [as_it_is, pickled, deep, set_to_the_same])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SGDRegressor(random_state=0, optimizer="adam", batch_size=16),
        lambda: SGDRegressor(random_state=0, average=True),
        lambda: SGDClassifier("log_loss", random_state=0, optimizer="momentum"),
        lambda: MLPRegressor(hidden_layer_sizes=(4,), random_state=0),
        lambda: MLPClassifier((4,), random_state=0, dtype="float64"),
    ],
    ids=["adam", "average", "classifier", "network", "classifying network"],
)
def test_unchanged_attributes_leave_the_bits(make: Callable[[], Any], between: Any, dtype: Any, tmp_path: Path) -> None:
    """Partial fits one after the other are one longer fit, whatever is done to the model between that changes no number."""
    rows, model = X.astype(dtype), make()
    classes = {"classes": [0, 1]} if hasattr(model, "predict_proba") else {}
    y = LABELS if classes else Y
    for _ in range(3):
        model = between(model.partial_fit(rows, y, **classes), tmp_path)
    whole = make().set_params(max_iter=3, tol=None).fit(rows, y)
    assert model.parameters_sha256_ == whole.parameters_sha256_


def test_scikit_learn_takes_them_too() -> None:
    """With one row an epoch is one update in both: before the first partial fit, and between two."""
    options: dict[str, Any] = {"learning_rate": "constant", "eta0": ETA, "alpha": 0.0}
    ours, theirs = SGDRegressor(**options), linear_model.SGDRegressor(**options)
    for row in range(3):
        for model in (ours, theirs):
            set_to(model, OTHER + row, np.array([7.0])).partial_fit(X[row : row + 1], Y[row : row + 1])
        np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-12)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-12)


@pytest.mark.parametrize(("y", "shape"), [(LABELS, (1, 3)), (THREE, (3, 3))], ids=["two classes", "three"])
def test_classifiers_take_them(y: Any, shape: tuple[int, int]) -> None:
    options: dict[str, Any] = {"learning_rate": "constant", "eta0": 1e-3, "alpha": 0.0, "loss": "log_loss"}
    coef, intercept = np.arange(1.0, 1 + shape[0] * 3).reshape(shape), np.linspace(1, 2, shape[0])
    ours, theirs = SGDClassifier(**options), linear_model.SGDClassifier(**options)
    for model in (ours, theirs):
        set_to(model, coef.copy(), intercept.copy()).partial_fit(X[:1], y[:1], classes=np.unique(y))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-12)
    set_to(ours, 2 * coef, intercept).partial_fit(X[:1], y[:1])
    set_to(theirs, 2 * coef, intercept).partial_fit(X[:1], y[:1])
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-12)


@pytest.mark.parametrize("fitted", [True, False])
def test_warm_starts_begin_at_what_was_set(fitted: bool) -> None:
    """The objective of the first round is that of the numbers that were set."""
    ridge = Ridge(solver="lbfgs", warm_start=True)
    if fitted:
        ridge.fit(X, Y)
    set_to(ridge, OTHER, 7.0).fit(X, Y)
    squares = np.mean((Y - X @ OTHER - 7.0) ** 2)
    assert ridge.history_[0]["objective"] == pytest.approx(0.5 * (squares + OTHER @ OTHER / 60))
    logistic = LogisticRegression(solver="lbfgs", warm_start=True)
    if fitted:
        logistic.fit(X, LABELS)
    set_to(logistic, OTHER[None], np.array([7.0])).fit(X, LABELS)
    raw = X @ OTHER + 7.0
    assert logistic.history_[0]["objective"] == pytest.approx(np.mean(np.logaddexp(0, raw) - LABELS * raw) + 0.5 * OTHER @ OTHER / 60)
    mini = regressor(warm_start=True, max_iter=1, tol=None)
    if fitted:
        mini.fit(X, Y)
    set_to(mini, OTHER, np.array([7.0])).fit(X, Y)
    np.testing.assert_allclose(mini.coef_, stepped(OTHER, 7.0)[0], rtol=1e-12)


def test_a_model_from_a_file_takes_them(tmp_path: Path) -> None:
    save_model(regressor(learning_rate="constant", eta0=1e-4).partial_fit(X, Y), tmp_path / "model")
    read: Any = load_model(tmp_path / "model")
    read.set_params(learning_rate=Constant(ETA))
    set_to(read, OTHER, np.array([7.0])).partial_fit(X, Y)
    np.testing.assert_allclose(read.coef_, stepped(OTHER, 7.0)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="X has 2 features, but SGDRegressor is expecting 3"):
        read.partial_fit(X[:, :2], Y)
    assert read.n_features_in_ == 3


def test_models_that_nothing_was_fitted_to_predict(tmp_path: Path) -> None:
    for model in (LinearRegression(), Ridge(), Ridge(fit_intercept=False), SGDRegressor()):
        set_to(model, OTHER, 7.0)
        save_model(model, tmp_path / "model")
        np.testing.assert_allclose(load_model(tmp_path / "model").predict(X), X @ OTHER + 7.0)
        np.testing.assert_allclose(model.predict(X), X @ OTHER + 7.0)
        np.testing.assert_allclose(model.predict(LAZY[0]).compute(), X @ OTHER + 7.0)
        with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
            model.predict(X[:, :2])
        with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
            model.predict(LAZY[0][:, :2])


# -- networks --------------------------------------------------------------------------------------------------------------------------


def arrays(seed: int, sizes: tuple[int, ...] = (3, 4, 1)) -> tuple[list[Any], list[Any]]:
    draw = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    return [draw.normal(size=pair) for pair in pairs], [draw.normal(size=n) for _, n in pairs]


def given(model: Any, coefs: Any, intercepts: Any) -> Any:
    model.coefs_, model.intercepts_ = [coef.copy() for coef in coefs], [intercept.copy() for intercept in intercepts]
    return model


def test_networks_average_as_scikit_learns() -> None:
    peer = {"hidden_layer_sizes": (4,), "solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": 60}
    theirs = neural_network.MLPRegressor(**peer).partial_fit(X, Y)
    ours = network().partial_fit(X, Y)
    for seed in range(3):
        for model in (ours, theirs):
            given(model, *arrays(seed)).partial_fit(X, Y)
        for one, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_networks_go_on_from_what_was_set(solver: str, dtype: str) -> None:
    """As one that was never fitted does; in place, too."""
    options: dict[str, Any] = {"solver": solver, "momentum": 0.9, "dtype": dtype}
    fresh = given(network(**options), *arrays(1)).partial_fit(X, Y)
    model = given(network(**options).partial_fit(X, Y), *arrays(1)).partial_fit(X, Y)
    in_place = network(**options).partial_fit(X, Y)
    for array, value in zip(in_place.coefs_ + in_place.intercepts_, chain(*arrays(1)), strict=True):
        array[:] = value
    in_place.partial_fit(X, Y)
    for other in (model, in_place):
        for one, two in zip(fresh.coefs_ + fresh.intercepts_, other.coefs_ + other.intercepts_, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5 if dtype == "float32" else 1e-10, atol=1e-6)
    warm = given(network(**options, warm_start=True, max_iter=1), *arrays(1)).fit(X, Y)
    np.testing.assert_allclose(warm.coefs_[0], fresh.coefs_[0], rtol=1e-4, atol=1e-6)


# -- what cannot be a model ------------------------------------------------------------------------------------------------------------


def linear(**attributes: Any) -> Any:
    model = regressor().partial_fit(X, Y)
    vars(model).update(attributes)
    return model


def classifier(**attributes: Any) -> Any:
    model = SGDClassifier().partial_fit(X, LABELS, classes=[0, 1])
    vars(model).update(attributes)
    return model


def deeper(**attributes: Any) -> Any:
    model = network().partial_fit(X, Y)
    vars(model).update(attributes)
    return model


def changed(model: Any, change: Callable[[Any], Any]) -> Any:
    change(model)
    return model


ERRORS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "columns": (lambda: linear(coef_=np.ones(4)), Y, r"coef_ has shape \(4,\), but this model needs \(3,\); set it to an array of"),
    "two dimensions": (lambda: linear(coef_=np.ones((1, 3))), Y, r"coef_ has shape \(1, 3\), but this model needs \(3,\)"),
    "one dimension": (lambda: classifier(coef_=np.ones(3)), LABELS, r"coef_ has shape \(3,\), but this model needs \(1, 3\)"),
    "intercept": (lambda: linear(intercept_=np.ones(2)), Y, r"intercept_ has shape \(2,\), but this model needs \(1,\)"),
    "NaN": (lambda: linear(coef_=np.array([1, np.nan, 2])), Y, "coef_ holds NaN or infinity; set it to finite numbers"),
    "infinity": (lambda: linear(intercept_=np.array([np.inf])), Y, "intercept_ holds NaN or infinity"),
    "text": (lambda: linear(coef_=["a", "b", "c"]), Y, r"coef_ must hold numbers, an array of shape \(3,\)"),
    "nothing": (lambda: linear(coef_=None), Y, r"coef_ has shape \(\)|coef_ must hold numbers|coef_ holds NaN"),
    "no intercept_": (lambda: changed(regressor(), lambda m: setattr(m, "coef_", OTHER)), Y, r"intercept_ is not there beside .* \(1,\)"),
    "no coef_": (lambda: changed(regressor(), lambda m: setattr(m, "intercept_", [7.0])), Y, r"coef_ is not there beside .* \(3,\)"),
    "dropped": (
        lambda: set_to(regressor(fit_intercept=False).partial_fit(X, Y), OTHER, np.array([7.0])),
        Y,
        r"intercept_ is \[7.\], which fit_intercept=False would drop; set it to 0",
    ),
    "layers": (
        lambda: deeper(coefs_=[np.ones((3, 1))]),
        Y,
        r"coefs_ has arrays of shapes \[\(3, 1\)\], but .* need \[\(3, 4\), \(4, 1\)\]",
    ),
    "units": (lambda: deeper(intercepts_=[np.ones(3), np.ones(1)]), Y, r"intercepts_ has arrays of shapes .* need \[\(4,\), \(1,\)\]"),
    "NaN in a layer": (lambda: changed(deeper(), lambda m: m.coefs_[1].fill(np.nan)), Y, r"coefs_\[1\] holds NaN or infinity"),
    "no intercepts_": (
        lambda: changed(network(), lambda m: setattr(m, "coefs_", arrays(0)[0])),
        Y,
        r"intercepts_ has arrays of shapes \[\]",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_attribute_and_the_cure(name: str) -> None:
    make, y, message = ERRORS[name]
    model = make()
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, y, **({"classes": [0, 1]} if y is LABELS else {}))


@pytest.mark.parametrize("kind", [Ridge, LogisticRegression])
def test_warm_starts_say_so_too(kind: Any) -> None:
    y = LABELS if kind is LogisticRegression else Y
    model = kind(warm_start=True).fit(X, y)
    model.coef_ = np.ones(4)
    with pytest.raises(ValueError, match=r"coef_ has shape \(4,\), but this model needs .* warm_start=False"):
        model.fit(X, y)
    with pytest.raises(ValueError, match=r"coef_ is for 4 columns, but .* was fitted on 3"):
        model.predict(X)
    assert np.all(np.isfinite(model.set_params(warm_start=False).fit(X, y).coef_))
