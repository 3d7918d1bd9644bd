"""The rows that users give an estimator: checked as scikit-learn does and made a dataset, predicted and scored where they are.

What these need takes long to import (Dask, pandas, executors); an estimator itself, and so its signature, needs none of it. Its first fit,
prediction or score imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.delayed import delayed
from scipy.sparse import issparse
from sklearn.utils.validation import _check_sample_weight, validate_data

from pipeline.data.collections import NAMES, design_dtype, feature_names, parameter_dtype
from pipeline.data.dataset import Dataset
from pipeline.data.inputs import LAZY, as_rows
from pipeline.estimators.predicted import Predicted
from tasks.loading.blocks import as_weight, require_lengths, require_places, require_real, rows_in_place
from tasks.loading.mapping import PartitionMap
from tasks.loading.residence import home_of
from tasks.machine.namespaces import beside, brought_here, is_elsewhere, numpy_dtype
from tasks.objectives.scoring import SCORE, ScoreInput, ScoreSums, predict_block, score_sums
from tasks.reductions.tree import Tree
from tasks.rows.frames import require_numeric
from tasks.rows.partition import Block
from tasks.rows.targets import as_target


class Estimator(Protocol):
    """What is asked here of an estimator."""

    @property
    def _keeps_features(self) -> bool: ...

    def _check_target(self, y: Any) -> Any: ...

    def _check_features(self, n_columns: int, columns: Sequence[str] | None) -> None: ...

    def _set_features(self, dataset: Dataset) -> None: ...

    def _model(self, dtype: str) -> ScoreInput: ...


def in_memory(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Each as `as_rows` has it."""
    X, y, sample_weight = map(as_rows, NAMES, (X, y, sample_weight))
    return X, y, sample_weight


def dataset_of(estimator: Estimator, X: Any, y: Any, sample_weight: Any) -> Dataset:
    """The input as a dataset, with scikit-learn's checks of shapes, dtypes and names."""
    if isinstance(X, Dataset):
        if y is not None or sample_weight is not None:
            raise ValueError("a Dataset brings its own y and sample_weight; call fit(dataset) alone")
        estimator._set_features(X)
        return X
    if isinstance(y, Dataset) or isinstance(sample_weight, Dataset):
        raise TypeError("y and sample_weight must be arrays or frames; a Dataset brings its own: call fit(dataset)")
    X, y, sample_weight = in_memory(X, y, sample_weight)
    if y is None:
        raise ValueError(f"requires y to be passed, but the target y is None: {type(estimator).__name__}.fit(X, y)")
    if isinstance(X, LAZY):
        dataset = Dataset.from_dask(X, y, sample_weight)
        estimator._set_features(dataset)
        return dataset
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if isinstance(value, LAZY):
            raise TypeError(f"{name} is a Dask collection but X is in memory; pass both as Dask collections, or {name}.compute()")
    dtype, device = parameter_dtype(X), home_of(X)
    X, y = validated(estimator, brought_here(X), brought_here(y))
    if isinstance(sample_weight, pd.DataFrame) or is_elsewhere(sample_weight):
        sample_weight = as_weight(sample_weight)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    dataset = Dataset.from_arrays(X, y, sample_weight, columns=vars(estimator).get("feature_names_in_"), device=device)
    dataset.parameter_dtype = dtype  # of the X that was given
    return dataset


def validated(estimator: Estimator, X: Any, y: Any) -> tuple[Any, Any]:
    """X and y in memory. Raises ValueError and TypeError as scikit-learn does."""
    require_table(X)
    design: dict[str, Any] = {"accept_sparse": "csr", "dtype": design_dtype(X), "order": "C", "ensure_all_finite": False}
    X = validate_data(estimator, X, reset=not estimator._keeps_features, **design)
    y = estimator._check_target(y)
    if len(y) != X.shape[0]:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: X has {X.shape[0]} rows, y has {len(y)}")
    return X, y


