"""Mini-batches: which rows of the groups a round is about.

In each round every group draws its next rows, in an order that seed, epoch and group decide: an epoch visits every row once. The rows that
neighbouring groups draw (a whole *subtree* of the fixed tree) are gathered into one block, because a gradient a group would cost
more than the rows do. Subtrees follow from data and batch size, never from the cluster, and so do the bits.

Where subtrees take turns, each round is about the rows of a single one: whoever holds it works alone, and others on other rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.kernels.array_api import to_numpy
from tasks.machine import buffers
from tasks.machine.namespaces import device_of, namespace_of
from tasks.rows.draws import generator, spread
from tasks.rows.partition import Group
from tasks.rows.shares import INDEPENDENT, rounded
from tasks.typing import Float64, Int64

ROWS_A_SUBTREE: Final = 256
"""The rows of a batch that a subtree should have: with fewer, the gradient's own memory costs more than the rows."""
MOST_SUBTREES: Final = 1 << 30
SUBTREE_BYTES: Final = 256 << 20
"""The most bytes of all rows that a subtree draws from: they are on one worker."""
AHEAD: Final = "drawn ahead"
TRAINING: Final = -1
HELD_OUT: Final = -2


class Sampling(NamedTuple):
    """The way in which an epoch draws rows.

    n_rounds             of an epoch; where subtrees take turns, of each of them
    level                subtrees are of 2^level groups
    shuffle              False: in the order of the rows
    validation_fraction  share of each group's rows that is held out, in whole rows: see `tasks.rows.shares`
    importance           "norm": of its n rows a group draws n an epoch with replacement, row i with probability r_i, half of which is
                         uniform and half proportional to sample_weight ‖(x, 1)‖, and with a weight of sample_weight n_rounds / (n r_i),
                         so that the sums of a round have the sums over all rows as their mean (D. Needell, N. Srebro and R. Ward,
                         Math. Program. 155 (2016), section 3)
    bar                  of `tasks.rows.shares`: which groups hold out one row more. `pipeline.training.sampling` chooses it so that all
                         groups together hold out what they should
    n_turns              0: all groups draw in each round. Else the number of subtrees, which take turns: a round is about a single one.
                         Subtrees are of unlike size, so its sums are divided by the weight that a round has on average
    """

    seed: int
    n_rounds: int
    level: int = 0
    shuffle: bool = True
    validation_fraction: float = 0.0
    importance: Literal["uniform", "norm"] = "uniform"
    bar: float = INDEPENDENT
    n_turns: int = 0

    @property
    def rounds_an_epoch(self) -> int:
        """The rounds in which an epoch visits every row once."""
        return self.n_rounds * max(1, self.n_turns)


class Batch(NamedTuple):
    """A batch: round `number` of an epoch; or TRAINING, all rows but those held out; or HELD_OUT, those. subtree: the only one that draws;
    None: all of them do."""

    sampling: Sampling
    epoch: int
    number: int
    subtree: int | None = None

    @property
    def level(self) -> int:
        """The level of the subtrees that draw together."""
        return self.sampling.level if self.number >= 0 else 0

    @property
    def following(self) -> Batch:
        """The next one of the same rows."""
        epoch, number = divmod(self.epoch * self.sampling.n_rounds + self.number + 1, self.sampling.n_rounds)
        return self._replace(epoch=epoch, number=number)


class Order(NamedTuple):
    """The order in which a group draws rows in an epoch. rows (n,): in order; weight (n,): theirs in the sums, or None for ones; offset:
    where between two rows the rounds begin, in [0, 1), or small groups would all draw in the same rounds."""

    rows: Int64
    weight: Float64 | None
    offset: float

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.rows, self.weight


class Draws(NamedTuple):
    """The draws of the groups of a subtree in an epoch. share (g,): rows a round of each group, not whole numbers; offset, size (g,)."""

    orders: tuple[Order, ...]
    share: Float64
    offset: Float64
    size: Int64

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.orders, self.share, self.offset, self.size


def subtree_level(n_groups: int, n_bytes: float, batch_size: int, rows_a_subtree: int = ROWS_A_SUBTREE, most: int = MOST_SUBTREES) -> int:
    """Subtrees as small as they may be: with rows_a_subtree rows of a batch, at most so many, but of no more than SUBTREE_BYTES of data.
    n_bytes: of all rows, which groups of about equal size have."""
    level = 0
    while 1 << level < n_groups:
        subtrees = -(-n_groups >> level)
        larger = n_bytes / n_groups * min(2 << level, n_groups)
        if (batch_size >= subtrees * rows_a_subtree and subtrees <= most) or larger > SUBTREE_BYTES:
            break
        level += 1
    return level


