"""A process that is killed while it writes a checkpoint."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from pipeline import Checkpoint, Dataset, minimise
from pipeline.training.checkpoints.files import SUFFIX, FitKey, Saved, read_checkpoint
from pipeline.training.checkpoints.keeper import Keeper
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.strategies.gradient_descent import GradientDescent

N_COLUMNS = 200_000
N_ROUNDS = 120
KILLS = 50


def fit(directory: str | None) -> str:
    """Many rounds with a few MB of state, saved after each; on one thread, for a process with more should not fork."""
    rng = np.random.default_rng(0)
    X = sp.random_array((300, N_COLUMNS), density=1e-4, format="csr", rng=rng)
    dataset = Dataset.from_arrays(X, np.arange(300) % 2, n_partitions=3)
    objective = LinearObjective(LogisticLoss(), N_COLUMNS, 1, fit_intercept=True, classes=dataset.schema.classes)
    strategy = GradientDescent(tol=0.0, max_iter=N_ROUNDS, step_size=0.1)
    kept = None if directory is None else Checkpoint(directory=directory, every_rounds=1, remove=False)
    with dask.config.set(scheduler="synchronous"):
        return minimise(objective, dataset, strategy, np.zeros(N_COLUMNS + 1), penalty=L2(1e-3), checkpoint=kept).parameters_sha256


def fit_in_child(directory: str, answer: Any) -> None:
    """Says what the problem is, and which round the fit goes on from; then its digest."""
    load = Keeper.load

    def loaded(keeper: Keeper) -> Saved | None:
        saved = load(keeper)
        answer.send((keeper.problem, keeper.resumed_from))
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "load", loaded)
        answer.send(fit(directory))


def being_written(directory: Path) -> list[Path]:
    return list(directory.glob(f".*{SUFFIX}.*.tmp"))


def last_round(directory: Path, problem: FitKey) -> int:
    """Of its checkpoints, 0 without. Whatever has the name of one can be read."""
    return max((len(read_checkpoint(path, problem).history) for path in problem.paths(directory)), default=0)


@pytest.mark.faults
@pytest.mark.timeout(60)
def test_kills_while_checkpoints_are_written(tmp_path: Path) -> None:
    """After each kill the fit goes on from the last checkpoint that was complete, to the bits of a fit that never stopped."""
    whole = fit(None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.warmed"])
    moments = random.Random(0)
    kills = torn = saved = 0
    while True:
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=fit_in_child, args=(str(tmp_path), send))
        child.start()
        send.close()
        problem, resumed_from = receive.recv()
        assert resumed_from == saved
        if kills < KILLS:
            while child.is_alive() and not being_written(tmp_path):
                time.sleep(0.0005)
            time.sleep(moments.uniform(0, 0.01))
            child.kill()
        child.join()
        if child.exitcode == 0:
            assert receive.recv() == whole
            if kills == KILLS:
                break
            shutil.rmtree(tmp_path)  # it was over before anything could be killed
            saved = 0
            continue
        assert child.exitcode == -signal.SIGKILL
        torn += bool(being_written(tmp_path))
        saved = last_round(tmp_path, problem)
        assert saved >= resumed_from
        kills += saved < N_ROUNDS  # else it was over
    assert torn >= KILLS // 3  # or nothing was shown
