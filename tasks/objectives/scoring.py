"""Sums from which scores are made where the rows live."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from tasks.loading.blocks import as_design, row_dtype
from tasks.machine.threads import single_blas_thread
from tasks.objectives.base import Scored
from tasks.objectives.losses import Loss
from tasks.reductions.reduction import Reduction, of_group
from tasks.rows.partition import Block, Group, normalise
from tasks.typing import Array, Design, Float64


class Predictor(Scored, Protocol):
    """An objective whose loss says what raw predictions mean, n_outputs of them a row."""

    @property
    def n_outputs(self) -> int: ...

    @property
    def loss(self) -> Loss: ...


class ScoreInput(NamedTuple):
    """The model: objective and parameters (n,); columns: names for messages. Scores need no loss."""

    objective: Predictor
    parameters: Array
    columns: tuple[str, ...] | None = None


class ScoreSums(NamedTuple):
    """weight; correct: summed weight of rows whose class is predicted; for regression per target (t,): residual Σ s (y - prediction)²,
    mean of y and scatter Σ s (y - mean)²."""

    weight: float
    correct: float
    residual: Float64
    mean: Float64
    scatter: Float64


def score_sums(rows: Group | Block, broadcast: ScoreInput) -> ScoreSums:
    """The sums of a score over one group or block. Raises ValueError for rows that cannot be scored."""
    require_scorable(rows, broadcast)
    raw = finite_predictions(broadcast, normalise(rows.X), partial(place_of, rows))
    weight = np.ones(raw.shape[0]) if rows.sample_weight is None else normalise(rows.sample_weight)
    total = float(weight.sum())
    assert rows.y is not None
    if broadcast.objective.classes is not None:
        correct = float(weight[predicted_classes(raw, broadcast.objective.classes) == rows.y.reshape(-1)].sum())
        return ScoreSums(total, correct, *(np.zeros(1),) * 3)
    if rows.y.size != raw.size:
        n_targets = 1 if rows.y.ndim == 1 else rows.y.shape[1]
        raise ValueError(f"y has {n_targets} targets, but the model was fitted on {raw.shape[1]}; pass y of shape (rows, {raw.shape[1]})")
    y = normalise(rows.y).reshape(len(raw), raw.shape[1]).astype(np.float64)
    mean = weight @ y / total if total else np.zeros(y.shape[1])
    return ScoreSums(total, 0.0, weight @ (y - raw) ** 2, mean, weight @ (y - mean) ** 2)


def require_scorable(rows: Group | Block, broadcast: ScoreInput) -> None:
    """What a fit would have refused in y and sample_weight, a score refuses too."""
    y, weight, classes = rows.y, rows.sample_weight, broadcast.objective.classes
    assert y is not None
    if classes is not None and y.shape[1:] not in ((), (1,)):
        raise ValueError(f"y must be (rows,), a label a row, got shape (rows, {y.shape[1]}); use y[:, 0]")
    if weight is not None and len(bad := np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))):
        raise ValueError(f"sample_weight must be finite and not negative, got {weight[bad[0]]} in {place_of(rows, int(bad[0]))}")
    if y.dtype.kind == "f" and len(bad := np.nonzero(~np.isfinite(y))[0]):
        raise ValueError(f"Input y contains NaN or infinity in {place_of(rows, int(bad[0]))}; drop such rows")
    text = [kind in "US" for kind in (y.dtype.kind, "f" if classes is None else classes.dtype.kind)]
    if len(y) and (y.dtype.kind == "O" or text[0] != text[1]):
        wanted = "numbers" if classes is None else f"labels like {classes[0].item()!r}"
        raise ValueError(f"y holds {y.dtype} values like {y.flat[:1].tolist()[0]!r}, but the model was fitted on {wanted}")


def place_of(rows: Group | Block, row: int) -> str:
    """Which row that is, in words."""
    if isinstance(rows, Block):
        return f"row {row}"
    partition = int(np.searchsorted(rows.offsets, row, side="right")) - 1
    return f"row {row - int(rows.offsets[partition])} of partition {rows.first_partition + partition}"


def add_scores(left: ScoreSums, right: ScoreSums) -> ScoreSums:
    """Add the sums of neighbouring rows (means and scatter: Chan, Golub and LeVeque, 1979)."""
    weight = left.weight + right.weight
    if left.weight == 0 or right.weight == 0:
        return right if left.weight == 0 else left
    shift = right.mean - left.mean
    scatter = left.scatter + right.scatter + shift**2 * (left.weight * right.weight / weight)
    mean = left.mean + shift * (right.weight / weight)
    return ScoreSums(weight, left.correct + right.correct, left.residual + right.residual, mean, scatter)


SCORE: Final = Reduction("score", of_group(score_sums), add_scores, lambda broadcast, n_columns: 0)


def predicted_classes(raw: Float64, classes: Array) -> Array:
    """The label of the largest raw prediction, or of its sign for one raw prediction a row."""
    codes = (raw[:, 0] > 0).astype(np.int64) if raw.shape[1] == 1 else raw.argmax(axis=1)
    return np.asarray(classes[codes])


def accuracy(sums: ScoreSums) -> float:
    """Share of the weight whose class is predicted. Raises ValueError when no row counts."""
    return sums.correct / counted(sums)


def r2(sums: ScoreSums) -> float:
    """1 - residual / scatter, averaged over targets; a constant target scores 1 when it is met and 0 otherwise."""
    counted(sums)
    constant = sums.scatter == 0
    ratio = np.where(constant, (sums.residual > 0).astype(float), sums.residual / np.where(constant, 1.0, sums.scatter))
    return float(np.mean(1.0 - ratio))


def counted(sums: ScoreSums) -> float:
    """The summed weight. Raises ValueError when it is zero."""
    if sums.weight == 0:
        raise ValueError("there is no row of positive weight to score")
    return sums.weight


def predict_block(X: Any, broadcast: ScoreInput, kind: str, block_id: tuple[int, ...] | None = None) -> Array:
    """Predictions for the rows of one partition; kind: "raw", "mean" (probabilities) or "label"; block_id: Dask's, for messages.

    Raises ValueError when one is not finite.
    """
    place = "" if block_id is None else f" of block {block_id[0]}"
    raw = finite_predictions(broadcast, as_design(X, row_dtype(X.dtype)), lambda row: f"row {row}{place}")
    if kind == "mean":
        return probabilities(raw, broadcast.objective)
    if kind == "label" and broadcast.objective.classes is not None:
        return predicted_classes(raw, broadcast.objective.classes)
    return raw[:, 0] if raw.shape[1] == 1 else raw


def predict_partition(partition: Group, broadcast: ScoreInput, kind: str) -> Array:
    """Predictions for the rows of a partition, a group of one. Raises as `predict_block`."""
    return predict_block(partition.X, broadcast, kind, (partition.first_partition,))


def finite_predictions(broadcast: ScoreInput, X: Design, place: Callable[[int], str]) -> Float64:
    """Raw predictions (n, c). Raises ValueError, naming row and column, when one is not finite; place: which row that is, in words."""
    with single_blas_thread():
        raw = broadcast.objective.predict(np.require(broadcast.parameters, requirements=["C", "A"]), X)  # they came over a network
    if not np.all(np.isfinite(raw)):
        row = int(np.argmin(np.isfinite(raw).all(axis=1)))
        values = X[[row]].toarray()[0] if isinstance(X, sp.csr_array) else X[row]
        bad = np.flatnonzero(~np.isfinite(values))
        if not len(bad):
            raise ValueError(f"the prediction for {place(row)} overflows; scale X as it was for the fit")
        name = f"x{bad[0]}" if broadcast.columns is None else broadcast.columns[bad[0]]
        what = "NaN" if np.isnan(values[bad[0]]) else "infinity"
        raise ValueError(f"Input X contains {what}: column {name!r} of X, {place(row)}; drop or impute such rows")
    return raw


def probabilities(raw: Float64, objective: Predictor) -> Float64:
    """(n, n_classes)."""
    mean = objective.loss.mean(raw)
    return np.hstack([1.0 - mean, mean]) if raw.shape[1] == 1 else mean