@lru_cache(maxsize=64)
def turns(sampling: Sampling) -> tuple[int, ...]:
    """The order in which the subtrees take turns, all through a fit. Two turns of one subtree are as far from each other as may be. Turns
    that follow each other are of rows that are far apart: so those that are under way are about as many on each of several workers that
    have neighbouring rows, and sorted rows come mixed."""
    n = sampling.n_turns
    if not sampling.shuffle:
        return tuple(range(n))
    first = int(generator(sampling.seed, "turns").integers(n)) if n else 0
    return tuple((first + number) % n for number in spread(n))


def select(groups: Sequence[Group], batch: Batch) -> Group:
    """The rows of a batch that these groups, one subtree, have."""
    if batch.number < 0:
        (group,) = groups
        rows = training_rows if batch.number == TRAINING else held_out_rows
        return rows(group, batch.sampling)
    kept = groups[0].pop(AHEAD)
    if kept is not None and kept[0] == (batch, len(groups)):
        found: Group = kept[1]
        return found
    return drawn_rows(groups, batch)


def draw_ahead(groups: Sequence[Group], batch: Batch) -> None:
    """Gather the rows of the round after this one, in time that nobody needs: which they are does not depend on the parameters."""
    if 0 <= batch.number < batch.sampling.n_rounds - 1:
        following = batch._replace(number=batch.number + 1)
        groups[0].keep(AHEAD, ((following, len(groups)), drawn_rows(groups, following)))


def drawn_rows(groups: Sequence[Group], batch: Batch) -> Group:
    """The rows that a subtree draws in a round, gathered."""
    sampling, first = batch.sampling, groups[0]
    draws: Draws = first.keep_last_two("draws", (sampling, batch.epoch, len(groups)), lambda _: draws_of(groups, batch))
    cuts = zip(draws.orders, bound(draws, batch, 0), bound(draws, batch, 1), strict=True)
    drawn = [(group, order, slice(a, b)) for group, (order, a, b) in zip(groups, cuts, strict=True) if a < b]
    drawn = drawn or [(first, draws.orders[0], slice(0, 0))]
    owners, rows = [group for group, _, _ in drawn], [order.rows[cut] for _, order, cut in drawn]
    weights = [order.weight[cut] for _, order, cut in drawn if order.weight is not None]
    y = None if first.y is None else np.concatenate([group.y[own] for group, own in zip(owners, rows, strict=True)])  # type: ignore[index]
    offsets = np.array([0, sum(map(len, rows))], dtype=np.int64)
    draw = (sampling.seed, batch.epoch, batch.number, first.first_partition)
    return Group(gather(owners, rows), y, np.concatenate(weights) if weights else None, offsets, first.first_partition, draw)


def draws_of(groups: Sequence[Group], batch: Batch) -> Draws:
    """The draws of all rounds of an epoch, so that one round is but a slice of each group's rows."""
    orders = tuple(order_of(group, batch.sampling, batch.epoch) for group in groups)
    size = np.array([len(order.rows) for order in orders])
    return Draws(orders, size / batch.sampling.n_rounds, np.array([order.offset for order in orders]), size)


def bound(draws: Draws, batch: Batch, further: int) -> list[int]:
    """The number of rows of each group that came before a round, or one further; all before the end, whatever rounding did."""
    number = batch.number + further
    if number == batch.sampling.n_rounds:
        return list(draws.size.tolist())
    return list((draws.share * number + draws.offset).astype(np.int64).tolist())


def order_of(group: Group, sampling: Sampling, epoch: int) -> Order:
    """The order of the training rows in an epoch; with importance, draws of them."""
    random = generator(sampling.seed, "order", epoch, group.first_partition)
    offset = random.random()
    rows, _ = split(group, sampling)
    weight = None
    if sampling.importance == "norm":
        probability = group.keep_last_two("importance", split_key(sampling), lambda whole: importances(whole, rows))
        cumulative = np.cumsum(probability)
        drawn = np.searchsorted(cumulative, random.random(len(rows)) * cumulative[-1:], side="right")
        rows, weight = rows[drawn], sampling.n_rounds / (len(rows) * probability[drawn])
    elif sampling.shuffle:
        rows = random.permutation(rows)
    if group.sample_weight is not None:
        own = group.sample_weight[rows]
        weight = own if weight is None else own * weight
    return Order(rows, weight, offset)


def importances(group: Group, rows: Int64) -> Float64:
    """The probability of each of these rows to be drawn: see `Sampling`."""
    scale = np.sqrt(squared_norms(group.X)[rows] + 1.0)
    if group.sample_weight is not None:
        scale *= group.sample_weight[rows]
    mixed = 1.0 / max(len(rows), 1) + scale / (scale.sum() or 1.0)
    return np.asarray(mixed / mixed.sum())


