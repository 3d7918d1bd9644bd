"""Targets and weights as losses take them, made once where the rows live: beside X."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.machine.namespaces import beside, namespace_of
from tasks.objectives.losses import Loss
from tasks.reductions.tree import tree_sum
from tasks.rows.partition import Group
from tasks.typing import Array, Float64, Int64


def encoded_target(group: Group, loss: Loss, classes: Array | None, labels: tuple[Any, ...], n_outputs: int) -> Array:
    """y as losses want it: float64 values without classes, 0.0/1.0 for two of them (one output), int64 codes for more; once per group.
    labels: the classes as a key. Raises ValueError for numbers that the loss does not take."""
    if classes is None:
        y: Float64 = group.derived("float", float_target)
        group.derived(("taken by", loss), lambda g: require_targets(loss, g, y))
        return beside_X(group, "float", lambda: y)
    dtype = np.float64 if n_outputs == 1 else np.int64
    return beside_X(group, (dtype, labels), lambda: encode(group.y, classes).astype(dtype))


def beside_X(group: Group, key: Any, make: Callable[[], Array]) -> Any:
    """What is made of the labels or the weights of a group's rows, where X lives: once per group."""
    return group.derived(("beside X", key), lambda g: beside(g.X, make()))


def row_weight(group: Group) -> Any:
    """The weights of the rows where X lives, or None for ones."""
    weight = group.sample_weight
    return None if weight is None else beside_X(group, "sample_weight", lambda: weight)


def float_target(group: Group) -> Float64:
    """y as float64."""
    assert group.y is not None
    return np.ascontiguousarray(group.y, dtype=np.float64)


def require_targets(loss: Loss, group: Group, y: Float64) -> None:
    """Raise ValueError, naming the first, for numbers that the loss is not defined for."""
    refused = ~np.broadcast_to(loss.takes(y), y.shape)
    if refused.any():
        row = int(np.argmax(refused.reshape(len(y), -1).any(axis=1)))
        partition = int(np.searchsorted(group.offsets, row, side="right")) - 1
        where = f"row {row - group.offsets[partition]} of partition {group.first_partition + partition}"
        if group.draw:
            where = f"a mini-batch of partitions from {group.first_partition} on"
        value = y.reshape(len(y), -1)[row].min()
        raise ValueError(f"the {loss.name} loss needs y to be {loss.targets}, got {value} in {where}; drop such rows, or use another loss")


def add_weights(weight: Any, offsets: Int64) -> float:
    """Σ s_i of weights wherever they live, or of ones, partition by partition along the fixed tree, so that no cut of groups shows in the
    bits."""
    if weight is None:
        return float(offsets[-1] - offsets[0])
    xp = namespace_of(weight)
    return float(tree_sum([xp.sum(weight[start:stop]) for start, stop in pairwise(offsets.tolist())], operator.add))


def encode(y: Any, classes: Any) -> Array:
    """Labels (n,) or (n, 1), all of them in `classes`, which are sorted -> their positions, (n,)."""
    y = y.reshape(-1)
    return np.asarray(y == classes[1]) if len(classes) == 2 else np.searchsorted(classes, y)


def one_hot(codes: Array, n_classes: int) -> Float64:
    """Class codes (n,) -> (n, n_classes) with 1.0 in the column of each row's class."""
    return np.asarray(codes[:, None] == np.arange(n_classes), dtype=np.float64)
