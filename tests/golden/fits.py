"""The table of fits: every estimator, solver, loss, penalty, optimizer and schedule, and a fit that is resumed."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone, is_classifier

from pipeline import (
    Checkpoint,
    Dataset,
    LinearRegression,
    LogisticRegression,
    MLPClassifier,
    MLPRegressor,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from tasks import kernels
from tasks.strategies.local_sgd import LocalUpdates
from tests.data import uneven, weights
from tests.rounds import AfterRounds

N_ROWS: Final = 2600
N_COLUMNS: Final = 5
N_WIDE: Final = 28  # enough that a block is added up while the next one is read
PARTITIONS: Final = (1, 7, 37)
STOPPED_AFTER: Final = 4

Outcome = dict[str, Any]


@cache
def rows(kind: str) -> tuple[Any, Any]:
    """X (n, p) and y, where kind is "numbers", "two targets", "two classes", "three classes", or one of them and "wide" or not, and
    "sparse" or "float32"."""
    random = np.random.default_rng(16)
    p = N_WIDE if " wide" in kind else N_COLUMNS
    size, mean = np.resize([1, 2, 0.5, 1, 3], p), np.resize([0, 1, 0, 0, 2], p)
    X = random.normal(size=(N_ROWS, p)) * (random.random((N_ROWS, p)) < 0.8) * size + mean
    raw = X @ random.normal(size=(p, 3)) + random.normal(size=(N_ROWS, 3))
    y = {
        "numbers": raw[:, 0],
        "two targets": raw[:, :2],
        "two classes": np.where(raw[:, 0] > np.median(raw[:, 0]), "yes", "no"),
        "three classes": raw.argmax(axis=1),
    }[kind.removesuffix(" sparse").removesuffix(" float32").removesuffix(" wide")]
    if kind.endswith("sparse"):
        return sp.csr_array(X * (random.random(X.shape) < 0.5)), y
    return X.astype(np.float32) if kind.endswith("float32") else X, y


@cache
def dataset(kind: str, n_partitions: int) -> Dataset:
    """Rows of unlike partitions, with weights where there are several."""
    X, y = rows(kind)
    sizes = [N_ROWS] if n_partitions == 1 else uneven(N_ROWS, n_partitions)
    return Dataset.from_arrays(X, y, weights(N_ROWS) if n_partitions > 1 else None, partition_rows=sizes)


SOLVERS: Final = ("auto", "gradient-descent", "nesterov", "lbfgs", "newton", "newton-cg", "sampled-newton", "admm")
OPTIMIZERS: Final = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
SHORT: Final = {"max_iter": 3, "random_state": 0}


def linear() -> Iterator[tuple[str, str, Any]]:
    """Fits in full passes: a name, what rows, and the estimator."""
    for kind in ("numbers", "two targets", "numbers sparse", "numbers float32"):
        yield f"LinearRegression, {kind}", kind, LinearRegression()
        yield f"Ridge, {kind}", kind, Ridge(alpha=2.0)
    yield "LinearRegression, no intercept", "numbers", LinearRegression(fit_intercept=False)
    for solver in SOLVERS:
        yield f"Ridge, {solver}", "numbers", Ridge(alpha=2.0, solver=solver, max_iter=12)
        for kind in ("two classes", "three classes", "two classes sparse"):
            yield f"LogisticRegression, {solver}, {kind}", kind, LogisticRegression(solver=solver, max_iter=12)
    yield "LogisticRegression, balanced", "three classes", LogisticRegression(class_weight="balanced", C=0.3)
    yield "LogisticRegression, float32", "two classes float32", LogisticRegression()
    for kind in ("two classes wide", "two classes wide float32"):
        yield f"LogisticRegression, lbfgs, {kind}", kind, LogisticRegression(solver="lbfgs", max_iter=8)
    yield "LogisticRegression, sampled-lbfgs, wide", "three classes wide", LogisticRegression(solver="sampled-lbfgs", max_iter=8)
    yield "Ridge, lbfgs, wide", "numbers wide", Ridge(alpha=2.0, solver="lbfgs", max_iter=8)


def mini_batches() -> Iterator[tuple[str, str, Any]]:
    """Fits by stochastic gradients of linear models."""
    for loss in ("hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron"):
        for kind in ("two classes", "three classes"):
            yield f"SGDClassifier, {loss}, {kind}", kind, SGDClassifier(loss=loss, **SHORT)
    for loss in ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"):
        yield f"SGDRegressor, {loss}", "numbers", SGDRegressor(loss=loss, **SHORT)
    yield "SGDClassifier, wide", "two classes wide", SGDClassifier("log_loss", **SHORT)
    yield "SGDRegressor, wide", "numbers wide", SGDRegressor(**SHORT)
    for penalty in ("l1", "elasticnet", None):
        yield f"SGDClassifier, {penalty}", "two classes sparse", SGDClassifier(penalty=penalty, alpha=0.01, **SHORT)
    for optimizer in OPTIMIZERS:
        yield f"SGDRegressor, {optimizer}", "numbers", SGDRegressor(optimizer=optimizer, **SHORT)
    for rate in ("constant", "optimal", "invscaling", "adaptive", "step", "cosine"):
        yield f"SGDClassifier, {rate}", "two classes", SGDClassifier("log_loss", learning_rate=rate, warm_up=5, **SHORT)
    further: dict[str, dict[str, Any]] = {
        "average": {"average": True},
        "svrg": {"variance_reduction": "svrg", "loss": "squared_error"},
        "importance": {"importance": "norm"},
        "early stopping": {"early_stopping": True},
        "clipped and accumulated": {"clip_norm": 0.5, "accumulate": 3, "batch_size": 40},
        "in order": {"shuffle": False, "batch_size": 100},
    }
    for name, options in further.items():
        yield f"SGDRegressor, {name}", "numbers", SGDRegressor(**(SHORT | options))
    for staleness in (0, 2, None):
        yield f"SGDClassifier, async {staleness}", "two classes", SGDClassifier("log_loss", solver="async", staleness=staleness, **SHORT)
    yield "SGDClassifier, parameter-server", "three classes", SGDClassifier("log_loss", solver="parameter-server", staleness=3, **SHORT)
    for name in ("float16", "bfloat16", "int8", "top-k", "random-k"):
        yield f"SGDClassifier, {name}", "two classes", SGDClassifier("log_loss", compression=name, **SHORT)
    yield "SGDRegressor, async int8", "numbers", SGDRegressor(solver="async", compression="int8", **SHORT)
    served: dict[str, Any] = {"solver": "parameter-server", "compression": "float16"}
    yield "SGDRegressor, parameter-server float16", "numbers", SGDRegressor(optimizer="adam", **served, **SHORT)
    for n_steps in (1, 8, None):
        yield f"SGDRegressor, local-sgd {n_steps}", "numbers sparse", SGDRegressor(solver="local-sgd", local_steps=n_steps, **SHORT)


def networks() -> Iterator[tuple[str, str, Any]]:
    """Fits of networks."""
    layers: dict[str, Any] = {"hidden_layer_sizes": (6, 4), **SHORT}
    for solver in (*OPTIMIZERS, "lbfgs"):
        yield f"MLPClassifier, {solver}", "three classes", MLPClassifier(solver=solver, **layers)
    for activation in ("identity", "logistic", "tanh", "relu"):
        yield f"MLPRegressor, {activation}", "two targets", MLPRegressor(activation=activation, **layers)
    yield "MLPClassifier, async", "three classes", MLPClassifier(solver="async", early_stopping=True, **layers)
    yield "MLPRegressor, local-sgd", "two targets", MLPRegressor(solver="local-sgd", optimizer="momentum", batch_size=20, **layers)
    controlled = LocalUpdates(4, control_variates=True)
    yield "MLPClassifier, control variates", "three classes", MLPClassifier(solver=controlled, optimizer="adam", batch_size=20, **layers)
    yield "MLPClassifier, low-rank", "three classes", MLPClassifier((16, 8), compression="low-rank", **SHORT)
    yield "MLPRegressor, local-sgd top-k", "two targets", MLPRegressor(solver="local-sgd", compression="top-k", batch_size=20, **layers)
    yield "MLPClassifier, dropout", "two classes", MLPClassifier(dropout=0.5, **layers)
    yield "MLPClassifier, float64", "two classes sparse", MLPClassifier(dtype="float64", **layers)
    yield "MLPRegressor, early stopping", "numbers", MLPRegressor(early_stopping=True, average=True, weight_decay=0.01, **layers)


ESTIMATORS: Final[dict[str, tuple[str, Any]]] = {
    name: (kind, estimator) for table in (linear, mini_batches, networks) for name, kind, estimator in table()
}
RESUMED: Final = (
    "LogisticRegression, lbfgs, three classes",
    "SGDRegressor, adam",
    "MLPClassifier, adam",
    "SGDClassifier, async 2",
    "MLPRegressor, local-sgd",
    "SGDClassifier, top-k",
    "MLPClassifier, control variates",
)


def fitted(name: str, n_partitions: int) -> Outcome:
    """The parameters and the scores of a fit."""
    kind, estimator = ESTIMATORS[name]
    return outcome(clone(estimator).fit(dataset(kind, n_partitions)), kind, n_partitions)


def outcome(model: Any, kind: str, n_partitions: int) -> Outcome:
    """What is compared: parameters, rounds, the losses of all rounds, predictions of the first rows and the score."""
    losses = np.array([row["objective"] for row in model.history_], np.float64)
    predicted = np.asarray(model.predict(rows(kind)[0][:100]))
    text = "\n".join(map(str, predicted.ravel().tolist()))
    return {
        "parameters": model.parameters_sha256_[:16],
        "rounds": len(model.history_),
        "losses": digest(losses.tobytes()),
        "predictions": digest(text.encode()),
        "score": repr(float(model.score(dataset(kind, n_partitions)))),
    }


def digest(content: bytes) -> str:
    """The first half of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def resumed(name: str, n_partitions: int) -> Outcome:
    """The same fit, ended after some rounds and taken up again from its checkpoint by another object."""
    kind, estimator = ESTIMATORS[name]
    rows_of = dataset(kind, n_partitions)
    with tempfile.TemporaryDirectory() as directory:
        estimator = clone(estimator).set_params(checkpoint=Checkpoint(directory=directory, every_rounds=1, every_seconds=None))
        clone(estimator).set_callbacks(AfterRounds((STOPPED_AFTER,), lambda: True)).fit(rows_of)
        model = clone(estimator).fit(rows_of)
        assert model.resumed_from_ == STOPPED_AFTER, f"{name} went on from {model.resumed_from_}"
        return outcome(model, kind, n_partitions)


