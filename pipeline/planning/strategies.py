"""The strategy of a job on other rows than the job's: on a sample of its groups, and on next to no rows at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pipeline.sources.sources import Source
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous
from tasks.strategies.base import Strategy, Subtrees
from tasks.strategies.compressed import Compressed
from tasks.strategies.local_sgd import LocalSGD
from tasks.strategies.stochastic_gradient import StochasticGradient


def gradients_of(strategy: Strategy) -> StochasticGradient | None:
    """The stochastic gradients that a strategy goes by; None of one that looks at all rows in each round."""
    if isinstance(strategy, Compressed | Asynchronous):
        return gradients_of(strategy.strategy)
    return strategy if isinstance(strategy, StochasticGradient) else None


def n_turns(strategy: Strategy) -> int:
    """The subtrees that take turns; 0 where all work in each round."""
    gradients = gradients_of(strategy)
    return 0 if gradients is None else gradients.sampling.n_turns


def under_way(strategy: Strategy) -> int:
    """The most rounds under way at a time."""
    if isinstance(strategy, Compressed):
        return under_way(strategy.strategy)
    if not isinstance(strategy, Asynchronous):
        return 1
    staleness = strategy.overlap.staleness
    return n_turns(strategy) if staleness is None else min(staleness + 1, n_turns(strategy))


def on_groups(strategy: Strategy, source: Source) -> Any:
    """The same strategy on the groups of this source: it is their subtrees that take turns, or are to agree."""
    if isinstance(strategy, Compressed):
        return replace(strategy, strategy=on_groups(strategy.strategy, source))
    if isinstance(strategy, Asynchronous):
        sampling = strategy.strategy.sampling
        turns = sampling._replace(n_turns=-(-source.n_groups >> sampling.level))
        return replace(strategy, strategy=replace(strategy.strategy, sampling=turns))
    if isinstance(strategy, ADMM):
        level = strategy.subtrees.level
        return replace(strategy, subtrees=Subtrees(tuple(source.group_starts[: -1 : 1 << level]), level))
    return strategy


def of_short_rounds(strategy: Strategy, source: Source, n_rounds: int) -> Any:
    """The same strategy on so few rows that its rounds compute next to nothing: each group is a subtree and makes one update, in so many
    rounds, after which none about all rows follows."""
    if isinstance(strategy, Compressed):
        return replace(strategy, strategy=of_short_rounds(strategy.strategy, source, n_rounds))
    if isinstance(strategy, Asynchronous):
        return on_groups(replace(strategy, strategy=of_short_rounds(strategy.strategy, source, n_rounds // source.n_groups)), source)
    if isinstance(strategy, ADMM):
        one_each = strategy.subtrees._replace(level=0)
        return on_groups(replace(strategy, subtrees=one_each, tol=0.0, max_iter=n_rounds), source)
    if not isinstance(strategy, StochasticGradient):
        return strategy
    sampling = strategy.sampling._replace(n_rounds=n_rounds, level=0)
    short = replace(strategy, sampling=sampling, max_epochs=1, tol=-math.inf, early_stopping=False)
    if isinstance(short, LocalSGD):
        return replace(short, local=replace(short.local, n_steps=1, n_epochs=None, growth=1.0))
    return short
