"""What fits by mini-batches do with rows that are held out, and with columns of unlike sizes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from pipeline import Dataset, MLPClassifier, MLPRegressor, SGDClassifier, SGDRegressor
from pipeline.training.minimise import mini_batches
from tasks.rows.batches import HELD_OUT, Batch, select

RANDOM = np.random.default_rng(0)
EARLY: dict[str, Any] = {"early_stopping": True, "max_iter": 3, "tol": None}
MODELS = [SGDClassifier, SGDRegressor, MLPClassifier, MLPRegressor]


def held_out(dataset: Dataset, fraction: float, seed: int) -> list[int]:
    """The rows, which y numbers, that are held out."""
    sampling = mini_batches(dataset, 16, seed=seed, validation_fraction=fraction)
    groups = dataset.source.load_local(1).groups(0)
    return [int(row) for group in groups for row in select([group], Batch(sampling, 0, HELD_OUT)).y]  # type: ignore[union-attr]


@pytest.mark.parametrize("sizes", [[1] * 20, [3, 0, 9, 1, 7], [20]], ids=str)
@pytest.mark.parametrize("fraction", [0.1, 0.23, 0.5])
def test_all_groups_together_hold_out_their_share(sizes: list[int], fraction: float) -> None:
    dataset = Dataset.from_arrays(RANDOM.normal(size=(20, 2)), np.arange(20.0), partition_rows=sizes)
    found = [held_out(dataset, fraction, seed) for seed in range(40)]
    assert {len(rows) for rows in found} == {20 - round(20 * (1 - fraction))}
    assert all(len(set(rows)) == len(rows) for rows in found)
    assert found[3] == held_out(dataset, fraction, 3)
    counts = np.bincount(np.concatenate(found), minlength=20)
    assert counts.min() > 0  # no row is out of reach


def test_as_many_in_groups_of_several_partitions() -> None:
    dataset = Dataset.from_arrays(RANDOM.normal(size=(600, 1)), np.arange(600.0), partition_rows=[1, 2] * 200)
    assert dataset.source.n_groups < 400
    assert [len(held_out(dataset, 0.05, seed)) for seed in range(5)] == [30] * 5


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_every_fit_with_early_stopping_has_a_score(model: Any) -> None:
    """Twenty groups of a row, of which each alone would hold none out: now and then, all did."""
    X, y = RANDOM.normal(size=(20, 2)), np.arange(20) % 2
    dataset = Dataset.from_arrays(X, y, n_partitions=20)
    network = {"hidden_layer_sizes": (2,)} if model in (MLPClassifier, MLPRegressor) else {}
    for seed in range(12 if network else 60):
        fitted = model(random_state=seed, **network, **EARLY).fit(dataset)
        assert np.all(np.isfinite(fitted.validation_scores_)), seed


@pytest.mark.parametrize("model", MODELS)
def test_rows_held_out_without_weight_are_an_error(model: Any) -> None:
    X, y = RANDOM.normal(size=(60, 2)), np.arange(60) % 2
    numbered = Dataset.from_arrays(X, np.arange(60.0), n_partitions=4)
    fitted = model(random_state=0, **EARLY).fit(Dataset.from_arrays(X, y, n_partitions=4))
    weight = np.ones(60)
    weight[held_out(numbered, 0.1, fitted._seed)] = 0.0
    message = "the rows that are held out for early stopping have no weight together, .* raise validation_fraction, or give"
    with pytest.raises(ValueError, match=message):
        model(random_state=0, **EARLY).fit(Dataset.from_arrays(X, y, weight, n_partitions=4))


# -- columns of unlike sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [SGDClassifier(random_state=0), SGDClassifier("log_loss", optimizer="adam", random_state=0)], ids=str)
def test_columns_of_unlike_sizes_warn(model: SGDClassifier) -> None:
    X, y = np.array([[0, 1e9], [1, 2e9], [2, 1e9], [3, 3e9]]), [0, 0, 1, 1]
    message = (
        "SGDClassifier: columns of X are of unlike sizes, 'x1' up to 2e+09 times as large as 'x0', the intercept: .*"
        r" sklearn\.preprocessing\.StandardScaler"
    )
    assert np.sqrt(np.mean(X[:, 1] ** 2)) == pytest.approx(2e9, rel=0.05)
    with pytest.warns(ConvergenceWarning, match=message.replace("+", r"\+")):
        assert model.fit(X, y).score(X, y) == 0.5
    cured = StandardScaler().fit_transform(X)
    assert model.fit(cured, y).score(cured, y) == 1.0


def test_which_columns_are_of_unlike_sizes() -> None:
    X = RANDOM.normal(size=(200, 3))
    y = X[:, 0]
    for scale in ([1, 500, 1], [1, 0, 1], [0.01, 1, 1]):
        SGDRegressor(random_state=0, max_iter=1, tol=None).fit(X * scale, y)
    rare = np.zeros((200, 1))
    rare[7] = 1.0  # small by its mean square alone
    SGDRegressor(random_state=0, max_iter=1, tol=None).fit(np.hstack([X * 200, rare]), y)
    SGDRegressor(random_state=0, max_iter=1, tol=None, fit_intercept=False).fit(X * 1e5, y)
    with pytest.warns(ConvergenceWarning, match="'x1' up to [0-9.e+]+ times as large as 'x2'"):
        SGDRegressor(random_state=0, max_iter=1, tol=None).fit(X * [1, 30, 1e-4], y)
    many = np.hstack([X[:, :1] * 1e6, RANDOM.random((200, 9))])
    with pytest.warns(ConvergenceWarning, match=re.escape("as large as 'x1', 'x2', 'x3', 'x4', 'x5' and 5 more")):
        SGDRegressor(random_state=0, max_iter=1, tol=None).fit(many, y)