def continued(name: str, n_partitions: int) -> Outcome:
    """Two calls of partial_fit, then a fit that starts warm."""
    kind, estimator = ESTIMATORS[name]
    rows_of = dataset(kind, n_partitions)
    model = clone(estimator).set_params(warm_start=True)
    first = {"classes": np.unique(rows(kind)[1])} if is_classifier(model) else {}
    model.partial_fit(rows_of, **first)
    model.partial_fit(rows_of)
    return outcome(model.fit(rows_of), kind, n_partitions)


CASES: Final[dict[str, Callable[[int], Outcome]]] = {
    **{name: (lambda n, name=name: fitted(name, n)) for name in ESTIMATORS},
    **{f"{name}, resumed": (lambda n, name=name: resumed(name, n)) for name in RESUMED},
    **{f"{name}, continued": (lambda n, name=name: continued(name, n)) for name in RESUMED[1:]},
}


PASSES: Final = {"compiled": 0, "NumPy": kernels.FEW_NUMBERS}


def choose(passes: str) -> None:
    """Have this process go through rows of any number by these passes."""
    if PASSES[passes] != kernels.FEW_NUMBERS:
        kernels.FEW_NUMBERS = PASSES[passes]  # type: ignore[misc]  # a worker's, or to be put back by the caller
        dataset.cache_clear()  # what groups keep of their check was made by the others


def run(case: str, n_partitions: int) -> Outcome:
    """The outcome of one case; fits of the table end when they have made their rounds, converged or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CASES[case](n_partitions)
