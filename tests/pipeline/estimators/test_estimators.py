"""What users do around a fit: lazy predictions, search, pipelines, callbacks, clusters."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from distributed import Client
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS
from tests.data import breast_cancer, diabetes, digits, weights
from tests.rounds import AfterRounds


def test_predictions_of_dask_input_are_lazy_and_equal() -> None:
    X, y = digits()
    model = LogisticRegression().fit(X, y)
    calls: list[int] = []

    def counted(block: Any) -> Any:
        calls.append(1)
        return block

    lazy = da.from_array(X, chunks=(500, 20)).map_blocks(counted, dtype=X.dtype, meta=X[:0])
    calls.clear()
    found = [model.predict(lazy), model.predict_proba(lazy), model.decision_function(lazy)]
    assert not calls  # nothing ran
    expected = [model.predict(X), model.predict_proba(X), model.decision_function(X)]
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, da.Array)
        assert (a.shape, a.dtype, a.chunks[0]) == (b.shape, b.dtype, (500, 500, 500, 297))
        assert np.array_equal(a.compute(scheduler="sync"), b)


def test_predictions_of_frames_datasets_and_sparse_blocks() -> None:
    X, y = breast_cancer()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])])
    model = LogisticRegression().fit(dd.from_pandas(frame, npartitions=3), dd.from_pandas(pd.Series(y), npartitions=3))
    expected = LogisticRegression().fit(frame, y).predict(frame)
    assert np.array_equal(model.predict(dd.from_pandas(frame, npartitions=4)).compute(), expected)
    assert np.array_equal(model.predict(frame), expected)
    dataset = Dataset.from_arrays(frame, y, n_partitions=5)
    assert np.array_equal(model.predict(dataset).compute(), expected)
    sparse = da.from_array(X, chunks=(100, -1)).map_blocks(sp.csr_array)
    plain = LogisticRegression().fit(X, y)
    assert np.array_equal(plain.predict(sparse).compute(), plain.predict(X))


def test_scores_where_the_data_lives_equal_scikit_learns(client: Client) -> None:
    X, y = breast_cancer()
    weight = weights(len(X))
    model = LogisticRegression().fit(X, y)
    lazy = [da.from_array(a, chunks=90) if a.ndim == 1 else da.from_array(a, chunks=(130, 7)) for a in (X, y, weight)]
    expected = accuracy_score(y, model.predict(X), sample_weight=weight)
    assert model.score(*lazy) == pytest.approx(expected, rel=1e-12)
    assert model.score(Dataset.from_arrays(X, y, weight, n_partitions=6)) == pytest.approx(expected, rel=1e-12)
    X, y = diabetes()
    Y = np.stack([y, y + 50 * X[:, 0], np.full(len(y), 3.0)], axis=1)
    ridge = Ridge().fit(X, Y)
    found = ridge.score(da.from_array(X, chunks=100), da.from_array(Y, chunks=100))
    assert found == pytest.approx(r2_score(Y, ridge.predict(X)), rel=1e-9)


def test_search_and_pipeline(client: Client) -> None:
    X, y = breast_cancer()
    grid = {"logisticregression__C": [0.01, 1.0]}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    with dask.config.set(scheduler="threads"):
        here = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    there = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert np.array_equal(here.cv_results_["mean_test_score"], there.cv_results_["mean_test_score"])
    assert here.best_score_ > 0.95


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_progress_bar(where: str, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = breast_cancer()
    with dask.config.set(scheduler="threads" if where == "here" else None):
        LogisticRegression().set_callbacks(ProgressBar()).fit(X, y)
        assert "LogisticRegression - fit" in capsys.readouterr().out
        search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2)
        search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
        assert "LogisticRegression" in capsys.readouterr().out


def test_a_callback_can_stop_the_fit() -> None:
    X, y = breast_cancer()
    with pytest.warns(ConvergenceWarning, match="a callback ended the fit"):
        model = LogisticRegression(solver="lbfgs", tol=1e-12).set_callbacks(AfterRounds((4,), lambda: True)).fit(X, y)
    assert model.n_rounds_ == 4
    assert model.status_.kind == "out of rounds"


def test_a_fitted_model_can_be_cloned_and_pickled() -> None:
    X, y = breast_cancer()
    model = LogisticRegression(C=0.3).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.parameters_sha256_ == model.parameters_sha256_
    assert clone(model).fit(X, y).parameters_sha256_ == model.parameters_sha256_


def test_a_strategy_as_solver() -> None:
    X, y = breast_cancer()
    model = LogisticRegression(solver=LBFGS(tol=1e-7, memory=3)).fit(X, y)
    assert model.solver_.name == "LBFGS"
    with pytest.warns(ConvergenceWarning, match="diverged.*lower step_size"):
        diverged = LinearRegression(solver=GradientDescent(step_size=1e3)).fit(X, y)
    assert np.all(np.isfinite(diverged.coef_))


def test_arrays_on_a_cluster_make_no_warning(client: Client) -> None:
    """Dask warns of large graphs; rows are scattered, not sent inside one."""
    X = np.random.default_rng(0).normal(size=(400_000, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = LogisticRegression().fit(X, X[:, 0] > 0.1)
    assert model.tasks_per_round_ == 2


def test_lazy_predictions_of_models_with_equal_parameters_but_other_labels() -> None:
    X, y = breast_cancer()
    lazy = da.from_array(X, chunks=(200, -1))
    numbers, words = LogisticRegression().fit(X, 5 + 2 * y), LogisticRegression().fit(X, np.array(["no", "yes"])[y])
    assert numbers.parameters_sha256_ == words.parameters_sha256_
    a, b = dask.compute(numbers.predict(lazy), words.predict(lazy))
    assert np.array_equal(a, numbers.predict(X))
    assert np.array_equal(b, words.predict(X))


def test_scores_of_rows_that_cannot_be_scored() -> None:
    X, y = breast_cancer()
    model = LogisticRegression().fit(X, y)
    holed = X.copy()
    holed[100, 3] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        model.score(Dataset.from_arrays(holed, y, n_partitions=3))
    with pytest.raises(ValueError, match="contains NaN"):
        model.score(da.from_array(holed, chunks=(100, -1)), da.from_array(y, chunks=100))
    lazy = da.from_array(X, chunks=(100, -1))
    with pytest.raises(ValueError, match=r"y holds .* but the model was fitted on labels like 0"):
        model.score(lazy, da.from_array(y.astype(str), chunks=100))
    with pytest.raises(ValueError, match="y contains NaN"):
        model.score(lazy, da.from_array(np.where(np.arange(len(y)) == 7, np.nan, y), chunks=100))
    with pytest.raises(ValueError, match="sample_weight must be finite and not negative"):
        model.score(lazy, da.from_array(y, chunks=100), da.from_array(-np.ones(len(y)), chunks=100))
    with pytest.raises(ValueError, match="needs y"):
        model.score(Dataset.from_arrays(X, n_partitions=3))
    with pytest.raises(ValueError, match="needs y"):
        model.score(da.from_array(X, chunks=(100, -1)))


@pytest.mark.long
def test_scores_after_the_rows_crossed_the_network(client: Client) -> None:
    """Arrays that arrive misaligned are put right first; persisted chunks on two workers do arrive so."""
    X, y = breast_cancer()
    model = LogisticRegression().fit(X, y)
    for _ in range(5):
        lazy = [da.from_array(a, chunks=37 if a.ndim == 1 else (37, -1)).persist() for a in (X, y)]
        assert model.score(*lazy) == model.score(X, y)
        assert np.array_equal(model.predict(lazy[0]).compute(), model.predict(X))


def test_balanced_weights_with_a_class_that_weighs_nothing() -> None:
    X, y = breast_cancer()
    Y = np.where(np.arange(len(y)) < 20, 2, y)
    weight = np.where(Y == 2, 0.0, 1.0)
    found = LogisticRegression(class_weight="balanced").fit(X, Y, sample_weight=weight)
    assert np.all(np.isfinite(found.coef_))
    two = LogisticRegression(class_weight="balanced").fit(X[Y < 2], Y[Y < 2])
    assert np.mean(found.predict(X[Y < 2]) == two.predict(X[Y < 2])) > 0.98
    with pytest.raises(ValueError, match="leaves no row any weight"):
        LogisticRegression(class_weight={0: 0.0, 1: 0.0}).fit(X, y)
