"""Mini-batches: which rows of the groups a round is about.

In each round every group draws its next rows, in an order that seed, epoch and group decide: an epoch visits every row once. The rows that
neighbouring groups draw (a *lane*: a whole subtree of the fixed tree) are gathered into one block, because a gradient a group would cost
more than the rows do. Lanes follow from data and batch size, never from the cluster, and so do the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from array_api_compat import array_namespace, device

from tasks.partition import Group, normalise
from tasks.rows import generator
from tasks.typing import Array, Float64, Int64

ROWS_A_LANE: Final = 256
"""Of a batch: with fewer, the gradient's own memory costs more than the rows."""
LANE_BYTES: Final = 256 << 20
"""Of all rows that a lane draws from: they are on one worker."""
TRAINING: Final = -1
HELD_OUT: Final = -2


class Sampling(NamedTuple):
    """How an epoch draws rows.

    n_rounds             of an epoch
    level                lanes are subtrees of 2^level groups
    shuffle              False: in the order of the rows
    validation_fraction  share of each group's rows that is held out
    importance           "norm": rows are drawn with replacement, with probability r_i of which half is uniform and half proportional to
                         sample_weight ‖(x, 1)‖, and count 1 / r_i, so that the gradient stays unbiased (D. Needell, N. Srebro and
                         R. Ward, Math. Program. 155 (2016), section 3)
    """

    seed: int
    n_rounds: int
    level: int = 0
    shuffle: bool = True
    validation_fraction: float = 0.0
    importance: Literal["uniform", "norm"] = "uniform"


class Batch(NamedTuple):
    """Round `number` of an epoch; or TRAINING, all rows but those held out; or HELD_OUT, those."""

    sampling: Sampling
    epoch: int
    number: int

    @property
    def level(self) -> int:
        """Of the subtrees that draw together."""
        return self.sampling.level if self.number >= 0 else 0


