"""Models of your own: any objective, with any strategy that needs no more than it has (see docs/own-models.md)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.training.checkpoints.files import FitKey
from pipeline.training.checkpoints.identity import identity
from pipeline.training.checkpoints.keeper import Checkpoint, Keeper
from pipeline.training.history import Rounds, digest
from pipeline.training.loop import train
from pipeline.training.observers import Calling, OnRound
from pipeline.training.sampling import MOST_PARTS, batches_of, subtrees_of
from tasks.arguments import as_number, check_counts
from tasks.objectives.base import ChecksTargets, Objective
from tasks.objectives.penalties import L2, Penalty
from tasks.rounds.fitting import Fit
from tasks.rows.batches import MOST_SUBTREES, Sampling
from tasks.strategies.base import Status, Strategy, Subtrees
from tasks.typing import Array

FREE = L2(0.0)


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a strategy ended: parameters (n,) in the dtype of the objective's layout, why it ended there, a row per round, and the SHA-256
    of the parameters as float64."""

    parameters: Array
    status: Status
    history: Rounds = field(repr=False)
    parameters_sha256: str


def minimise(
    objective: Objective,
    dataset: Dataset,
    strategy: Strategy,
    start: Array,
    *,
    penalty: Penalty = FREE,
    on_round: OnRound | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
) -> Minimum:
    """Minimise the mean loss of `objective` over the rows of `dataset`, plus `penalty`, from start (n,).

    Runs where `Dataset.executor` says: on the current client's cluster, else on threads here. on_round is called with each round's row and
    ends the fit by returning True. checkpoint: a directory, or a `pipeline.Checkpoint`, in which the fit saves what it has so far, and from
    which it goes on. Ctrl-C ends it where it is; `status` of what is returned says how it ended. Raises TypeError for other
    arguments than these, and when the objective lacks what the strategy asks for, ValueError for a start of the wrong size, for data that
    is not finite, for targets that the loss does not take, and for parameters that are not finite any more; any other end, divergence too,
    is in the status.
    """
    for argument, name, kind in ((objective, "objective", Objective), (dataset, "dataset", Dataset), (strategy, "strategy", Strategy)):
        if isinstance(argument, type) or not isinstance(argument, kind):
            raise TypeError(f"{name} must be an object that is a {kind.__name__}, got {argument!r}")
    if isinstance(penalty, type) or not isinstance(penalty, Penalty):
        raise TypeError(f"penalty must be L2, ElasticNet or an object like them, got {penalty!r}")
    start = np.array(start, dtype=objective.layout.dtype)
    if start.shape != (objective.layout.size,):
        raise ValueError(f"start must be ({objective.layout.size},), as the layout of {type(objective).__name__} says, got {start.shape}")
    fit = Fit(objective, (penalty,), strategy)
    options = Checkpoint.of(checkpoint)
    executor = dataset.executor()
    with ExitStack() as stack:
        if options is not None:
            stack.enter_context(options.prepared())
        stack.enter_context(executor.span(f"minimise-{type(objective).__name__}"))
        targets = dataset.schema.target_spread  # after the check of all rows
        if targets is not None and isinstance(objective, ChecksTargets):
            objective.require_reachable(targets.mean)
        keeper = None
        if options is not None:
            keeper = stack.enter_context(Keeper(options, problem_of(objective, dataset, strategy, penalty, start)))
            keeper.load()
        observers = [observer for observer in (None if on_round is None else Calling(on_round), keeper) if observer is not None]
        saved = None if keeper is None else keeper.saved
        result = train(executor, dataset, fit, fit.init(start[None]), observers, saved=saved, keep_on_interrupt=True)
    (parameters,), (status,) = result.parameters, result.statuses
    if not np.all(np.isfinite(parameters)):
        raise ValueError(f"the fit diverged: {status.reason}")
    return Minimum(parameters, status, result.history, digest(parameters))


def problem_of(objective: Objective, dataset: Dataset, strategy: Strategy, penalty: Penalty, start: Array) -> FitKey:
    """What checkpoints of such a fit are of."""
    parts = {"objective": objective, "strategy": strategy, "penalty": penalty}
    words = {name: f"{type(part).__name__} {identity(part)}" for name, part in parts.items()}
    words |= {"estimator": f"minimise-{type(objective).__name__}", "start": digest(start), "data": dataset.described()}
    return FitKey(words)


def subtrees(dataset: Dataset, most: int = MOST_PARTS) -> Subtrees:
    """At most so many subtrees of neighbouring groups, for `ADMM`; they follow from the data alone. Raises TypeError for what is no
    Dataset, ValueError for `most` below 1."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset must be a Dataset, got {type(dataset).__name__}; Dataset.from_arrays makes one")
    check_counts(most=most)
    return subtrees_of(dataset.source.group_starts[:-1], most)


def mini_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    validation_fraction: float = 0.0,
    importance: Literal["uniform", "norm"] = "uniform",
    take_turns: bool = False,
    most_subtrees: int = MOST_SUBTREES,
) -> Sampling:
    """About batch_size rows a round, drawn from all partitions, so that an epoch visits every row once; reads the dataset if it is not
    resident. take_turns: each round draws from one subtree of groups alone, as `Asynchronous` needs it. most_subtrees: draw rows,
    as far as their bytes allow: for `Compressed`, which lets each return something. The other arguments: see
    `tasks.rows.batches.Sampling`. Raises TypeError for what is no Dataset, ValueError for a batch_size that is no whole number of at least
    1, or a seed of at least 0."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset must be a Dataset, got {type(dataset).__name__}; Dataset.from_arrays makes one")
    check_counts(batch_size=batch_size, most_subtrees=most_subtrees)
    if not as_number(seed) >= 0 or seed != int(seed):
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    found = batches_of(
        dataset.schema,
        dataset.source.n_groups,
        batch_size,
        seed=int(seed),
        shuffle=shuffle,
        validation_fraction=validation_fraction,
        importance=importance,
        take_turns=take_turns,
        most_subtrees=most_subtrees,
    )
    return found.sampling
