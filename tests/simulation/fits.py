"""Small fits, whose rounds take microseconds, and what they end in where nothing goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import numpy as np

from pipeline.cluster.workers import WorkersUnavailableError
from pipeline.data import dataset as dataset_module
from pipeline.data.dataset import Dataset
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.threads import ThreadExecutor
from pipeline.sources.errors import SourceChangedError
from pipeline.sources.sources import ArraySource, Persist
from pipeline.training.loop import Result, train
from pipeline.training.observers import Calling
from tasks.loading.shards import ShardLoad
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.rows.batches import Sampling
from tasks.rows.partition import Shard
from tasks.strategies.base import Strategy
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.optimizers import Momentum
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.simulation.world import WORLDS, Schedule, World, executor_in, simulated

N_COLUMNS: Final = 3
GROUPS: Final = (1, 3, 16, 37)
ROWS_A_GROUP: Final = 4


class Problem(NamedTuple):
    """n_groups; strategy: by name; stop_at: the number of the round after which a callback ends the fit, or 0."""

    n_groups: int = 16
    strategy: str = "lbfgs"
    stop_at: int = 0


STRATEGIES: Final[dict[str, Callable[[int], Strategy]]] = {
    "lbfgs": lambda n_groups: LBFGS(tol=1e-9, max_iter=12),
    "sgd": lambda n_groups: StochasticGradient(
        Sampling(1, 4, level=min(2, n_groups.bit_length() - 1)), Momentum(), Constant(0.1), max_epochs=4, tol=-np.inf
    ),
    "svrg": lambda n_groups: StochasticGradient(
        Sampling(2, 3, level=1 if n_groups > 1 else 0), schedule=Constant(0.1), max_epochs=3, tol=-np.inf, variance_reduction=True
    ),
}


NEXT: Final = dict(zip(STRATEGIES, [*list(STRATEGIES)[1:], "lbfgs"], strict=True))


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


def fit(executor: Executor, data: Dataset, problem: Problem) -> Result:
    """Two models at once."""
    objective = LinearObjective(LogisticLoss(), N_COLUMNS, 1, fit_intercept=True, classes=np.arange(2))
    start = np.zeros((2, objective.layout.size))
    stop = Calling(lambda row: row["round"] == problem.stop_at)
    whole = Fit(objective, (L2(1e-3), L2(1e-2)), STRATEGIES[problem.strategy](problem.n_groups))
    return train(executor, data, whole, whole.init(start), [stop])


def digest(found: Result) -> str:
    """Of the parameters, and of what was said of every round."""
    said = [(row["objective"], row["gradient_norm"], row["iteration"]) for row in found.history]
    return hashlib.sha256(found.parameters.tobytes() + repr((said, found.statuses)).encode()).hexdigest()


@cache
def expected(problem: Problem) -> str:
    return digest(fit(ThreadExecutor(1), dataset(problem.n_groups), problem))


class Outcome(NamedTuple):
    """error: what the fit ended with because nobody was left, or because the rows were others; rounds: of sessions."""

    error: Exception | None
    rounds: int
    world: World


def survive(problem: Problem, schedule: Schedule) -> Outcome:
    """Fit while that happens. Raises AssertionError for other bits than those of the undisturbed fit, and for what does not end."""
    fits = [problem, Problem(problem.n_groups, NEXT[problem.strategy])] if schedule.again else [problem]
    undisturbed = [expected(each) for each in fits]
    error: Exception | None = None
    with simulated(schedule) as world:
        executor = executor_in(world)
        try:
            disturbed = run_fits(executor, world, fits)
        except WorkersUnavailableError as nobody:
            assert not any(worker.runs() for worker in world.scheduler.workers.values()), "somebody was left"
            error = nobody
        except SourceChangedError as changed:
            assert world.rows_changed, "the rows were the same"
            error = changed
        else:
            assert disturbed == undisturbed, "other bits"
        world.settle()
    if schedule.mode == "sessions" and not schedule.faults and not schedule.small and schedule.message_time <= 1e-3:
        assert executor.sessions.rounds, "no session"  # others are tasks, because they are long
    return Outcome(error, executor.sessions.rounds, world)


def run_fits(executor: ClusterExecutor, world: World, fits: Sequence[Problem]) -> list[str]:
    """The digests of these fits, one after the other, on rows that are checked first."""
    data = dataset(fits[0].n_groups, in_client=world.schedule.in_client)
    with patch.object(dataset_module, "current_executor", lambda in_memory: executor):
        _ = data.schema
    world.checked = True
    found = []
    for each in fits:
        with nullcontext() if world.schedule.silent else executor.span("fit"):
            found.append(digest(fit(executor, data, each)))
    return found