def lane_level(n_groups: int, n_bytes: float, batch_size: int, rows_a_lane: int = ROWS_A_LANE) -> int:
    """Lanes as small as they may be: with rows_a_lane rows of a batch, but of no more than LANE_BYTES of data. n_bytes: of all rows."""
    level = 0
    while 1 << level < n_groups:
        lanes = -(-n_groups // (1 << level))
        if batch_size >= lanes * rows_a_lane or n_bytes / lanes * 2 > LANE_BYTES:
            break
        level += 1
    return level


def select(groups: Sequence[Group], batch: Batch) -> Group:
    """The rows of a batch that these groups, one lane, have."""
    sampling = batch.sampling
    if batch.number == TRAINING:
        return training_rows(groups[0], sampling)
    if batch.number == HELD_OUT:
        return held_out_rows(groups[0], sampling)
    draws = [draw(group, batch) for group in groups]
    weights = None
    if sampling.importance != "uniform" or groups[0].sample_weight is not None:
        weights = np.concatenate([weight_of(group, rows, factor) for group, (rows, factor) in zip(groups, draws, strict=True)])
    rows = [rows for rows, _ in draws]
    y = None if groups[0].y is None else np.concatenate([group.y[own] for group, own in zip(groups, rows, strict=True)])  # type: ignore[index]
    first = groups[0].first_partition
    offsets = np.array([0, sum(map(len, rows))], dtype=np.int64)
    return Group(gather(groups, rows), y, weights, offsets, first, draw=(sampling.seed, batch.epoch, batch.number, first))


def gather(groups: Sequence[Group], rows: Sequence[Int64]) -> Any:
    """Those rows of each group, one below the other."""
    X: Any = groups[0].X
    if isinstance(X, sp.csr_array):
        pieces: Any = [group.X[own] for group, own in zip(groups, rows, strict=True)]
        return normalise(sp.csr_array(sp.vstack(pieces, format="csr")))
    if not isinstance(X, np.ndarray):
        xp = array_namespace(X)
        return xp.concat([xp.take(g.X, xp.asarray(own, device=device(g.X)), axis=0) for g, own in zip(groups, rows, strict=True)], axis=0)
    bounds = np.concatenate([[0], np.cumsum([len(own) for own in rows])])
    out = np.empty((bounds[-1], X.shape[1]), X.dtype)
    for group, own, (start, stop) in zip(groups, rows, pairwise(bounds), strict=True):
        np.take(np.asarray(group.X), own, axis=0, out=out[start:stop], mode="clip")  # any other mode copies once more
    return out


def draw(group: Group, batch: Batch) -> tuple[Int64, Float64 | None]:
    """The rows that a group draws, and the factors of their weights."""
    sampling = batch.sampling
    order, offset = group.latest("order", (sampling, batch.epoch), lambda whole: order_of(whole, batch))
    share = len(order) / sampling.n_rounds
    start = int(share * batch.number + offset)
    stop = int(share * (batch.number + 1) + offset) if batch.number < sampling.n_rounds - 1 else len(order)  # whatever rounding did
    if sampling.importance == "uniform":
        return order[start:stop], None
    training, _ = split(group, sampling)
    cumulative = group.derived(("importance", sampling), lambda whole: cumulative_importance(whole, sampling))
    random = generator(sampling.seed, "importance", batch.epoch, batch.number, group.first_partition).random(stop - start)
    chosen = np.searchsorted(cumulative, random * cumulative[-1], side="right") if stop > start else np.zeros(0, np.int64)
    probability = np.diff(cumulative, prepend=0.0)[chosen] / cumulative[-1] if len(cumulative) else np.zeros(0)
    return training[chosen], 1.0 / (share * probability)


def order_of(group: Group, batch: Batch) -> tuple[Int64, float]:
    """The training rows in the order of an epoch; and where between rows the rounds begin, or small groups would all draw at once."""
    training, _ = split(group, batch.sampling)
    random = generator(batch.sampling.seed, "order", batch.epoch, group.first_partition)
    offset = random.random()
    return random.permutation(training) if batch.sampling.shuffle else training, offset


def split(group: Group, sampling: Sampling) -> tuple[Int64, Int64]:
    """Rows for training, and those held out, each in ascending order; so many that small groups are not favoured."""

    def cut(whole: Group) -> tuple[Int64, Int64]:
        random = generator(sampling.seed, "held out", whole.first_partition)
        n_held_out = int(np.floor(whole.n_rows * sampling.validation_fraction + random.random()))
        rows = random.permutation(whole.n_rows) if n_held_out else np.arange(whole.n_rows)
        return np.sort(rows[n_held_out:]), np.sort(rows[:n_held_out])

    found: tuple[Int64, Int64] = group.derived(("split", sampling.seed, sampling.validation_fraction), cut)
    return found


def cumulative_importance(group: Group, sampling: Sampling) -> Float64:
    """Running sums of r_i over the training rows."""
    training, _ = split(group, sampling)
    X = group.X[training]
    squares = X.multiply(X).sum(axis=1) if isinstance(X, sp.csr_array) else np.einsum("ij,ij->i", X, X, dtype=np.float64)
    scale = np.sqrt(np.asarray(squares, dtype=np.float64) + 1.0)
    if group.sample_weight is not None:
        scale = scale * group.sample_weight[training]
    return np.cumsum(0.5 / len(training) + 0.5 * scale / (scale.sum() or 1.0)) if len(training) else np.zeros(0)


def weight_of(group: Group, rows: Int64, factor: Float64 | None) -> Float64:
    """The weights of some rows, times the factors."""
    weight = np.ones(len(rows)) if group.sample_weight is None else group.sample_weight[rows]
    return np.asarray(weight if factor is None else weight * factor, dtype=np.float64)


def training_rows(group: Group, sampling: Sampling) -> Group:
    """The group with no weight on the rows that are held out: they are not worth a copy of all others."""
    _, held_out = split(group, sampling)
    if not len(held_out):
        return group

    def weighted(whole: Group) -> Group:
        weight = weight_of(whole, np.arange(whole.n_rows), None).copy()
        weight[held_out] = 0.0
        return Group(whole.X, whole.y, weight, whole.offsets, whole.first_partition)

    found: Group = group.derived(("training", sampling.seed, sampling.validation_fraction), weighted)
    return found


def held_out_rows(group: Group, sampling: Sampling) -> Group:
    """The rows held out, copied together once."""

    def taken(whole: Group) -> Group:
        _, rows = split(whole, sampling)
        y: Array | None = None if whole.y is None else whole.y[rows]
        weight = None if whole.sample_weight is None else whole.sample_weight[rows]
        return Group(gather([whole], [rows]), y, weight, np.array([0, len(rows)], dtype=np.int64), whole.first_partition)

    found: Group = group.derived(("held out", sampling.seed, sampling.validation_fraction), taken)
    return found