def squared_norms(X: Any) -> Float64:
    """The squared norm of each row, (n,)."""
    if isinstance(X, sp.csr_array):
        return np.asarray(X.multiply(X).sum(axis=1), dtype=np.float64)
    if isinstance(X, np.ndarray):
        return np.asarray(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    return to_numpy(namespace_of(X).sum(X * X, axis=1))


def split_key(sampling: Sampling) -> tuple[int, float, float] | None:
    """The seed, the share and the bar that decide which rows are held out; None where none are."""
    return (sampling.seed, sampling.validation_fraction, sampling.bar) if sampling.validation_fraction else None


def held_out_stream(seed: int, first_partition: int) -> np.random.Generator:
    """The random stream of the rows that a group holds out; its first number is the draw of `tasks.rows.shares`."""
    return generator(seed, "held out", first_partition)


def split(group: Group, sampling: Sampling) -> tuple[Int64, Int64]:
    """Rows for training, and those held out, each in ascending order; how many: see `tasks.rows.shares`."""
    key = split_key(sampling)
    if key is None:
        return np.arange(group.n_rows), np.arange(0)

    def cut(whole: Group) -> tuple[Int64, Int64]:
        random = held_out_stream(sampling.seed, whole.first_partition)
        n_held_out = rounded(whole.n_rows * sampling.validation_fraction, random.random(), sampling.bar)
        rows = random.permutation(whole.n_rows) if n_held_out else np.arange(whole.n_rows)
        return np.sort(rows[n_held_out:]), np.sort(rows[:n_held_out])

    found: tuple[Int64, Int64] = group.keep_last_two("split", key, cut)
    return found


def training_rows(group: Group, sampling: Sampling) -> Group:
    """The group with no weight on the rows that are held out: they are not worth a copy of all others."""
    _, held_out = split(group, sampling)
    if not len(held_out):
        return group

    def weighted(whole: Group) -> Group:
        weight = np.ones(whole.n_rows) if whole.sample_weight is None else whole.sample_weight.copy()
        weight[held_out] = 0.0
        return Group(whole.X, whole.y, weight, whole.offsets, whole.first_partition)

    found: Group = group.keep_last_two("training", split_key(sampling), weighted)
    return found


def held_out_rows(group: Group, sampling: Sampling) -> Group:
    """The rows held out, copied together once."""
    key = split_key(sampling)

    def taken(whole: Group) -> Group:
        _, rows = split(whole, sampling)
        y = None if whole.y is None else whole.y[rows]
        weight = None if whole.sample_weight is None else whole.sample_weight[rows]
        return Group(gather([whole], [rows]), y, weight, np.array([0, len(rows)], dtype=np.int64), whole.first_partition)

    found: Group = taken(group) if key is None else group.keep_last_two("held out", key, taken)
    return found


def gather(groups: Sequence[Group], rows: Sequence[Int64]) -> Any:
    """The given rows of each group, one below the other."""
    X: Any = groups[0].X
    if isinstance(X, sp.csr_array):
        return gather_sparse([group.X for group in groups], rows)
    if not isinstance(X, np.ndarray):
        xp = namespace_of(X)
        return xp.concat(
            [xp.take(g.X, xp.asarray(own, device=device_of(g.X)), axis=0) for g, own in zip(groups, rows, strict=True)], axis=0
        )
    bounds = running_sums([len(own) for own in rows])
    out = buffers.empty((bounds[-1], X.shape[1]), X.dtype)
    for group, own, (start, stop) in zip(groups, rows, pairwise(bounds), strict=True):
        np.asarray(group.X).take(own, axis=0, out=out[start:stop], mode="clip")  # any other mode copies once more
    return out


def gather_sparse(pieces: Sequence[Any], rows: Sequence[Int64]) -> Any:
    """The given rows of each CSR matrix: scipy's indexing and stacking take several times as long for few rows."""
    starts = np.concatenate([X.indptr[own] for X, own in zip(pieces, rows, strict=True)]).astype(np.int64)
    stops = np.concatenate([X.indptr[own + 1] for X, own in zip(pieces, rows, strict=True)]).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(stops - starts)])
    entries = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], stops - starts)
    data = np.empty(len(entries), pieces[0].data.dtype)
    indices = np.empty(len(entries), np.result_type(*{X.indices.dtype for X in pieces}))
    bounds = indptr[running_sums([len(own) for own in rows])].tolist()
    for X, (start, stop) in zip(pieces, pairwise(bounds), strict=True):
        X.data.take(entries[start:stop], out=data[start:stop], mode="clip")
        X.indices.take(entries[start:stop], out=indices[start:stop], mode="clip")
    return sp.csr_array((data, indices, indptr), shape=(len(starts), pieces[0].shape[1]))


def running_sums(lengths: Sequence[int]) -> list[int]:
    """The running sums of lengths, from 0."""
    return list(accumulate(lengths, initial=0))
