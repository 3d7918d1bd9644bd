"""Small problems, whose rounds take microseconds: rows, and strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.sources.sources import ArraySource, Persist
from pipeline.training.sampling import subtrees_of
from tasks.loading.shards import ShardLoad
from tasks.objectives.base import Layout
from tasks.reductions.stages.codecs import EightBit, TopK
from tasks.rows.batches import Sampling
from tasks.rows.partition import Shard
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.base import Strategy
from tasks.strategies.compressed import Compressed, Compression
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.optimizers import Momentum, Nesterov
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.simulation.world import WORLDS

N_COLUMNS: Final = 3
GROUPS: Final = (1, 3, 16, 37)
ROWS_A_GROUP: Final = 4


class Problem(NamedTuple):
    """n_groups; strategy: by name; stop_at: the number of the round after which a callback ends the fit, or 0."""

    n_groups: int = 16
    strategy: str = "lbfgs"
    stop_at: int = 0


def asynchronous(overlap: Overlap, n_groups: int, **more: Any) -> Asynchronous:
    """Two epochs, in each of which at most eight subtrees have two batches each."""
    level = max(0, (n_groups - 1).bit_length() - 3)
    sampling = Sampling(3, 2, level, n_turns=-(-n_groups >> level))
    return Asynchronous(StochasticGradient(sampling, Momentum(), Constant(0.1), max_epochs=2, tol=-np.inf, **more), overlap)


LAYOUT: Final = Layout({"coef": (1, N_COLUMNS)}, {"intercept": (1,)})


def compressed(strategy: Any) -> Compressed:
    """Subtrees remember something, which is lost with their workers; where the name says so, it is copied before every round."""
    return Compressed(strategy, Compression(TopK(0.5), EightBit(2)), LAYOUT)


def with_momentum(strategy: Any) -> Any:
    """Its subtrees remember that, too."""
    return replace(strategy, optimizer=Momentum())


STRATEGIES: Final[dict[str, Callable[[int], Strategy]]] = {
    "lbfgs": lambda n_groups: LBFGS(tol=1e-9, max_iter=12),
    "sgd": lambda n_groups: StochasticGradient(
        Sampling(1, 4, level=min(2, n_groups.bit_length() - 1)), Momentum(), Constant(0.1), max_epochs=4, tol=-np.inf
    ),
    "svrg": lambda n_groups: StochasticGradient(
        Sampling(2, 3, level=1 if n_groups > 1 else 0), schedule=Constant(0.1), max_epochs=3, tol=-np.inf, variance_reduction=True
    ),
    "local sgd": lambda n_groups: LocalSGD(
        Sampling(4, 6, level=1 if n_groups > 1 else 0),
        schedule=Constant(0.1),
        max_epochs=4,
        tol=-np.inf,
        local=LocalUpdates(2, growth=1.2, outer=Nesterov()),
    ),
    "local sgd, copied": lambda n_groups: LocalSGD(
        Sampling(5, 6, level=1 if n_groups > 1 else 0),
        Momentum(),
        Constant(0.05),
        max_epochs=4,
        tol=-np.inf,
        local=LocalUpdates(2, control_variates=True),
    ),
    "local sgd, momentum": lambda n_groups: with_momentum(STRATEGIES["local sgd"](n_groups)),
    "admm": lambda n_groups: ADMM(subtrees_of(range(n_groups), most=4), tol=1e-9, max_iter=8),
    "served": lambda n_groups: Asynchronous(
        StochasticGradient(Sampling(3, 3, n_turns=n_groups), Momentum(), Constant(0.1), max_epochs=2, tol=-np.inf), Overlap(2, served=True)
    ),
    "served, compressed": lambda n_groups: Compressed(STRATEGIES["served"](n_groups), Compression(EightBit(1)), LAYOUT),
    "compressed, momentum": lambda n_groups: compressed(with_momentum(STRATEGIES["local sgd"](n_groups))),
    "compressed": lambda n_groups: compressed(STRATEGIES["sgd"](n_groups)),
    "compressed, copied": lambda n_groups: compressed(STRATEGIES["local sgd"](n_groups)),
}
OVERLAPPING: Final[dict[str, Callable[[int], Strategy]]] = {
    "in order 0": partial(asynchronous, Overlap(0)),
    "in order 1": partial(asynchronous, Overlap(1)),
    "in order 4": partial(asynchronous, Overlap(4)),
    "in order 4, svrg": partial(asynchronous, Overlap(4), variance_reduction=True),
    "as they come 2": partial(asynchronous, Overlap(2, "as-they-come", damped=True)),
    "as they come": partial(asynchronous, Overlap(None, "as-they-come")),
    "as they come, svrg": partial(asynchronous, Overlap(None, "as-they-come"), variance_reduction=True),
    "compressed, in order 2": lambda n_groups: compressed(asynchronous(Overlap(2), n_groups)),
    "compressed, in order 2, copied": lambda n_groups: compressed(asynchronous(Overlap(2), n_groups)),
}


def strategy_of(problem: Problem) -> Strategy:
    return (STRATEGIES | OVERLAPPING)[problem.strategy](problem.n_groups)


def after(problem: Problem) -> Problem:
    """Another fit on the same rows, of the same kind of strategies."""
    names = list(STRATEGIES if problem.strategy in STRATEGIES else OVERLAPPING)
    return Problem(problem.n_groups, names[(names.index(problem.strategy) + 1) % len(names)])


@dataclass(eq=False)
class Sent(ArraySource):
    """Rows of the client, with a group for each partition however small that is."""

    @property
    def group_starts(self) -> list[int]:
        return list(range(self.n_partitions + 1))


@dataclass(eq=False)
class Made(Sent):
    """The same rows, made on the workers, and made again where they are lost."""

    in_client = False

    def load_plans(self, shards: Sequence[Sequence[int]], persist: Persist) -> list[ShardLoad]:
        return [ShardLoad(make_shard, (self.n_partitions, tuple(numbers)), self.n_partitions) for numbers in shards]


def make_shard(n_groups: int, numbers: tuple[int, ...], given: Sequence[Any]) -> Shard:
    shard = source(n_groups, in_client=True)._shard(numbers)
    for group in shard.groups(0):
        group.from_client = False
    if WORLDS[0].rows_changed:
        group = shard.groups(0)[0]
        group.X = np.nextafter(group.X, np.inf)
    return shard


@cache
def rows(n_groups: int) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(n_groups)
    sizes = random.integers(1, 2 * ROWS_A_GROUP, n_groups)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    X = random.normal(size=(bounds[-1], N_COLUMNS)) * 10.0 ** random.integers(-2, 2, (bounds[-1], 1))
    y = np.asarray(X @ random.normal(size=N_COLUMNS) + random.normal(size=bounds[-1]) > 0, np.int64)
    y[:2] = 0, 1
    return X, y, bounds


def source(n_groups: int, *, in_client: bool) -> ArraySource:
    X, y, bounds = rows(n_groups)
    return (Sent if in_client else Made)(n_groups, X=X, y=y, rows=bounds)


def dataset(n_groups: int, *, in_client: bool = True) -> Dataset:
    return Dataset(source(n_groups, in_client=in_client), columns=None, dtype="float64", n_columns=N_COLUMNS)