def predictions(estimator: Estimator, X: Any, kind: str) -> Any:
    """Predictions of `kind` by a fitted estimator: lazy for Dask input and datasets, where it is for an array that is elsewhere, NumPy
    otherwise."""
    if isinstance(X, Dataset):
        estimator._check_features(X.n_columns, X.columns)
        return lazy_predictions(estimator, X.X, kind, lambda: X)
    X = as_rows("X", X)
    if isinstance(X, dd.DataFrame):
        estimator._check_features(len(X.columns), feature_names(X.columns))
        dataset = Dataset.from_dask(X)
        return lazy_predictions(estimator, dataset.X, kind, lambda: dataset)
    if isinstance(X, da.Array):
        require_real(X.dtype, "X")
        return lazy_predictions(estimator, X, kind, partial(Dataset.from_dask, X.copy()))  # X[...] = ... changes X in place
    require_table(X)
    model = estimator._model(parameter_dtype(X))
    if is_elsewhere(X):
        return predict_block(features_of(estimator, X), model, kind)
    X = validate_data(estimator, X, accept_sparse="csr", dtype=design_dtype(X), order="C", reset=False)
    estimator._check_features(X.shape[1], None)
    return predict_block(X, model, kind)


def features_of(estimator: Estimator, X: Any) -> Any:
    """Rows that are elsewhere, as predictions take them. Raises ValueError for those that are not the features of the fit."""
    X = rows_in_place(X)
    estimator._check_features(int(X.shape[1]), None)
    return X


def lazy_predictions(estimator: Estimator, X: da.Array, kind: str, dataset: Callable[[], Dataset]) -> da.Array:
    """Predictions block by block; the model is in the graph once. dataset: of these rows."""
    model = estimator._model(parameter_dtype(X))
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead; X must be (rows, columns)")
    estimator._check_features(X.shape[1], None)
    row = np.zeros((1, X.shape[1]), design_dtype(X))
    example = predict_block(beside(X._meta, row) if is_elsewhere(X._meta) else row, model, kind)
    chunks: dict[str, Any] = {"drop_axis": 1} if example.ndim == 1 else {"chunks": (X.chunks[0], (example.shape[1],))}
    held = delayed(model, name=f"model-{dask.base.tokenize(type(estimator).__name__, model)}", pure=True)
    form: dict[str, Any] = {"dtype": numpy_dtype(example), "meta": example[:0, ...]}
    blocks = X.rechunk({1: -1}).map_blocks(predict_block, held, kind, name=None, **form, **chunks)
    return Predicted.of(blocks, dataset, model, kind)


def summed_score(estimator: Estimator, X: Any, y: Any, sample_weight: Any) -> ScoreSums:
    """The sums of a score over a Dataset (resident: by a round), Dask collections (partition by partition, none kept), or an array that is
    elsewhere."""
    if is_elsewhere(X):
        model = estimator._model(parameter_dtype(X))
        X, y, sample_weight = in_memory(X, y, sample_weight)
        require_y(y)
        block = Block(features_of(estimator, X), as_target(y), as_weight(sample_weight))
        require_lengths(block)
        return score_sums(block, model)
    dataset = X if isinstance(X, Dataset) else Dataset.from_dask(X, y, sample_weight)
    model = estimator._model(dataset.parameter_dtype)
    estimator._check_features(dataset.n_columns, dataset.columns)
    if isinstance(X, Dataset):
        if dataset.schema.target_kind == "none":  # the check of these rows, too, if they were not checked yet
            raise ValueError("a score needs y, and this dataset has none")
        sums: ScoreSums = dataset.executor().map_reduce(dataset.rows, SCORE, model)
        return sums
    require_y(y)
    tree = Tree(dataset.n_partitions, SCORE.combine)
    for partition, sums in dataset.executor().map_partitions(dataset.rows, PartitionMap("score", score_sums, model)):
        tree.add((0, partition), sums)
    found: ScoreSums = tree.result()
    return found


def require_y(y: Any) -> None:
    """Raise ValueError where a score has no y."""
    if y is None:
        raise ValueError("a score needs y: score(X, y)")


def require_table(X: Any) -> None:
    """Raise ValueError or TypeError for a pandas frame without columns, or whose names or dtypes cannot be features, and for a sparse
    matrix of wrong indices."""
    if isinstance(X, pd.DataFrame):
        if not len(X.columns):
            raise ValueError("Found array with 0 feature(s) (X has no columns) while a minimum of 1 is required")
        feature_names(X.columns)
        require_numeric(X)
    elif issparse(X):
        require_places(X)


def scored_in_place(X: Any) -> bool:
    """Whether a score of X is computed where it lives."""
    return isinstance(X, (Dataset, *LAZY)) or is_elsewhere(X)
