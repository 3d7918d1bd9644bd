"""Sums from which scores are made where the rows live."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from tasks.loading.blocks import rows_in_place
from tasks.loading.residence import at_home
from tasks.machine.namespaces import beside, namespace_of, on_host
from tasks.machine.threads import single_blas_thread
from tasks.objectives.base import Scored
from tasks.objectives.encoding import beside_X
from tasks.objectives.losses import Loss
from tasks.reductions.reduction import Reduction, of_group
from tasks.rows.partition import Block, Group, normalise
from tasks.rows.targets import NUMBERS
from tasks.typing import Array, Float64


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
    """The sums of a score over one group or block, computed where X lives. Raises ValueError for rows that cannot be scored."""
    require_scorable(rows, broadcast)
    raw = finite_predictions(broadcast, normalise(rows.X), partial(place_of, rows))
    xp, y, own = namespace_of(raw), rows.y, rows.sample_weight
    assert y is not None
    weight = kept_beside(rows, raw, "score weight", lambda: np.ones(raw.shape[0]) if own is None else normalise(own))
    total = float(xp.sum(weight))
    if broadcast.objective.classes is not None:
        classes = broadcast.objective.classes
        known, labels = comparable(raw, classes)
        truth = kept_beside(rows, raw, ("labels", classes.dtype.str, classes.tobytes()), lambda: labels(y.reshape(-1)))
        correct = float(xp.sum(weight[predicted_classes(raw, known) == truth]))
        return ScoreSums(total, correct, *(np.zeros(1),) * 3)
    if y.size != math.prod(raw.shape):
        n_targets = 1 if y.ndim == 1 else y.shape[1]
        raise ValueError(f"y has {n_targets} targets, but the model was fitted on {raw.shape[1]}; pass y of shape (rows, {raw.shape[1]})")
    truth = kept_beside(rows, raw, "score y", lambda: normalise(y).reshape(raw.shape).astype(np.float64))
    mean = weight @ truth / total if total else xp.zeros_like(weight @ truth)
    residual, scatter = weight @ (truth - raw) ** 2, weight @ (truth - mean) ** 2
    return ScoreSums(total, 0.0, on_host(residual), on_host(mean), on_host(scatter))


def kept_beside(rows: Group | Block, raw: Any, key: Any, make: Callable[[], Array]) -> Any:
    """What is made of labels or weights, beside raw predictions. Groups on a device keep it there; on the host it is made in no time."""
    if isinstance(raw, np.ndarray) or not isinstance(rows, Group):
        return beside(raw, make())
    return beside_X(rows, key, make)


def comparable(raw: Any, classes: Array) -> tuple[Array, Callable[[Array], Array]]:
    """The classes, and what becomes of labels, so that they can be compared in the namespace of raw predictions: only NumPy has text, and
    compares numbers of all kinds. Elsewhere their places among the classes stand for them, -1 for labels that are none of these."""
    if isinstance(raw, np.ndarray):
        return classes, lambda y: y
    order = np.argsort(classes)

    def places(y: Array) -> Array:
        found = order[np.minimum(np.searchsorted(classes, y, sorter=order), len(classes) - 1)]
        return np.where(classes[found] == y, found, -1)

    return np.arange(len(classes)), places


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


def resident_score_sums(group: Group, broadcast: ScoreInput) -> ScoreSums:
    """`score_sums` of a group where it is at home."""
    at_home([group])
    return score_sums(group, broadcast)


SCORE: Final = Reduction("score", of_group(resident_score_sums), add_scores, lambda broadcast, n_columns: 0)


def predicted_classes(raw: Any, classes: Array) -> Any:
    """The label of the largest raw prediction, or of its sign for one a row: where raw predictions live, text on the host."""
    xp = namespace_of(raw)
    codes = xp.astype(raw[:, 0] > 0, xp.int64) if raw.shape[1] == 1 else xp.argmax(raw, axis=1)
    if classes.dtype.kind in NUMBERS:
        return xp.take(beside(raw, classes), codes, axis=0)
    return np.asarray(classes[on_host(codes)])


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


def predict_block(X: Any, broadcast: ScoreInput, kind: str, block_id: tuple[int, ...] | None = None) -> Any:
    """Predictions for the rows of one partition, where X lives. kind: "raw", "mean" (probabilities) or "label"; block_id: Dask's, for
    messages.

    Raises ValueError when one is not finite.
    """
    place = "" if block_id is None else f" of block {block_id[0]}"
    raw = finite_predictions(broadcast, rows_in_place(X), lambda row: f"row {row}{place}")
    if kind == "mean":
        return probabilities(raw, broadcast.objective)
    if kind == "label" and broadcast.objective.classes is not None:
        return predicted_classes(raw, broadcast.objective.classes)
    return raw[:, 0] if raw.shape[1] == 1 else raw


def predict_partition(partition: Group, broadcast: ScoreInput, kind: str) -> Array:
    """Predictions for the rows of a partition, a group of one, on the host. Raises as `predict_block`."""
    return np.asarray(on_host(predict_block(partition.X, broadcast, kind, (partition.first_partition,))))


def finite_predictions(broadcast: ScoreInput, X: Any, place: Callable[[int], str]) -> Any:
    """Raw predictions (n, c), where X lives. Raises ValueError, naming row and column, when one is not finite; place: which row that is, in
    words."""
    with single_blas_thread():
        raw: Any = broadcast.objective.predict(np.require(broadcast.parameters, requirements=["C", "A"]), X)  # they came over a network
    xp = namespace_of(raw)
    if not bool(xp.all(xp.isfinite(raw))):
        row = int(np.argmin(np.isfinite(on_host(raw)).all(axis=1)))
        values = X[[row]].toarray()[0] if isinstance(X, sp.csr_array) else on_host(X[row, :])
        bad = np.flatnonzero(~np.isfinite(values))
        if not len(bad):
            raise ValueError(f"the prediction for {place(row)} overflows; scale X as it was for the fit")
        name = f"x{bad[0]}" if broadcast.columns is None else broadcast.columns[bad[0]]
        what = "NaN" if np.isnan(values[bad[0]]) else "infinity"
        raise ValueError(f"Input X contains {what}: column {name!r} of X, {place(row)}; drop or impute such rows")
    return raw


def probabilities(raw: Any, objective: Predictor) -> Any:
    """(n, n_classes), where raw predictions live."""
    mean = objective.loss.mean(raw)
    return namespace_of(raw).concat([1.0 - mean, mean], axis=1) if raw.shape[1] == 1 else mean
