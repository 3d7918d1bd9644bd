"""Mini-batches: which rows of the groups a round is about.

In each round every group draws its next rows, in an order that seed, epoch and group decide: an epoch visits every row once. The rows that
neighbouring groups draw (a whole *subtree* of the fixed tree) are gathered into one block, because a gradient a group would cost
more than the rows do. Subtrees follow from data and batch size, never from the cluster, and so do the bits.

Where subtrees take turns, each round is about the rows of a single one: whoever holds it works alone, and others on other rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.machine.namespaces import namespace_of, on_host
from tasks.rows.draws import generator, spread
from tasks.rows.gathering import gather
from tasks.rows.partition import Group
from tasks.rows.shares import INDEPENDENT, rounded
from tasks.typing import Array, Float64, Int64

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


class Draws(NamedTuple):
    """The draws of g groups in an epoch, round after round, in a round group after group. rows (n,): their numbers within their groups;
    weight (n,): theirs in the sums, or None for ones; cuts (n_rounds, g + 1): where those of each group begin, and the last ones end."""

    rows: Int64
    weight: Float64 | None
    cuts: Int64

    @property
    def arrays(self) -> tuple[Any, ...]:
        return tuple(self)


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
    """The rows of a batch that these groups have: whole subtrees, each a partition of what they draw."""
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
    """The rows that whole subtrees draw in a round, gathered."""
    sampling, first = batch.sampling, groups[0]
    draws: Draws = first.keep_last_two("draws", (sampling, batch.epoch, len(groups)), lambda _: draws_of(groups, batch))
    cuts = draws.cuts[batch.number]
    here, bounds = slice(cuts[0], cuts[-1]), cuts - cuts[0]
    weight = None if draws.weight is None else draws.weight[here]
    X, y = gather(groups, draws.rows[here], bounds)
    offsets = np.append(bounds[: -1 : 1 << sampling.level], bounds[-1])
    return Group(X, y, weight, offsets, first.first_partition, (sampling.seed, batch.epoch, batch.number, first.first_partition))


def draws_of(groups: Sequence[Group], batch: Batch) -> Draws:
    """The draws of all rounds of an epoch, so that one round is but a slice of them."""
    orders = [order_of(group, batch.sampling, batch.epoch) for group in groups]
    before = rows_before(orders, batch.sampling.n_rounds)
    ends = np.concatenate([[0], np.cumsum(np.diff(before, axis=0))])
    cuts = ends[np.arange(0, len(ends) - 1, len(orders))[:, None] + np.arange(len(orders) + 1)]
    rows, weight = by_round([order.rows for order in orders], before), None
    if any(order.weight is not None for order in orders):
        weight = by_round([np.ones(len(order.rows)) if order.weight is None else order.weight for order in orders], before)
    return Draws(rows, weight, cuts)


def rows_before(orders: Sequence[Order], n_rounds: int) -> Int64:
    """How many rows of each group came before each round, and before the end, (n_rounds + 1, g): then all, whatever rounding does."""
    size = np.array([len(order.rows) for order in orders])
    share, offset = size / n_rounds, np.array([order.offset for order in orders])
    return np.concatenate([(share * np.arange(n_rounds)[:, None] + offset).astype(np.int64), size[None]])


def by_round(orders: Sequence[Array], before: Int64) -> Array:
    """What is in the order of each group, (n,) in all, in the order of rounds."""
    out = np.empty(before[-1].sum(), orders[0].dtype)
    stops = before.sum(axis=1).tolist()
    for number, (start, stop) in enumerate(pairwise(stops)):
        cuts = zip(orders, before[number].tolist(), before[number + 1].tolist(), strict=True)
        np.concatenate([order[first:last] for order, first, last in cuts], out=out[start:stop])
    return out


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
    xp = namespace_of(X)
    wide = xp.astype(X, xp.float64, copy=False)
    return np.asarray(on_host(xp.sum(wide * wide, axis=1)))


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
        weight = None if whole.sample_weight is None else whole.sample_weight[rows]
        bounds = np.array([0, len(rows)], dtype=np.int64)
        return Group(*gather([whole], rows, bounds), weight, bounds, whole.first_partition)

    found: Group = taken(group) if key is None else group.keep_last_two("held out", key, taken)
    return found
