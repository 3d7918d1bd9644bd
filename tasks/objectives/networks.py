"""Multi-layer perceptrons as an objective: sums of the loss and of its gradient by back-propagation.

All arithmetic is in the objective's dtype, sums of losses and weights in float64. A partition is worked through in pieces of `PIECE` rows,
counted from its own first row, so that activations stay in the cache and bits do not depend on where groups are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.kernels.array_api import to_numpy
from tasks.machine import buffers
from tasks.machine.namespaces import beside, device_of, namespace_of
from tasks.objectives.activations import ACTIVATIONS, Activation, Name
from tasks.objectives.base import Layout, Sums, add_sums
from tasks.objectives.encoding import add_weights, encoded_target, row_weight
from tasks.objectives.losses import Loss
from tasks.reductions.tree import Tree
from tasks.rows.draws import generator
from tasks.rows.partition import Group
from tasks.typing import Array, Design

PIECE: Final = 4096


@dataclass(frozen=True, eq=False)
class NetworkObjective:
    """Σ_i s_i loss(y_i, z_i), with h_0 = x_i, h_l = activation(h_{l-1} @ W_l + b_l), and z_i the same of the last layer, unactivated.

    loss         of tasks.objectives.losses: for two classes (one output), MultinomialLoss (an output a class, two or more) or for numbers
                 (an output a target)
    layer_sizes  (n_columns, hidden ..., n_outputs)
    activation   of the hidden layers
    classes      the labels in order, for classification: y is encoded against them where it lives
    dropout      probability that a hidden unit is dropped in a mini-batch (where `group.draw` is not empty); those kept are divided by
                 1 - dropout, so that predictions need no factor: N. Srivastava et al., J. Mach. Learn. Res. 15 (2014), sections 4 and 10
    dtype        of parameters, gradients and the arithmetic: "float32" or "float64"

    The gradient is that of D. Rumelhart, G. Hinton and R. Williams, Nature 323 (1986). Raises ValueError for a number of outputs that
    the loss does not have, and for sizes and dropout out of range.
    """

    loss: Loss
    layer_sizes: tuple[int, ...]
    activation: Name = "relu"
    classes: Array | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.layer_sizes) < 2 or min(self.layer_sizes) < 1:
            raise ValueError(f"layer_sizes must be (columns, hidden ..., outputs), each at least 1, got {self.layer_sizes}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        fewest, most = self.loss.outputs
        if not fewest <= self.n_outputs <= most:
            wanted = "one output, two classes" if most == 1 else "an output a class, at least two"
            raise ValueError(f"{type(self.loss).__name__} must have {wanted}; layer_sizes end in {self.n_outputs}")

    @property
    def n_outputs(self) -> int:
        return self.layer_sizes[-1]

    @cached_property
    def _labels(self) -> tuple[Any, ...]:
        return () if self.classes is None else tuple(self.classes.tolist())

    @cached_property
    def layout(self) -> Layout:
        shapes = list(pairwise(self.layer_sizes))
        weights = {f"layers.{layer}.weight": shape for layer, shape in enumerate(shapes)}
        return Layout(weights, {f"layers.{layer}.bias": (n_out,) for layer, (_, n_out) in enumerate(shapes)}, self.dtype)

    def start(self, seed: int) -> Array:
        """Parameters (n,) to start from, uniform within ±sqrt(6 / (fan_in + fan_out)), biases too, as in scikit-learn; 2 instead of 6 for
        "logistic". X. Glorot and Y. Bengio, Proc. AISTATS 9 (2010), equation 16."""
        arrays = {}
        for layer, shape in enumerate(pairwise(self.layer_sizes)):
            draw = generator(seed, "start", layer)
            bound = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / sum(shape))
            arrays[f"layers.{layer}.weight"] = draw.uniform(-bound, bound, shape)
            arrays[f"layers.{layer}.bias"] = draw.uniform(-bound, bound, shape[1])
        return self.layout.join(arrays)

    def loss_and_gradient(self, group: Group, parameters: Array) -> Sums:
        parameters = np.asarray(parameters, self.dtype)
        models = [self._layers(row, group.X) for row in parameters]
        target: Any = encoded_target(group, self.loss, self.classes, self._labels, self.n_outputs)
        weight, own = row_weight(group), group.sample_weight
        dropout = self._dropout(group)

        def piece(start: int, stop: int) -> Sums:
            gradient = buffers.empty(parameters.shape, self.dtype)
            batch = Batch(
                _rows(group.X, start, stop, self.dtype),
                target[start:stop, ...],
                None if weight is None else weight[start:stop],
                [beside(group.X, factor) for factor in dropout(stop - start)],
            )
            losses = [
                backpropagate(self.loss, ACTIVATIONS[self.activation], batch, layers, self._layers(row))
                for layers, row in zip(models, gradient, strict=True)
            ]
            weight_sum = stop - start if own is None else own[start:stop].sum()
            return Sums(np.array(losses), np.full(len(models), float(weight_sum)), gradient)

        def partition(start: int, stop: int) -> Sums:
            return _sum(piece, list(_pieces(start, stop)))

        with np.errstate(over="ignore", invalid="ignore"):  # a diverging fit shows in its loss
            return _sum(partition, list(pairwise(group.offsets.tolist())))

    def weight_sum(self, group: Group) -> float:
        """See `WeighsRows`."""
        return add_weights(group.sample_weight, group.offsets)

    def predict(self, parameters: Array, X: Design) -> Array:
        """Raw predictions (rows, n_outputs) for parameters (n,), where X lives; computed, and returned, in float32 where both are, else in
        float64."""
        dtype = "float32" if "float32" in str(X.dtype) and parameters.dtype == np.float32 else "float64"
        layers = self._layers(np.asarray(parameters, dtype), X)
        xp = namespace_of(X)
        raw: Any = xp.empty((X.shape[0], self.n_outputs), dtype=getattr(xp, dtype), device=device_of(X))
        with np.errstate(over="ignore", invalid="ignore"):
            for start, stop in _pieces(0, X.shape[0]):
                hidden = forward(ACTIVATIONS[self.activation], _rows(X, start, stop, dtype), layers, [])[-1]
                raw[start:stop, :] = _affine(hidden.dropped, *layers[-1])
        return raw

    def _layers(self, parameters: Array, X: Any = None) -> list[Layer]:
        """Views of parameters (n,), layer by layer; copies where X lives, if that is not here."""
        arrays = [array if X is None else beside(X, array) for array in self.layout.split(parameters).values()]
        return [Layer(*pair) for pair in zip(arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :], strict=True)]

    def _dropout(self, group: Group) -> Callable[[int], list[Array]]:
        """n_rows -> the factors of each hidden layer's units for the next rows of the group, each 0 or 1 / (1 - dropout); none outside of
        mini-batches."""
        if not self.dropout or not group.draw:
            return lambda n_rows: []
        seed, *counters = group.draw
        scale = np.dtype(self.dtype).type(1.0 / (1.0 - self.dropout))
        draws = [(width, generator(seed, "dropout", *counters, layer)) for layer, width in enumerate(self.layer_sizes[1:-1])]
        return lambda n_rows: [(draw.random((n_rows, width), np.float32) >= self.dropout) * scale for width, draw in draws]


class Layer(NamedTuple):
    """The weight (n_in, n_out) and the bias (n_out,) of one layer; parameters, or sums of derivatives."""

    weight: Any
    bias: Any


class Batch(NamedTuple):
    """Rows (n, p) in the dtype of the arithmetic, their target, their weights (n,) or None, and the dropout factors of each hidden layer
    (n, width), or none at all."""

    rows: Any
    target: Any
    weight: Any
    dropout: Sequence[Any]


class Hidden(NamedTuple):
    """What a layer puts out, (n, width): the activation, and what dropout leaves of it (itself without dropout)."""

    activation: Any
    dropped: Any


def forward(activation: Activation, rows: Any, layers: Sequence[Layer], dropout: Sequence[Any]) -> list[Hidden]:
    """The rows themselves and the hidden layers."""
    xp = namespace_of(rows)
    outputs = [Hidden(rows, rows)]
    for number, layer in enumerate(layers[:-1]):
        h = activation.value(xp, _affine(outputs[-1].dropped, *layer))
        outputs.append(Hidden(h, h * dropout[number] if dropout else h))
    return outputs


def backpropagate(loss: Loss, activation: Activation, batch: Batch, layers: Sequence[Layer], gradients: Sequence[Layer]) -> float:
    """The sum of the losses; the sums of the gradients go into the NumPy arrays `gradients`."""
    xp = namespace_of(batch.rows)
    outputs = forward(activation, batch.rows, layers, batch.dropout)
    value, delta = loss.of_rows(xp, batch.target, _affine(outputs[-1].dropped, *layers[-1]))
    if batch.weight is not None:
        counts = batch.weight != 0.0  # a row without weight counts nothing, even where its loss is too large a number
        value = xp.where(counts, xp.astype(value, xp.float64) * batch.weight, 0.0)
        delta = xp.where(counts[:, None], delta * xp.astype(batch.weight, delta.dtype)[:, None], xp.zeros_like(delta))
    for number in reversed(range(len(layers))):
        h = outputs[number]
        _store(gradients[number].weight, h.dropped.T, delta)
        gradients[number].bias[...] = _to_numpy(xp.sum(delta, axis=0))
        if number:
            delta = _product(delta, layers[number].weight.T)
            if batch.dropout:
                delta *= batch.dropout[number - 1]
            delta = activation.backward(xp, h.activation, delta)
    return float(xp.sum(value, dtype=xp.float64))


def _affine(rows: Any, weight: Any, bias: Any) -> Any:
    raw = _product(rows, weight)
    raw += bias
    return raw


def _product(a: Any, b: Any) -> Any:
    """a @ b; large intermediates of NumPy in memory that is warm."""
    if isinstance(a, np.ndarray):
        return np.matmul(a, b, out=buffers.empty((a.shape[0], b.shape[1]), a.dtype))
    return a @ b


def _store(out: Array, a: Any, b: Any) -> None:
    """a @ b into a NumPy array."""
    if isinstance(a, np.ndarray):
        np.matmul(a, b, out=out)
    else:
        out[...] = _to_numpy(a @ b)


def _rows(X: Any, start: int, stop: int, dtype: str) -> Any:
    """Rows start:stop in that dtype; themselves where nothing changes."""
    rows = X if stop - start == X.shape[0] else X[start:stop, :]
    if isinstance(rows, sp.csr_array):
        return rows.astype(dtype, copy=False)
    xp = namespace_of(X)
    return xp.astype(rows, getattr(xp, dtype), copy=False)


def _to_numpy(array: Any) -> Array:
    return array if isinstance(array, np.ndarray) else to_numpy(array)


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Bounds of pieces of at most PIECE rows; one empty piece of no rows."""
    for first in range(start, max(stop, start + 1), PIECE):
        yield first, min(first + PIECE, stop)


def _sum(leaf: Callable[[int, int], Sums], bounds: Sequence[tuple[int, int]]) -> Sums:
    """The leaves added along the fixed tree, as they come."""
    tree = Tree(len(bounds), add_sums)
    for number, (start, stop) in enumerate(bounds):
        tree.add((0, number), leaf(start, stop))
    total: Sums = tree.result()
    return total
