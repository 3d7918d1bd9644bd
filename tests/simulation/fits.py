"""Small fits in a simulated world, and what they end in where nothing goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from pipeline.cluster.workers import WorkersUnavailableError
from pipeline.data import dataset as dataset_module
from pipeline.data.dataset import Dataset
from pipeline.execution import remembering
from pipeline.execution.attempts import MAX_DEATHS
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.residency.failures import WorkersKilledError
from pipeline.execution.threads import ThreadExecutor
from pipeline.sources.errors import SourceChangedError
from pipeline.training.loop import Result, train
from pipeline.training.observers import Calling
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.strategies.asynchronous import Asynchronous
from tasks.strategies.base import Remembering
from tests.simulation.overlapping import Watched
from tests.simulation.problems import N_COLUMNS, OVERLAPPING, Problem, after, dataset, strategy_of
from tests.simulation.world import Schedule, World, executor_in, simulated


class Fitted(NamedTuple):
    """digest: of the parameters, and of what was said of every round; arrivals: the subtrees of the updates, where each round is about one;
    seconds: of each round's end, since the fit began."""

    digest: str
    arrivals: tuple[int, ...]
    seconds: tuple[float, ...]


def fit(executor: Executor, data: Dataset, problem: Problem, arrivals: tuple[int, ...] | None = None) -> Fitted:
    """Two models at once, or one that is served, or whose subtrees remember something. arrivals: those of a fit as they come, to repeat
    it."""
    strategy = strategy_of(problem)
    if arrivals is not None:
        assert isinstance(strategy, Asynchronous)
        strategy = replace(strategy, overlap=replace(strategy.overlap, arrivals=arrivals))
    objective = LinearObjective(LogisticLoss(), N_COLUMNS, 1, fit_intercept=True, classes=np.arange(2))
    alone = problem.strategy == "served" or (isinstance(strategy, Remembering) and strategy.n_remembered > 0)
    penalties = (L2(1e-3), L2(1e-2))[: 1 if alone else 2]
    start = np.zeros((len(penalties), objective.layout.size))
    stop = Calling(lambda row: row["round"] == problem.stop_at)
    whole = Watched(objective, penalties, strategy)
    every = 0.0 if "copied" in problem.strategy else remembering.COPY_EVERY
    with patch.object(remembering, "COPY_EVERY", every), patch.object(remembering, "SHARE", 0.0):
        found = train(executor, data, whole, whole.init(start), [stop])
    if isinstance(strategy, Asynchronous) and not alone:
        whole.check_updates(strategy, found.history, whole=not problem.stop_at)
    arrived = () if alone else whole.arrivals  # rounds that are repeated arrive twice, those of servers not here
    return Fitted(digest(found), arrived, tuple(row["seconds"] for row in found.history))


def digest(found: Result) -> str:
    said = [(row["objective"], row["gradient_norm"], row["iteration"]) for row in found.history]
    return hashlib.sha256(found.parameters.tobytes() + repr((said, found.statuses)).encode()).hexdigest()


@cache
def expected(problem: Problem) -> Fitted:
    """That fit in process, where one thread takes all results in order."""
    return fit(ThreadExecutor(1), dataset(problem.n_groups), problem)


def undisturbed(problem: Problem, arrivals: tuple[int, ...]) -> str:
    """The digest of that fit in process; of one as results come, of the fit that takes them in this order."""
    calm = expected(problem)
    return calm.digest if calm.arrivals == arrivals else fit(ThreadExecutor(1), dataset(problem.n_groups), problem, arrivals).digest


class Outcome(NamedTuple):
    """error: what the fit ended with because nobody was left, too many had died in a round with the same rows, or the rows were others;
    rounds: of sessions; fits: that ended; n_out_of_turn: of these, how many took results in another order than that of asking."""

    error: Exception | None
    rounds: int
    fits: list[Fitted]
    n_out_of_turn: int
    world: World


def survive(problem: Problem, schedule: Schedule) -> Outcome:
    """Fit while that happens. Raises AssertionError for other bits than those of the undisturbed fit, and for what does not end."""
    problems = [problem, after(problem)] if schedule.again else [problem]
    error: Exception | None = None
    disturbed: list[Fitted] = []
    with simulated(schedule) as world:
        executor = executor_in(world)
        try:
            run_fits(executor, world, problems, disturbed)
        except WorkersUnavailableError as nobody:
            assert not any(worker.runs() for worker in world.scheduler.workers.values()), "somebody was left"
            error = nobody
        except WorkersKilledError as killed:
            assert world.happened["workers gone"] > MAX_DEATHS, "few were gone"
            error = killed
        except SourceChangedError as changed:
            assert world.rows_changed, "the rows were the same"
            error = changed
        world.settle()
    for each, found in zip(problems, disturbed, strict=error is None):
        assert found.digest == undisturbed(each, found.arrivals), "other bits"
    n_out_of_turn = sum(found.arrivals != expected(each).arrivals for each, found in zip(problems, disturbed, strict=error is None))
    calm = schedule.mode == "sessions" and not schedule.faults and not schedule.small and schedule.message_time <= 1e-3
    if calm and problem.strategy not in OVERLAPPING:
        assert executor.sessions.rounds, "no session"  # others are tasks, because they are long
    return Outcome(error, executor.sessions.rounds, disturbed, n_out_of_turn, world)


def run_fits(executor: ClusterExecutor, world: World, problems: Sequence[Problem], found: list[Fitted]) -> None:
    """These fits, one after the other, on rows that are checked first. found: gains each when it has ended."""
    data = dataset(problems[0].n_groups, in_client=world.schedule.in_client)
    with patch.object(dataset_module, "current_executor", lambda in_memory: executor):
        _ = data.schema
    world.checked = True
    for each in problems:
        with nullcontext() if world.schedule.silent else executor.span("fit"):
            found.append(fit(executor, data, each))
